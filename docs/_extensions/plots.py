"""The figures of docs/performance.md, from the files in bench/results."""

import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

RESULTS = Path(__file__).parents[2] / "bench" / "results"
COLOURS = {"float32": "#1f77b4", "float64": "#d95f02", "complex64": "#1b9e77",
           "complex128": "#7570b3"}  # fmt: skip
plt.rcParams.update({"font.size": 9, "axes.grid": True, "grid.alpha": 0.3, "figure.dpi": 110,
                     "axes.spines.top": False, "axes.spines.right": False})  # fmt: skip


def _read(name: str) -> dict:
    return json.loads((RESULTS / f"{name}.json").read_text())


def machine(name: str) -> str:
    """Where and when the figures of a run were measured."""
    run = _read(name)
    facts = run["machine"]
    return (
        f"Measured on {facts['cpu']}, {run['threads']} thread, torch {facts['torch']}, "
        f"{facts['date'][:10]}, commit {facts['commit']}."
    )


def _ratios(cases: list[dict]) -> list[tuple[float, float, bool]]:
    """(order, ratio, whether torch was right) of the cases that have a ratio."""
    points = []
    for case in cases:
        ratio = case["ratio"].get("torch.linalg")
        if ratio is not None:
            points.append((case["n"], ratio["median"], "torch.linalg" not in case["errors"]))
    return sorted(points)


def _curve(axes: Axes, cases: list[dict], colour: str, label: str) -> None:
    points = _ratios(cases)
    if not points:
        return
    n, ratio, right = (np.array(column) for column in zip(*points, strict=True))
    axes.plot(n, ratio, "-", color=colour, lw=1.3, label=label)
    axes.plot(n[right], ratio[right], "o", color=colour, ms=4)
    axes.plot(n[~right], ratio[~right], "o", color=colour, ms=5, mfc="white")


def _finish(axes: Axes, title: str) -> None:
    axes.set(xscale="log", yscale="log", title=title, xlabel="n")
    axes.xaxis.set_major_formatter("{x:.0f}")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.axhline(1, color="black", lw=0.8)


def speed() -> Figure:
    """Ratios over the order, for what users call most."""
    cases = [c for c in _read("cpu-speed")["cases"] if c["suite"] in ("small", "medium", "large")]
    operators = {
        "det forward": "det",
        "det forward+backward": "det and its gradient",
        "slogdet forward": "slogdet",
        "slogdet forward+backward": "slogdet and its gradient",
    }
    figure, axes = plt.subplots(2, 2, figsize=(8.5, 6), sharey=True, layout="constrained")
    for ax, (op, title) in zip(axes.flat, operators.items(), strict=True):
        for dtype, colour in COLOURS.items():
            _curve(ax, [c for c in cases if c["op"] == op and c["dtype"] == dtype], colour, dtype)
        _finish(ax, title)
    axes[0, 0].legend(frameon=False)
    for ax in axes[:, 0]:
        ax.set_ylabel("times as fast as torch.linalg")
    plt.close(figure)
    return figure


def func() -> Figure:
    """Ratios of transforms, one dot a case."""
    cases = _read("cpu-func")["cases"]
    names = sorted({c["op"].split(" ", 1)[1] for c in cases})
    figure, axes = plt.subplots(figsize=(8.5, 3.6), layout="constrained")
    marks = {1: ("o", "#1f77b4"), 32: ("s", "#d95f02"), 256: ("D", "#1b9e77")}
    for batch, (mark, colour) in marks.items():
        x, y = [], []
        for case in cases:
            ratio = case["ratio"].get("torch.linalg")
            if case["batch"] == batch and ratio is not None:
                shift = 0.18 * (list(marks).index(batch) - 1)
                x.append(names.index(case["op"].split(" ", 1)[1]) + shift)
                y.append(ratio["median"])
        axes.plot(x, y, mark, color=colour, ms=4, alpha=0.8,
                  label=f"{batch} matri{'x' if batch == 1 else 'ces'}")  # fmt: skip
    axes.axhline(1, color="black", lw=0.8)
    axes.set(yscale="log", ylabel="times as fast as torch.linalg")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_xticks(range(len(names)), names)
    axes.legend(frameon=False)
    plt.close(figure)
    return figure


def scan() -> Figure:
    """Ratios of random cases over the order."""
    figure, axes = plt.subplots(figsize=(8.5, 3.6), layout="constrained")
    cases = _read("cpu-scan")["cases"]
    for dtype, colour in COLOURS.items():
        points = _ratios([c for c in cases if c["dtype"] == dtype])
        if points:
            n, ratio, right = (np.array(column) for column in zip(*points, strict=True))
            axes.plot(n[right], ratio[right], "o", color=colour, ms=4, label=dtype)
            axes.plot(n[~right], ratio[~right], "o", color=colour, ms=4, mfc="white")
    _finish(axes, "")
    axes.set_ylabel("times as fast as torch.linalg")
    axes.legend(frameon=False)
    plt.close(figure)
    return figure
