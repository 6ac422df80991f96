"""The sharding rule of all operators: a DTensor sharded over batch dimensions stays sharded.

Every operator maps matrices, or the terms of sums, over the batch dimensions, which stand in front
in all arguments and results. So a process that holds a part of the batch of all arguments computes
the same part of all results, with no communication. Everything else is replicated first:

- a dimension of a matrix, or of the terms of a sum: no part of a determinant is computed alone;
- Partial, a sum over processes that is still to be taken: a determinant is not linear. A backward
  pass is linear in its gradient; but that is a number where the result is a matrix, so the sum is
  taken more cheaply before than after.

torch.distributed.tensor takes most of a second to import; who uses DTensors has imported it. If
that was before torchdet, the rules are registered at once. Else the fake kernel of an operator
registers its rule: DTensor calls it for the shapes of the results, and then looks for a rule. torch
2.10 to 2.14 do so in this order, without documenting it. Calls of plain Tensors run no fake kernel.
"""

import functools
import sys
from collections.abc import Callable
from typing import Any

# How many dimensions are not batch: those of one matrix, or of the terms of one sum.
_OWN_DIMENSIONS = {"A": 2, "terms": 1}


def with_sharding_rule(op: Any, fake_kernel: Callable[..., Any]) -> Callable[..., Any]:
    """The fake kernel of an operator, which also registers its rule, once DTensors can be there."""
    rule = sharding_rule(op)
    registered = False

    def register() -> None:
        nonlocal registered
        if registered or "torch.distributed.tensor" not in sys.modules:
            return
        registered = True
        try:
            from torch.distributed.tensor.experimental import register_sharding
        except ImportError:  # an experiment of torch's; without it DTensor says that it has no rule
            return
        register_sharding(op)(rule)

    @functools.wraps(fake_kernel)
    def kernel(*args: Any) -> Any:
        register()
        return fake_kernel(*args)

    register()
    return kernel


def sharding_rule(op: Any) -> Callable[..., list[tuple[list[Any], list[Any]]]]:
    """What register_sharding takes: placements of results and arguments on one mesh dimension."""
    names = [argument.name for argument in op._schema.arguments]
    (at,) = (i for i, name in enumerate(names) if name in _OWN_DIMENSIONS)
    own, results = _OWN_DIMENSIONS[names[at]], len(op._schema.returns)

    def rule(*args: Any) -> list[tuple[list[Any], list[Any]]]:
        from torch.distributed.tensor import Replicate, Shard

        batch = range(args[at].ndim - own)
        placements = [Replicate(), *(Shard(dim) for dim in batch)]
        return [([p] * results, [p] * len(args)) for p in placements]

    return rule
