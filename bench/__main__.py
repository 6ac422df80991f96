"""Times torchdet against its peers and writes JSON, a Markdown table and a plot.

Wants a machine with nothing else to do. Each case is checked before it is timed.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from bench import machine, report
from bench.cases import Case, must, suite_cases
from bench.peers import PEERS
from bench.timing import Effort, Spread, copy_bandwidth, measure

SUITES = ("small", "dram", "latency", "medium")
RESULTS = Path(__file__).parent / "results"


def run_case(case: Case, threads: int, effort: Effort) -> dict[str, Any]:
    """One entry of the JSON's list of cases."""
    times = measure(case, PEERS, threads, effort)
    ours = times[PEERS[0].name]
    ratios = {
        peer.name: Spread.of([t / o for t, o in zip(times[peer.name], ours, strict=True)])
        for peer in PEERS[1:]
    }
    return {
        "suite": case.suite,
        "op": case.op,
        "n": case.n,
        "dtype": case.dtype_name,
        "batch": case.batch,
        "bytes_moved": case.bytes_moved,
        "seconds": {name: asdict(Spread.of(values)) for name, values in times.items()},
        "ratio": {name: asdict(ratio) for name, ratio in ratios.items()},
        "must": must(case),
        "passed": ratios["torch.linalg"].median >= must(case),
    }


def run(cases: list[Case], threads: int, effort: Effort, quick: bool) -> dict[str, Any]:
    """Everything that is written down."""
    torch.set_num_threads(threads)
    columns = (
        TextColumn("{task.description:42}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    result: dict[str, Any] = {
        "machine": machine.facts(),
        "peers": [peer.name for peer in PEERS],
        "threads": threads,
        "rounds": effort.rounds,
        "seconds_per_measurement": effort.seconds,
        "copy_bandwidth": copy_bandwidth(threads, effort, quick),
        "cases": [],
    }
    with Progress(*columns) as progress:
        task = progress.add_task("", total=len(cases))
        try:
            for case in cases:
                description = f"{case.suite} {case.dtype_name} n={case.n} {case.op}"
                progress.update(task, description=description)
                result["cases"].append(run_case(case, threads, effort))
                progress.advance(task)
        except KeyboardInterrupt:
            progress.print("interrupted: what was measured until now is written")
    return result


def write(result: dict[str, Any], path: Path) -> None:
    """The JSON, and the table and plot that are made from it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    report.write_markdown(result, path.with_suffix(".md"))
    report.plot(result, path.with_suffix(".png"))
    report.print_table(result)
    print(f"wrote {path} and, beside it, the table as .md and the plot as .png")


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--suite",
        action="append",
        choices=SUITES,
        help="may be given several times; without it small, dram and latency",
    )
    parser.add_argument("--n", type=int, action="append", help="only this order; several times")
    parser.add_argument("--complex", action="store_true", help="complex64 and complex128 as well")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15, help="of interleaved measurements")
    parser.add_argument("--seconds", type=float, default=0.02, help="of one measurement")
    parser.add_argument("--quick", action="store_true", help="few, tiny cases: does it run at all?")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--report", type=Path, metavar="JSON", help="only show and plot this run")
    arguments = parser.parse_args()

    if arguments.report:
        write(json.loads(arguments.report.read_text()), arguments.report)
        return 0
    dtypes = [torch.float32, torch.float64]
    if arguments.complex:
        dtypes += [torch.complex64, torch.complex128]
    suites = arguments.suite or ["small", "dram", "latency"]
    cases = [
        case
        for suite in suites
        for case in suite_cases(suite, dtypes, arguments.n, arguments.threads, arguments.quick)
    ]
    if not cases:
        parser.error("no case has that --suite and --n")
    effort = Effort(2, 0.001) if arguments.quick else Effort(arguments.rounds, arguments.seconds)
    result = run(cases, arguments.threads, effort, arguments.quick)
    name = "-".join(
        [
            *(["quick"] if arguments.quick else []),
            result["machine"]["date"][:10],
            *suites,
            f"{arguments.threads}t",
            result["machine"]["commit"] or "uncommitted",
        ]
    )
    write(result, arguments.out / f"{name}.json")
    return 0


if __name__ == "__main__":
    sys.exit(main())
