"""Gradient descent on det(A)^2, the problem that torchdet began with.

(a) A = [[sin x, 0], [0, cos y]] from x = y = 1; rate 0.001, 100 steps.
(b) A = [[1, 2], [3, 4]], every entry free; rate 0.001, 50 steps.
(c) (b) continued at ten times the rate. The loss is least where A is singular, so the descent ends
    at a matrix that is singular to machine precision, which is where Jacobi's formula
    d det / dA = det(A) A^-T is of no use: it is 0 times infinity there, although the derivative,
    the matrix of cofactors, is made of ordinary numbers. At each step three ways to compute it are
    compared with the exact cofactors of that step's matrix, and then at exactly singular matrices.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from torch import Tensor

import torchdet
from common import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    VERMILION,
    count,
    exact_cofactor,
    exact_det,
    relative_error,
    save,
    to_fractions,
)

RATE = 0.001


def descend(parameters: list[Tensor], loss_of: Callable[[], Tensor], steps: int) -> list[float]:
    """Plain gradient descent; returns the loss before each step and after the last."""
    losses = []
    for _ in range(steps):
        loss = loss_of()
        losses.append(loss.item())
        gradients = torch.autograd.grad(loss, parameters)
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter -= RATE * gradient
    return losses + [loss_of().item()]


def sine_cosine(steps: int) -> list[float]:
    """Example (a)."""
    x = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    y = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)

    def loss() -> Tensor:
        return torchdet.det(torch.diag(torch.stack([torch.sin(x), torch.cos(y)]))) ** 2

    losses = descend([x, y], loss, steps)
    print(f"(a) {steps} steps: loss {losses[0]:.6f} -> {losses[-1]:.6f}, x = {x:.6f}, y = {y:.6f}")
    return losses


def free_matrix(steps: int) -> list[float]:
    """Example (b)."""
    A = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float64, requires_grad=True)
    losses = descend([A], lambda: torchdet.det(A) ** 2, steps)
    print(f"(b) {steps} steps: loss {losses[0]:.6f} -> {losses[-1]:.6f}, A = {A.tolist()}")
    return losses


# --- (c) --------------------------------------------------------------------------------------


def gradient_by_torchdet(A: Tensor) -> Tensor:
    """Gradient of the determinant through torchdet."""
    A = A.clone().requires_grad_()
    return torch.autograd.grad(torchdet.det(A), A)[0]


def gradient_by_torch(A: Tensor) -> Tensor:
    """Gradient of the determinant through torch.linalg.det."""
    A = A.clone().requires_grad_()
    return torch.autograd.grad(torch.linalg.det(A), A)[0]


def gradient_by_inverse(A: Tensor) -> Tensor:
    """Jacobi's formula as it is written; not a number where torch refuses to invert A."""
    inverse, info = torch.linalg.inv_ex(A)
    return torch.linalg.det(A) * inverse.mT if info == 0 else torch.full_like(A, math.nan)


@dataclass(frozen=True)
class Method:
    """One way to compute the gradient of det, and how it is drawn."""

    name: str
    gradient: Callable[[Tensor], Tensor]
    color: str
    marker: str


METHODS = (
    Method("det(A) · inv(A)ᵀ", gradient_by_inverse, VERMILION, "x"),
    Method("torch.linalg.det, backward", gradient_by_torch, ORANGE, "s"),
    Method("torchdet.det, backward", gradient_by_torchdet, BLUE, "o"),
)


@dataclass
class Descent:
    """What is recorded at each step of (c)."""

    dets: list[float]
    errors: dict[str, list[float]]


def descend_to_singular(slow_steps: int, fast_steps: int) -> Descent:
    """Example (b), then the same descent at ten times the rate, down to machine precision."""
    A = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float64, requires_grad=True)
    record = Descent([], {method.name: [] for method in METHODS})
    for step in range(slow_steps + fast_steps + 1):
        entries = to_fractions(A)
        cofactors = exact_cofactor(entries)
        record.dets.append(abs(float(exact_det(entries))))
        for method in METHODS:
            error = relative_error(method.gradient(A.detach()), cofactors)
            record.errors[method.name].append(error)
        (gradient,) = torch.autograd.grad(torchdet.det(A) ** 2, A)
        with torch.no_grad():
            A -= (RATE if step < slow_steps else 10 * RATE) * gradient
    return record


def singular_matrices(seed: int) -> dict[str, Tensor]:
    """Integer matrices, held exactly by float32 and float64, of rank exactly n - 1."""
    generator = torch.Generator().manual_seed(seed)

    def dependent_column(n: int) -> Tensor:
        A = torch.randint(-4, 5, (n, n), generator=generator).double()
        A[:, 0] = A[:, 1] - A[:, 2]
        return A

    integers = dependent_column(12)
    return {
        "[[1, 2], [2, 4]]": torch.tensor([[1.0, 2.0], [2.0, 4.0]], dtype=torch.float64),
        "diag(0, 1, 2, 3)": torch.diag(torch.arange(4, dtype=torch.float64)),
        "[[1, 2, 3], [4, 5, 6], [7, 8, 9]]": torch.arange(1, 10, dtype=torch.float64).view(3, 3),
        "6×6 integers, one column dependent": dependent_column(6),
        "12×12 integers, one column dependent": integers,
        "the same 12×12 in float32": integers.float(),
    }


# Where a logarithmic axis shows an error of exactly 0, and a gradient that is not finite.
NO_ERROR, NO_ANSWER = 1e-17, 1e5

# --- figures ------------------------------------------------------------------------------------


def plot_loss(losses: list[float], title: str, path: Path) -> None:
    """Loss against the step."""
    figure, axes = plt.subplots(figsize=(5.0, 3.4), layout="constrained")
    axes.plot(losses, color=BLUE, linewidth=2)
    axes.set(title=title, xlabel="step", ylabel="loss = det(A)²", xlim=(0, len(losses) - 1))
    axes.set_ylim(bottom=0)
    save(figure, path)


def plot_descent(record: Descent, slow_steps: int, top: Axes, bottom: Axes) -> None:
    """|det A| along the descent above, the errors of the three gradients below."""
    top.semilogy(record.dets, color=GREEN, linewidth=2)
    top.set(ylabel="|det A|, exact", title="(b) continued until A is singular to machine precision")
    top.tick_params(labelbottom=False)
    for axes in (top, bottom):
        axes.axvline(slow_steps, color=GREY, linewidth=1, linestyle=":")
        axes.set_xlim(0, len(record.dets) - 1)
    top.text(slow_steps - 1, 1e-15, f"rate {RATE}", ha="right", color=GREY)
    top.text(slow_steps + 1, 1e-15, f"rate {10 * RATE}", ha="left", color=GREY)

    for method in METHODS:
        errors = [max(error, NO_ERROR) for error in record.errors[method.name]]
        bottom.semilogy(
            errors,
            color=method.color,
            label=method.name,
            marker=method.marker,
            markersize=4,
            markevery=5,
            markerfacecolor="none",
            linewidth=1.4,
        )
    bottom.axhline(1.0, color=GREY, linewidth=1, linestyle="--")
    bottom.text(1, 1.6, "no digit right", color=GREY, va="bottom")
    bottom.set(xlabel="step", ylabel="relative error of d det / dA", ylim=(0.4e-17, 1e3))
    bottom.set_yticks(
        [NO_ERROR, 1e-12, 1e-8, 1e-4, 1.0],
        ["none", "$10^{-12}$", "$10^{-8}$", "$10^{-4}$", "1"],
    )
    bottom.minorticks_off()
    bottom.legend(loc="upper left", bbox_to_anchor=(0, 0.82), title="gradient computed by")


def plot_singular(matrices: dict[str, Tensor], axes: Axes) -> dict[str, dict[str, float]]:
    """Errors at exactly singular matrices; returns them."""
    table: dict[str, dict[str, float]] = {}
    for name, A in matrices.items():
        cofactors = exact_cofactor(to_fractions(A))
        table[name] = {m.name: relative_error(m.gradient(A), cofactors) for m in METHODS}
    for shift, method in zip((-0.2, 0.0, 0.2), METHODS, strict=True):
        errors = [row[method.name] for row in table.values()]
        axes.plot(
            [max(e, NO_ERROR) if math.isfinite(e) else NO_ANSWER for e in errors],
            [row + shift for row in range(len(errors))],
            linestyle="none",
            color=method.color,
            marker=method.marker,
            markersize=7,
            label=method.name,
        )
    axes.axvline(1.0, color=GREY, linewidth=1, linestyle="--")
    axes.axvline(NO_ANSWER, color=GREY, linewidth=1, linestyle="--")
    axes.set_xscale("log")
    axes.set_xticks(
        [NO_ERROR, 1e-12, 1e-8, 1e-4, 1.0, NO_ANSWER],
        ["none", "$10^{-12}$", "$10^{-8}$", "$10^{-4}$", "no digit\nright", "not\nfinite"],
    )
    axes.minorticks_off()
    axes.set_yticks(range(len(table)), list(table))
    axes.set(
        title="Exactly singular matrices of rank n − 1",
        xlabel="relative error of d det / dA",
        xlim=(0.3e-17, 1e6),
        ylim=(len(table) - 0.5, -1.9),
    )
    axes.grid(axis="y", visible=False)
    axes.legend(loc="upper center", bbox_to_anchor=(0.36, 1.0), ncols=1)
    return table


def main(arguments: list[str] | None = None) -> None:
    """Runs the three parts and writes their figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs/images"), help="folder for figures")
    parser.add_argument("--steps-a", type=count, default=100, help="steps of example (a)")
    parser.add_argument("--steps-b", type=count, default=50, help="steps of example (b)")
    parser.add_argument(
        "--steps-c", type=count, default=50, help="further steps at ten times the rate"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the integer matrices in (c)")
    given = parser.parse_args(arguments)

    losses = sine_cosine(given.steps_a)
    plot_loss(losses, "det([[sin x, 0], [0, cos y]])²", given.out / "sine_cosine.png")
    losses = free_matrix(given.steps_b)
    plot_loss(losses, "Determinant Squared", given.out / "determinant_squared.png")

    record = descend_to_singular(given.steps_b, given.steps_c)
    figure = plt.figure(figsize=(12.5, 5.2), layout="constrained")
    grid = figure.add_gridspec(2, 2, height_ratios=(1, 2), width_ratios=(1.25, 1))
    plot_descent(
        record, given.steps_b, figure.add_subplot(grid[0, 0]), figure.add_subplot(grid[1, 0])
    )
    table = plot_singular(singular_matrices(given.seed), figure.add_subplot(grid[:, 1]))
    save(figure, given.out / "singular.png")

    print(f"(c) |det A| = {record.dets[-1]:.1e} at the end; relative error of d det / dA there:")
    for method in METHODS:
        print(f"      {method.name:28} {record.errors[method.name][-1]:.1e}")
    for name, errors in table.items():
        print(f"    at {name}:")
        for method in METHODS:
            print(f"      {method.name:28} {errors[method.name]:.1e}")


if __name__ == "__main__":
    main()
