"""What the machine can do, measured in the run whose times are compared with it."""

from __future__ import annotations

import ctypes
import os
import statistics
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from bench.clocks import Call, Clock, CpuClock
from bench.suites import IN_CACHE, IN_DRAM
from bench.timing import Effort

_CUDA_COPY = 2 << 30
_CUDA_PRODUCT = 8192
_CPU_PRODUCT = 1024
_MULTIPLY_ADDS = Path(__file__).with_name("multiply_adds.cpp")


def _median(clock: Clock, call: Call, effort: Effort) -> float:
    stopwatch = clock.stopwatch([call], lambda result: None)
    number = max(1, int(effort.seconds / stopwatch(2)))
    return statistics.median(stopwatch(number) for _ in range(effort.rounds))


def copy_bandwidth(clock: Clock, size: int, effort: Effort) -> float:
    """Bytes read and written per second by Tensor.copy_ of this many bytes."""
    source = torch.ones(size // 4, device=clock.device)
    target = torch.empty_like(source)
    return 2 * size / _median(clock, lambda: target.copy_(source), effort)


def _product_rate(clock: Clock, n: int, dtype: torch.dtype, effort: Effort) -> float:
    """Floating-point operations per second of a large matrix product, TF32 switched off.

    In float64, GPUs with tensor cores for that precision use them, at up to twice the rate of their
    multiply-add units: a share of this ceiling errs on the low side there.
    """
    torch.set_float32_matmul_precision("highest")
    X, Y = (torch.randn(n, n, dtype=dtype, device=clock.device) for _ in range(2))
    product = torch.empty_like(X)
    return 2 * n**3 / _median(clock, lambda: torch.mm(X, Y, out=product), effort)


def _register_rate(clock: CpuClock, name: str, effort: Effort) -> float:
    """The same of multiply-adds in registers on all threads; 0 where there is no compiler."""
    with tempfile.TemporaryDirectory() as folder:
        library = str(Path(folder) / "multiply_adds.so")
        compiler = os.environ.get("CXX", "c++")
        flags = ["-O3", "-march=native", "-ffp-contract=fast", "-shared", "-fPIC"]
        command = [compiler, *flags, "-o", library, str(_MULTIPLY_ADDS)]
        try:
            subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            return 0.0
        multiply_adds = getattr(ctypes.CDLL(library), f"multiply_adds_{name}")
    multiply_adds.argtypes, multiply_adds.restype = [ctypes.c_int64], ctypes.c_int64
    steps = [1_000_000] * clock.threads
    with ThreadPoolExecutor(clock.threads) as pool:  # ctypes lets the threads run side by side
        call = lambda: sum(pool.map(multiply_adds, steps))  # noqa: E731
        return call() / _median(clock, call, effort)


def fma_peak(clock: Clock, n: int, dtype: torch.dtype, effort: Effort) -> float:
    """Floating-point operations per second, two for each multiply-add, at the best.

    On a GPU those of a large matrix product. On a CPU, whose libraries do not all know all
    processors, no less than those of a loop that does nothing else.
    """
    rate = _product_rate(clock, n, dtype, effort)
    if isinstance(clock, CpuClock):
        rate = max(rate, _register_rate(clock, str(dtype).removeprefix("torch."), effort))
    return rate


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
