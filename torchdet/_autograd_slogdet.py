"""Derivatives of log|det| and of the sign: the Functions of (2), (3) and (4) of _rules.py."""

from collections.abc import Sequence

from torch import Tensor

from . import _ops, _torch_internals
from ._function import Context, Gradient, inner, is_plain, ones, times
from ._rules import Backward, Derivative, Logarithm, stack

_hvp_from_inverse = _torch_internals.below_autograd(_ops.operator("_slogdet_hvp_kept"))


def inverse_derivative(A: Tensor, Z: Sequence[Tensor], *_: Tensor) -> Tensor:
    """D^m X(A)[Z_1..Z_m] for m >= 1 directions, differentiable to any order."""
    function = SlogdetHvp if len(Z) == 1 else HigherInverseDerivative
    return function.call(A, *stack(Z))


class SlogdetBackward(Backward):
    """g conj(X)."""

    operator = "slogdet_backward"
    derivative = staticmethod(inverse_derivative)

    @classmethod
    def gradients(cls, ctx: Context, V: Gradient) -> tuple[Gradient, ...]:
        # Where the results are no part of another graph, any number of directions share one
        # inverse, which lives as long as the node.
        grad, A, *kept = ctx.saved_tensors
        if V is None or not is_plain(grad, A, V):
            return super().gradients(ctx, V)
        for_grad, for_A, *_ = ctx.needs_input_grad
        if getattr(ctx, "inverse", None) is None:
            ctx.inverse = cls.call(ones(A), A, *kept)
        Z = times(grad.conj(), V)
        return (
            inner(V, ctx.inverse.conj()) if for_grad else None,
            _hvp_from_inverse(ctx.inverse, Z).conj() if for_A else None,
            *(None for _ in kept),
        )


class SlogdetBackwardKept(SlogdetBackward):
    """g conj(X) from what SlogdetKeep has kept."""

    operator = "_slogdet_backward_kept"


class Slogdet(Logarithm):
    """Sign and log|det A|."""

    operator = "slogdet"

    @staticmethod
    def backward_of() -> type[SlogdetBackward]:
        return SlogdetBackward

    @classmethod
    def pull_back(cls, g: Tensor, A: Tensor, *kept: Tensor) -> Tensor:
        return cls.backward_of().call(g, A, *kept)

    @classmethod
    def push_forward(cls, dA: Tensor, A: Tensor, *kept: Tensor) -> Tensor:
        return inner(cls.backward_of().gradient(A, *kept), dA)


class SlogdetKeep(Slogdet):
    """Sign and log|det A| and, for SlogdetBackwardKept, numbers and integers, as for DetKeep."""

    operator = "_slogdet_keep"
    results = 2

    @staticmethod
    def backward_of() -> type[SlogdetBackward]:
        return SlogdetBackwardKept


class SlogdetHvp(Derivative):
    """D X(A)[Z] = -X Z^T X."""

    operator = "slogdet_hvp"
    derivative = staticmethod(inverse_derivative)


class HigherInverseDerivative(Derivative):
    """D^m X(A)[Z_1..Z_m] for m >= 2, with the directions stacked in Z of shape (*, m, n, n)."""

    operator = "_inverse_derivative"
    derivative = staticmethod(inverse_derivative)
