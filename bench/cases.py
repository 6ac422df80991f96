"""What is timed: suites of cases, and the ratio that each case must reach."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

OPS = ("det forward", "det forward+backward", "slogdet forward", "slogdet forward+backward")
SMALL = (2, 3, 4, 5, 6, 8, 12, 16, 24, 32)
MEDIUM = (48, 64, 96, 128, 192, 256)
IN_CACHE = 1 << 20
IN_DRAM = 256 << 20


@dataclass(frozen=True)
class Case:
    """One operation at one size; without ``batch``, on a single matrix."""

    suite: str
    op: str
    n: int
    dtype: torch.dtype
    batch: int | None

    @property
    def dtype_name(self) -> str:
        """As in 'float32'."""
        return str(self.dtype).removeprefix("torch.")

    @property
    def backward(self) -> bool:
        """Whether the gradient is part of what is timed."""
        return self.op.endswith("backward")

    @property
    def bytes_moved(self) -> int:
        """Least traffic: A read, the result written; backward, A read and its gradient written."""
        matrices = self.batch or 1
        entries = matrices * self.n**2
        numbers = 3 * entries + 2 * matrices if self.backward else entries + matrices
        return numbers * self.dtype.itemsize

    def matrices(self) -> Tensor:
        """Random normal entries, scaled for a mean of det^2 of 1: no size leaves the range."""
        generator = torch.Generator().manual_seed(self.n)
        shape = (self.n, self.n) if self.batch is None else (self.batch, self.n, self.n)
        scale = math.exp(-math.lgamma(self.n + 1) / (2 * self.n))
        return torch.randn(shape, dtype=self.dtype, generator=generator).mul_(scale)


def suite_cases(
    suite: str, dtypes: list[torch.dtype], sizes: list[int] | None, threads: int, quick: bool
) -> list[Case]:
    """The cases of 'small', 'medium', 'dram' or 'latency'."""
    available = {"small": SMALL, "medium": MEDIUM, "dram": (2, 3, 4), "latency": (3,)}[suite]
    chosen = [n for n in available if sizes is None or n in sizes]
    if threads > 1:  # above, torch.linalg on several threads hangs or answers wrongly
        chosen = [n for n in chosen if n <= 128]
    if quick:
        chosen = chosen[::3]
    target = (IN_DRAM if suite == "dram" else IN_CACHE) // (64 if quick else 1)

    def batch(n: int, dtype: torch.dtype) -> int | None:
        return None if suite == "latency" else max(2, target // (n * n * dtype.itemsize))

    return [
        Case(suite, op, n, dtype, batch(n, dtype)) for dtype in dtypes for n in chosen for op in OPS
    ]


# Largest n of a range, then the least ratio of torch.linalg's time to torchdet's in float32:
# forward, forward + backward.
_MUST = (
    (8, 12.0, 8.0),
    (16, 6.0, 6.0),
    (32, 8.0, 6.0),
    (64, 4.0, 5.0),
    (128, 3.5, 4.5),
    (256, 3.0, 3.5),
)
_MUST_DRAM = (15.0, 12.0)
_MUST_LATENCY = (1 / 0.35, 1 / 0.6)
_MUST_NOT_SLOWER = 1.0


def must(case: Case) -> float:
    """The ratio to torch.linalg that a case must reach with one thread."""
    if case.suite == "latency":
        return _MUST_LATENCY[case.backward]
    if case.suite == "dram":
        least = _MUST_DRAM[case.backward]
    elif case.n <= 4:  # in cache these sizes have no target of their own
        return _MUST_NOT_SLOWER
    else:
        least = next((row[1 + case.backward] for row in _MUST if case.n <= row[0]), 1.0)
    if case.dtype.is_complex:
        return 0.5 * least if case.n <= 32 else 1.5
    if case.dtype == torch.float64:
        return (0.5 if case.backward else 0.6) * least
    return least
