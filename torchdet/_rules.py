r"""Every gradient formula, and the rules that more than one operator has.

Write C(A) for the cofactor matrix, H(A)[Z] = D C(A)[Z] for its derivative in direction Z, and
X = A^-T. All of them are holomorphic in A. In torch's convention, where the gradient G of a real
loss means dloss = Re sum(conj(G) * dA):

    d det A = sum(C(A) * dA),  so grad_A = grad conj(C(A))                                       (1)
    d log|det A| = Re t,  d sign = i sign Im t,  t = sum(X * dA)                                 (2)
    d D^m F(A)[Z_1..Z_m] = D^(m+1) F(A)[Z_1..Z_m, dA] + sum_i D^m F(A)[.., dZ_i, ..]             (3)
    d X = -X dA^T X                                                                              (4)

In (3), F is C or X, and sum(V * D^m F(A)[Z_1..Z_m]) is symmetric in V and the Z_i, since it is a
derivative of det or log det; so a cotangent V is one more direction.

The Functions form a family closed under (1) to (4): gradients and tangent of each are calls of
others. So derivatives of all orders exist, and a backward that is itself recorded
(create_graph=True) gives the same numbers as one that is not.

A rule may have constants: the last arguments of an operator, which have no derivative. They are
what a forward pass has kept, numbers that are no function of A, or the exponent of a determinant.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ._function import Context, Gradient, Operator, Outputs, add, inner, is_plain, ones, times


class Backward(Operator):
    """g conj(F(A)), one number g for each matrix, F the gradient of a function of A."""

    # D F(A)[Z], called as derivative(A, (Z,), *constants).
    derivative: Callable[..., Tensor]

    @classmethod
    def gradient(cls, A: Tensor, *constants: Tensor) -> Tensor:
        """F(A)."""
        gradient: Tensor = cls.call(ones(A), A, *constants).conj()
        return gradient

    @classmethod
    def gradient_once(cls, ctx: Context, A: Tensor, *constants: Tensor) -> Tensor:
        """F(A), for any number of cotangents of one node. It lives as long as the node."""
        if getattr(ctx, "gradient", None) is None:
            ctx.gradient = cls.gradient(A, *constants)
        gradient: Tensor = ctx.gradient
        return gradient

    @classmethod
    def gradients(cls, ctx: Context, V: Gradient) -> tuple[Gradient, ...]:
        grad, A, *constants = ctx.saved_tensors
        for_grad, for_A, *for_constants = ctx.needs_input_grad
        if V is None:
            return (None,) * len(ctx.needs_input_grad)
        of_grad = None
        if for_grad:
            # Only numbers can be shared: a graph of the results has to lead to A each time.
            shared = is_plain(grad, A, V)
            F = cls.gradient_once(ctx, A, *constants) if shared else cls.gradient(A, *constants)
            of_grad = inner(V, F)
        return (
            of_grad,
            cls.derivative(A, (times(grad.conj(), V),), *constants).conj() if for_A else None,
            *(None for _ in for_constants),
        )

    @classmethod
    def tangent(cls, saved: Sequence[Tensor], tangents: Sequence[Gradient]) -> Gradient:
        (grad, A, *constants), (dgrad, dA, *_) = saved, tangents
        return add(
            None if dgrad is None else cls.call(dgrad, A, *constants),
            None if dA is None else times(grad, cls.derivative(A, (dA,), *constants).conj()),
        )


class Constant(Operator):
    """Whole numbers that are no function of the arguments, as far as derivatives go."""

    @classmethod
    def constants(cls, inputs: Sequence[Tensor], outputs: Outputs) -> Sequence[Tensor]:
        return (outputs,)

    @staticmethod
    def gradients(ctx: Context, *_: Gradient) -> tuple[Gradient, ...]:
        return tuple(None for _ in ctx.needs_input_grad)

    @staticmethod
    def tangent(saved: Sequence[Tensor], tangents: Sequence[Gradient]) -> Gradient:
        return None


class Value(Operator):
    """A function of A with gradient F, as (1); outputs after it are constants of `backward_of`."""

    # The Function of g conj(F(A)): called, since torch.compile knows no attributes of a Function.
    backward_of: Callable[[], type[Backward]]

    @classmethod
    def saved(cls, inputs: Sequence[Tensor], outputs: Outputs) -> Sequence[Tensor]:
        return (*inputs, *outputs[1:]) if isinstance(outputs, tuple) else inputs

    @classmethod
    def constants(cls, inputs: Sequence[Tensor], outputs: Outputs) -> Sequence[Tensor]:
        return outputs[1:] if isinstance(outputs, tuple) else ()

    @classmethod
    def gradients(cls, ctx: Context, grad: Gradient, *_: Gradient) -> Gradient:
        A, *constants = ctx.saved_tensors
        return None if grad is None else cls.backward_of().call(grad, A, *constants)

    @classmethod
    def tangent(cls, saved: Sequence[Tensor], tangents: Sequence[Gradient]) -> Gradient:
        (A, *constants), (dA,) = saved, tangents
        return None if dA is None else inner(cls.backward_of().gradient(A, *constants), dA)


class Logarithm(Operator):
    """Sign and log|psi|, psi a function of the first input; outputs after them are constants.

    With t = d log psi, d log|psi| = Re t and d sign = i sign Im t, as (2). The sign is constant,
    not differentiable, where psi is real.
    """

    # The gradient of the first input from g with dloss = Re(conj(g) t), and t from its tangent;
    # both called with the inputs and the constants as well.
    pull_back: Callable[..., Tensor]
    push_forward: Callable[..., Tensor]

    @classmethod
    def saved(cls, inputs: Sequence[Tensor], outputs: Outputs) -> Sequence[Tensor]:
        sign, _, *constants = outputs
        return (*inputs, *constants, *([sign] if sign.is_complex() else []))

    @classmethod
    def constants(cls, inputs: Sequence[Tensor], outputs: Outputs) -> Sequence[Tensor]:
        sign, _, *constants = outputs
        return constants if sign.is_complex() else (sign, *constants)

    @classmethod
    def gradients(
        cls, ctx: Context, grad_sign: Gradient, grad_log: Gradient, *_: Gradient
    ) -> tuple[Gradient, ...]:
        saved, sign = _split_sign(ctx.saved_tensors)
        none = (None,) * (len(ctx.needs_input_grad) - 1)
        if sign is not None and grad_sign is not None:
            # g = grad_log - i Im(conj(grad_sign) sign)
            phase = (grad_sign.conj() * sign).imag
            grad_log = torch.zeros_like(phase) if grad_log is None else grad_log
            return cls.pull_back(torch.complex(grad_log, -phase), *saved), *none
        if grad_log is None:
            return None, *none
        return cls.pull_back(grad_log.to(saved[0].dtype), *saved), *none

    @classmethod
    def tangent(
        cls, saved: Sequence[Tensor], tangents: Sequence[Gradient]
    ) -> tuple[Gradient, Gradient]:
        if tangents[0] is None:
            return None, None
        saved, sign = _split_sign(saved)
        t = cls.push_forward(tangents[0], *saved)
        if sign is None:
            return None, t
        # Not 1j * t.imag: torch saves 1j as complex128, and derivatives of one number become that.
        return sign * torch.complex(torch.zeros_like(t.real), t.imag), t.real


def _split_sign(saved: Sequence[Tensor]) -> tuple[Sequence[Tensor], Gradient]:
    # A sign was saved where the input is complex.
    return (saved[:-1], saved[-1]) if saved[0].is_complex() else (saved, None)


class Derivative(Operator):
    """D^m F(A)[Z_1..Z_m], with (3). The subclasses differ in F and in how directions are given."""

    # The member of the family with given directions: derivative(A, directions, *constants).
    derivative: Callable[..., Tensor]

    @staticmethod
    def split(others: Sequence[Tensor]) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        """The directions, as they are given, and the constants, of all arguments after A."""
        return others, ()

    @classmethod
    def gradients(cls, ctx: Context, V: Gradient) -> tuple[Gradient, ...]:
        A, *others = ctx.saved_tensors
        if V is None:
            return (None,) * (1 + len(others))
        given, constants = cls.split(others)
        for_A, *for_others = ctx.needs_input_grad
        V, Z = V.conj(), directions(A, given)
        grad_A = cls.derivative(A, (*Z, V), *constants).conj() if for_A else None
        if not any(for_others):
            return (grad_A, *(None for _ in others))
        replaced = ((*Z[:i], V, *Z[i + 1 :]) for i in range(len(Z)))
        grads = [cls.derivative(A, z, *constants).conj() for z in replaced]
        return grad_A, *stack(grads), *(None for _ in constants)

    @classmethod
    def tangent(cls, saved: Sequence[Tensor], tangents: Sequence[Gradient]) -> Gradient:
        (A, *others), (dA, *dothers) = saved, tangents
        given, constants = cls.split(others)
        Z, dZ = directions(A, given), directions(A, [x for x in dothers if x is not None])
        return add(
            None if dA is None else cls.derivative(A, (*Z, dA), *constants),
            *(cls.derivative(A, (*Z[:i], dz, *Z[i + 1 :]), *constants) for i, dz in enumerate(dZ)),
        )


def stack(Z: Sequence[Tensor]) -> Sequence[Tensor]:
    """The directions as an operator takes them: one as it is, several in one Tensor."""
    # Not -3: of DTensors torch 2.10 then gives wrong placements, and wrong numbers.
    return Z if len(Z) < 2 else (torch.stack(Z, Z[0].dim() - 2),)  # type: ignore[arg-type]


def directions(A: Tensor, given: Sequence[Tensor]) -> Sequence[Tensor]:
    """The inverse of stack."""
    return given[0].unbind(-3) if given and given[0].dim() > A.dim() else given
