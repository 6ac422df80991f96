"""A determinantal point process learns which handwritten digits go together, and then chooses some.

A determinantal point process with kernel L chooses the set Y with probability det(L_Y) / det(L +
I): similar items make L_Y nearly singular, so they seldom come together. Here the items are
images of digits, and each observed set has images of different digits, at random. L = B B^T, with
one row of B for each image, made by a small network; so the process can be asked about images
that it has not seen.

The exact log-likelihood of all sets is one call of torchdet.principal_minors. Afterwards the most
probable set of ten images is built greedily, of images that were held out, before and after
learning.

At the end the question that kernels of low rank ask: the derivative of a probability that is zero.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from rich.progress import track
from sklearn.datasets import load_digits
from torch import Tensor, nn

import torchdet
from common import BLUE, count, from_to, save

SIZE = 10  # of the set that is chosen


@dataclass
class Data:
    """Images and labels; the labels are never shown to the process."""

    images: Tensor  # (count, 64), in [0, 1]
    labels: Tensor


def split(seed: int, training: int, held_out: int) -> tuple[Data, Data]:
    """Two disjoint sets of images."""
    digits = load_digits()
    images = torch.from_numpy(digits.data).double() / 16
    labels = torch.from_numpy(digits.target)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    first, second = order[:training], order[training : training + held_out]
    return Data(images[first], labels[first]), Data(images[second], labels[second])


def observed_sets(labels: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Sets of two to eight images, each of another digit; (count, 8), -1 where there is none."""
    members = [torch.nonzero(labels == digit).reshape(-1) for digit in range(10)]
    index = torch.full((count, 8), -1)
    for row in index:
        size = int(torch.randint(2, 9, (), generator=generator))
        for place, digit in enumerate(torch.randperm(10, generator=generator)[:size].tolist()):
            choice = torch.randint(len(members[digit]), (), generator=generator)
            row[place] = members[digit][choice]
    return index


class Features(nn.Module):
    """Rows of B: a direction and a length for each image."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, rank)).double()
        self.log_length = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def kernel(self, images: Tensor) -> Tensor:
        """L of these images."""
        B = nn.functional.normalize(self.body(images), dim=-1) * self.log_length.exp()
        return B @ B.mT


def log_likelihood(L: Tensor, index: Tensor) -> Tensor:
    """The mean over the observed sets."""
    identity = torch.eye(len(L), dtype=L.dtype)
    minors = torchdet.principal_minors(L, index, log=True)
    return minors.mean() - torchdet.logdet(L + identity)


def greedy(L: Tensor, size: int) -> list[int]:
    """Items one by one, each the one that makes det(L_Y) largest."""
    chosen: list[int] = []
    for _ in range(size):
        rest = torch.tensor([i for i in range(len(L)) if i not in chosen])
        index = torch.cat(
            [torch.tensor(chosen, dtype=torch.long).expand(len(rest), -1), rest[:, None]], 1
        )
        chosen.append(int(rest[torchdet.principal_minors(L, index, log=True).argmax()]))
    return chosen


def learn(
    features: Features, data: Data, steps: int, batch: int, generator: torch.Generator
) -> list[float]:
    """Adam on the log-likelihood of new sets at each step."""
    optimizer = torch.optim.Adam(features.parameters(), lr=0.003)
    history = []
    for _ in track(range(steps), "learning"):
        index = observed_sets(data.labels, batch, generator)
        loss = -log_likelihood(features.kernel(data.images), index)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(-loss.item())
    return history


def ask_for_zero_probability() -> None:
    """The derivative of a minor of a kernel with two equal items, by both libraries."""
    b = torch.tensor([[1.0, 0.0, 2.0], [1.0, 0.0, 2.0], [0.0, 1.0, 1.0]], dtype=torch.float64)
    L = b @ b.mT  # items 0 and 1 are the same: det(L) = 0
    index = torch.tensor([[0, 1, 2]])
    for name in ("torch.linalg", "torchdet"):
        A = L.clone().requires_grad_()
        if name == "torchdet":
            value = torchdet.principal_minors(A, index).sum()
        else:
            value = torch.linalg.det(A)
        (gradient,) = torch.autograd.grad(value, A)
        print(f"derivative of det(L) by L_00 at two equal items, {name}: {gradient[0, 0]:.6g}")
    print(f"the truth, the minor without item 0: {L[1, 1] * L[2, 2] - L[1, 2] ** 2:.6g}")


def strip(axes: Axes, data: Data, chosen: list[int], title: str) -> None:
    """The chosen images side by side."""
    row = torch.cat([torch.nn.functional.pad(data.images[i].reshape(8, 8), (1, 1, 1, 1), value=0.5)
                     for i in chosen], 1)  # fmt: skip
    axes.imshow(row, cmap="gray_r", vmin=0, vmax=1)
    axes.set_title(title, loc="left")
    axes.set_axis_off()


def main(arguments: list[str] | None = None) -> tuple[int, int]:
    """Learns, and chooses before and after; returns how many digits there are in each choice."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs/images"), help="for the figure")
    parser.add_argument("--steps", type=count, default=300)
    parser.add_argument("--batch", type=count, default=200, help="observed sets in a step")
    parser.add_argument(
        "--images", type=from_to(50, 898), default=200, help="to learn from; as many are held out"
    )
    parser.add_argument("--rank", type=count, default=24, help="columns of B")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    torch.manual_seed(given.seed)
    generator = torch.Generator().manual_seed(given.seed)
    data, held_out = split(given.seed, given.images, given.images)
    features = Features(given.rank)

    def choose() -> list[int]:
        with torch.no_grad():
            return greedy(features.kernel(held_out.images), SIZE)

    before = choose()
    history = learn(features, data, given.steps, given.batch, generator)
    after = choose()
    with torch.no_grad():
        sets = observed_sets(held_out.labels, 1000, generator)
        score = log_likelihood(features.kernel(held_out.images), sets).item()
    uniform = -len(held_out.labels) * math.log(2)
    print(f"log-likelihood of a set: {history[0]:.2f} -> {history[-1]:.2f}; of held-out images "
          f"{score:.2f} (each subset equally likely: {uniform:.2f})")  # fmt: skip
    digits = [len(set(held_out.labels[chosen].tolist())) for chosen in (before, after)]
    print(f"different digits among {SIZE} chosen images: {digits[0]} before, {digits[1]} after")
    ask_for_zero_probability()

    figure = plt.figure(figsize=(9, 5.4), layout="constrained")
    grid = figure.add_gridspec(3, 1, height_ratios=(1, 1, 2.2))
    strip(
        figure.add_subplot(grid[0]),
        held_out,
        before,
        f"chosen before learning: {digits[0]} different digits",
    )
    strip(
        figure.add_subplot(grid[1]),
        held_out,
        after,
        f"chosen after learning: {digits[1]} different digits",
    )
    axes = figure.add_subplot(grid[2])
    axes.plot(history, color=BLUE)
    axes.set(xlabel="step", ylabel="log-likelihood of a set")
    save(figure, given.out / "point_process.png")
    return digits[0], digits[1]


if __name__ == "__main__":
    main()
