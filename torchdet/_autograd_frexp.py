"""Derivatives of the mantissa of a determinant, its exponent being constant."""

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from . import _ops
from ._autograd_det import cofactor_derivative
from ._frexp import scale_rows
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
        if dA is None:
            return None if dgrad is None else DetFrexpBackward.call(dgrad, A, e)
        dgrad = torch.zeros_like(grad) if dgrad is None else dgrad
        return DetFrexpBackwardJvp.call(grad, A, e, dgrad, dA)


class DetFrexpBackwardJvp(Operator):
    """The tangent of g conj(C(A)) 2^-e: (dg conj(C(A)) + g conj(H(A)[Z])) 2^-e for tangents dg, Z.

    One kernel for both terms, as Laplacians by forward over reverse mode take them for every walker
    and coordinate.
    """

    operator = "_det_frexp_backward_jvp"

    @staticmethod
    def forward(grad: Tensor, A: Tensor, e: Tensor, dgrad: Tensor, Z: Tensor) -> Tensor:
        return _ops.det_frexp_backward_jvp(grad, A, e, dgrad, Z)

    @staticmethod
    def gradients(ctx: Context, V: Gradient) -> tuple[Gradient, ...]:
        grad, A, e, dgrad, Z = ctx.saved_tensors
        for_grad, for_A, _, for_dgrad, for_Z = ctx.needs_input_grad
        if V is None:
            return (None,) * 5
        gV = times(grad.conj(), V)
        grad_A = None
        if for_A:
            grad_A = DetFrexpHvp.call(A, times(dgrad.conj(), V), e).conj()
            grad_A = grad_A + _frexp_derivative(A, e, Z, gV).conj()
        return (
            inner(V, DetFrexpHvp.call(A, Z, e)) if for_grad else None,
            grad_A,
            None,
            inner(V, _frexp_cofactor(A, e)) if for_dgrad else None,
            DetFrexpHvp.call(A, gV, e).conj() if for_Z else None,
        )

    @staticmethod
    def tangent(saved: Sequence[Tensor], tangents: Sequence[Gradient]) -> Gradient:
        (grad, A, e, dgrad, Z), (tgrad, tA, _, tdgrad, tZ) = saved, tangents
        return add(
            None if tgrad is None else times(tgrad, DetFrexpHvp.call(A, Z, e).conj()),
            DetFrexpBackward.tangent((dgrad, A, e), (tdgrad, tA, None)),
            None if tA is None else times(grad, _frexp_derivative(A, e, Z, tA).conj()),
            None if tZ is None else times(grad, DetFrexpHvp.call(A, tZ, e).conj()),
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


class DetFrexpJet(Operator):
    """D det(A)[J_i] 2^-e and D^2 det(A)[J_i, J_i] 2^-e for directions J of shape (*, d, n, n).

    With C and H for the first and second derivatives of det, and e constant:

        d first_i = sum(H[J_i] * dA) + sum(C * dJ_i),
        d second_i = sum(D H[J_i, J_i] * dA) + 2 sum(H[J_i] * dJ_i).
    """

    operator = "_det_frexp_jet"
    out_dims = (0, 0)

    @staticmethod
    def forward(A: Tensor, J: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
        return _ops.det_frexp_jet(A, J, e)

    @staticmethod
    def gradients(ctx: Context, of_first: Gradient, of_second: Gradient) -> tuple[Gradient, ...]:
        A, J, e = ctx.saved_tensors
        for_A, for_J, _ = ctx.needs_input_grad
        if of_first is None and of_second is None:
            return None, None, None
        A_, e_ = _for_each_direction(A, J, e)
        HJ = DetFrexpHvp.call(A_, J, e_).conj()
        terms_A, terms_J = [], []
        if of_first is not None:
            terms_A.append(times(of_first, HJ))
            terms_J.append(times(of_first, _frexp_cofactor(A, e).conj().unsqueeze(-3)))
        if of_second is not None:
            terms_J.append(times(2 * of_second, HJ))
            if for_A:
                terms_A.append(times(of_second, _frexp_derivative(A_, e_, J, J).conj()))
        grad_A = functools.reduce(torch.add, terms_A).sum(-3) if for_A else None
        return grad_A, add(*terms_J) if for_J else None, None

    @staticmethod
    def tangent(saved: Sequence[Tensor], tangents: Sequence[Gradient]) -> tuple[Gradient, Gradient]:
        (A, J, e), (dA, dJ, _) = saved, tangents
        if dA is None and dJ is None:
            return None, None
        A_, e_ = _for_each_direction(A, J, e)
        HJ = DetFrexpHvp.call(A_, J, e_)
        first, second = [], []
        if dA is not None:
            dA = dA.unsqueeze(-3)
            first.append(inner(HJ, dA))
            second.append(inner(_frexp_derivative(A_, e_, J, J), dA))
        if dJ is not None:
            first.append(inner(_frexp_cofactor(A, e).unsqueeze(-3), dJ))
            second.append(2 * inner(HJ, dJ))
        return add(*first), add(*second)


def _for_each_direction(A: Tensor, J: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
    return A.unsqueeze(-3).expand(J.shape), e.unsqueeze(-1).expand(J.shape[:-2])


def _frexp_cofactor(A: Tensor, e: Tensor) -> Tensor:
    return DetFrexpBackward.call(ones(A), A, e).conj()


def _frexp_derivative(A: Tensor, e: Tensor, *Z: Tensor) -> Tensor:
    scaled = (scale_rows(X, e) for X in (A, *Z))
    return scale_rows(cofactor_derivative(*scaled), e).to(A.dtype)
