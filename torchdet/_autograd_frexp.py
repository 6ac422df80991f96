"""Derivatives of the mantissa of a determinant, its exponent being constant."""

from collections.abc import Sequence

from torch import Tensor

from . import _ops
from ._autograd_det import cofactor_derivative
from ._frexp import row_factors
from ._function import Context, Gradient, Operator, Outputs, add, inner, ones, times


class DetFrexp(Operator):
    """m and e with det A = m 2^e, e constant: m has the derivatives of det times 2^-e."""

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
        return None if grad is None else DetFrexpBackward.call(grad, A, e)

    @staticmethod
    def tangent(saved: Sequence[Tensor], tangents: Sequence[Gradient]) -> tuple[Gradient, Gradient]:
        (A, e), (dA, *_) = saved, tangents
        return None if dA is None else inner(_frexp_cofactor(A, e), dA), None


class DetFrexpBackward(Operator):
    """g conj(C(A)) 2^-e, one number g for each matrix, e constant."""

    operator = "_det_frexp_backward"

    @staticmethod
    def forward(grad: Tensor, A: Tensor, e: Tensor) -> Tensor:
        return _ops.det_frexp_backward(grad, A, e)

    @staticmethod
    def gradients(ctx: Context, V: Gradient) -> tuple[Gradient, ...]:
        grad, A, e = ctx.saved_tensors
        for_grad, for_A, _ = ctx.needs_input_grad
        if V is None:
            return None, None, None
        return (
            inner(V, _frexp_cofactor(A, e)) if for_grad else None,
            DetFrexpHvp.call(A, times(grad.conj(), V), e).conj() if for_A else None,
            None,
        )

    @staticmethod
    def tangent(saved: Sequence[Tensor], tangents: Sequence[Gradient]) -> Gradient:
        (grad, A, e), (dgrad, dA, _) = saved, tangents
        return add(
            None if dgrad is None else DetFrexpBackward.call(dgrad, A, e),
            None if dA is None else times(grad, DetFrexpHvp.call(A, dA, e).conj()),
        )


class DetFrexpHvp(Operator):
    """H(A)[Z] 2^-e, e constant. Its derivatives are those of H at R A (_frexp.py)."""

    operator = "_det_frexp_hvp"

    @staticmethod
    def forward(A: Tensor, Z: Tensor, e: Tensor) -> Tensor:
        return _ops.det_frexp_hvp(A, Z, e)

    @staticmethod
    def gradients(ctx: Context, V: Gradient) -> tuple[Gradient, ...]:
        A, Z, e = ctx.saved_tensors
        for_A, for_Z, _ = ctx.needs_input_grad
        if V is None:
            return None, None, None
        V = V.conj()
        return (
            _frexp_derivative(A, e, Z, V).conj() if for_A else None,
            DetFrexpHvp.call(A, V, e).conj() if for_Z else None,
            None,
        )

    @staticmethod
    def tangent(saved: Sequence[Tensor], tangents: Sequence[Gradient]) -> Gradient:
        (A, Z, e), (dA, dZ, _) = saved, tangents
        return add(
            None if dA is None else _frexp_derivative(A, e, Z, dA),
            None if dZ is None else DetFrexpHvp.call(A, dZ, e),
        )


def _frexp_cofactor(A: Tensor, e: Tensor) -> Tensor:
    return DetFrexpBackward.call(ones(A), A, e).conj()


def _frexp_derivative(A: Tensor, e: Tensor, *Z: Tensor) -> Tensor:
    R = row_factors(A, e)
    return (R * cofactor_derivative(R * A, *(R * z for z in Z))).to(A.dtype)
