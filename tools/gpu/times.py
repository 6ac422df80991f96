"""Stages "times" and "repeats": public functions against torch.linalg, as in `python -m bench`.

Every case is a row as soon as it is measured, so that whatever happens later takes nothing away. A
case that raises an error is a row, too.
"""

from __future__ import annotations

import math
import sys
import time
import traceback
from collections.abc import Iterable
from typing import Any

import torch

from bench import machine
from bench.cases import HVP, OPS, Case
from bench.clocks import CudaClock
from bench.peers import peers
from bench.run import run_case
from bench.suites import GPU_LEAST_BATCH, IN_DRAM
from bench.timing import Effort
from tools.gpu.library import LAST_CLASS
from tools.gpu.results import Results, Row, of_stage

ORDERS = (2, 3, 4, 5, 8, 12, 16, 24, 32, 33, 48, 64, 96, 128, 256)
COMPLEX_ORDERS = (3, 8, 32, 64)
SMALL = 32  # the largest order of the suite gpu-small
EFFORT = Effort(rounds=3, seconds=0.01, longest=1.5)
# The quartiles of a time that are further apart than this share of it call for another measurement.
NOISY = 0.1


def _case(op: str, n: int, dtype: torch.dtype) -> Case:
    """As the suites of bench/suites.py make it."""
    fill = (IN_DRAM if n < 192 else IN_DRAM // 4) // (n * n * dtype.itemsize)
    if n <= SMALL:
        return Case("gpu-small", op, n, dtype, max(fill, GPU_LEAST_BATCH))
    return Case("gpu-large", op, n, dtype, max(2, fill))


def cases() -> Iterable[Case]:
    """The most important first."""
    ops = (*OPS[:2], HVP)
    for dtype in (torch.float32, torch.float64):
        yield from (_case(op, n, dtype) for op in ops for n in ORDERS)
    for dtype in (torch.complex64, torch.complex128):
        yield from (_case(op, n, dtype) for op in ops[:2] for n in COMPLEX_ORDERS)


def key(row: Row | Case) -> tuple[Any, ...]:
    """What makes two measurements one of the same."""
    if isinstance(row, Case):
        return row.op, row.n, row.dtype_name, row.batch
    return row["op"], row["n"], row["dtype"], row["batch"]


def is_noisy(row: Row) -> bool:
    """Whether the rounds disagree, of torchdet or of torch."""
    return any(
        spread["q75"] - spread["q25"] > NOISY * spread["median"]
        for spread in row.get("seconds", {}).values()
    )


def is_native(case: Case) -> bool:
    """Whether no kernel of torch has a part: what can be captured in a graph for certain.

    A capture that breaks may take the rest of the process with it.
    """
    operators = {
        OPS[0]: ("det",),
        OPS[1]: ("det", "det_backward"),
        HVP: ("det_backward", "det_hvp"),
    }
    select = sys.modules["torchdet._C"].select
    classes = (select(x, case.dtype_name, case.n, "cuda") for x in operators[case.op])
    return all(of["size_class"] != LAST_CLASS for of in classes)


def run(results: Results, earlier: Iterable[Row], seconds: float, noisy: bool = False) -> int:
    """One row for each case; how many raised an error.

    noisy: only those whose rounds disagreed in `earlier`, with more rounds.
    """
    stage, effort = ("repeats", Effort(9, 0.02, 4.0)) if noisy else ("times", EFFORT)
    end = time.monotonic() + seconds
    earlier = list(earlier)
    rows = [row for row in of_stage(earlier, "times", "repeats") if "op" in row]
    limits = next((row["limits"] for row in of_stage(earlier, "facts") if "limits" in row), None)
    if limits is None:
        raise RuntimeError("the stage 'facts' has measured no limits")
    wanted = list(cases())
    if noisy:
        again = {key(row) for row in rows if is_noisy(row)}
        wanted = [case for case in wanted if key(case) in again]
    else:
        known = {key(row) for row in rows}
        wanted = [case for case in wanted if key(case) not in known]
    results.add(stage, build=machine.build_info())
    clock = CudaClock(torch.device("cuda", torch.cuda.current_device()))
    compared, failed = peers(clock.device, only_torch=True), 0
    for i, case in enumerate(wanted):
        if (left := end - time.monotonic()) <= 0:
            results.add(stage, stopped=f"{len(wanted) - i} of {len(wanted)} cases are left")
            break
        part = 3 * left / (len(wanted) - i) if math.isfinite(left) else math.inf
        hurried = Effort(effort.rounds, effort.seconds, min(effort.longest, part), part)
        clock.capturable = is_native(case)
        try:
            results.add(stage, **run_case(case, compared, clock, hurried, limits))
        except Exception:
            failed += 1
            of = dict(zip(("op", "n", "dtype", "batch"), key(case), strict=True))
            results.add(stage, **of, error=traceback.format_exc()[-1000:])
            torch.cuda.synchronize()  # an error of the device ends the stage, all else does not
        torch.cuda.empty_cache()
    return failed
