"""What is timed on a CPU and on a GPU, and in which order when time is short."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from bench.cases import FUNC, HVP, HVPS, OPS, RECORDED, TRANSFORMS, Case
from bench.scan import DRAWS, LARGEST_N, scan_cases

SMALL = (2, 3, 4, 5, 6, 8, 12, 16, 24, 32)
MEDIUM = (48, 64, 96, 128, 192, 256)
LARGE = (512, 1024)
CPU_HVP = (2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
CPU_TRANSFORMS = (3, 8, 32, 128)
CPU_FUNC = (1, 3, 8, 16, 30)
CPU_FUNC_BATCHES = (1, 32, 256)
THRICE = "det three hvp"
CPU_FUNC_HESSIANS = 16  # the largest n of a vmap(hessian), which has n^4 numbers a matrix
CPU_BATCH = (3, 8, 32)
CPU_BATCHES = (1, 10, 100, 1_000, 10_000, 100_000)
CPU_MEMORY = (3, 32, 128, 512)
CPU_ORDERS = (*range(1, 37), 40, 44, 48, 56, 64, 65, 72, 80, 96, 97, 112, 128)
CPU_SINGLE = (64, 128, 256, 512, 1024)
CPU_PLAIN = (16, 32, 64, 128, 256)
# torch.linalg on several threads hangs or answers wrongly above, given more than one matrix.
LARGEST_N_OF_THREADS = 128
IN_CACHE = 1 << 20
IN_DRAM = 256 << 20
CPU_DRAM = 128 << 20  # more than a core's share of the last cache
FOR_MEMORY = 64 << 20  # allocations so large that they come from the system and go back to it

GPU_SMALL = (2, 3, 4, 5, 8, 12, 16, 24, 32)
GPU_LARGE = (48, 64, 96, 128, 192, 256, 512, 1024)
GPU_BATCH = (3, 8, 32)
GPU_BATCHES = (1, 1_000, 100_000, 1_000_000)
GPU_LEAST_BATCH = 100_000  # of the suite gpu-small
GPU_MEMORY = 8 << 30  # for the inputs and the results of a case

SUITES = {
    "cpu": (
        *("small", "dram", "latency", "medium", "large", "hvp"),
        *("func", "transforms", "memory", "batch", "single", "orders", "plain", "scan"),
    ),
    "cuda": ("gpu-small", "gpu-large", "gpu-batch"),
}
# One case for each order and operation.
AGAINST_N = ("small", "dram", "medium", "large", "hvp", "gpu-small", "gpu-large")
# What they ask is about torchdet and torch.linalg alone, and that it is nowhere slower.
AGAINST_TORCH = ("func", "transforms", "memory", "batch", "single", "orders", "scan")
# For runs without the extension.
WITHOUT_EXTENSION = "plain"
WORST_FIRST = ("orders", "scan")
DEFAULT_SUITES = {"cpu": ("small", "dram", "latency"), "cuda": SUITES["cuda"]}

_IMPORTANCE_OF_DTYPE = (torch.float32, torch.float64, torch.complex64, torch.complex128)
_IMPORTANCE_OF_OP = (OPS[0], OPS[1], RECORDED, *HVPS, *TRANSFORMS, OPS[2], OPS[3], *FUNC)


def _chosen(available: Iterable[int], sizes: list[int] | None, quick: bool) -> list[int]:
    chosen = [n for n in available if sizes is None or n in sizes]
    return chosen[::3] if quick else chosen


def cpu_cases(
    suite: str, dtypes: list[torch.dtype], sizes: list[int] | None, threads: int, quick: bool
) -> list[Case]:
    """The cases of one of the CPU's suites; the suite "scan" draws dtypes and orders itself."""
    largest_n = LARGEST_N if threads == 1 else LARGEST_N_OF_THREADS
    if suite == "single":
        largest_n = max(CPU_SINGLE)
    if suite == "scan":
        return scan_cases(DRAWS // (64 if quick else 1), 8 if quick else largest_n)
    available, ops, size = {
        "small": (SMALL, OPS, IN_CACHE),
        "medium": (MEDIUM, OPS, IN_CACHE),
        "large": (LARGE, OPS, IN_CACHE),
        "hvp": (CPU_HVP, HVPS, IN_CACHE),
        "dram": ((2, 3, 4), OPS[:2], CPU_DRAM),
        "latency": ((3,), OPS, None),
        "func": (CPU_FUNC, FUNC, None),
        "transforms": (CPU_TRANSFORMS, TRANSFORMS, IN_CACHE),
        "memory": (CPU_MEMORY, (*OPS, HVP), FOR_MEMORY),
        "batch": (CPU_BATCH, OPS[:2], None),
        "single": (CPU_SINGLE, OPS[:2], None),
        "orders": (CPU_ORDERS, (RECORDED, OPS[1]), IN_CACHE),
        WITHOUT_EXTENSION: (CPU_PLAIN, OPS[:2], IN_CACHE),
    }[suite]

    def batches(n: int, dtype: torch.dtype) -> list[int | None]:
        if suite == "func":
            return list(CPU_FUNC_BATCHES)
        if suite == "batch":
            return [batch for batch in CPU_BATCHES if batch * n * n <= FOR_MEMORY]
        shrink = 64 if quick else 1
        many = max(2, size // shrink // (n * n * dtype.itemsize)) if size else None
        return [None, many] if suite in ("orders", WITHOUT_EXTENSION) else [many]

    return [
        Case(suite, op, n, dtype, batch)
        for dtype in dtypes
        for n in _chosen([n for n in available if n <= largest_n], sizes, quick)
        for batch in batches(n, dtype)
        for op in ops
        if not _left_out(op, n)
    ]


def _left_out(op: str, n: int) -> bool:
    # torch's gradient of a 1 x 1 determinant has no graph.
    return (op.endswith("vmap(hessian)") and n > CPU_FUNC_HESSIANS) or (op == THRICE and n == 1)


def cuda_cases(
    suite: str, dtypes: list[torch.dtype], sizes: list[int] | None, quick: bool
) -> list[Case]:
    """The cases of 'gpu-small', 'gpu-large' or 'gpu-batch'.

    The first two take batches that fill the device, of 256 MB (64 MB from n = 192 on, where a
    matrix alone is work for many threads); the last shows how the time grows with the batch.
    """
    shrink = 64 if quick else 1
    available, ops = {
        "gpu-small": (GPU_SMALL, (*OPS, HVP)),
        "gpu-large": (GPU_LARGE, (*OPS, HVP)),
        "gpu-batch": (GPU_BATCH, OPS[:2]),
    }[suite]

    def batches(n: int, dtype: torch.dtype) -> list[int]:
        if suite == "gpu-batch":
            return sorted({max(1, batch // shrink) for batch in GPU_BATCHES})
        fill = (IN_DRAM if n < 192 else IN_DRAM // 4) // (n * n * dtype.itemsize)
        return [max(2, (max(fill, GPU_LEAST_BATCH) if suite == "gpu-small" else fill) // shrink)]

    cases = [
        Case(suite, op, n, dtype, batch)
        for dtype in dtypes
        for n in _chosen(available, sizes, quick)
        for batch in batches(n, dtype)
        for op in ops
    ]
    return [case for case in cases if case.bytes_moved <= GPU_MEMORY]


def importance(case: Case) -> tuple[int, int]:
    """Key that sorts cases by what is worth most when not all of them can be timed."""
    return _IMPORTANCE_OF_DTYPE.index(case.dtype), _IMPORTANCE_OF_OP.index(case.op)
