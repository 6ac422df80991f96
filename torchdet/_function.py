"""What the autograd Functions have in common.

That is how they are called, what they save and how they are batched; and the terms that their
formulas are made of.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from . import _levels, _ops, _schemas, _torch_internals
from ._torch_modes import has_dispatch_modes

Context = Any
Gradient = Tensor | None
Outputs = Any  # a Tensor or a tuple of them


def _operator(name: str) -> Callable[..., Outputs]:
    # torch.compile needs a constant name here; it cannot read an attribute of a Function.
    return lambda *args: getattr(torch.ops.torchdet, name)(*args)


class Operator(torch.autograd.Function):
    """What the Functions share: how they are called, what they save, how they are batched.

    A subclass for the operator torch.ops.torchdet.NAME has `operator = "NAME"` and the rules of
    both modes: gradients(ctx, *grads), which torch calls backward, and tangent.
    """

    operator: str
    # How many leading outputs a node of `record` returns, None for all; it only saves the rest.
    # The other routes return all outputs: callers take the leading ones.
    results: int | None = None
    gradients: Callable[..., Any]
    # What follows is made from the name: the kernel, the operator, a node that autograd records.
    forward: Callable[..., Outputs]
    out_dims: int | tuple[int, ...]
    traced: Callable[..., Outputs]
    record: Callable[[Sequence[Tensor]], Outputs]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "operator" not in vars(cls):
            return

        def backward(ctx: Context, *grads: Gradient) -> Any:  # torch.compile takes no classmethod
            return cls.gradients(ctx, *grads)

        operator = _ops.operator(cls.operator)
        cls.forward = staticmethod(_torch_internals.below_autograd(operator))
        cls.backward = staticmethod(backward)  # type: ignore[method-assign]
        cls.out_dims = _ops.out_dims(operator)
        cls.traced = staticmethod(_operator(cls.operator))
        cls.record = staticmethod(_torch_internals.recorder(cls))
        _torch_internals.register_autograd(cls, _schemas.library)

    @classmethod
    def call(cls, *args: Tensor) -> Outputs:
        """Apply the Function, with no more machinery than the derivatives being taken need.

        Where a graph is recorded, and nothing else, the first `results` of the outputs are enough.
        A tracer, of torch.compile or torch.jit.trace, gets the operator: it can neither look into
        a Function nor write one down. `is_grads_batched` with a recorded graph also gets the
        operator: torch calls that gradient by gradient.
        """
        if torch.compiler.is_compiling():
            return cls.traced(*args)
        route = _torch_internals.route(args)
        if route == "kernel":
            return cls.forward(*args)
        if route == "record":
            return cls.record(args)
        return cls.at_levels(*args) if route == "levels" else cls.traced(*args)

    @classmethod
    def at_levels(cls, *args: Tensor) -> Outputs:
        """What `call` does under torch.func and in forward mode."""
        return _levels.call(cls, args)

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
        if constants := cls.constants(inputs, output):
            ctx.mark_non_differentiable(*constants)
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
        args = tuple(_levels.batch_first(cls.operator, info.batch_size, in_dims, args))
        return cls.apply(*args), cls.out_dims


def is_plain(*args: Tensor) -> bool:
    """Whether nobody differentiates, maps or traces what is computed of these: numbers only."""
    return not torch.compiler.is_compiling() and _torch_internals.route(args) == "kernel"


def may_look(*args: Tensor) -> bool:
    """Whether what is computed next may depend on numbers that are read at once.

    Where somebody maps, traces or compiles there are none, and elsewhere than on a CPU reading
    waits for the device.
    """
    if torch.compiler.is_compiling() or has_dispatch_modes():
        return False
    known = all(type(x) in (Tensor, torch.nn.Parameter) and x.device.type == "cpu" for x in args)
    return known and _torch_internals.route(args) in ("kernel", "record")


def is_finite_constant(x: Tensor) -> bool:
    """Whether X holds finite numbers only, on a CPU, and is a constant but to torch.func."""
    x = _torch_internals.at_bottom(x)
    if has_dispatch_modes() or _torch_internals.has_batched_gradients((x,)):
        return False
    if type(x) is not Tensor or not x.is_cpu or x.requires_grad:
        return False
    with _torch_internals.below_levels():
        return not bool((x - x).any())


# ---- terms of the formulas


def times(g: Tensor, X: Tensor) -> Tensor:
    """One number times one matrix."""
    return g[..., None, None] * X


def inner(X: Tensor, Y: Tensor) -> Tensor:
    """Sum of the products of the entries, matrix by matrix."""
    return (X * Y).sum((-2, -1))


def add(*terms: Gradient) -> Gradient:
    """Sum of the terms that are there, if any."""
    there = [x for x in terms if x is not None]
    return functools.reduce(torch.add, there) if there else None


def ones(A: Tensor) -> Tensor:
    """One number 1 for each matrix of A."""
    return A.new_ones(A.shape[:-2])
