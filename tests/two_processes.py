"""Two processes that run the same checks, and compare what DTensors give with what Tensors give.

distributed_checks.py has the checks; `main` is what each process runs. What is distributed is
collective, so both run all checks, in the same order, and ask for full tensors before they compare.
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Placement, Shard, distribute_tensor
from torch.distributed.tensor.debug import CommDebugMode

from support import same_bits

PROCESSES = 2
# So much longer than any check that only a process that waits in vain takes it.
PATIENCE = timedelta(seconds=60)

CHECKS: dict[str, Callable[[], None]] = {}
BATCH = Shard(0)


def check(name: str, f: Callable[..., None], *args: Any, **settings: Any) -> None:
    assert name not in CHECKS
    CHECKS[name] = partial(f, *args, **settings)


def main(rank: str, folder: str) -> None:
    """Run all checks as one of the processes and write what failed, and why, to a file."""
    torch.set_num_threads(1)
    meeting = f"file://{folder}/meeting"
    dist.init_process_group("gloo", meeting, PATIENCE, PROCESSES, int(rank))
    report = Path(folder) / f"{rank}.json"
    failures: dict[str, str] = {}
    for name, run in CHECKS.items():
        torch.manual_seed(0)
        try:
            run()
            failures[name] = ""
        except Exception:
            failures[name] = traceback.format_exc()
        report.write_text(json.dumps(failures))
    dist.destroy_process_group()


def each(x: Any) -> tuple[Tensor, ...]:
    return (x,) if isinstance(x, Tensor) else tuple(x)


def compare(
    f: Callable[..., Any],
    *args: Tensor,
    placements: Sequence[Placement] | Sequence[Sequence[Placement]] = (BATCH,),
    results: Sequence[Placement] | Sequence[Sequence[Placement]] = (BATCH,),
    collectives: int | None = 0,
    shape: tuple[int, ...] = (PROCESSES,),
) -> None:
    """f of DTensors is f of Tensors, with these placements and so many collectives, if counted.

    Placements are the same for all arguments, or for all results, or given for each.
    """

    def for_each(given: Sequence[Any], count: int) -> Sequence[Sequence[Placement]]:
        return [given] * count if isinstance(given[0], Placement) else given

    mesh = init_device_mesh("cpu", shape)
    placed = for_each(placements, len(args))
    distributed = [distribute_tensor(x, mesh, p) for x, p in zip(args, placed, strict=True)]
    with nullcontext() if collectives is None else CommDebugMode() as communication:
        got = each(f(*distributed))
    assert all(isinstance(x, DTensor) for x in got)
    full = [x.full_tensor() for x in got]
    expected = each(f(*args))
    places = [tuple(x.placements) for x in got]
    assert places == [tuple(p) for p in for_each(results, len(expected))]
    for i, (x, y) in enumerate(zip(full, expected, strict=True)):
        assert x.dtype == y.dtype and x.shape == y.shape
        assert same_bits(x.detach(), y.detach()), (i, x, y)
    if communication is not None:
        counts = communication.get_comm_counts()
        assert communication.get_total_counts() == collectives, counts
