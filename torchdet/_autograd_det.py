"""Derivatives of det: the Functions of (1) and (3) of _rules.py."""

from collections.abc import Sequence

from torch import Tensor

from ._function import Outputs, is_finite_constant
from ._reference import check_square
from ._rules import Backward, Derivative, Value, stack


def cofactor_derivative(A: Tensor, Z: Sequence[Tensor], *_: Tensor) -> Tensor:
    """D^m C(A)[Z_1..Z_m] for any number m of directions, differentiable to any order."""
    functions = (Cofactor, DetHvp, HigherCofactorDerivative)
    return functions[min(len(Z), 2)].call(A, *stack(Z))


class DetBackward(Backward):
    """g conj(C(A))."""

    operator = "det_backward"
    derivative = staticmethod(cofactor_derivative)

    @classmethod
    def gradient(cls, A: Tensor, *_: Tensor) -> Tensor:
        return Cofactor.call(A)


class DetBackwardKept(Backward):
    """g conj(C(A)) from what DetKeep has kept."""

    operator = "_det_backward_kept"
    derivative = staticmethod(cofactor_derivative)


class Det(Value):
    """det A."""

    operator = "det"

    @classmethod
    def at_levels(cls, *args: Tensor) -> Outputs:
        (A,) = args
        if A.shape[-2:] == (1, 1):
            check_square("det", A)
            if is_finite_constant(A):
                # The entry. Torch takes derivatives of a view for less than a node costs.
                return A.squeeze((-2, -1)).clone()
        return super().at_levels(*args)

    @staticmethod
    def backward_of() -> type[DetBackward]:
        return DetBackward


class DetKeep(Value):
    """det A, and numbers that help DetBackwardKept compute its gradient: no functions of A."""

    operator = "_det_keep"
    results = 1

    @staticmethod
    def backward_of() -> type[DetBackwardKept]:
        return DetBackwardKept


class Cofactor(Derivative):
    """C(A)."""

    operator = "cofactor"
    derivative = staticmethod(cofactor_derivative)


class DetHvp(Derivative):
    """H(A)[Z] = D C(A)[Z]."""

    operator = "det_hvp"
    derivative = staticmethod(cofactor_derivative)


class HigherCofactorDerivative(Derivative):
    """D^m C(A)[Z_1..Z_m] for m >= 2, with the directions stacked in Z of shape (*, m, n, n)."""

    operator = "_cofactor_derivative"
    derivative = staticmethod(cofactor_derivative)
