"""How a Function runs under torch.func and in forward mode: one level of transforms after another.

Function.apply under torch.func flattens its arguments, asks for a signature and makes a class, anew
for every call and every level: 100 to 200 microseconds, many times the time of a small determinant.
The Functions of torchdet take Tensors, return Tensors and are known beforehand, so their steps are
short:

    vmap   bring the mapped dimension to the front, where it is one more batch dimension;
    jvp    with p and t the primals and tangents of the arguments: f(p), and its tangent by the rule
           of f;
    grad   a node in the graph of this level.

Each step calls the Function again one level below. At the bottom is the kernel, or plain autograd.
Tangents are taken off here and not in the jvp of a Function: there torch switches forward mode off,
and jvp of jvp would silently be zero (pytorch issue 197867).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from itertools import starmap, zip_longest
from typing import TYPE_CHECKING, Any

from torch import Tensor

from . import _torch_internals

if TYPE_CHECKING:
    from ._torch_internals import Level

Outputs = Any  # a Tensor or a tuple of them
_OF_VECTORS = ("_logsum", "_logsum_ratios", "_logsum_shares")  # operators that take no matrix


def call(cls: Any, args: Sequence[Tensor]) -> Outputs:
    """All outputs of a Function, with what the active transforms and forward mode ask for."""
    args = [_torch_internals.unwrap_if_dead(x) for x in args]
    level = _torch_internals.innermost_level()
    if level is None:
        return _differentiated(cls, args, None)
    if level.takes_operators_only:
        return cls.traced(*args)
    if level.maps:
        return _mapped(cls, args, level)
    return _differentiated(cls, [level.lift(x) for x in args], level)


def _below(cls: Any, args: Sequence[Tensor], level: Level) -> Outputs:
    """The Function on the level below: there the arguments are constants to this one."""
    args = [level.unwrap(x) for x in args]
    with level.below():
        outputs = call(cls, args)
    return _each(level.wrap, outputs)


def _mapped(cls: Any, args: Sequence[Tensor], level: Level) -> Outputs:
    unwrapped, dims = zip(*(level.unwrap_batched(x) for x in args), strict=True)
    with level.below():
        if all(dim is None for dim in dims):
            return call(cls, args)
        outputs = call(cls, batch_first(cls.operator, level.batch_size, dims, unwrapped))
    return _each(level.wrap_batched, outputs)


def batch_first(
    name: str, batch_size: int, in_dims: Sequence[int | None], args: Sequence[Tensor]
) -> list[Tensor]:
    """The arguments of a vmapped call with the mapped dimension in front, as a batch dimension.

    All operators take any batch shape, so this is the whole batching rule. A tensor that is not
    mapped is expanded, not copied: kernels can see by its stride 0 that one matrix serves many.
    """
    _check_mapped(name, in_dims, args)
    return [
        x.expand(batch_size, *x.shape) if dim is None else x.movedim(dim, 0) if dim else x
        for x, dim in zip(args, in_dims, strict=True)
    ]


def _check_mapped(name: str, in_dims: Sequence[int | None], args: Sequence[Tensor]) -> None:
    # n vectors of length n that are mapped over look like a matrix to the kernel. So shapes are
    # checked without the mapped dimension.
    shapes = [
        x.shape if dim is None else x.shape[:dim] + x.shape[dim + 1 :]
        for x, dim in zip(args, in_dims, strict=True)
    ]
    largest = max(shapes, key=len)
    if len(largest) < 2 and name not in _OF_VECTORS:
        raise RuntimeError(f"{name}: expected A of shape (*, n, n), got {tuple(largest)}")


def _differentiated(cls: Any, args: Sequence[Tensor], level: Level | None) -> Outputs:
    tangents = _torch_internals.tangents(args, level)
    if tangents is None:
        return _recorded(cls, args, level)
    if _torch_internals.is_recorded(args):
        # Somebody may ask for the tangent of this node's gradient. So the Tensors that the node
        # saves keep theirs, which Function.apply sees to.
        return cls.apply(*args)
    if level is None:
        args = [_torch_internals.without_tangent(x) for x in args]
        outputs = cls.forward(*args)
        return _duals(outputs, cls.tangent(cls.saved(args, outputs), tangents))
    args = [level.unwrap(x) for x in args]
    tangents = _each(level.unwrap, tangents)
    with level.below():
        outputs = call(cls, args)
        changes = cls.tangent(cls.saved(args, outputs), tangents)
    return _duals(_each(level.wrap, outputs), _each(level.wrap, changes))


def _recorded(cls: Any, args: Sequence[Tensor], level: Level | None) -> Outputs:
    if not _torch_internals.is_recorded(args):
        return cls.forward(*args) if level is None else _below(cls, args, level)
    if level is not None:
        return _recorder(cls)(args)
    if _torch_internals.has_batched_gradients(args):
        return cls.traced(*args)
    return _torch_internals.record_all(cls, args)


@cache
def _recorder(cls: Any) -> Callable[[Sequence[Tensor]], Outputs]:
    return _torch_internals.level_recorder(cls, _below)


def _each(f: Callable[[Tensor], Tensor], x: Any) -> Any:
    # f of a Tensor or None, or of each of a tuple of them.
    if isinstance(x, tuple):
        return tuple(_each(f, y) for y in x)
    return x if x is None else f(x)


def _dual(output: Tensor, change: Tensor | None) -> Tensor:
    return output if change is None else _torch_internals.make_dual(output, change)


def _duals(outputs: Outputs, changes: Any) -> Outputs:
    # A rule gives the tangents of the first outputs; the others have none.
    if not isinstance(outputs, tuple):
        return _dual(outputs, changes)
    changes = changes if isinstance(changes, tuple) else (changes,)
    return tuple(starmap(_dual, zip_longest(outputs, changes)))
