"""Predict how fast the CUDA kernels are, and compare the predictions with the record.

A guard against slower kernels where there is no GPU. Fails where the model's clocks of a kernel
rise by more than 5 % over tools/cuda_model.json, or a kernel is not in it; --update after a change
that is meant.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.progress import track
from rich.table import Table

from tools.cuda_objects import ROOT, CompilationError

from . import LIMITS
from .disassembly import SassError
from .predictions import (
    BLOCK_CALIBRATION,
    CALIBRATION,
    TOLERANCE,
    Comparison,
    Record,
    cases,
    compare,
    predict_all,
    toolchain,
)

RECORD = ROOT / "tools/cuda_model.json"


def report(comparisons: Sequence[Comparison], console: Console) -> int:
    """Prints them; how many are slower, or not recorded."""
    table = Table(title="predictions per matrix; nothing here is measured")
    for heading in ("case", "kernel"):
        table.add_column(heading, no_wrap=True)
    for heading in ("registers", "instructions", "recorded clocks", "clocks", "change", "busiest",
                    "use", "predicted ps", "of copy"):  # fmt: skip
        table.add_column(heading, justify="right")
    table.add_column()
    for one in comparisons:
        prediction = one.prediction
        recorded = "" if one.recorded is None else f"{one.recorded:.1f}"
        table.add_row(
            prediction.case.name, prediction.kernel, str(prediction.registers),
            f"{prediction.instructions:.1f}", recorded, f"{prediction.clocks:.1f}",
            f"{one.change:+.1%}" if recorded else "", prediction.busiest, f"{prediction.use:.0%}",
            f"{prediction.picoseconds:.3g}", f"{prediction.share_of_copy:.0%}", one.verdict,
            style={"": None, "faster: record anew": "yellow"}.get(one.verdict, "red"),
        )  # fmt: skip
    console.print(table)
    wrong = [one for one in comparisons if one.verdict in ("SLOWER", "NOT RECORDED")]
    for one in wrong:
        print(f"{one.prediction.case.name} ({one.prediction.kernel}): " + (
            "not in the record" if one.recorded is None
            else f"{one.change:+.1%} in the model, from {one.recorded:.1f} to "
                 f"{one.prediction.clocks:.1f} clocks"))  # fmt: skip
    if wrong:
        print("if that is meant: make cuda-model CUDA_MODEL_ARGS=--update")
    return len(wrong)


def report_pipes(comparisons: Sequence[Comparison], console: Console) -> None:
    """Prints instructions by pipe."""
    pipes = sorted({pipe for one in comparisons for pipe in one.prediction.by_pipe})
    table = Table("case", title="instructions per matrix, by pipe")
    for pipe in pipes:
        table.add_column(pipe, justify="right")
    for one in comparisons:
        counts = one.prediction.by_pipe
        table.add_row(one.prediction.case.name, *(f"{counts.get(pipe, 0):.1f}" for pipe in pipes))
    console.print(table)


def check(update: bool, only: str, jobs: int | None) -> int:
    """Compares, or records; the exit status.

    Raises:
        SassError: The model does not know a kernel's code.
    """
    console = Console(width=None if sys.stdout.isatty() else 180)
    records: dict[str, Record] = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    if not update and toolchain() not in records:
        print(f"nothing is recorded for {toolchain()}; make cuda-model CUDA_MODEL_ARGS=--update")
        return 0
    wanted = [case for case in cases() if only in case.name]
    found = predict_all(wanted, jobs)
    predictions = sorted(
        track(found, "model", len(wanted), console=console, disable=not console.is_terminal),
        key=lambda one: wanted.index(one.case),
    )
    comparisons = compare(records.get(toolchain(), {}), predictions)
    report_pipes(comparisons, console)
    wrong = report(comparisons, console)
    factors = ", ".join(f"{op} {dtype} {factor}" for (op, dtype), factor in CALIBRATION.items())
    print(f"{len(comparisons)} predictions, {wrong} slower by more than {TOLERANCE:.0%} or not "
          f"recorded.\nTimes are the model's clocks on an H200, times a factor: {factors},\n"
          f"{BLOCK_CALIBRATION} in the class block.\n{LIMITS}")  # fmt: skip
    if not update:
        return int(wrong > 0)
    kept = records.get(toolchain(), {}) if only else {}
    kept.update({one.case.name: one.record for one in predictions})
    records[toolchain()] = kept
    RECORD.write_text(json.dumps(records, indent=1) + "\n")
    print(f"recorded for {toolchain()}")
    return 0


def main() -> int:
    """Command line; 1 if a kernel got slower in the model, 2 if the model cannot tell."""
    parser = argparse.ArgumentParser(prog="python -m tools.sass_model", description=__doc__)
    parser.add_argument("--update", action="store_true", help="write the predictions to the record")
    parser.add_argument("--only", default="", metavar="TEXT",
                        help="cases with that text in their names, as 'det float32'")  # fmt: skip
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    try:
        return check(arguments.update, arguments.only, arguments.jobs)
    except CompilationError as error:
        print(error)
    except SassError as error:
        print(f"no prediction: {error}")
    return 2


if __name__ == "__main__":
    sys.exit(main())
