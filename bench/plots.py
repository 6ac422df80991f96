"""A run's JSON as plots: ratio, share of the limits and time against n; time against the batch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # figures go to files, so no display is needed

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from bench.cases import HVPS, OPS
from bench.report import threads
from bench.suites import AGAINST_N
from bench.timing import graph_of

COLORS = dict(
    zip(
        (*OPS, *HVPS),
        ("#0072B2", "#D55E00", "#56B4E9", "#E69F00", "#009E73", "#CC79A7"),
        strict=True,
    )
)
GREY = "#6B6B6B"

Cases = list[dict[str, Any]]
Value = Callable[[dict[str, Any]], float | None]


def _line(axes: Axes, cases: Cases, value: Value, **style: Any) -> None:
    """One value of every case that has it, against n."""
    points = sorted((case["n"], value(case)) for case in cases if value(case) is not None)
    if points:
        axes.plot(*zip(*points, strict=True), **{"markersize": 5, "linewidth": 1.6, **style})


def _lines(axes: Axes, cases: Cases, value: Value, target: Value) -> None:
    """A line for each operation, squares for inputs in DRAM, dotted what det must reach."""
    for op, color in COLORS.items():
        chosen, in_dram = _cases_of(op, cases)
        _line(axes, chosen, value, color=color, marker="o")
        if op in OPS[:2]:
            _line(axes, chosen, target, color=color, linestyle=":", linewidth=1.2)
        _line(axes, in_dram, value, color=color, marker="s", linestyle="none")


def _cases_of(op: str, cases: Cases) -> tuple[Cases, Cases]:
    """The operation's cases with inputs in a cache, and in DRAM."""
    of_op = [case for case in cases if case["op"] == op]
    in_dram = [case for case in of_op if case["suite"] == "dram"]
    return [case for case in of_op if case not in in_dram], in_dram


def _asked(case: dict[str, Any]) -> float | None:
    return case["must"] if case["must"] > 1 else None


def _nearest_limit(case: dict[str, Any]) -> float:
    return max(case["share"].values())


def _times(axes: Axes, cases: Cases, ops: list[str], ours: str, peer: str) -> None:
    """Of a matrix: torchdet's, the peer's, and at the limit: it shows the slope to expect."""
    axes.set_yscale("log")

    def time_of(name: str) -> Value:
        return lambda case: (
            1e6 * case["seconds"][name]["median"] / case["batch"]
            if name in case["seconds"]
            else None
        )

    for op in ops:
        chosen, in_dram = _cases_of(op, cases)
        at_limit = lambda case: time_of(ours)(case) * _nearest_limit(case)  # noqa: E731
        _line(axes, chosen, time_of(ours), color=COLORS[op], marker="o")
        _line(axes, chosen, time_of(peer), color=COLORS[op], linestyle="--")
        _line(axes, chosen, at_limit, color=COLORS[op], linestyle=":", linewidth=1.2)
        squares = {"color": COLORS[op], "marker": "s", "linestyle": "none"}
        _line(axes, in_dram, time_of(ours), **squares)
        _line(axes, in_dram, time_of(peer), **squares, markerfacecolor="none")


def _against_n(axes: Axes, cases: Cases) -> None:
    sizes = sorted({case["n"] for case in cases})
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, map(str, sizes), **({"rotation": 60} if len(sizes) > 12 else {}))
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def _where(run: dict[str, Any]) -> str:
    device = run["machine"].get("device")
    return device["name"] if device else f"{run['machine']['cpu']}, {threads(run)}"


def _save(figure: Any, handles: list[Line2D], run: dict[str, Any], path: Path) -> None:
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    figure.suptitle(_where(run), fontsize=10)
    figure.savefig(path, dpi=120, metadata={"Software": None})
    plt.close(figure)


def plot(run: dict[str, Any], path: Path) -> None:
    """Against n: ratio to the first peer, share of the limit, time; a column for each dtype.

    The limit is the nearer one of copy bandwidth and multiply-adds. Single matrices are left out.
    """
    cases = [case for case in run["cases"] if case["suite"] in AGAINST_N]
    dtypes = list(dict.fromkeys(case["dtype"] for case in cases))
    if not dtypes:
        return
    peer = run["peers"][1]
    measured = [op for op in COLORS if any(case["op"] == op for case in cases)]
    timed = [op for op in OPS[:2] if op in measured] or measured
    figure, panels = plt.subplots(
        3,
        len(dtypes),
        figsize=(max(8, 5.6 * len(dtypes)), 4 * 3),
        sharex=True,
        sharey="row",
        squeeze=False,
        layout="constrained",
    )

    def ratio(case: dict[str, Any]) -> float | None:
        return case["ratio"].get(peer, {}).get("median")

    for column, dtype in zip(panels.T, dtypes, strict=True):
        of_dtype = [case for case in cases if case["dtype"] == dtype]
        axes = column[0]
        _lines(axes, of_dtype, ratio, _asked)
        _against_n(axes, cases)
        axes.axhline(1, color=GREY, linewidth=1)
        axes.set_yscale("log", base=2)
        axes.minorticks_off()
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set_title(dtype)
        axes = column[1]
        _lines(axes, of_dtype, _nearest_limit, lambda case: case["must_share"])
        _against_n(axes, cases)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        axes = column[2]
        _times(axes, of_dtype, timed, run["peers"][0], peer)
        _against_n(axes, cases)
        axes.set_xlabel("n")
    panels[0][0].set_ylabel(f"time of {peer} / time of torchdet")
    panels[1][0].set_ylim(bottom=0)
    panels[1][0].set_ylabel("share of copy bandwidth\nor of multiply-adds, the larger")
    panels[2][0].set_ylabel("µs per matrix")
    handles = [Line2D([], [], color=COLORS[op], marker="o", label=op) for op in measured]
    if any(case["suite"] == "dram" for case in cases):
        square: dict[str, Any] = {"color": GREY, "marker": "s", "linestyle": "none"}
        hollow = {**square, "markerfacecolor": "none"}
        handles += [
            Line2D([], [], **square, label="128 MB of input"),
            Line2D([], [], **hollow, label=f"below: {peer}, 128 MB"),
        ]
    if any(op in measured for op in OPS[:2]):
        handles.append(
            Line2D([], [], color=GREY, linestyle=":", label="above: to be reached by det")
        )
    handles += [
        Line2D([], [], color=GREY, linestyle="--", label=f"below: {peer}"),
        Line2D([], [], color=GREY, linestyle=":", label="below: at the limit"),
    ]
    _save(figure, handles, run, path)


def plot_batches(run: dict[str, Any], path: Path) -> None:
    """Time of one matrix against the batch, a panel for each n and dtype, if that was measured."""
    cases = [case for case in run["cases"] if case["suite"] in ("batch", "gpu-batch")]
    if not cases:
        return
    sizes = sorted({case["n"] for case in cases})
    dtypes = list(dict.fromkeys(case["dtype"] for case in cases))
    ours, peer = run["peers"][:2]
    styles = {
        ours: {"linestyle": "-", "marker": "o"},
        graph_of(ours): {"linestyle": "--", "marker": "s"},
        peer: {"linestyle": ":", "marker": "^"},
    }
    figure, panels = plt.subplots(
        len(dtypes),
        len(sizes),
        figsize=(max(8, 4.2 * len(sizes)), 3.6 * len(dtypes)),
        sharex=True,
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for row, dtype in zip(panels, dtypes, strict=True):
        for axes, n in zip(row, sizes, strict=True):
            here = [case for case in cases if (case["dtype"], case["n"]) == (dtype, n)]
            for op in dict.fromkeys(case["op"] for case in here):
                for name, style in styles.items():
                    points = sorted(
                        (case["batch"], 1e9 * case["seconds"][name]["median"] / case["batch"])
                        for case in here
                        if case["op"] == op and name in case["seconds"]
                    )
                    if points:
                        axes.plot(
                            *zip(*points, strict=True), color=COLORS[op], markersize=4, **style
                        )
            axes.set(xscale="log", yscale="log", title=f"{dtype}, n = {n}")
            axes.grid(alpha=0.3)
            axes.spines[["top", "right"]].set_visible(False)
        row[0].set_ylabel("ns per matrix")
    for axes in panels[-1]:
        axes.set_xlabel("matrices in the batch")
    ops = dict.fromkeys(case["op"] for case in cases)
    handles = [Line2D([], [], color=COLORS[op], linewidth=3, label=op) for op in ops]
    handles += [Line2D([], [], color=GREY, label=name, **style) for name, style in styles.items()]
    _save(figure, handles, run, path)
