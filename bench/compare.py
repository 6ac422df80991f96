"""Compares two runs and says what got slower: ``python -m bench.compare OLD.json NEW.json``.

What is compared is the ratio of the first peer's time to torchdet's, since both were measured in
turn: a machine that was slower as a whole does not count. A case is slower, or faster, if the
quartiles of its ratios do not overlap and the medians differ by more than the tolerance.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.report import WIDE

TOLERANCE = 0.1

KEY = ("suite", "dtype", "op", "n", "batch", "layout", "singular")


@dataclass(frozen=True)
class Change:
    """The ratios of one case in two runs, as medians with their quartiles."""

    key: tuple[Any, ...]
    old: dict[str, float]
    new: dict[str, float]

    @property
    def factor(self) -> float:
        """The new speed over the old one."""
        return self.new["median"] / self.old["median"]

    def slower(self, tolerance: float) -> bool:
        """Beyond the tolerance and the spread."""
        return self.factor < 1 - tolerance and self.new["q75"] < self.old["q25"]

    def faster(self, tolerance: float) -> bool:
        """Beyond the tolerance and the spread."""
        return self.factor > 1 + tolerance and self.new["q25"] > self.old["q75"]


def _ratios(run: dict[str, Any]) -> dict[tuple[Any, ...], dict[str, float]]:
    reference = run["peers"][1]
    return {
        tuple(case[field] for field in KEY): case["ratio"][reference]
        for case in run["cases"]
        if reference in case["ratio"]
    }


def changes(old: dict[str, Any], new: dict[str, Any]) -> list[Change]:
    """Of the cases that both runs have, the worst first.

    Raises:
        ValueError: The runs have different peers, numbers of threads, or no case in common.
    """
    for what in ("peers", "threads"):
        values = [run[what][1] if what == "peers" else run[what] for run in (old, new)]
        if values[0] != values[1]:
            raise ValueError(
                f"expected two runs with the same {what}, got {values[0]} and {values[1]}"
            )
    before, after = _ratios(old), _ratios(new)
    both = [Change(key, before[key], after[key]) for key in before if key in after]
    if not both:
        raise ValueError(
            "the runs have no case in common: run the same --suite and --n with the same batches"
        )
    return sorted(both, key=lambda change: change.factor)


def _print(found: list[Change], tolerance: float) -> None:
    table = Table(title="ratio to the first peer, before and after")
    for heading in (*KEY, "old", "new", "factor", ""):
        table.add_column(heading, justify="right" if heading in ("n", "batch") else "left")
    for change in found:
        slower, faster = change.slower(tolerance), change.faster(tolerance)
        table.add_row(
            *map(str, change.key),
            *(
                f"{r['median']:.2f} ({r['q25']:.2f}-{r['q75']:.2f})"
                for r in (change.old, change.new)
            ),
            f"{change.factor:.2f}",
            "SLOWER" if slower else "faster" if faster else "",
            style="red" if slower else "green" if faster else "",
        )
    Console(width=None if sys.stdout.isatty() else WIDE).print(table)


def main(arguments: list[str] | None = None) -> int:
    """Command line; 1 if a case got slower, 2 if the runs cannot be compared."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.compare", description=__doc__.partition(": ")[0]
    )
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument(
        "--tolerance", type=float, default=TOLERANCE, help="relative change that counts (0.1)"
    )
    parsed = parser.parse_args(arguments)
    try:
        runs = [json.loads(path.read_text()) for path in (parsed.old, parsed.new)]
        found = changes(*runs)
    except (OSError, json.JSONDecodeError, KeyError, ValueError) as error:
        print(f"cannot compare: {error!r}", file=sys.stderr)
        return 2
    _print(found, parsed.tolerance)
    slower = sum(change.slower(parsed.tolerance) for change in found)
    print(f"{slower} of {len(found)} cases got slower")
    return int(slower > 0)


if __name__ == "__main__":
    sys.exit(main())
