r"""Derivatives: one torch.autograd.Function for each operator, and every gradient formula.

Write C(A) for the cofactor matrix, H(A)[Z] = D C(A)[Z] for its derivative in direction Z, and
X = A^-T. All of them are holomorphic in A. In torch's convention, where the gradient G of a real
loss means dloss = Re sum(conj(G) * dA):

    d det A = sum(C(A) * dA),  so grad_A = grad conj(C(A))                                       (1)
    d log|det A| = Re t,  d sign = i sign Im t,  t = sum(X * dA)                                 (2)
    d D^m F(A)[Z_1..Z_m] = D^(m+1) F(A)[Z_1..Z_m, dA] + sum_i D^m F(A)[.., dZ_i, ..]             (3)
    d X = -X dA^T X                                                                              (4)

In (3), F is C or X, and sum(V * D^m F(A)[Z_1..Z_m]) is symmetric in V and the Z_i, since it is a
derivative of det or log det; so a cotangent V is one more direction.

The Functions form a family closed under (1) to (4): gradients and tangent of each are calls of
others. So derivatives of all orders exist, and a backward that is itself recorded
(create_graph=True) gives the same numbers as one that is not. The end of this file gives the
formulas to the operators.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from . import _ops, _torch_internals
from ._function import (
    Context,
    Gradient,
    Operator,
    Outputs,
    add,
    inner,
    is_plain,
    ones,
    times,
)
from ._reference_numbers import power_of_two

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
    def gradients(ctx: Context, grad: Gradient, *_: Gradient) -> Gradient:
        A, *kept = ctx.saved_tensors
        if grad is None:
            return None
        return _det_backward(grad, A, kept)

    @staticmethod
    def tangent(saved: Sequence[Tensor], tangents: Sequence[Gradient]) -> Gradient:
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

    @classmethod
    def saved(cls, inputs: Sequence[Tensor], outputs: Outputs) -> Sequence[Tensor]:
        return *inputs, *outputs[1:]

    @classmethod
    def constants(cls, inputs: Sequence[Tensor], outputs: Outputs) -> Sequence[Tensor]:
        return outputs[1:]


class _Backward(Operator):
    """g conj(F(A)), one number g for each matrix, F the gradient of a function of A."""

    @staticmethod
    def gradient(A: Tensor, kept: Sequence[Tensor]) -> Tensor:
        """F(A)."""
        raise NotImplementedError

    @staticmethod
    def hessian_product(A: Tensor, Z: Tensor) -> Tensor:
        """D F(A)[Z]."""
        raise NotImplementedError

    @classmethod
    def gradients(cls, ctx: Context, V: Gradient) -> tuple[Gradient, ...]:
        grad, A, *kept = ctx.saved_tensors
        for_grad, for_A, *_ = ctx.needs_input_grad
        if V is None:
            return (None,) * len(ctx.needs_input_grad)
        return (
            inner(V, cls.gradient(A, kept)) if for_grad else None,
            cls.hessian_product(A, times(grad.conj(), V)).conj() if for_A else None,
            *(None for _ in kept),
        )

    @classmethod
    def tangent(cls, saved: Sequence[Tensor], tangents: Sequence[Gradient]) -> Gradient:
        (grad, A, *kept), (dgrad, dA, *_) = saved, tangents
        return add(
            None if dgrad is None else cls.call(dgrad, A, *kept),
            None if dA is None else times(grad, cls.hessian_product(A, dA).conj()),
        )


class DetBackward(_Backward):
    """g conj(C(A))."""

    operator = "det_backward"

    @staticmethod
    def forward(grad: Tensor, A: Tensor) -> Tensor:
        return _ops.det_backward(grad, A)

    @staticmethod
    def gradient(A: Tensor, kept: Sequence[Tensor]) -> Tensor:
        return _cofactor(A, kept)

    @staticmethod
    def hessian_product(A: Tensor, Z: Tensor) -> Tensor:
        return DetHvp.call(A, Z)


class DetBackwardKept(DetBackward):
    """g conj(C(A)) from what DetKeep has kept."""

    operator = "_det_backward_kept"

    @staticmethod
    def forward(  # type: ignore[override]
        grad: Tensor, A: Tensor, kept: Tensor, integers: Tensor
    ) -> Tensor:
        return _ops.det_backward_kept(grad, A, kept, integers)


class _Derivative(Operator):
    """D^m F(A)[Z_1..Z_m], with (3). The subclasses differ in F and in how directions are given."""

    @staticmethod
    def derivative(A: Tensor, *Z: Tensor) -> Tensor:
        """The member of the family with these directions."""
        raise NotImplementedError

    @classmethod
    def gradients(cls, ctx: Context, V: Gradient) -> tuple[Gradient, ...]:
        A, *given = ctx.saved_tensors
        if V is None:
            return (None,) * (1 + len(given))
        for_A, *for_given = ctx.needs_input_grad
        V, Z = V.conj(), _directions(A, given)
        grad_A = cls.derivative(A, *Z, V).conj() if for_A else None
        if not any(for_given):
            return (grad_A, *(None for _ in given))
        replaced = ((*Z[:i], V, *Z[i + 1 :]) for i in range(len(Z)))
        return grad_A, *_stack([cls.derivative(A, *z).conj() for z in replaced])

    @classmethod
    def tangent(cls, saved: Sequence[Tensor], tangents: Sequence[Gradient]) -> Gradient:
        (A, *given), (dA, *dgiven) = saved, tangents
        Z = _directions(A, given)
        dZ = _directions(A, [x for x in dgiven if x is not None])
        return add(
            None if dA is None else cls.derivative(A, *Z, dA),
            *(cls.derivative(A, *Z[:i], dz, *Z[i + 1 :]) for i, dz in enumerate(dZ)),
        )


class _CofactorDerivative(_Derivative):
    """F = C."""

    @staticmethod
    def derivative(A: Tensor, *Z: Tensor) -> Tensor:
        return cofactor_derivative(A, *Z)


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


# ---- det as mantissa and exponent


def det_frexp(A: Tensor) -> tuple[Tensor, Tensor]:
    """Mantissa m and exponent e, a whole number in floating point, with det A = m 2^e."""
    return DetFrexp.call(A)


class DetFrexp(Operator):
    """m and e with det A = m 2^e, e constant.

    With R = diag(2^-rho_i) for whole numbers rho_i whose sum is e, m = det(R A), which is in range
    as are its derivatives: so they are those of det at R A.
    """

    operator = "det_frexp"
    out_dims = (0, 0)

    @staticmethod
    def forward(A: Tensor) -> tuple[Tensor, Tensor]:
        return _ops.det_frexp(A)

    @classmethod
    def saved(cls, inputs: Sequence[Tensor], outputs: Outputs) -> Sequence[Tensor]:
        return *inputs, outputs[1]

    @classmethod
    def constants(cls, inputs: Sequence[Tensor], outputs: Outputs) -> Sequence[Tensor]:
        return outputs[1:]

    @staticmethod
    def gradients(ctx: Context, grad: Gradient, *_: Gradient) -> Gradient:
        A, e = ctx.saved_tensors
        if grad is None:
            return None
        R = _row_factors(A, e)
        RA = R * A  # in the dtype of computation
        return (R * DetBackward.call(grad.to(RA.dtype), RA)).to(A.dtype)

    @staticmethod
    def tangent(saved: Sequence[Tensor], tangents: Sequence[Gradient]) -> tuple[Gradient, Gradient]:
        (A, e), (dA, *_) = saved, tangents
        if dA is None:
            return None, None
        R = _row_factors(A, e)
        return inner(Cofactor.call(R * A), R * dA).to(A.dtype), None


def _row_factors(A: Tensor, e: Tensor) -> Tensor:
    # 2^-rho_i, (*, n, 1), with rho_i = floor((e + i) / n): their sum is e (Hermite's identity).
    n = A.shape[-1]
    i = torch.arange(n, dtype=e.dtype, device=e.device)
    rho = torch.div(e.unsqueeze(-1) + i, n, rounding_mode="floor").unsqueeze(-1)
    return power_of_two(-rho, e.dtype)


# ---- slogdet


class Slogdet(Operator):
    """Sign and log|det A|, with (2). The sign is constant, not differentiable, where A is real."""

    operator = "slogdet"
    out_dims: tuple[int, ...] = (0, 0)

    @staticmethod
    def forward(A: Tensor) -> tuple[Tensor, Tensor]:
        return _ops.slogdet(A)

    @classmethod
    def saved(cls, inputs: Sequence[Tensor], outputs: Outputs) -> Sequence[Tensor]:
        (A,), (sign, _, *kept) = inputs, outputs
        return (A, *kept, sign) if A.is_complex() else (A, *kept)

    @classmethod
    def constants(cls, inputs: Sequence[Tensor], outputs: Outputs) -> Sequence[Tensor]:
        (A,), (sign, _, *kept) = inputs, outputs
        return kept if A.is_complex() else (sign, *kept)

    @staticmethod
    def gradients(ctx: Context, grad_sign: Gradient, grad_log: Gradient, *_: Gradient) -> Gradient:
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
    def tangent(saved: Sequence[Tensor], tangents: Sequence[Gradient]) -> tuple[Gradient, Gradient]:
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


class SlogdetBackward(_Backward):
    """g conj(X)."""

    operator = "slogdet_backward"

    @staticmethod
    def forward(grad: Tensor, A: Tensor) -> Tensor:
        return _ops.slogdet_backward(grad, A)

    @staticmethod
    def gradient(A: Tensor, kept: Sequence[Tensor]) -> Tensor:
        return _inverse_transpose(A, kept)

    @staticmethod
    def hessian_product(A: Tensor, Z: Tensor) -> Tensor:
        return SlogdetHvp.call(A, Z)

    @classmethod
    def gradients(cls, ctx: Context, V: Gradient) -> tuple[Gradient, ...]:
        # Where the results are no part of another graph, any number of directions share one
        # inverse, which lives as long as the node.
        grad, A, *kept = ctx.saved_tensors
        if V is None or not is_plain(grad, A, V):
            return super().gradients(ctx, V)
        for_grad, for_A, *_ = ctx.needs_input_grad
        if getattr(ctx, "inverse", None) is None:
            ctx.inverse = _slogdet_backward(ones(A), A, kept)
        Z = times(grad.conj(), V)
        return (
            inner(V, ctx.inverse.conj()) if for_grad else None,
            _ops.slogdet_hvp_kept(ctx.inverse, Z).conj() if for_A else None,
            *(None for _ in kept),
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


class _InverseDerivative(_Derivative):
    """F = X, with (4): -X Z^T X and its derivatives."""

    @staticmethod
    def derivative(A: Tensor, *Z: Tensor) -> Tensor:
        function = SlogdetHvp if len(Z) == 1 else HigherInverseDerivative
        return function.call(A, *_stack(Z))


class SlogdetHvp(_InverseDerivative):
    """D X(A)[Z] = -X Z^T X."""

    operator = "slogdet_hvp"

    @staticmethod
    def forward(A: Tensor, Z: Tensor) -> Tensor:
        return _ops.slogdet_hvp(A, Z)


class HigherInverseDerivative(_InverseDerivative):
    """D^m X(A)[Z_1..Z_m] for m >= 2, with the directions stacked in Z of shape (*, m, n, n)."""

    operator = "_inverse_derivative"

    @staticmethod
    def forward(A: Tensor, Z: Tensor) -> Tensor:
        return _ops.inverse_derivative(A, Z)


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
    DetFrexp,
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
    SlogdetHvp,
    HigherInverseDerivative,
):
    _torch_internals.register_autograd(_function, _ops.library)
