"""What the autograd Functions have in common.

That is how they are called, what they save and how they are batched; and the terms that their
formulas are made of.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from . import _levels, _ops, _torch_internals

Context = Any
Gradient = Tensor | None
Outputs = Any  # a Tensor or a tuple of them


def _operator(name: str) -> Callable[..., Any]:
    # By a name that torch.compile knows as a constant; an attribute of a Function is none to it.
    return lambda *args: getattr(torch.ops.torchdet, name)(*args)


class Operator(torch.autograd.Function):
    """What the Functions share: how they are called, what they save, how they are batched.

    A subclass has forward, the kernel, and the rules of both modes:
    gradients(ctx, *grads), which torch calls backward, and tangent.
    """

    operator: str
    # One for each output of forward.
    out_dims: int | tuple[int, ...] = 0
    # How many of these outputs the caller needs, None for all; the others only are saved.
    results: int | None = None
    gradients: Callable[..., Any]
    traced: Callable[..., Outputs]
    record: Callable[[Sequence[Tensor]], Outputs]
    record_at_level: Callable[[Sequence[Tensor]], Outputs]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()

        def backward(ctx: Context, *grads: Gradient) -> Any:  # torch.compile takes no classmethod
            return cls.gradients(ctx, *grads)

        cls.backward = staticmethod(backward)  # type: ignore[method-assign]
        cls.record = staticmethod(_torch_internals.recorder(cls))
        cls.record_at_level = staticmethod(_torch_internals.level_recorder(cls, _levels.below))
        if "operator" in vars(cls):
            cls.traced = staticmethod(_operator(cls.operator))

    @classmethod
    def call(cls, *args: Tensor) -> Outputs:
        """Apply the Function, with no more machinery than the derivatives being taken need.

        Where a graph is recorded, and nothing else, the first `results` of the outputs are enough.
        A tracer, of torch.compile or torch.jit.trace, gets the operator: it can neither look into
        a Function nor write one down. So does a recorded pass with batched gradients, where torch
        calls operators gradient by gradient.
        """
        if torch.compiler.is_compiling() or _torch_internals.is_traced():
            return cls.traced(*args)
        if _torch_internals.has_transforms():
            return _levels.call(cls, args) if _torch_internals.HAS_LEVELS else cls.apply(*args)
        if _torch_internals.is_recorded(args):
            if _torch_internals.has_batched_gradients(args):
                return cls.traced(*args)
            return cls.record(args)
        return cls.forward(*args)

    @classmethod
    def saved(cls, inputs: Sequence[Tensor], outputs: Outputs) -> Sequence[Tensor]:
        """What gradients and tangent are given."""
        return inputs

    @classmethod
    def constants(cls, inputs: Sequence[Tensor], outputs: Outputs) -> Sequence[Tensor]:
        """The outputs that have no derivative."""
        return ()

    @classmethod
    def setup_context(cls, ctx: Context, inputs: tuple[Tensor, ...], output: Outputs) -> None:
        saved = cls.saved(inputs, output)
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*cls.constants(inputs, output))
        ctx.save_for_backward(*saved)
        ctx.save_for_forward(*saved)

    @staticmethod
    def tangent(saved: Sequence[Tensor], tangents: Sequence[Gradient]) -> Any:
        """Tangents of the first outputs, from what is saved and the tangents of the inputs."""
        raise NotImplementedError

    @classmethod
    def jvp(cls, ctx: Context, *tangents: Gradient) -> Any:
        """`tangent` as torch asks for it, for who calls `apply` or an operator.

        torch switches forward mode off around a jvp, so that the tangents of an enclosing level get
        lost. Here it is on again. What is saved must then shed its tangents of the level that is
        being differentiated just now; those of enclosing levels lie below and stay.
        """
        saved = [_torch_internals.without_tangent(x) for x in ctx.saved_tensors]
        with _torch_internals.enable_forward_ad(True):
            changes = cls.tangent(saved, tangents)
        if not isinstance(cls.out_dims, tuple):
            return changes
        changes = changes if isinstance(changes, tuple) else (changes,)
        return *changes, *(None for _ in cls.out_dims[len(changes) :])

    @classmethod
    def vmap(cls, info: Any, in_dims: Sequence[int | None], *args: Tensor) -> tuple[Any, Any]:
        args = tuple(_ops.batch_first(info.batch_size, in_dims, args))
        return cls.apply(*args), cls.out_dims


def is_plain(*args: Tensor) -> bool:
    """Whether nobody differentiates, maps or traces what is computed of these: numbers only."""
    return not (
        torch.compiler.is_compiling()
        or _torch_internals.is_traced()
        or _torch_internals.has_transforms()
        or _torch_internals.is_recorded(args)
    )


# ---- terms of the formulas


def times(g: Tensor, X: Tensor) -> Tensor:
    """One number times one matrix."""
    return g[..., None, None] * X


def inner(X: Tensor, Y: Tensor) -> Tensor:
    """Sum of the products of the entries, matrix by matrix."""
    return (X * Y).sum((-2, -1))


def add(*terms: Gradient) -> Gradient:
    """Sum of the terms that are there."""
    return functools.reduce(torch.add, (x for x in terms if x is not None))


def gradient_of_log(
    grad_sign: Gradient, grad_log: Gradient, sign: Sequence[Tensor], dtype: torch.dtype
) -> Gradient:
    """The g with dloss = Re(conj(g) t) for t = d log psi, with the sign where psi is complex.

    d log|psi| = Re t and d sign = i sign Im t: g = grad_log - i Im(conj(grad_sign) sign).
    """
    if sign and grad_sign is not None:
        phase = (grad_sign.conj() * sign[0]).imag
        return torch.complex(torch.zeros_like(phase) if grad_log is None else grad_log, -phase)
    if grad_log is None:
        return None
    return grad_log if grad_log.dtype == dtype else grad_log.to(dtype)


def tangents_of_log(t: Tensor, sign: Sequence[Tensor]) -> tuple[Gradient, Gradient]:
    """The tangents of sign and log|psi| from t = d log psi."""
    return (1j * sign[0] * t.imag, t.real) if sign else (None, t)


def ones(A: Tensor) -> Tensor:
    """One number 1 for each matrix of A."""
    return A.new_ones(()).expand(A.shape[:-2])
