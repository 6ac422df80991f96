"""Where to measure: a D-optimal design, from a design that cannot identify its model.

A quadratic surface in two factors has six coefficients. Measurements at the points x_i, a share
w_i of them at each, have the information matrix M(w) = sum_i w_i f(x_i) f(x_i)^T with f = (1, x,
y, x^2, y^2, xy), and the design that maximises det M makes the confidence region of all
coefficients smallest. On the square the optimum is known: the 3 x 3 grid with the weights 0.1458
at the corners, 0.0802 in the middle of the edges, 0.0962 at the centre (Kono 1962; Atkinson,
Donev and Tobias, Optimum Experimental Designs, with SAS, Oxford 2007).

The start has five points for six coefficients, so M is singular and log det M = -inf has no
gradient. But det M has one: d det M / d w_i = f_i^T adj(M) f_i, positive where a new point would
help. The first step follows it. From then on M is regular, and the steps multiply w_i by f_i^T
M^-1 f_i / 6
(Silvey, Titterington and Torsney 1978): the gradient of log det M by w, divided by 6. At the
    optimum this is 1 at the points of the design and below 1 elsewhere (Kiefer and Wolfowitz
    1960): a certificate.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from rich.progress import track
from torch import Tensor

import torchdet
from common import BLUE, GREY, ORANGE, count, from_to, save

COEFFICIENTS = 6
KNOWN = {"corners": 0.1458, "edges": 0.0802, "centre": 0.0962}


def candidates(points: int) -> Tensor:
    """A square grid, (points^2, 2)."""
    line = torch.linspace(-1, 1, points, dtype=torch.float64)
    return torch.cartesian_prod(line, line)


def functions(x: Tensor) -> Tensor:
    """F of each candidate, (candidates, 6)."""
    a, b = x.unbind(-1)
    return torch.stack([torch.ones_like(a), a, b, a * a, b * b, a * b], -1)


def information(w: Tensor, f: Tensor) -> Tensor:
    """M(w)."""
    return f.mT @ (w[:, None] * f)


def gradient(w: Tensor, f: Tensor, det) -> Tensor:
    """Of det M by w."""
    w = w.clone().requires_grad_()
    return torch.autograd.grad(det(information(w, f)), w)[0]


@dataclass
class Design:
    """Weights, and how they came to be."""

    w: Tensor
    log_det: list[float]
    excess: list[float]  # the largest f^T M^-1 f / 6, minus 1


def optimise(w: Tensor, f: Tensor, steps: int) -> Design:
    """The first step by det, the others by log det."""
    log_det, excess = [], []
    direction = gradient(w, f, torchdet.det)
    direction = direction.clamp_min(0)  # rounding
    w = 0.9 * w + 0.1 * direction / direction.sum()
    for _ in track(range(steps), "design"):
        w = w.detach().requires_grad_()
        value = torchdet.logdet(information(w, f))
        (d,) = torch.autograd.grad(value, w)
        log_det.append(value.item())
        excess.append(d.max().item() / COEFFICIENTS - 1)
        w = w * d / COEFFICIENTS
    return Design(w.detach(), log_det, excess)


def groups(x: Tensor, w: Tensor) -> dict[str, float]:
    """The weight of one corner, one edge's middle, and the centre, with what lies beside them."""
    near = {"corners": (1.0, 1.0), "edges": (1.0, 0.0), "centre": (0.0, 0.0)}
    return {
        name: w[((x.abs() - torch.tensor(place)).abs().amax(-1) < 0.25)].sum().item()
        / {"corners": 4, "edges": 2, "centre": 1}[name]
        for name, place in near.items()
    }


def plot(x: Tensor, start: Tensor, design: Design, first: Tensor, path: Path) -> None:
    """The start, the gradient there, the result, and the certificate."""
    figure, axes = plt.subplots(1, 3, figsize=(12, 4), layout="constrained")
    side = round(len(x) ** 0.5)
    image = axes[0].imshow(
        first.reshape(side, side).T, origin="lower", extent=(-1, 1, -1, 1), cmap="viridis"
    )
    used = start > 0
    axes[0].plot(*x[used].T, "o", color="white", mec="black", clip_on=False)
    axes[0].set_title("gradient of det M at five points")
    figure.colorbar(image, ax=axes[0], shrink=0.8)
    axes[1].scatter(*x.T, s=2500 * design.w, color=BLUE, alpha=0.7, lw=0)
    axes[1].set(title="the optimal design", xlim=(-1.2, 1.2), ylim=(-1.2, 1.2), aspect="equal")
    axes[2].plot(design.excess, color=ORANGE)
    axes[2].axhline(0, color=GREY, lw=0.8)
    axes[2].set(title="certificate: 0 at the optimum", xlabel="step", yscale="log")
    for ax in axes[:2]:
        ax.grid(False)
        ax.set(xlabel="x", ylabel="y")
    save(figure, path)


def main(arguments: list[str] | None = None) -> Design:
    """Finds the design, and compares it with the known one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs/images"), help="for the figure")
    parser.add_argument("--points", type=from_to(2), default=21, help="candidates along each side")
    parser.add_argument("--steps", type=count, default=3000)
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    x = candidates(given.points)
    f = functions(x)
    n = given.points
    start = torch.zeros(len(x), dtype=torch.float64)
    start[[0, n - 1, n * (n - 1), n * n - 1, (n * n) // 2]] = 0.2  # corners and centre
    M = information(start, f)
    print(f"rank of M at the start: {torch.linalg.matrix_rank(M)} of {COEFFICIENTS}")
    exact = gradient(start, f, torchdet.det)
    for name, det in (("torchdet", torchdet.det), ("torch.linalg", torch.linalg.det)):
        g = gradient(start, f, det)
        print(f"largest component of the gradient of det M there, {name}: {g.max().item():.6f}")
    design = optimise(start, f, given.steps)
    print(f"log det M = {design.log_det[-1]:.6f}; no point would help by more than "
          f"{design.excess[-1]:.1e}")  # fmt: skip
    for name, weight in groups(x, design.w).items():
        print(f"  {name}: weight {weight:.4f} (literature {KNOWN[name]:.4f})")
    plot(x, start, design, exact, given.out / "optimal_design.png")
    return design


if __name__ == "__main__":
    main()
