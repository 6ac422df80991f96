"""A run's JSON as a table in the terminal, a Markdown table and a plot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # figures go to files, so no display is needed

import matplotlib.pyplot as plt
from matplotlib.lines import Line2D
from rich.console import Console
from rich.table import Table
from rich.text import Text

COLORS = {
    "det forward": "#0072B2",
    "det forward+backward": "#D55E00",
    "slogdet forward": "#56B4E9",
    "slogdet forward+backward": "#E69F00",
}
GREY = "#6B6B6B"
HEADINGS = ("suite", "dtype", "n", "batch", "operation", "torchdet", "GB/s")


def duration(seconds: float) -> str:
    """Three digits with a unit."""
    for unit, factor in (("ns", 1e9), ("µs", 1e6), ("ms", 1e3)):
        if seconds * factor < 1000:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds:.3g} s"


def _cells(case: dict[str, Any]) -> list[str]:
    """One row: the time of one call, and how many times longer the peer takes."""
    cells = [
        case["suite"],
        case["dtype"],
        str(case["n"]),
        str(case["batch"] or "single"),
        case["op"],
        duration(case["seconds"]["torchdet"]["median"]),
        f"{case['bytes_moved'] / case['seconds']['torchdet']['median'] / 1e9:.3g}",
    ]
    for ratio in case["ratio"].values():
        cells.append(f"{ratio['median']:.2f} ({ratio['q25']:.2f}-{ratio['q75']:.2f})")
    return cells + [f"{case['must']:.3g}", "yes" if case["passed"] else "NO"]


def _headings(run: dict[str, Any]) -> list[str]:
    return [*HEADINGS, *(f"ratio to {name}" for name in run["peers"][1:]), "must", "reached"]


def print_table(run: dict[str, Any]) -> None:
    """For the terminal."""
    table = Table(title=summary(run))
    for heading in _headings(run):
        text = heading in ("suite", "dtype", "operation")
        table.add_column(heading, justify="left" if text else "right", no_wrap=True)
    for case in run["cases"]:
        table.add_row(*map(Text, _cells(case)), style="" if case["passed"] else "red")
    Console().print(table)
    missed = sum(not case["passed"] for case in run["cases"])
    print(f"{len(run['cases']) - missed} of {len(run['cases'])} cases reach what they must")


def summary(run: dict[str, Any]) -> str:
    """The machine in one line."""
    machine, build = run["machine"], run["machine"]["build"]
    active = build["active_instruction_set"] if build else "no extension"
    threads = f"{run['threads']} thread" + ("s" if run["threads"] > 1 else "")
    return (
        f"{machine['cpu']}, {threads}, torchdet {machine['torchdet']} ({active}), "
        f"torch {machine['torch']}, copy {run['copy_bandwidth']['cache'] / 1e9:.0f} GB/s in cache, "
        f"{run['copy_bandwidth']['dram'] / 1e9:.0f} GB/s in memory"
    )


def compact_table(run: dict[str, Any]) -> list[str]:
    """Only the ratios to the first peer: rows are sizes, columns dtypes and operations."""
    dtypes = list(dict.fromkeys(case["dtype"] for case in run["cases"]))
    columns = [(dtype, op) for dtype in dtypes for op in COLORS]
    place = {"dram": "256 MB of input", "latency": "a single matrix"}
    rows: dict[str, dict[tuple[str, str], float]] = {}
    for case in run["cases"]:
        where = place.get(case["suite"])
        row = f"{case['n']}, {where}" if where else str(case["n"])
        ratio = case["ratio"][run["peers"][1]]["median"]
        rows.setdefault(row, {})[case["dtype"], case["op"]] = ratio
    return [
        "| n | " + " | ".join(f"{dtype} {op}" for dtype, op in columns) + " |",
        "|" + "---|" * (1 + len(columns)),
        *(
            f"| {row} | "
            + " | ".join(f"{ratios[c]:.1f}" if c in ratios else "" for c in columns)
            + " |"
            for row, ratios in rows.items()
        ),
    ]


def write_markdown(run: dict[str, Any], path: Path) -> None:
    """The same rows as in the terminal, with the facts above them."""
    machine = run["machine"]
    headings = _headings(run)
    lines = [
        f"# Timings of {machine['date'][:10]}, commit {machine['commit']}",
        "",
        f"{summary(run)}.",
        "",
        f"Random normal matrices. Medians of {run['rounds']} interleaved rounds; a ratio is the",
        "peer's time over torchdet's in the same round, with its quartiles. GB/s counts the least",
        "traffic of the operation: reading A and writing the result, in each direction.",
        "",
        *compact_table(run),
        "",
        "| " + " | ".join(headings) + " |",
        "|" + "---|" * len(headings),
        *("| " + " | ".join(_cells(case)) + " |" for case in run["cases"]),
    ]
    path.write_text("\n".join(lines) + "\n")


def plot(run: dict[str, Any], path: Path) -> None:
    """Ratio to the first peer against n, a panel for each dtype; single matrices are left out."""
    cases = [case for case in run["cases"] if case["suite"] != "latency"]
    dtypes = list(dict.fromkeys(case["dtype"] for case in cases))
    if not dtypes:
        return
    peer = run["peers"][1]
    figure, panels = plt.subplots(
        1,
        len(dtypes),
        figsize=(5.6 * len(dtypes), 4.2),
        sharex=True,
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for axes, dtype in zip(panels[0], dtypes, strict=True):
        for op, color in COLORS.items():
            for in_dram in (False, True):
                points = [
                    (case["n"], case["ratio"][peer]["median"], case["must"])
                    for case in cases
                    if (case["dtype"], case["op"], case["suite"] == "dram") == (dtype, op, in_dram)
                ]
                if not points:
                    continue
                n, ratio, must = zip(*sorted(points), strict=True)
                style = {"marker": "s", "linestyle": "none"} if in_dram else {"marker": "o"}
                axes.plot(n, ratio, color=color, markersize=5, linewidth=1.6, **style)
                if op.startswith("det") and not in_dram:
                    axes.plot(n, must, color=color, linestyle=":", linewidth=1.2)
        axes.axhline(1, color=GREY, linewidth=1)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log", base=2)
        sizes = sorted({case["n"] for case in cases})
        axes.set_xticks(sizes, map(str, sizes))
        axes.minorticks_off()
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set(title=dtype, xlabel="n")
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0][0].set_ylabel(f"time of {peer} / time of torchdet")
    handles = [Line2D([], [], color=c, marker="o", label=op) for op, c in COLORS.items()]
    handles += [
        Line2D([], [], color=GREY, marker="s", linestyle="none", label="256 MB of input"),
        Line2D([], [], color=GREY, linestyle=":", label="to be reached by det"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    threads = f"{run['threads']} thread" + ("s" if run["threads"] > 1 else "")
    figure.suptitle(f"{run['machine']['cpu']}, {threads}", fontsize=10)
    figure.savefig(path, dpi=120, metadata={"Software": None})
    plt.close(figure)
