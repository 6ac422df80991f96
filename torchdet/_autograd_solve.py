r"""Derivatives of a linear system and of the determinant that its factorisation gives.

With X = A^-1 B: dX = A^-1 (dB - dA X), so for a gradient G of X

    grad_B = A^-H G,  grad_A = -grad_B X^H.

A^-H B has the same with A^H in place of A. What is left of the factorisation is a constant: numbers
that are no function of A (_rules.py). X is saved as a function of A and B, so that derivatives of
every order exist. Source: Giles, An extended collection of matrix derivative results (2008),
section 2.3.1.
"""

from collections.abc import Sequence

from torch import Tensor

from ._autograd_slogdet import Slogdet, SlogdetBackward
from ._function import Context, Gradient, Operator, Outputs, add
from ._inverse import without_autocast


def _product(X: Tensor, Y: Tensor) -> Tensor:
    with without_autocast(X.device.type):
        return X @ Y


class SlogdetBackwardFactored(SlogdetBackward):
    """g conj(A^-T) from what SlogdetFactor leaves."""

    operator = "_slogdet_backward_factored"


class SlogdetFactor(Slogdet):
    """Sign and log|det A| and what is left of the factorisation, numbers and integers."""

    operator = "_slogdet_factor"

    @staticmethod
    def backward_of() -> type[SlogdetBackward]:
        return SlogdetBackwardFactored


class _System(Operator):
    """X = F^-1 B for F = A or A^H, from A, B and what is left of the factorisation."""

    @classmethod
    def saved(cls, inputs: Sequence[Tensor], outputs: Outputs) -> Sequence[Tensor]:
        A, _, *factors = inputs
        return (A, outputs, *factors)


class Solve(_System):
    """X = A^-1 B."""

    operator = "_solve_factored"

    @classmethod
    def gradients(cls, ctx: Context, G: Gradient) -> tuple[Gradient, ...]:
        A, X, *factors = ctx.saved_tensors
        if G is None:
            return None, None, None, None
        grad_B = SolveAdjoint.call(A, G, *factors)
        grad_A = -_product(grad_B, X.mH) if ctx.needs_input_grad[0] else None
        return grad_A, grad_B, None, None

    @classmethod
    def tangent(cls, saved: Sequence[Tensor], tangents: Sequence[Gradient]) -> Gradient:
        (A, X, *factors), (dA, dB, *_) = saved, tangents
        change = add(dB, None if dA is None else -_product(dA, X))
        return None if change is None else cls.call(A, change, *factors)


class SolveAdjoint(_System):
    """X = A^-H B."""

    operator = "_solve_adjoint_factored"

    @classmethod
    def gradients(cls, ctx: Context, G: Gradient) -> tuple[Gradient, ...]:
        A, X, *factors = ctx.saved_tensors
        if G is None:
            return None, None, None, None
        grad_B = Solve.call(A, G, *factors)
        grad_A = -_product(X, grad_B.mH) if ctx.needs_input_grad[0] else None
        return grad_A, grad_B, None, None

    @classmethod
    def tangent(cls, saved: Sequence[Tensor], tangents: Sequence[Gradient]) -> Gradient:
        (A, X, *factors), (dA, dB, *_) = saved, tangents
        change = add(dB, None if dA is None else -_product(dA.mH, X))
        return None if change is None else cls.call(A, change, *factors)
