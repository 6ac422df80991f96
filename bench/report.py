"""A run's JSON as a table in the terminal and as a Markdown file."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.cases import HVPS, LAYOUTS, OPS
from bench.run import REACHED, VERDICTS
from bench.suites import AGAINST_N, WORST_FIRST
from bench.timing import graph_of

WIDE = 280  # columns, where there is no terminal to ask

# What stands beside a ratio that is not simply one: its quartiles lie more than NOISY of its median
# apart; the peer's answer is wrong; torchdet's is.
NOISY = 0.25
NOISY_MARK, WRONG_MARK, OWN_MARK = "~", "✗", "✗✗"
MARKS = (
    f"{NOISY_MARK}: the quartiles of the ratio lie more than {NOISY:.0%} of it apart. "
    f"{WRONG_MARK}: torch's answer is wrong at some matrix, by more than its format explains."
)


@dataclass(frozen=True)
class Column:
    """A heading, and what stands below it for a case."""

    heading: str
    cell: Callable[[dict[str, Any]], str]
    words: bool = False


def duration(seconds: float) -> str:
    """Three digits with a unit."""
    for unit, factor in (("ns", 1e9), ("µs", 1e6), ("ms", 1e3)):
        if seconds * factor < 1000:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds:.3g} s"


def _time_in_graph(case: dict[str, Any]) -> str:
    spread = case["seconds"].get(graph_of("torchdet"))
    return duration(spread["median"]) if spread else ""


def _gigabytes_per_second(case: dict[str, Any]) -> str:
    return f"{case['bytes_moved'] / case['seconds']['torchdet']['median'] / 1e9:.3g}"


def _copy_share(case: dict[str, Any]) -> str:
    least = case["must_share"]
    return f"{case['share']['copy']:.0%}" + (f" (must {least:.0%})" if least else "")


def _fma_share(case: dict[str, Any]) -> str:
    share = case["share"].get("fma")
    return f"{share:.0%}" if share is not None else ""


def marked_ratio(case: dict[str, Any], peer: str, quartiles: bool = False, digits: int = 1) -> str:
    """The ratio with its marks; "failed" where there is none for an error of the peer."""
    errors, ratio = case.get("errors", {}), case["ratio"].get(peer)
    if ratio is None:
        return "failed" if peer in errors else ""
    digits = digits if ratio["median"] < 100 else 0
    text = f"{ratio['median']:.{digits}f}"
    if quartiles:
        text += f" ({ratio['q25']:.{digits}f}-{ratio['q75']:.{digits}f})"
    if ratio["q75"] - ratio["q25"] > NOISY * ratio["median"]:
        text = NOISY_MARK + text
    if peer in errors:
        text += " " + WRONG_MARK
    return text + (" " + OWN_MARK if "torchdet" in errors else "")


def _matrices(case: dict[str, Any]) -> str:
    layout = case["layout"] if case["layout"] != LAYOUTS[0] else ""
    return ", ".join(filter(None, (layout, "singular" if case["singular"] else "")))


def _peak(case: dict[str, Any], peer: str) -> str:
    peak = case["memory"].get(peer)
    return f"{peak / case['input_bytes']:.2f}" if peak is not None else ""


def _rows(run: dict[str, Any]) -> list[dict[str, Any]]:
    """The cases, those of some suites by their ratio, the worst first."""
    reference = run["peers"][1]
    listed = [case for case in run["cases"] if case["suite"] not in WORST_FIRST]
    sorted_ = [case for case in run["cases"] if case["suite"] in WORST_FIRST]
    sorted_.sort(key=lambda case: case["ratio"].get(reference, {}).get("median", math.inf))
    return listed + sorted_


def tally(cases: list[dict[str, Any]]) -> str:
    """How many cases came to what, as in '7 reached, 1 missed, 2 torch wrong'."""
    counts = {verdict: sum(case["verdict"] == verdict for case in cases) for verdict in VERDICTS}
    return ", ".join(f"{n} {verdict}" for verdict, n in counts.items() if n) or "no case"


def has_gpu(run: dict[str, Any]) -> bool:
    """Whether it was a GPU that was timed."""
    return "device" in run["machine"]


def _columns(run: dict[str, Any]) -> list[Column]:
    """With the shares of the machine's limits: on a GPU those are of the time in a graph."""
    reference, *others = run["peers"][1:]
    others = [peer for peer in others if any(peer in case["ratio"] for case in run["cases"])]
    on_gpu = [Column("in a graph", _time_in_graph), Column("of copy", _copy_share)]
    special = any(_matrices(case) for case in run["cases"])
    memory = any(case["memory"] for case in run["cases"])
    return [
        Column("suite", lambda case: case["suite"], words=True),
        Column("dtype", lambda case: case["dtype"], words=True),
        Column("n", lambda case: str(case["n"])),
        Column("batch", lambda case: str(case["batch"] or "single")),
        *([Column("matrices", _matrices, words=True)] if special else []),
        Column("operation", lambda case: case["op"], words=True),
        Column("torchdet", lambda case: duration(case["seconds"]["torchdet"]["median"])),
        *(on_gpu if has_gpu(run) else [Column("GB/s", _gigabytes_per_second)]),
        Column("of FMA", _fma_share),
        Column(f"ratio to {reference}", lambda case: marked_ratio(case, reference, True, 2)),
        *(
            Column(f"to {peer}", lambda case, peer=peer: marked_ratio(case, peer, digits=2))
            for peer in others
        ),
        *(
            Column(f"memory of {peer}", lambda case, peer=peer: _peak(case, peer))
            for peer in run["peers"][:2]
            if memory
        ),
        Column("must", lambda case: f"{case['must']:.3g}"),
        Column("verdict", lambda case: case["verdict"], words=True),
    ]


def print_table(run: dict[str, Any]) -> None:
    """For the terminal."""
    columns = _columns(run)
    shown = Table(title=summary(run))
    for column in columns:
        shown.add_column(column.heading, justify="left" if column.words else "right", no_wrap=True)
    for case in _rows(run):
        cells = (Text(column.cell(case)) for column in columns)
        shown.add_row(*cells, style="" if case["verdict"] == REACHED else "red")
    Console(width=None if sys.stdout.isatty() else WIDE).print(shown)
    print(f"{tally(run['cases'])}. {MARKS}")


def threads(run: dict[str, Any]) -> str:
    """As in '2 threads'."""
    return f"{run['threads']} thread" + ("s" if run["threads"] > 1 else "")


def summary(run: dict[str, Any]) -> str:
    """The machine in one line."""
    machine, build = run["machine"], run["machine"]["build"]
    bandwidth = {name: f"{value / 1e9:.0f} GB/s" for name, value in run["copy_bandwidth"].items()}
    peak, unit = (1e12, "TFLOP/s") if has_gpu(run) else (1e9, "GFLOP/s")
    peaks = [f"{value / peak:.3g} in {name}" for name, value in run.get("fma_peak", {}).items()]
    products = f", multiply-adds {unit}: {', '.join(peaks)}" if peaks else ""
    if device := machine.get("device"):
        cuda = ", ".join(build["cuda_architectures"]) if build else ""
        driver = device["nvidia_smi"].get("driver_version", "unknown")
        return (
            f"{device['name']}, driver {driver}, torchdet {machine['torchdet']} "
            f"({cuda or 'no CUDA kernels'}), torch {machine['torch']}, CUDA {device['cuda']}, "
            f"copy {bandwidth['device']}{products}"
        )
    active = build["active_instruction_set"] if build else "no extension"
    return (
        f"{machine['cpu']}, {threads(run)}, torchdet {machine['torchdet']} ({active}), "
        f"torch {machine['torch']}, copy {bandwidth['cache']} in cache, "
        f"{bandwidth['dram']} in memory{products}"
    )


_OTHER_ROWS = ("latency", "gpu-batch")


def _row_name(case: dict[str, Any]) -> str:
    place = {"dram": "128 MB of input", "latency": "a single matrix"}
    place["gpu-batch"] = f"batch {case['batch']}"
    where = place.get(case["suite"])
    return f"{case['n']}, {where}" if where else str(case["n"])


def compact_table(run: dict[str, Any]) -> list[str]:
    """Only the ratios to the first peer, marked: rows are sizes, columns dtypes and operations.

    Nothing for suites with more than a case for each of these.
    """
    cases = [case for case in run["cases"] if case["suite"] in (*AGAINST_N, *_OTHER_ROWS)]
    if not cases:
        return []
    dtypes = list(dict.fromkeys(case["dtype"] for case in cases))
    ops = [op for op in (*OPS, *HVPS) if op in OPS or any(case["op"] == op for case in cases)]
    columns = [(dtype, op) for dtype in dtypes for op in ops]
    rows: dict[str, dict[tuple[str, str], str]] = {}
    for case in cases:
        row = rows.setdefault(_row_name(case), {})
        row[case["dtype"], case["op"]] = marked_ratio(case, run["peers"][1])
    return table(
        ["n", *(f"{dtype} {op}" for dtype, op in columns)],
        [[row, *(ratios.get(c, "") for c in columns)] for row, ratios in rows.items()],
    )


def table(headings: list[str], rows: list[list[str]]) -> list[str]:
    """The lines of a Markdown table."""
    return [
        f"| {' | '.join(headings)} |",
        "|" + "---|" * len(headings),
        *(f"| {' | '.join(row)} |" for row in rows),
    ]


def _explanation(run: dict[str, Any]) -> list[str]:
    on_cpu = [
        f"Random normal matrices. Medians of {run['rounds']} interleaved rounds; a ratio is the",
        "peer's time over torchdet's in the same round, with its quartiles. GB/s counts the least",
        "traffic of the operation: reading A and writing the result, in each direction. *Of FMA*",
        "counts its arithmetic against the most multiply-adds of that precision. *Memory* is the",
        "peak during a call, divided by the size of the input.",
        MARKS,
    ]
    on_gpu = [
        f"Random normal matrices. Medians of up to {run['rounds']} interleaved rounds; a ratio is",
        "the peer's time over torchdet's in the same round. *In a graph* is torchdet's time",
        "without launches, replayed in a CUDA graph; the shares are of that time where there is",
        "one. *Of copy* counts the least traffic of the operation against the bandwidth of a",
        "large copy, *of FMA* its arithmetic against the most multiply-adds of that precision",
        "(without TF32; in float64 on tensor cores, where there are any). A peer that is wrong",
        "at some matrix is timed and marked; errors are listed at the end.",
        MARKS,
    ]
    lines = on_gpu if has_gpu(run) else on_cpu
    if run["stopped"]:
        lines += ["", f"Not all cases were timed: {run['stopped'].strip().splitlines()[-1]}."]
    if failed := run.get("failed"):
        names = ", ".join(f"{case['op']} {case['dtype']} n = {case['n']}" for case in failed)
        lines += ["", f"Not timed for an error of torchdet: {names}."]
    return lines


def _errors(run: dict[str, Any]) -> list[str]:
    """Each message once, with the cases it came from."""
    cases: dict[str, list[str]] = {}
    for case in run["cases"]:
        for peer, message in case.get("errors", {}).items():
            where = f"{case['dtype']} {case['op']} n={case['n']} batch={case['batch']}"
            cases.setdefault(f"{peer}: {message}", []).append(where)
    if not cases:
        return []
    listed = (f"- {message} ({'; '.join(where)})" for message, where in cases.items())
    return ["", "What went wrong with a peer:", "", *listed]


def write_markdown(run: dict[str, Any], path: Path) -> None:
    """The same rows as in the terminal, with the facts above them."""
    machine = run["machine"]
    columns = _columns(run)
    lines = [
        f"# Timings of {machine['date'][:10]}, commit {machine['commit']}",
        "",
        f"{summary(run)}.",
        "",
        *_explanation(run),
        "",
        *([*compact, ""] if (compact := compact_table(run)) else []),
        *table(
            [column.heading for column in columns],
            [[column.cell(case) for column in columns] for case in _rows(run)],
        ),
        *_errors(run),
    ]
    path.write_text("\n".join(lines) + "\n")
