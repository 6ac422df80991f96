"""Derivatives of the mantissa of a determinant, its exponent e being constant."""

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from ._autograd_det import cofactor_derivative
from ._frexp import scale_rows
from ._function import Context, Gradient, Operator, Outputs, add, inner, times
from ._rules import Backward, Constant, Derivative, Value


def frexp_derivative(A: Tensor, Z: Sequence[Tensor], e: Tensor) -> Tensor:
    """D^m C(A)[Z_1..Z_m] 2^-e for m >= 1 directions; from m = 2 on that of C at R A (_frexp.py)."""
    if len(Z) == 1:
        return DetFrexpHvp.call(A, *Z, e)
    RA, *RZ = (scale_rows(X, e) for X in (A, *Z))
    return scale_rows(cofactor_derivative(RA, RZ), e).to(A.dtype)


class DetFrexpBackward(Backward):
    """g conj(C(A)) 2^-e, one number g for each matrix."""

    operator = "_det_frexp_backward"
    derivative = staticmethod(frexp_derivative)

    @classmethod
    def tangent(cls, saved: Sequence[Tensor], tangents: Sequence[Gradient]) -> Gradient:
        (grad, A, e), (dgrad, dA, _) = saved, tangents
        if dA is None:
            return super().tangent(saved, tangents)
        dgrad = torch.zeros_like(grad) if dgrad is None else dgrad
        return DetFrexpBackwardJvp.call(grad, A, e, dgrad, dA)


class DetFrexp(Value):
    """m and e with det A = m 2^e: m has the derivatives of det times 2^-e."""

    operator = "det_frexp"

    @staticmethod
    def backward_of() -> type[DetFrexpBackward]:
        return DetFrexpBackward


class DetFreedom(Constant):
    """How much of an exponent a determinant may take."""

    operator = "_det_freedom"


class DetRelative(Operator):
    """Mantissa and exponent of the determinant with a share of the latter in the former.

    The new exponent is a constant, as all arguments but A are.
    """

    operator = "_det_relative"

    @classmethod
    def saved(cls, inputs: Sequence[Tensor], outputs: Outputs) -> Sequence[Tensor]:
        return inputs[0], outputs[1]

    @classmethod
    def constants(cls, inputs: Sequence[Tensor], outputs: Outputs) -> Sequence[Tensor]:
        return outputs[1:]

    @staticmethod
    def gradients(ctx: Context, grad: Gradient, *_: Gradient) -> tuple[Gradient, ...]:
        A, e = ctx.saved_tensors
        of_A = None if grad is None else DetFrexpBackward.call(grad, A, e)
        return of_A, *(None for _ in ctx.needs_input_grad[1:])

    @staticmethod
    def tangent(saved: Sequence[Tensor], tangents: Sequence[Gradient]) -> Gradient:
        (A, e), dA = saved, tangents[0]
        return None if dA is None else inner(DetFrexpBackward.gradient(A, e), dA)


class DetFrexpHvp(Derivative):
    """H(A)[Z] 2^-e."""

    operator = "_det_frexp_hvp"
    derivative = staticmethod(frexp_derivative)

    @staticmethod
    def split(others: Sequence[Tensor]) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        Z, e = others
        return (Z,), (e,)


class DetFrexpBackwardJvp(Operator):
    """The tangent of g conj(C(A)) 2^-e: (dg conj(C(A)) + g conj(H(A)[Z])) 2^-e for tangents dg, Z.

    One kernel for both terms, as Laplacians by forward over reverse mode take them for every walker
    and coordinate.
    """

    operator = "_det_frexp_backward_jvp"

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
            grad_A = grad_A + frexp_derivative(A, (Z, gV), e).conj()
        return (
            inner(V, DetFrexpHvp.call(A, Z, e)) if for_grad else None,
            grad_A,
            None,
            inner(V, DetFrexpBackward.gradient(A, e)) if for_dgrad else None,
            DetFrexpHvp.call(A, gV, e).conj() if for_Z else None,
        )

    @staticmethod
    def tangent(saved: Sequence[Tensor], tangents: Sequence[Gradient]) -> Gradient:
        (grad, A, e, dgrad, Z), (tgrad, tA, _, tdgrad, tZ) = saved, tangents
        return add(
            None if tgrad is None else times(tgrad, DetFrexpHvp.call(A, Z, e).conj()),
            DetFrexpBackward.tangent((dgrad, A, e), (tdgrad, tA, None)),
            None if tA is None else times(grad, frexp_derivative(A, (Z, tA), e).conj()),
            None if tZ is None else times(grad, DetFrexpHvp.call(A, tZ, e).conj()),
        )


class DetFrexpJet(Operator):
    """D det(A)[J_i] 2^-e and D^2 det(A)[J_i, J_i] 2^-e for directions J of shape (*, d, n, n).

    With C and H for the first and second derivatives of det, and e constant:

        d first_i = sum(H[J_i] * dA) + sum(C * dJ_i),
        d second_i = sum(D H[J_i, J_i] * dA) + 2 sum(H[J_i] * dJ_i).
    """

    operator = "_det_frexp_jet"

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
            terms_J.append(times(of_first, DetFrexpBackward.gradient(A, e).conj().unsqueeze(-3)))
        if of_second is not None:
            terms_J.append(times(2 * of_second, HJ))
            if for_A:
                terms_A.append(times(of_second, frexp_derivative(A_, (J, J), e_).conj()))
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
            second.append(inner(frexp_derivative(A_, (J, J), e_), dA))
        if dJ is not None:
            first.append(inner(DetFrexpBackward.gradient(A, e).unsqueeze(-3), dJ))
            second.append(2 * inner(HJ, dJ))
        return add(*first), add(*second)


def _for_each_direction(A: Tensor, J: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
    return A.unsqueeze(-3).expand(J.shape), e.unsqueeze(-1).expand(J.shape[:-2])
