"""What the machine can do, measured in the run whose times are compared with it."""

from __future__ import annotations

import statistics

import torch

from bench.clocks import Call, Clock, CpuClock
from bench.suites import IN_CACHE, IN_DRAM
from bench.timing import Effort

_CUDA_COPY = 2 << 30
_CUDA_PRODUCT = 8192
_CPU_PRODUCT = 1024


def _median(clock: Clock, call: Call, effort: Effort) -> float:
    stopwatch = clock.stopwatch([call], lambda result: None)
    number = max(1, int(effort.seconds / stopwatch(2)))
    return statistics.median(stopwatch(number) for _ in range(effort.rounds))


def copy_bandwidth(clock: Clock, size: int, effort: Effort) -> float:
    """Bytes read and written per second by Tensor.copy_ of this many bytes."""
    source = torch.ones(size // 4, device=clock.device)
    target = torch.empty_like(source)
    return 2 * size / _median(clock, lambda: target.copy_(source), effort)


def fma_peak(clock: Clock, n: int, dtype: torch.dtype, effort: Effort) -> float:
    """Floating-point operations per second of a large matrix product, TF32 switched off.

    It stands for the rate of the multiply-add units, and is what the best kernels reach of it. In
    float64, GPUs with tensor cores for that precision use them, at up to twice the rate of their
    multiply-add units: a share of this ceiling errs on the low side there.
    """
    torch.set_float32_matmul_precision("highest")
    X, Y = (torch.randn(n, n, dtype=dtype, device=clock.device) for _ in range(2))
    product = torch.empty_like(X)
    return 2 * n**3 / _median(clock, lambda: torch.mm(X, Y, out=product), effort)


def measure_limits(clock: Clock, effort: Effort, quick: bool) -> dict[str, dict[str, float]]:
    """Copy bandwidth by kind of memory, and the peak of multiply-adds by dtype."""
    shrink = 64 if quick else 1
    on_cpu = isinstance(clock, CpuClock)
    sizes = {"cache": IN_CACHE, "dram": IN_DRAM // shrink}
    if not on_cpu:
        sizes = {"device": _CUDA_COPY // shrink}
    n = (_CPU_PRODUCT if on_cpu else _CUDA_PRODUCT) // (8 if quick else 1)
    dtypes = {"float32": torch.float32, "float64": torch.float64}
    return {
        "copy_bandwidth": {name: copy_bandwidth(clock, s, effort) for name, s in sizes.items()},
        "fma_peak": {name: fma_peak(clock, n, dtype, effort) for name, dtype in dtypes.items()},
    }
