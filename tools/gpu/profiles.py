"""Stages "profile" and "large": what the hardware's counters say, and what "large" consists of.

Started under ncu by itself: ``python -m tools.gpu.profiles``.
"""

from __future__ import annotations

import csv
import io
import itertools
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import torch

from tools.gpu.kernels import inputs
from tools.gpu.library import KernelLibrary
from tools.gpu.results import Results

ROOT = Path(__file__).parents[2]
DTYPES = (torch.float32, torch.float64)
BYTES = 64 << 20  # of a batch: ncu saves and restores it between the passes of a kernel
# One order of each kind of kernel; float64 where its arithmetic is the limit.
KERNELS = (
    *(("det", n, torch.float32) for n in (4, 8, 12, 16, 32, 33, 64, 128)),
    *(("det_backward", n, torch.float32) for n in (8, 16, 32, 64)),
    *(("det", n, torch.float64) for n in (16, 32)),
)
SECTIONS = (
    *("SpeedOfLight", "ComputeWorkloadAnalysis", "MemoryWorkloadAnalysis", "WarpStateStats"),
    *("SchedulerStats", "InstructionStats", "Occupancy", "LaunchStats"),
)
# Of ncu's several hundred columns, those that one of these words is a part of.
KEPT = (
    *("pct_of_peak", "issue_stalled", "issue_active", "warps_active", "registers_per_thread"),
    *("wavefronts", "bank_conflicts", "bytes.sum", "cycles_elapsed.max", "cycles_active.avg"),
    *("time_duration", "occupancy", "inst_executed.sum", "inst_issued.sum", "shared_mem"),
)
LARGE_ORDERS, LARGE_BATCH = (256, 512, 1024), 64


def profiled(library: KernelLibrary) -> list[tuple[str, int, torch.dtype]]:
    """Those of KERNELS that the library has."""
    return [case for case in KERNELS if library.serves(case[0], case[2], case[1])]


def launch_all(library: KernelLibrary) -> None:
    """The launches that ncu measures, each of which has run once before."""
    runtime = torch.cuda.cudart()
    for operator, n, dtype in profiled(library):
        A, other = inputs(operator, n, BYTES // (n * n * dtype.itemsize), dtype)
        out = library.results(operator, A)
        library.launch(operator, A, other, out)
        torch.cuda.synchronize()
        runtime.cudaProfilerStart()
        library.launch(operator, A, other, out)
        torch.cuda.synchronize()
        runtime.cudaProfilerStop()


def counters(text: str) -> list[dict[str, str]]:
    """Of each launch, from what ncu prints as comma-separated values, those worth keeping."""
    lines = text.splitlines()
    start = next((i for i, line in enumerate(lines) if line.startswith('"ID"')), len(lines))
    rows = list(csv.DictReader(io.StringIO("\n".join(lines[start:]))))
    return [
        {
            column: value
            for column, value in row.items()
            if column == "Kernel Name" or any(word in column for word in KEPT)
        }
        for row in rows
        if (row.get("ID") or "").isdigit()  # the line below the names has the units
    ]


def profile(results: Results, library: Path) -> int:
    """Counters of every kernel; 0 if all came."""
    command = ["ncu", "--clock-control", "none", "--profile-from-start", "off", "--csv"]
    command += ["--page", "raw", "--print-units", "base"]
    for section in SECTIONS:
        command += ["--section", section]
    command += [sys.executable, "-m", "tools.gpu.profiles", str(library)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    (results.folder / "ncu.csv").write_text(run.stdout)
    print(run.stderr)
    found = counters(run.stdout)
    wanted = profiled(KernelLibrary(library, "cuda"))
    for (operator, n, dtype), row in zip(wanted, found, strict=False):
        name = str(dtype).removeprefix("torch.")
        results.add("profile", operator=operator, n=n, dtype=name, counters=row)
    if len(found) < len(wanted):
        print(run.stdout[-1000:])
    return run.returncode or int(len(found) < len(wanted))


def _operators(n: int) -> Iterable[tuple[str, object]]:
    ops = torch.ops.torchdet
    A, Z = (torch.randn(LARGE_BATCH, n, n, device="cuda") / n**0.5 for _ in range(2))
    grad = torch.ones(LARGE_BATCH, device="cuda")
    yield "det", lambda: ops.det(A)
    yield "det_backward", lambda: ops.det_backward(grad, A)
    yield "det_hvp", lambda: ops.det_hvp(A, Z)
    yield "torch.linalg.lu_factor", lambda: torch.linalg.lu_factor(A)


def large(results: Results) -> None:
    """By torch's profiler, the kernels that each operator of the class "large" is made of."""
    from torch.profiler import ProfilerActivity

    for n in LARGE_ORDERS:
        for name, call in _operators(n):
            call()
            torch.cuda.synchronize()
            with torch.profiler.profile(activities=[ProfilerActivity.CUDA]) as profiled_call:
                call()
                torch.cuda.synchronize()
            events = [e for e in profiled_call.events() if e.device_type.name == "CUDA"]
            events.sort(key=lambda e: e.name)
            parts = [
                {"kernel": kernel[:120], "calls": len(of), "us": round(sum(of), 1)}
                for kernel, of in (
                    (kernel, [e.time_range.elapsed_us() for e in group])
                    for kernel, group in itertools.groupby(events, key=lambda e: e.name)
                )
            ]
            parts.sort(key=lambda part: -part["us"])
            results.add("large", operator=name, n=n, batch=LARGE_BATCH, parts=parts[:12])


if __name__ == "__main__":
    launch_all(KernelLibrary(Path(sys.argv[1]), "cuda"))
