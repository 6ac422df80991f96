"""What a case must reach: a ratio to torch.linalg, on a GPU also a share of the copy bandwidth."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from bench.cases import Case
from bench.suites import AGAINST_TORCH, GPU_LEAST_BATCH, SUITES, WITHOUT_EXTENSION

_NOT_SLOWER = 1.0
_SINGLE_FUNC = 0.9
_WITHOUT_EXTENSION = 0.1

# Largest n of a range, then the least ratio of torch.linalg's time to torchdet's in float32:
# forward, forward + backward.
_CPU = (
    (8, 12.0, 8.0),
    (16, 6.0, 6.0),
    (32, 8.0, 6.0),
    (64, 4.0, 5.0),
    (128, 3.5, 4.5),
    (256, 3.0, 3.5),
    (512, 2.0, 2.4),
    (1024, 1.3, 1.6),
)
_CPU_DRAM = (15.0, 12.0)
_CPU_LATENCY = (1 / 0.35, 1 / 0.6)
_CUDA = (
    (16, 10.0, 10.0),
    (32, 5.0, 10.0),
    (64, 3.0, _NOT_SLOWER),
    (128, 2.0, _NOT_SLOWER),
)
# Largest n of a range, then the least share of the copy bandwidth in float32, forward.
_CUDA_SHARE = ((4, 0.85), (8, 0.80), (16, 0.60), (32, 0.40))


# What the project wants further, of large batches on one thread in float32: largest n of a range,
# forward, forward + backward. To n = 4 batches lie in DRAM.
GOALS = (
    (4, 28.0, 25.0),
    (8, 20.0, 15.0),
    (16, 10.0, 11.0),
    (32, 12.0, 9.5),
    (64, 6.0, 8.0),
    (128, 5.0, 7.5),
    (256, 4.0, 5.5),
    (512, 2.7, 3.7),
    (1024, 1.8, 2.5),
)
IN_FLOAT64 = (0.6, 0.5)  # of a ratio in float32: forward, forward + backward


def _row(table: Sequence[tuple[float, ...]], n: int) -> tuple[float, ...] | None:
    return next((row for row in table if n <= row[0]), None)


LEAST_OF_REGULAR = 0.5  # what a singular matrix may cost, as a share of the speed at regular ones


def must(case: Case) -> float:
    """The ratio to torch.linalg that a case must reach, on a CPU with one thread."""
    return _must_on_cuda(case) if case.suite in SUITES["cuda"] else _must_on_cpu(case)


def _must_on_cpu(case: Case) -> float:
    if case.suite == "latency":
        return _CPU_LATENCY[case.backward]
    if case.suite == "func":
        return _NOT_SLOWER if (case.batch or 1) >= 32 else _SINGLE_FUNC
    if case.suite == WITHOUT_EXTENSION:
        return _WITHOUT_EXTENSION
    if case.directional or case.suite in AGAINST_TORCH:
        return _NOT_SLOWER
    if case.suite == "dram":
        least = _CPU_DRAM[case.backward]
    elif case.n <= 4:  # in cache these sizes have no target of their own
        return _NOT_SLOWER
    else:
        row = _row(_CPU, case.n)
        least = row[1 + case.backward] if row else _NOT_SLOWER
    if case.dtype.is_complex:
        return 0.5 * least if case.n <= 32 else 1.5
    if case.dtype == torch.float64:
        return IN_FLOAT64[case.backward] * least
    return least


def _fills_a_gpu(case: Case) -> bool:
    return case.suite != "gpu-batch" or (case.batch or 1) >= GPU_LEAST_BATCH


def _must_on_cuda(case: Case) -> float:
    row = _row(_CUDA, case.n)
    if row is None or case.hvp or case.dtype != torch.float32 or not _fills_a_gpu(case):
        return _NOT_SLOWER
    return row[1 + case.backward]


def must_share(case: Case) -> float | None:
    """The share of the copy bandwidth that a case must reach; None where none is asked for.

    The suite gpu-batch has inputs so small that no copy of them reaches the bandwidth either.
    """
    row = _row(_CUDA_SHARE, case.n)
    forward = not (case.backward or case.hvp)
    asked = case.suite == "gpu-small" and forward and case.dtype == torch.float32
    return row[1] if row and asked else None
