"""Derivatives of det: the Functions of (1) and (3) of _autograd.py."""

from collections.abc import Sequence

from torch import Tensor

from . import _ops
from ._function import Context, Gradient, Operator, Outputs, inner, ones
from ._rules import Backward, Derivative, stack


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


class DetBackward(Backward):
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


class _CofactorDerivative(Derivative):
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
    return functions[min(len(Z), 2)].call(A, *stack(Z))


def _det_backward(grad: Tensor, A: Tensor, kept: Sequence[Tensor]) -> Tensor:
    function = DetBackwardKept if kept else DetBackward
    return function.call(grad, A, *kept)


def _cofactor(A: Tensor, kept: Sequence[Tensor]) -> Tensor:
    return DetBackwardKept.call(ones(A), A, *kept).conj() if kept else Cofactor.call(A)
