"""What the examples share: exact determinants as an oracle, arguments, and how figures look."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # figures go to files, so no display is needed

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from torch import Tensor

# Okabe and Ito's colours, told apart under every common kind of colour blindness.
BLUE, ORANGE, GREEN, VERMILION, SKY, GREY = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#56B4E9",
    "#6B6B6B",
)

plt.rcParams.update(
    {
        "axes.grid": True,
        "axes.spines.right": False,
        "axes.spines.top": False,
        "axes.titlesize": 11,
        "font.size": 10,
        "grid.alpha": 0.3,
        "legend.frameon": False,
        "legend.fontsize": 9,
        "savefig.dpi": 120,
    }
)


def from_to(least: int, most: int = 1_000_000) -> Callable[[str], int]:
    """The type of an argument that says how many."""

    def number(text: str) -> int:
        if not text.isdecimal() or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(
                f"expected a whole number from {least} to {most}, got {text}"
            )
        return int(text)

    return number


count = from_to(1)


def save(figure: Figure, path: Path) -> None:
    """Writes a figure as PNG, without the version stamp that would make each file differ."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Software": None})
    plt.close(figure)
    print(f"wrote {path}")


def to_fractions(A: Tensor) -> list[list[Fraction]]:
    """The values of a real matrix as they are: a float is a rational number."""
    return [[Fraction(entry) for entry in row] for row in A.tolist()]


def exact_det(A: Sequence[Sequence[Fraction]]) -> Fraction:
    """Determinant by elimination over the rationals: no rounding, so any nonzero pivot will do."""
    rows = [list(row) for row in A]
    det = Fraction(1)
    for k in range(len(rows)):
        pivot = next((i for i in range(k, len(rows)) if rows[i][k]), None)
        if pivot is None:
            return Fraction(0)
        if pivot != k:
            rows[k], rows[pivot] = rows[pivot], rows[k]
            det = -det
        det *= rows[k][k]
        for row in rows[k + 1 :]:
            if factor := row[k] / rows[k][k]:
                row[k:] = [x - factor * y for x, y in zip(row[k:], rows[k][k:], strict=True)]
    return det


def exact_cofactor(A: Sequence[Sequence[Fraction]]) -> list[list[Fraction]]:
    """Matrix of cofactors: (-1)^(i+j) times the determinant without row i and column j."""
    n = len(A)

    def minor(i: int, j: int) -> list[list[Fraction]]:
        return [[A[r][c] for c in range(n) if c != j] for r in range(n) if r != i]

    return [[(-1) ** (i + j) * exact_det(minor(i, j)) for j in range(n)] for i in range(n)]


def relative_error(got: Tensor, truth: Sequence[Sequence[Fraction]]) -> float:
    """Frobenius norm of the error over that of the truth; nan where ``got`` is not finite."""
    difference = (
        sum(
            (Fraction(g) - t) ** 2
            for g_row, t_row in zip(got.tolist(), truth, strict=True)
            for g, t in zip(g_row, t_row, strict=True)
        )
        if bool(torch.isfinite(got).all())
        else float("nan")
    )
    norm = sum(t**2 for t_row in truth for t in t_row)
    return float(difference / norm) ** 0.5
