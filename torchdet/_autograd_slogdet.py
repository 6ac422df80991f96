"""Derivatives of log|det| and of the sign: the Functions of (2), (3) and (4) of _autograd.py."""

from collections.abc import Sequence

from torch import Tensor

from . import _ops
from ._function import (
    Context,
    Gradient,
    Operator,
    Outputs,
    gradient_of_log,
    inner,
    is_plain,
    ones,
    tangents_of_log,
    times,
)
from ._rules import Backward, Derivative, stack


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
        A, kept, sign = _saved_by_slogdet(ctx.saved_tensors)
        grad = gradient_of_log(grad_sign, grad_log, sign, A.dtype)
        return None if grad is None else _slogdet_backward(grad, A, kept)

    @staticmethod
    def tangent(saved: Sequence[Tensor], tangents: Sequence[Gradient]) -> tuple[Gradient, Gradient]:
        (A, kept, sign), (dA,) = _saved_by_slogdet(saved), tangents
        if dA is None:
            return None, None
        return tangents_of_log(inner(_inverse_transpose(A, kept), dA), sign)


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


class SlogdetBackward(Backward):
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


class _InverseDerivative(Derivative):
    """F = X, with (4): -X Z^T X and its derivatives."""

    @staticmethod
    def derivative(A: Tensor, *Z: Tensor) -> Tensor:
        function = SlogdetHvp if len(Z) == 1 else HigherInverseDerivative
        return function.call(A, *stack(Z))


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


def _slogdet_backward(grad: Tensor, A: Tensor, kept: Sequence[Tensor]) -> Tensor:
    function = SlogdetBackwardKept if kept else SlogdetBackward
    return function.call(grad, A, *kept)


def _inverse_transpose(A: Tensor, kept: Sequence[Tensor]) -> Tensor:
    return _slogdet_backward(ones(A), A, kept).conj()


def _saved_by_slogdet(
    saved: Sequence[Tensor],
) -> tuple[Tensor, Sequence[Tensor], Sequence[Tensor]]:
    # A, what is kept, and the sign where it is needed.
    A, *others = saved
    pairs = len(others) // 2 * 2
    return A, others[:pairs], others[pairs:]
