r"""Derivatives: one torch.autograd.Function for each operator, and every gradient formula.

Write C(A) for the cofactor matrix, H(A)[Z] = D C(A)[Z] for its derivative in direction Z, and
X = A^-T. All of them are holomorphic in A. In torch's convention, where the gradient G of a real
loss means dloss = Re sum(conj(G) * dA):

    d det A = sum(C(A) * dA),  so grad_A = grad conj(C(A))                                       (1)
    d log|det A| = Re t,  d sign = i sign Im t,  t = sum(X * dA)                                 (2)
    d D^m C(A)[Z_1..Z_m] = D^(m+1) C(A)[Z_1..Z_m, dA] + sum_i D^m C(A)[.., dZ_i, ..]             (3)
    d X = -X dA^T X                                                                              (4)

In (3), sum(V * D^m C(A)[Z_1..Z_m]) is symmetric in V and the Z_i, since it is a derivative of det;
so a cotangent V is one more direction.

The Functions form a family closed under (1) to (4): backward and jvp of each are calls of others.
So derivatives of all orders exist, and a backward that is itself recorded (create_graph=True) gives
the same numbers as one that is not. The end of this file gives the formulas to the operators.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import _ops, _torch_internals
from ._function import (
    Context,
    Gradient,
    Operator,
    add,
    forward_rule,
    inner,
    ones,
    sandwich,
    times,
)

# ---- what the public functions call


def det(A: Tensor) -> Tensor:
    """Determinants, with what helps the backward pass if there may be one."""
    return DetKeep.call(A)[0] if _ops.keeps(A) else Det.call(A)


def slogdet(A: Tensor) -> tuple[Tensor, Tensor]:
    """Sign and log|det A|, with what helps the backward pass if there may be one."""
    return SlogdetKeep.call(A)[:2] if _ops.keeps(A) else Slogdet.call(A)


def cofactor(A: Tensor) -> Tensor:
    """Cofactor matrices."""
    return Cofactor.call(A)


# ---- det and the cofactor matrix


class Det(Operator):
    """det A, with (1)."""

    operator = "det"

    @staticmethod
    def forward(A: Tensor) -> Tensor:
        return _ops.det(A)

    @staticmethod
    def backward(ctx: Context, grad: Gradient, *_: Gradient) -> Gradient:
        A, *kept = ctx.saved_tensors
        if grad is None:
            return None
        return _det_backward(grad, A, kept)

    @staticmethod
    @forward_rule
    def jvp(ctx: Context, saved: Sequence[Tensor], tangents: Sequence[Gradient]) -> Gradient:
        (A, *kept), (dA,) = saved, tangents
        return None if dA is None else inner(_cofactor(A, kept), dA)


class DetKeep(Det):
    """det A, and numbers that help DetBackwardKept compute its gradient: no functions of A."""

    operator = "_det_keep"
    out_dims = (0, 0, 0)
    results = 1

    @staticmethod
    def forward(A: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[override]
        return _ops.det_keep(A)

    @staticmethod
    def setup_context(ctx: Context, inputs: tuple[Tensor, ...], output: Any) -> None:
        _, *kept = output
        ctx.mark_non_differentiable(*kept)
        Operator.setup_context(ctx, (*inputs, *kept), output)

    @staticmethod
    def jvp(ctx: Context, *tangents: Gradient) -> Any:
        return Det.jvp(ctx, *tangents), None, None


class DetBackward(Operator):
    """g conj(C(A)), one number g for each matrix."""

    operator = "det_backward"

    @staticmethod
    def forward(grad: Tensor, A: Tensor) -> Tensor:
        return _ops.det_backward(grad, A)

    @staticmethod
    def backward(ctx: Context, V: Gradient) -> tuple[Gradient, ...]:
        grad, A, *kept = ctx.saved_tensors
        for_grad, for_A, *_ = ctx.needs_input_grad
        if V is None:
            return (None,) * len(ctx.needs_input_grad)
        return (
            inner(V, _cofactor(A, kept)) if for_grad else None,
            DetHvp.call(A, times(grad.conj(), V)).conj() if for_A else None,
            *(None for _ in kept),
        )

    @staticmethod
    @forward_rule
    def jvp(ctx: Context, saved: Sequence[Tensor], tangents: Sequence[Gradient]) -> Gradient:
        (grad, A, *kept), (dgrad, dA, *_) = saved, tangents
        return add(
            None if dgrad is None else _det_backward(dgrad, A, kept),
            None if dA is None else times(grad, DetHvp.call(A, dA).conj()),
        )


class DetBackwardKept(DetBackward):
    """g conj(C(A)) from what DetKeep has kept."""

    operator = "_det_backward_kept"

    @staticmethod
    def forward(  # type: ignore[override]
        grad: Tensor, A: Tensor, kept: Tensor, integers: Tensor
    ) -> Tensor:
        return _ops.det_backward_kept(grad, A, kept, integers)


class _CofactorDerivative(Operator):
    """D^m C(A)[Z_1..Z_m], with (3). The subclasses differ in how they are given the directions."""

    @staticmethod
    def backward(ctx: Context, V: Gradient) -> tuple[Gradient, ...]:
        A, *given = ctx.saved_tensors
        if V is None:
            return (None,) * (1 + len(given))
        for_A, *for_given = ctx.needs_input_grad
        V, Z = V.conj(), _directions(A, given)
        grad_A = cofactor_derivative(A, *Z, V).conj() if for_A else None
        if not any(for_given):
            return (grad_A, *(None for _ in given))
        replaced = ((*Z[:i], V, *Z[i + 1 :]) for i in range(len(Z)))
        return grad_A, *_stack([cofactor_derivative(A, *z).conj() for z in replaced])

    @staticmethod
    @forward_rule
    def jvp(ctx: Context, saved: Sequence[Tensor], tangents: Sequence[Gradient]) -> Gradient:
        (A, *given), (dA, *dgiven) = saved, tangents
        Z = _directions(A, given)
        dZ = _directions(A, [x for x in dgiven if x is not None])
        return add(
            None if dA is None else cofactor_derivative(A, *Z, dA),
            *(cofactor_derivative(A, *Z[:i], dz, *Z[i + 1 :]) for i, dz in enumerate(dZ)),
        )


class Cofactor(_CofactorDerivative):
    """C(A)."""

    operator = "cofactor"

    @staticmethod
    def forward(A: Tensor) -> Tensor:
        return _ops.cofactor(A)


class DetHvp(_CofactorDerivative):
    """H(A)[Z] = D C(A)[Z]."""

    operator = "det_hvp"

    @staticmethod
    def forward(A: Tensor, Z: Tensor) -> Tensor:
        return _ops.det_hvp(A, Z)


class HigherCofactorDerivative(_CofactorDerivative):
    """D^m C(A)[Z_1..Z_m] for m >= 2, with the directions stacked in Z of shape (*, m, n, n)."""

    operator = "_cofactor_derivative"

    @staticmethod
    def forward(A: Tensor, Z: Tensor) -> Tensor:
        return _ops.cofactor_derivative(A, Z)


def cofactor_derivative(A: Tensor, *Z: Tensor) -> Tensor:
    """D^m C(A)[Z_1..Z_m] for any number m of directions, differentiable to any order."""
    functions = (Cofactor, DetHvp, HigherCofactorDerivative)
    return functions[min(len(Z), 2)].call(A, *_stack(Z))


def _stack(Z: Sequence[Tensor]) -> Sequence[Tensor]:
    return Z if len(Z) < 2 else (torch.stack(Z, -3),)  # type: ignore[arg-type]


def _directions(A: Tensor, given: Sequence[Tensor]) -> Sequence[Tensor]:
    return given[0].unbind(-3) if given and given[0].dim() > A.dim() else given


# ---- slogdet


class Slogdet(Operator):
    """Sign and log|det A|, with (2). The sign is constant, not differentiable, where A is real."""

    operator = "slogdet"
    out_dims: tuple[int, ...] = (0, 0)

    @staticmethod
    def forward(A: Tensor) -> tuple[Tensor, Tensor]:
        return _ops.slogdet(A)

    @staticmethod
    def setup_context(ctx: Context, inputs: tuple[Tensor, ...], output: Any) -> None:
        (A,), (sign, _, *kept) = inputs, output
        signs = (sign,) if A.is_complex() else ()
        ctx.mark_non_differentiable(*kept, *(() if signs else (sign,)))
        Operator.setup_context(ctx, (A, *kept, *signs), output)

    @staticmethod
    def backward(ctx: Context, grad_sign: Gradient, grad_log: Gradient, *_: Gradient) -> Gradient:
        # dloss = Re(conj(g) t) with g = grad_log - i Im(conj(grad_sign) sign), from (2)
        A, kept, sign = _saved_by_slogdet(ctx.saved_tensors)
        phase = (grad_sign.conj() * sign[0]).imag if sign and grad_sign is not None else None
        if phase is not None:
            grad = torch.complex(torch.zeros_like(phase) if grad_log is None else grad_log, -phase)
        elif grad_log is not None:
            grad = grad_log if grad_log.dtype == A.dtype else grad_log.to(A.dtype)
        else:
            return None
        return _slogdet_backward(grad, A, kept)

    @staticmethod
    @forward_rule
    def jvp(
        ctx: Context, saved: Sequence[Tensor], tangents: Sequence[Gradient]
    ) -> tuple[Gradient, Gradient]:
        (A, kept, sign), (dA,) = _saved_by_slogdet(saved), tangents
        if dA is None:
            return None, None
        t = inner(_inverse_transpose(A, kept), dA)
        return (1j * sign[0] * t.imag, t.real) if sign else (None, t)


class SlogdetKeep(Slogdet):
    """Sign and log|det A| and, for SlogdetBackwardKept, numbers and integers, as for DetKeep."""

    operator = "_slogdet_keep"
    out_dims = (0, 0, 0, 0)
    results = 2

    @staticmethod
    def forward(  # type: ignore[override]
        A: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return _ops.slogdet_keep(A)

    @staticmethod
    def jvp(ctx: Context, *tangents: Gradient) -> Any:
        return *Slogdet.jvp(ctx, *tangents), None, None


class SlogdetBackward(Operator):
    """g conj(X), one number g for each matrix, with (4)."""

    operator = "slogdet_backward"

    @staticmethod
    def forward(grad: Tensor, A: Tensor) -> Tensor:
        return _ops.slogdet_backward(grad, A)

    @staticmethod
    def backward(ctx: Context, V: Gradient) -> tuple[Gradient, ...]:
        # Re sum(conj(V) g conj(-X dA^T X)) = Re sum(-X M^T X * dA) with M = conj(g) V
        grad, A, *kept = ctx.saved_tensors
        for_grad, for_A, *_ = ctx.needs_input_grad
        if V is None:
            return (None,) * len(ctx.needs_input_grad)
        X = _inverse_transpose(A, kept)
        return (
            inner(V, X) if for_grad else None,
            -sandwich(X, times(grad.conj(), V)).conj() if for_A else None,
            *(None for _ in kept),
        )

    @staticmethod
    @forward_rule
    def jvp(ctx: Context, saved: Sequence[Tensor], tangents: Sequence[Gradient]) -> Gradient:
        (grad, A, *kept), (dgrad, dA, *_) = saved, tangents
        change = None if dA is None else sandwich(_inverse_transpose(A, kept), dA).conj()
        return add(
            None if dgrad is None else _slogdet_backward(dgrad, A, kept),
            None if change is None else -times(grad, change),
        )


class SlogdetBackwardKept(SlogdetBackward):
    """g conj(X) from what SlogdetKeep has kept."""

    operator = "_slogdet_backward_kept"

    @staticmethod
    def forward(  # type: ignore[override]
        grad: Tensor, A: Tensor, kept: Tensor, integers: Tensor
    ) -> Tensor:
        return _ops.slogdet_backward_kept(grad, A, kept, integers)


# ---- first derivatives, from A alone or with what is kept: numbers and integers, or nothing


def _det_backward(grad: Tensor, A: Tensor, kept: Sequence[Tensor]) -> Tensor:
    function = DetBackwardKept if kept else DetBackward
    return function.call(grad, A, *kept)


def _slogdet_backward(grad: Tensor, A: Tensor, kept: Sequence[Tensor]) -> Tensor:
    function = SlogdetBackwardKept if kept else SlogdetBackward
    return function.call(grad, A, *kept)


def _cofactor(A: Tensor, kept: Sequence[Tensor]) -> Tensor:
    return DetBackwardKept.call(ones(A), A, *kept).conj() if kept else Cofactor.call(A)


def _inverse_transpose(A: Tensor, kept: Sequence[Tensor]) -> Tensor:
    return _slogdet_backward(ones(A), A, kept).conj()


def _saved_by_slogdet(
    saved: Sequence[Tensor],
) -> tuple[Tensor, Sequence[Tensor], Sequence[Tensor]]:
    # A, what is kept, and the sign where it is needed.
    A, *others = saved
    pairs = len(others) // 2 * 2
    return A, others[:pairs], others[pairs:]


# ---- the same gradients for the operators

for _function in (
    Det,
    DetKeep,
    DetBackward,
    DetBackwardKept,
    Cofactor,
    DetHvp,
    HigherCofactorDerivative,
    Slogdet,
    SlogdetKeep,
    SlogdetBackward,
    SlogdetBackwardKept,
):
    _torch_internals.register_autograd(_function, _ops.library)
