"""Rules that the derivatives of det and of log|det| have in common.

Each is for a gradient F of a function, C or X in the notation of _autograd.py.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ._function import Context, Gradient, Operator, add, inner, times


class Backward(Operator):
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


class Derivative(Operator):
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
        V, Z = V.conj(), directions(A, given)
        grad_A = cls.derivative(A, *Z, V).conj() if for_A else None
        if not any(for_given):
            return (grad_A, *(None for _ in given))
        replaced = ((*Z[:i], V, *Z[i + 1 :]) for i in range(len(Z)))
        return grad_A, *stack([cls.derivative(A, *z).conj() for z in replaced])

    @classmethod
    def tangent(cls, saved: Sequence[Tensor], tangents: Sequence[Gradient]) -> Gradient:
        (A, *given), (dA, *dgiven) = saved, tangents
        Z = directions(A, given)
        dZ = directions(A, [x for x in dgiven if x is not None])
        return add(
            None if dA is None else cls.derivative(A, *Z, dA),
            *(cls.derivative(A, *Z[:i], dz, *Z[i + 1 :]) for i, dz in enumerate(dZ)),
        )


def stack(Z: Sequence[Tensor]) -> Sequence[Tensor]:
    """The directions as an operator takes them: one as it is, several in one Tensor."""
    return Z if len(Z) < 2 else (torch.stack(Z, -3),)  # type: ignore[arg-type]


def directions(A: Tensor, given: Sequence[Tensor]) -> Sequence[Tensor]:
    """The inverse of stack."""
    return given[0].unbind(-3) if given and given[0].dim() > A.dim() else given
