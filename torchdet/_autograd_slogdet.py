"""Derivatives of log|det| and of the sign: the Functions of (2), (3) and (4) of _rules.py."""

from collections.abc import Sequence

from torch import Tensor

from . import _ops, _torch_internals
from ._function import Context, Gradient, Outputs, inner, is_plain, times
from ._kept import inverts_once
from ._reference_numbers import HALF
from ._rules import Backward, Derivative, Logarithm, stack

_hvp_kept = _torch_internals.below_autograd(_ops.operator("_slogdet_hvp_kept"))
_hvp_scaled = _torch_internals.below_autograd(_ops.operator("_slogdet_hvp_scaled"))


def _along(g: Tensor, inverse: Tensor, Z: Tensor) -> Tensor:
    """D X(A)[g Z] from inverse = conj(X), one number g a matrix, as a recorded graph has it.

    There torch multiplies g Z. It rounds complex products in another way than the kernel.
    """
    if g.is_complex():
        return _hvp_kept(inverse, times(g, Z))
    return _hvp_scaled(g, inverse, Z)


def inverse_derivative(A: Tensor, Z: Sequence[Tensor], *_: Tensor) -> Tensor:
    """D^m X(A)[Z_1..Z_m] for m >= 1 directions, differentiable to any order."""
    function = SlogdetHvp if len(Z) == 1 else HigherInverseDerivative
    return function.call(A, *stack(Z))


class SlogdetBackward(Backward):
    """g conj(X)."""

    operator = "slogdet_backward"
    derivative = staticmethod(inverse_derivative)

    @classmethod
    def gradients(cls, ctx: Context, V: Gradient, *_: Gradient) -> tuple[Gradient, ...]:
        # Where the results are no part of another graph, any number of directions share one
        # inverse, which lives as long as the node. Not in half types, whose inverse is rounded.
        grad, A, *constants = ctx.saved_tensors
        if V is None or A.dtype in HALF or not is_plain(grad, A, V):
            return super().gradients(ctx, V)
        for_grad, for_A, *for_constants = ctx.needs_input_grad
        X = cls.gradient_once(ctx, A, *constants)
        return (
            inner(V, X) if for_grad else None,
            _along(grad.conj(), X.conj(), V).conj() if for_A else None,
            *(None for _ in for_constants),
        )


class SlogdetBackwardKept(SlogdetBackward):
    """g conj(X) from what SlogdetKeep has kept."""

    operator = "_slogdet_backward_kept"


class SlogdetBackwardWithInverse(SlogdetBackward):
    """g conj(X) and conj(X). Only its nodes are used: they save conj(X) for their derivatives.

    The saved conj(X) is a constant. Derivatives that are recorded again need one that depends on A:
    `call` drops it, the last argument, and starts from A.
    """

    results = 1
    alone: type[SlogdetBackward]

    @classmethod
    def call(cls, *args: Tensor) -> Outputs:
        return cls.alone.call(*args[:-1])

    @classmethod
    def saved(cls, inputs: Sequence[Tensor], outputs: Outputs) -> Sequence[Tensor]:
        return (*inputs, outputs[1])

    @classmethod
    def constants(cls, inputs: Sequence[Tensor], outputs: Outputs) -> Sequence[Tensor]:
        return outputs[1:]

    @classmethod
    def gradient_once(cls, ctx: Context, A: Tensor, *constants: Tensor) -> Tensor:
        return constants[-1].conj()


class SlogdetBackwardInverse(SlogdetBackwardWithInverse):
    """The node of a SlogdetBackward where both results take one inversion."""

    operator = "_slogdet_backward_inverse"
    alone = SlogdetBackward


class SlogdetBackwardInverseKept(SlogdetBackwardWithInverse):
    """The node of a SlogdetBackwardKept, likewise."""

    operator = "_slogdet_backward_inverse_kept"
    alone = SlogdetBackwardKept


if _torch_internals.HAS_LEVELS:  # else torch calls `record` for every call, recorded or not
    _record_alone, _record_kept_alone = SlogdetBackward.record, SlogdetBackwardKept.record

    def _record(args: Sequence[Tensor]) -> Tensor:
        if not inverts_once(args[1]):
            return _record_alone(args)
        gradient: Tensor = SlogdetBackwardInverse.record(args)[0]
        return gradient

    def _record_kept(args: Sequence[Tensor]) -> Tensor:
        if not inverts_once(args[1]):
            return _record_kept_alone(args)
        gradient: Tensor = SlogdetBackwardInverseKept.record(args)[0]
        return gradient

    SlogdetBackward.record = staticmethod(_record)
    SlogdetBackwardKept.record = staticmethod(_record_kept)


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
