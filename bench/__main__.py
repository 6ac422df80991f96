"""Times torchdet against its peers and writes JSON, a Markdown table and plots.

Wants a machine with nothing else to do. Each answer is checked before it is timed. What README and
docs quote comes from `python -m bench.publish`, which calls this.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

import torch

from bench import machine, plots, report
from bench.cases import Case
from bench.clocks import Clock, CpuClock, CudaClock
from bench.files import append_line, write_json
from bench.limits import measure_limits
from bench.peers import peers
from bench.run import WRONG, run_cases
from bench.suites import DEFAULT_SUITES, SUITES, cpu_cases, cuda_cases
from bench.timing import Effort

RESULTS = Path(__file__).parents[1] / "out" / "bench"
CUDA_MINUTES = 8.0
TO_WRITE = 20.0  # seconds of the time allowed that are kept for tables and plots


def write(result: dict[str, Any], path: Path) -> None:
    """The JSON, and the tables and plots that are made from it."""
    write_json(result, path)
    report.write_markdown(result, path.with_suffix(".md"))
    plots.plot(result, path.with_suffix(".png"))
    plots.plot_batches(result, path.with_name(f"{path.stem}-batch.png"))
    report.print_table(result)
    print(f"wrote {path} and, beside it, the table as .md and the plots as .png")


def _cases(arguments: argparse.Namespace) -> list[Case]:
    dtypes = [getattr(torch, name) for name in arguments.dtype or ("float32", "float64")]
    if arguments.complex:
        dtypes += [torch.complex64, torch.complex128]
    n, quick = arguments.n, arguments.quick
    return [
        case
        for suite in arguments.suite
        for case in (
            cuda_cases(suite, dtypes, n, quick)
            if arguments.device == "cuda"
            else cpu_cases(suite, dtypes, n, arguments.threads, quick)
        )
    ]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=SUITES, default="cpu")
    parser.add_argument(
        "--suite",
        action="append",
        choices=sum(SUITES.values(), ()),
        help="may be given several times; without it small, dram and latency, or all gpu-*",
    )
    parser.add_argument("--n", type=int, action="append", help="only this order; several times")
    parser.add_argument("--dtype", action="append", choices=("float32", "float64"))
    parser.add_argument("--complex", action="store_true", help="complex64 and complex128 as well")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU")
    parser.add_argument("--rounds", type=int, default=15, help="of interleaved measurements")
    parser.add_argument("--seconds", type=float, help="of one measurement (0.02, cuda: 0.01)")
    parser.add_argument(
        "--minutes",
        type=float,
        help=f"end in this time, with fewer rounds or less important cases left out "
        f"(cuda: {CUDA_MINUTES:g})",
    )
    parser.add_argument("--quick", action="store_true", help="few, tiny cases: does it run at all?")
    parser.add_argument("--only-torch", action="store_true", help="no peer but torch.linalg")
    parser.add_argument("--commit", help="of the sources, where there is no git to ask")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--json", type=Path, help="write this file only, no tables and plots")
    parser.add_argument(
        "--lines", type=Path, metavar="FILE", help="append each case to it as soon as it is timed"
    )
    parser.add_argument("--report", type=Path, metavar="JSON", help="only show and plot this run")
    arguments = parser.parse_args()
    arguments.suite = arguments.suite or list(DEFAULT_SUITES[arguments.device])
    suites = SUITES[arguments.device]
    if set(arguments.suite) - set(suites):
        parser.error(f"the suites of --device {arguments.device} are {', '.join(suites)}")
    if arguments.device == "cuda" and not (arguments.report or torch.cuda.is_available()):
        parser.error("--device cuda: torch.cuda.is_available() is False")
    if not (arguments.report or _cases(arguments)):
        parser.error("no case has that --suite and --n")
    return arguments


def run(arguments: argparse.Namespace, clock: Clock, end: float) -> dict[str, Any]:
    """Everything that is written down."""
    seconds = arguments.seconds or (0.01 if arguments.device == "cuda" else 0.02)
    effort = Effort(2, 0.001) if arguments.quick else Effort(arguments.rounds, seconds)
    compared = peers(clock.device, arguments.only_torch)
    facts = machine.facts()
    if arguments.commit:
        facts["commit"] = arguments.commit
    limits = measure_limits(clock, effort, arguments.quick)
    if arguments.device == "cuda":  # warm by now, and its clocks with it
        facts["device"] = machine.device_facts(clock.device)

    def record(entry: dict[str, Any]) -> None:
        if arguments.lines:
            append_line(entry, arguments.lines)

    outcome = run_cases(_cases(arguments), compared, clock, effort, limits, end, record)
    facts["packages"] = machine.packages()
    return {
        "machine": facts,
        "peers": [peer.name for peer in compared],
        "threads": arguments.threads,
        "rounds": effort.rounds,
        "quick": arguments.quick,
        "seconds_per_measurement": effort.seconds,
        **limits,
        "stopped": outcome.stopped,
        "failed": outcome.failed,
        "cases": outcome.cases,
    }


def main() -> int:
    """Command line; not 0 if torchdet raised an error, or an answer of it is wrong."""
    started = time.monotonic()
    arguments = _arguments()
    if arguments.report:
        write(json.loads(arguments.report.read_text()), arguments.report)
        return 0
    torch.set_num_threads(arguments.threads)
    clock: Clock = CpuClock(arguments.threads)
    minutes, where = arguments.minutes or math.inf, f"{arguments.threads}t"
    if forced := os.environ.get("TORCHDET_CPU_CAPABILITY"):
        where += f"-{forced}"
    if arguments.device == "cuda":
        clock = CudaClock(torch.device("cuda", torch.cuda.current_device()))
        minutes = arguments.minutes or CUDA_MINUTES
        where = re.sub(r"\W+", "-", torch.cuda.get_device_name().lower())
    to_write = 0 if arguments.json else TO_WRITE
    result = run(arguments, clock, started + 60 * minutes - to_write)
    name = "-".join(
        [
            *(["quick"] if arguments.quick else []),
            result["machine"]["date"][:10],
            *arguments.suite,
            where,
            result["machine"]["commit"] or "uncommitted",
        ]
    )
    if arguments.json:
        write_json(result, arguments.json)
        print(f"wrote {arguments.json}: {report.tally(result['cases'])}")
    else:
        write(result, arguments.out / f"{name}.json")
    if result["stopped"]:
        print(f"not all cases were timed: {result['stopped']}")
    for case in result["failed"]:
        print(
            f"failed: {case['suite']} {case['dtype']} n={case['n']} {case['op']}\n{case['error']}"
        )
    wrong = any(case["verdict"] == WRONG for case in result["cases"])
    return int(wrong or bool(result["failed"]))


if __name__ == "__main__":
    sys.exit(main())
