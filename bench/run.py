"""Runs cases one after the other and makes of each an entry of the JSON."""

from __future__ import annotations

import math
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from bench.cases import Case
from bench.clocks import Clock
from bench.memory import MEMORY_NOISE
from bench.peers import REGULAR, Peer
from bench.suites import IN_CACHE, importance
from bench.targets import LEAST_OF_REGULAR, must, must_share
from bench.timing import Effort, Spread, graph_of, measure

# What came of a case. Only with a ratio to a right answer has it reached or missed what it must.
REACHED, MISSED = "reached", "missed"
WRONG, REFERENCE_WRONG, REFERENCE_FAILED = "torchdet wrong", "torch wrong", "torch failed"
VERDICTS = (REACHED, MISSED, REFERENCE_WRONG, REFERENCE_FAILED, WRONG)

OUT_OF_TIME = "out of time"
INTERRUPTED = "interrupted"


def shares(case: Case, seconds: float, limits: dict[str, Any]) -> dict[str, float]:
    """Of the machine's limits: multiply-adds in the precision of the case, and copy bandwidth."""
    real = str(case.dtype.to_real()).removeprefix("torch.")
    bandwidths = limits["copy_bandwidth"]
    in_cache = case.bytes_moved <= 4 * IN_CACHE
    bandwidth = bandwidths.get("device") or bandwidths["cache" if in_cache else "dram"]
    return {
        "fma": case.flops / seconds / limits["fma_peak"][real],
        "copy": case.bytes_moved / seconds / bandwidth,
    }


def run_case(
    case: Case, compared: Sequence[Peer], clock: Clock, effort: Effort, limits: dict[str, Any]
) -> dict[str, Any]:
    """One entry of the JSON's list of cases."""
    measured = measure(case, compared, clock, effort)
    ours, reference = compared[0].name, compared[1].name
    seconds = {name: Spread.of(values) for name, values in measured.times.items()}
    ratios = {
        peer.name: Spread.of(
            [t / o for t, o in zip(measured.times[peer.name], measured.times[ours], strict=True)]
        )
        for peer in compared[1:]
        if peer.name in measured.times
    }
    share = shares(case, seconds.get(graph_of(ours), seconds[ours]).median, limits)
    reached = []
    if reference in ratios:
        reached.append(ratios[reference].median >= must(case))
    if REGULAR in ratios:
        reached.append(ratios[REGULAR].median >= LEAST_OF_REGULAR)
    if reference in measured.memory:
        reached.append(measured.memory[ours] <= measured.memory[reference] + MEMORY_NOISE)
    if (least := must_share(case)) is not None:
        reached.append(share["copy"] >= least)
    if ours in measured.errors:
        verdict = WRONG
    elif reference not in ratios:
        verdict = REFERENCE_FAILED
    elif reference in measured.errors:
        verdict = REFERENCE_WRONG
    else:
        verdict = REACHED if all(reached) else MISSED
    return {
        "suite": case.suite,
        "op": case.op,
        "n": case.n,
        "dtype": case.dtype_name,
        "batch": case.batch,
        "layout": case.layout,
        "singular": case.singular,
        "bytes_moved": case.bytes_moved,
        "flops": case.flops,
        "rounds": len(measured.times[ours]),
        "seconds": {name: asdict(spread) for name, spread in seconds.items()},
        "ratio": {name: asdict(ratio) for name, ratio in ratios.items()},
        "share": share,
        "memory": measured.memory,
        "input_bytes": case.input_bytes,
        "errors": measured.errors,
        "must": must(case),
        "must_share": must_share(case),
        "verdict": verdict,
    }


@dataclass(frozen=True)
class Outcome:
    """What came of the cases of a run, in their order."""

    cases: list[dict[str, Any]]  # the entries of `run_case`
    failed: list[dict[str, Any]]  # those at which torchdet, or this program, raised an error
    stopped: str | None  # why the run ended before all cases were timed, if it did


def _failed_case(case: Case, error: Exception) -> dict[str, Any]:
    names = {"n": case.n, "dtype": case.dtype_name, "batch": case.batch, "layout": case.layout}
    text = "".join(traceback.format_exception(error))
    return {"suite": case.suite, "op": case.op, **names, "error": text}


def run_cases(
    cases: list[Case],
    compared: Sequence[Peer],
    clock: Clock,
    effort: Effort,
    limits: dict[str, Any],
    end: float,
    record: Callable[[dict[str, Any]], None],
) -> Outcome:
    """Runs the cases, and hands each entry to `record` as soon as it is there.

    With an end (of time.monotonic()), the most important come first, and each has its part of what
    is left of the time: rather fewer rounds than fewer cases. An error costs its own case only: a
    device that one has time for once must show the others.
    """
    columns = (
        TextColumn("{task.description:42}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    hurry = math.isfinite(end)
    order = sorted(cases, key=importance) if hurry else cases
    done: dict[Case, dict[str, Any]] = {}
    failed: dict[Case, dict[str, Any]] = {}
    stopped = None
    with Progress(*columns) as progress:
        task = progress.add_task("", total=len(cases))
        try:
            for case in order:
                if (time_left := end - time.monotonic()) <= 0:
                    stopped = OUT_OF_TIME
                    break
                # What one case takes beyond its part, or leaves of it, is the others'.
                part = time_left / (len(cases) - len(done) - len(failed))
                hurried = replace(effort, longest=min(effort.longest, part), whole=part)
                description = f"{case.suite} {case.dtype_name} n={case.n} {case.op}"
                progress.update(task, description=description)
                try:
                    done[case] = run_case(case, compared, clock, hurried, limits)
                except Exception as error:  # peers' errors are results: this one is not a peer's
                    failed[case] = _failed_case(case, error)
                record(done[case] if case in done else failed[case])
                progress.advance(task)
        except KeyboardInterrupt:
            stopped = INTERRUPTED
    return Outcome(
        [done[case] for case in cases if case in done],
        [failed[case] for case in cases if case in failed],
        stopped,
    )
