"""What the autograd Functions have in common.

That is how they are called, what they save, how they are batched and how their jvp stays
differentiable; and the terms that their formulas are made of.
"""

import functools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from . import _ops, _torch_internals

Context = Any
Gradient = Tensor | None
Rule = Callable[[Context, Sequence[Tensor], Sequence[Gradient]], Any]


def forward_rule(rule: Rule) -> Callable[..., Any]:
    """Turn rule(ctx, saved, tangents) into a jvp that can itself be differentiated forward.

    torch switches forward mode off around a jvp, so that the tangents of an enclosing forward-mode
    level get lost and jvp of jvp is silently zero (pytorch issue 197867). Here it is on again. The
    saved tensors must then shed their tangents of the level that is being differentiated just now;
    the tangents of enclosing levels lie below those and stay.
    """

    @functools.wraps(rule)
    def jvp(ctx: Context, *tangents: Gradient) -> Any:
        saved = [_torch_internals.without_tangent(x) for x in ctx.saved_tensors]
        with _torch_internals.enable_forward_ad(True):
            return rule(ctx, saved, tangents)

    return jvp


def _operator(name: str) -> Callable[..., Any]:
    # By a name that torch.compile knows as a constant; an attribute of a Function is none to it.
    return lambda *args: getattr(torch.ops.torchdet, name)(*args)


class Operator(torch.autograd.Function):
    """What the Functions share: how they are called, what they save, how they are batched."""

    operator: str
    out_dims: int | tuple[int, ...] = 0
    # How many of forward's outputs the caller needs, None for all; the others only are saved.
    results: int | None = None
    _record: Callable[[tuple[Tensor, ...]], Any]
    _trace: Callable[..., Any]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls._record = staticmethod(_torch_internals.recorder(cls))
        if "operator" in vars(cls):
            cls._trace = staticmethod(_operator(cls.operator))

    @classmethod
    def call(cls, *args: Tensor) -> Any:
        """Apply the Function, with no more machinery than the derivatives being taken need.

        Where a graph is recorded, and nothing else, the first `results` of the outputs are enough.
        A tracer, of torch.compile or torch.jit.trace, gets the operator: it can neither look into
        a Function nor write one down. So does a recorded pass with batched gradients, where torch
        calls operators gradient by gradient.
        """
        if torch.compiler.is_compiling() or _torch_internals.is_traced():
            return cls._trace(*args)
        if _torch_internals.has_transforms():
            return _torch_internals.apply_function(cls, args)
        if _torch_internals.is_recorded(args):
            if _torch_internals.has_batched_gradients(args):
                return cls._trace(*args)
            return cls._record(args)
        return cls.forward(*args)

    @staticmethod
    def setup_context(ctx: Context, inputs: tuple[Tensor, ...], output: Any) -> None:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @classmethod
    def vmap(cls, info: Any, in_dims: Sequence[int | None], *args: Tensor) -> tuple[Any, Any]:
        args = tuple(_ops.batch_first(info, in_dims, args))
        return _torch_internals.apply_function(cls, args), cls.out_dims


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


def ones(A: Tensor) -> Tensor:
    """One number 1 for each matrix of A."""
    return A.new_ones(()).expand(A.shape[:-2])


def sandwich(X: Tensor, Y: Tensor) -> Tensor:
    """X Y^T X; never in half precision, as autocast would have it."""
    device = X.device.type
    autocast: AbstractContextManager[Any] = nullcontext()
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        autocast = torch.autocast(device, enabled=False)
    with autocast:
        return X @ Y.mT @ X
