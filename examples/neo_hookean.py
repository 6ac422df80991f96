"""A solid pressed flat springs back: a mesh of a hundred thousand tetrahedra, from det F = 0.

The deformation gradient F of a tetrahedron is its edges now times the inverse of its edges at
rest. J = det F is its volume now beside that at rest: 0 for a flat element, negative for an
inverted one. The solid starts in a plane, so that every one of its elements is exactly flat, with
its vertices scattered in the plane, so that many of them are inverted as soon as they leave it.

(1) Untangling, after Garanzha, Kaporin, Kudryavtseva, Protais, Ray and Sokolov, Foldover-free
    maps in 50 lines of code, ACM Trans. Graph. 40 (2021): with chi(J) = (J + sqrt(J^2 + e^2)) /
    2, the energy |F|^2 / chi^(2/3) + (J^2 + 1) / chi is defined for every F. Its gradient has the
    cofactors of F as a factor, and leads out of the plane. e shrinks until no element is
    nearly flat.
(2) Then the neo-Hookean energy takes over, with its barrier against inversion: mu/2 (|F|^2 - 3) -
    mu log J + lambda/2 (log J)^2. Its minimum is the solid at rest.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from mpl_toolkits.mplot3d.art3d import Poly3DCollection
from rich.progress import track
from torch import Tensor

import torchdet
from common import BLUE, GREY, ORANGE, count, from_to, save

MU, LAMBDA = 1.0, 4.0
Determinant = Callable[[Tensor], Tensor]
Density = Callable[[Tensor, Determinant], Tensor]


@dataclass
class Mesh:
    """A twisted bar of tetrahedra, six to a cube."""

    rest: Tensor  # (vertices, 3)
    tetrahedra: Tensor  # (elements, 4)
    inverse: Tensor  # (elements, 3, 3): of the edges at rest
    volume: Tensor  # (elements,)
    surface: Tensor  # (triangles, 3)
    cells: tuple[int, int, int]

    def deformation(self, x: Tensor) -> Tensor:
        """F of all elements, the vertices being at x."""
        corner = x[self.tetrahedra]
        edges = (corner[:, 1:] - corner[:, :1]).mT
        return edges @ self.inverse


def bar(cells: tuple[int, int, int], dtype: torch.dtype = torch.float32) -> Mesh:
    """A bar of unit cubes whose cross-section turns by a quarter along its length."""
    nx, ny, nz = cells
    grid = torch.meshgrid(*(torch.arange(n + 1, dtype=dtype) for n in cells), indexing="ij")
    points = torch.stack(grid, -1).reshape(-1, 3)
    angle = points[:, 0] / nx * math.pi / 2
    y, z = points[:, 1] - ny / 2, points[:, 2] - nz / 2
    cosine, sine = angle.cos(), angle.sin()
    rest = torch.stack([points[:, 0], cosine * y - sine * z, sine * y + cosine * z], -1)

    def number(i: Tensor, j: Tensor, k: Tensor) -> Tensor:
        return (i * (ny + 1) + j) * (nz + 1) + k

    i, j, k = (g.reshape(-1) for g in torch.meshgrid(*map(torch.arange, cells), indexing="ij"))
    elements = []
    for first in range(
        3
    ):  # Kuhn's division: the paths along the edges from a corner to the opposite
        for second in range(3):
            if second != first:
                step = torch.zeros(4, 3, dtype=torch.long)
                step[1:, first] = 1
                step[2:, second] = 1
                step[3] = 1
                elements.append(
                    torch.stack([number(i + a, j + b, k + c) for a, b, c in step.tolist()], -1)
                )
    tetrahedra = torch.cat(elements)
    edges = (rest[tetrahedra[:, 1:]] - rest[tetrahedra[:, :1]]).mT
    volume = torchdet.det(edges)
    inverted = volume < 0
    tetrahedra[inverted] = tetrahedra[inverted][:, [0, 1, 3, 2]]
    edges = (rest[tetrahedra[:, 1:]] - rest[tetrahedra[:, :1]]).mT
    return Mesh(
        rest, tetrahedra, torch.linalg.inv(edges), volume.abs() / 6, _faces(tetrahedra), cells
    )


def _faces(tetrahedra: Tensor) -> Tensor:
    """The triangles that belong to one element only."""
    faces = torch.cat([tetrahedra[:, [1, 2, 3]], tetrahedra[:, [0, 3, 2]], tetrahedra[:, [0, 1, 3]],
                       tetrahedra[:, [0, 2, 1]]])  # fmt: skip
    _, which, count = faces.sort(-1).values.unique(dim=0, return_inverse=True, return_counts=True)
    return faces[count[which] == 1]


def flattened(mesh: Mesh, scatter: float, generator: torch.Generator) -> Tensor:
    """The vertices in the plane z = 0, moved in it at random; the bar's two ends are held."""
    x = mesh.rest.clone()
    x[:, 2] = 0.0
    x[:, :2] += scatter * torch.randn(x[:, :2].shape, generator=generator)
    return torch.where(held(mesh)[:, None], mesh.rest, x)


def held(mesh: Mesh) -> Tensor:
    """Vertices at the two ends."""
    return (mesh.rest[:, 0] < 0.5) | (mesh.rest[:, 0] > mesh.cells[0] - 0.5)


def untangling(epsilon: float) -> Density:
    """(1), for every F."""

    def density(F: Tensor, det: Determinant) -> Tensor:
        J = det(F)
        chi = (J + (J.square() + epsilon**2).sqrt()) / 2
        return F.square().sum((-2, -1)) / chi ** (2 / 3) + (J.square() + 1) / chi

    return density


def neo_hookean(F: Tensor, det: Determinant) -> Tensor:
    """(2), for J > 0."""
    J = det(F)
    log_J = torch.where(J > 0, J, torch.nan).log()
    return MU / 2 * (F.square().sum((-2, -1)) - 3) - MU * log_J + LAMBDA / 2 * log_J.square()


def by_hand(F: Tensor) -> Tensor:
    """The closed form that everybody writes."""
    a, b, c = F.unbind(-1)
    return (a * torch.linalg.cross(b, c)).sum(-1)


def energy_and_gradient(
    mesh: Mesh, x: Tensor, density: Density, det: Determinant
) -> tuple[Tensor, Tensor]:
    """Of the whole solid, the vertices being at x."""
    x = x.detach().requires_grad_()
    energy = (mesh.volume * density(mesh.deformation(x), det)).sum()
    (gradient,) = torch.autograd.grad(energy, x)
    return energy.detach(), gradient


@dataclass
class History:
    """What happened, at each evaluation of the energy."""

    energy: list[float]
    negative: list[int]  # elements with J <= 0
    untangled: int | None = None  # the evaluation at which (2) begins


class Relaxation:
    """L-BFGS: (1) until all J are positive, and then (2)."""

    def __init__(self, mesh: Mesh, x: Tensor) -> None:
        self.mesh, self.x, self.free = mesh, x.clone(), ~held(mesh)
        self.moving = x[self.free].clone().requires_grad_()
        self.history = History([], [])
        self.density: Density = neo_hookean

    def positions(self) -> Tensor:
        """Of all vertices."""
        x = self.x.clone()
        x[self.free] = self.moving
        return x

    def evaluate(self) -> Tensor:
        """The energy; its gradient goes to `moving`."""
        self.moving.grad = None
        F = self.mesh.deformation(self.positions())
        energy = (self.mesh.volume * self.density(F, torchdet.det)).sum()
        energy.backward()
        self.history.energy.append(energy.item())
        self.history.negative.append(int((torchdet.det(F.detach()) <= 0).sum()))
        return energy

    def untangle(self, rounds: int) -> None:
        """(1), in rounds of fifty steps, until no J is below a half."""
        epsilon = 1.0
        for _ in track(range(rounds), "untangling", transient=True):
            self.density = untangling(epsilon)
            optimizer = torch.optim.LBFGS(
                [self.moving], max_iter=50, history_size=20, line_search_fn="strong_wolfe"
            )
            optimizer.step(self.evaluate)
            epsilon *= 0.9
            with torch.no_grad():
                J = torchdet.det(self.mesh.deformation(self.positions()))
            if J.min() > 0.5:
                self.history.untangled = len(self.history.energy)
                break

    def settle(self, steps: int) -> None:
        """(2); a step that meets the barrier is taken back, and halved from then on."""
        self.density, rate = neo_hookean, 1.0
        optimizer = torch.optim.LBFGS([self.moving], max_iter=1, history_size=20)
        for _ in track(range(steps), "settling", transient=True):
            before = self.moving.detach().clone()
            optimizer.step(self.evaluate)
            with torch.no_grad():
                J = torchdet.det(self.mesh.deformation(self.positions()))
            if not bool((J > 0).all()):
                self.moving.data.copy_(before)
                rate /= 2
                optimizer = torch.optim.LBFGS([self.moving], rate, max_iter=1, history_size=20)


def times(mesh: Mesh, x: Tensor) -> dict[str, float]:
    """Milliseconds of energy and gradient by three determinants; the least of nine rounds."""
    best: dict[str, float] = {}
    density = untangling(1.0)
    dets = {"torch.linalg.det": torch.linalg.det, "by hand": by_hand, "torchdet.det": torchdet.det}
    for _ in range(9):
        for name, det in dets.items():
            begin = time.perf_counter()
            F = mesh.deformation(x).detach().requires_grad_()
            torch.autograd.grad((mesh.volume * density(F, det)).sum(), F)
            took = 1e3 * (time.perf_counter() - begin)
            best[name] = min(best.get(name, math.inf), took)
    return best


def draw(axes: plt.Axes, mesh: Mesh, x: Tensor, title: str) -> None:
    """The surface of the solid."""
    triangles = x[mesh.surface]
    normal = torch.linalg.cross(
        triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0]
    )
    normal = normal / normal.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    light = (0.35 + 0.65 * (normal @ torch.tensor([0.3, -0.6, 0.74])).abs()).clamp(0, 1)
    base = torch.tensor([0.20, 0.52, 0.78])
    axes.add_collection3d(
        Poly3DCollection(triangles.numpy(), facecolors=(light[:, None] * base).numpy(), linewidth=0)
    )
    low, high = mesh.rest.min(0).values - 1, mesh.rest.max(0).values + 1
    axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), zlim=(low[2], high[2]))
    axes.set_box_aspect((high - low).tolist(), zoom=1.1)
    axes.view_init(22, -65)
    axes.set_axis_off()
    axes.set_title(title, y=0.92)


def plot(mesh: Mesh, states: dict[str, Tensor], history: History, path: Path) -> None:
    """The solid before and after, and the elements that were flat or inverted."""
    figure = plt.figure(figsize=(11, 6.4), layout="constrained")
    grid = figure.add_gridspec(2, len(states), height_ratios=(1.4, 1))
    for k, (title, x) in enumerate(states.items()):
        draw(figure.add_subplot(grid[0, k], projection="3d"), mesh, x, title)
    axes = figure.add_subplot(grid[1, :])
    axes.plot(history.energy, color=BLUE, label="energy")
    axes.set(yscale="log", xlabel="evaluations of the energy", ylabel="energy")
    if history.untangled is not None:
        axes.axvline(history.untangled, color=GREY, ls="--")
        axes.text(
            history.untangled,
            axes.get_ylim()[1],
            " barrier on",
            va="top",
            color=GREY,
        )
    other = axes.twinx()
    other.plot(history.negative, color=ORANGE)
    other.set_ylabel("elements with J ≤ 0", color=ORANGE)
    other.grid(False)
    save(figure, path)


def main(arguments: list[str] | None = None) -> History:
    """Presses the bar flat, and lets it go."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs/images"), help="for the figure")
    parser.add_argument(
        "--cells", type=from_to(2), nargs=3, default=(80, 24, 10), help="cubes along each side"
    )
    parser.add_argument("--rounds", type=count, default=30, help="of untangling, at most")
    parser.add_argument("--steps", type=count, default=400, help="after that")
    parser.add_argument("--scatter", type=float, default=0.1, help="of the vertices in the plane")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    mesh = bar(tuple(given.cells))
    x = flattened(mesh, given.scatter, torch.Generator().manual_seed(given.seed))
    J = torchdet.det(mesh.deformation(x))
    print(f"{len(mesh.tetrahedra)} tetrahedra, {len(x)} vertices; at the start "
          f"{int((J == 0).sum())} exactly flat, {int((J < 0).sum())} inverted")  # fmt: skip

    relaxation = Relaxation(mesh, x)
    relaxation.untangle(given.rounds)
    history = relaxation.history
    if history.untangled is not None:
        relaxation.settle(given.steps)
    end = relaxation.positions().detach()
    J = torchdet.det(mesh.deformation(end))
    print(f"untangled after {history.untangled} evaluations; at the end J is between "
          f"{J.min():.3f} and {J.max():.3f}, energy {history.energy[-1]:.4g}")  # fmt: skip

    inner = ~held(mesh)
    forces = {
        name: energy_and_gradient(mesh, x, untangling(1.0), det)[1][inner]
        for name, det in {"torchdet": torchdet.det, "torch.linalg": torch.linalg.det}.items()
    }
    exact = bar(mesh.cells, torch.float64)
    truth = energy_and_gradient(exact, x.double(), untangling(1.0), by_hand)[1][inner]
    for name, force in forces.items():
        error = ((force - truth).norm() / truth.norm()).item()
        print(f"forces at the start, {name}: relative error {error:.1e}")
    for name, milliseconds in times(mesh, x).items():
        print(f"  energy density and its gradient by F with {name}: {milliseconds:.1f} ms")
    states = {"pressed flat": x, "released": end, "at rest": mesh.rest}
    plot(mesh, states, history, given.out / "neo_hookean.png")
    return history


if __name__ == "__main__":
    main()
