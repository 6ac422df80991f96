"""A normalizing flow with dense linear layers, fitted to scikit-learn's handwritten digits.

A flow is an invertible map f from images to noise; the density it gives an image x is

    log p(x) = log N(f(x); 0, I) + log |det f'(x)|.

Here f alternates dense linear layers, x -> W x + b with a free 64 x 64 matrix W, and increasing
functions of each of the 64 coordinates. So log |det f'| is the sum over the layers of log |det W|,
which torchdet.slogdet computes and differentiates for all layers in one call, and of the logarithms
of the functions' slopes.

The pixels are whole numbers from 0 to 16. Uniform noise on [0, 1) makes them continuous, by which
the mean log-density becomes a lower bound of the log-probability of the whole numbers (in bits per
pixel; a uniform distribution takes log2(17) = 4.09), and a logit maps them to the whole line.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

import torchdet
from common import BLUE, GREY, ORANGE, count, save

SIDE = 8
N = SIDE * SIDE
LEVELS = 17
MARGIN = 1e-3  # keeps the logit away from its poles


def to_line(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Dequantises whole pixels and maps them to the line; also the log-slope of that map."""
    z = MARGIN + (1 - 2 * MARGIN) * (pixels + torch.rand_like(pixels)) / LEVELS
    log_slope = math.log((1 - 2 * MARGIN) / LEVELS) - z.log() - (1 - z).log()
    return torch.logit(z), log_slope.sum(-1)


def to_pixels(x: Tensor) -> Tensor:
    """Inverse of ``to_line``, without the rounding to whole pixels."""
    return ((torch.sigmoid(x) - MARGIN) / (1 - 2 * MARGIN) * LEVELS).clamp(0, LEVELS) - 0.5


class Increasing(nn.Module):
    """y = exp(s) x + sum_k a_k tanh(b_k (x - c_k)) with a, b > 0, for each coordinate by itself."""

    def __init__(self, terms: int = 8) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(N))
        self.raw_a = nn.Parameter(torch.full((terms, N), -3.0))
        self.log_b = nn.Parameter(torch.zeros(terms, N))
        self.c = nn.Parameter(torch.linspace(-2, 2, terms)[:, None].repeat(1, N))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The value y and the log-slope, summed over the coordinates."""
        scale, a, b = self.log_scale.exp(), functional.softplus(self.raw_a), self.log_b.exp()
        t = torch.tanh(b * (x[:, None, :] - self.c))
        slope = scale + (a * b * (1 - t * t)).sum(1)
        return scale * x + (a * t).sum(1), slope.log().sum(-1)

    def inverse(self, y: Tensor) -> Tensor:
        """Solves for x by bisection: y - exp(s) x lies within the sum of the a_k."""
        scale, reach = self.log_scale.exp(), functional.softplus(self.raw_a).sum(0)
        low, high = (y - reach) / scale, (y + reach) / scale
        for _ in range(40):
            middle = (low + high) / 2
            above = self(middle)[0] > y
            low, high = torch.where(above, low, middle), torch.where(above, middle, high)
        return (low + high) / 2


class Flow(nn.Module):
    """Increasing functions and a dense linear map, ``layers`` times, on standardised data."""

    def __init__(self, layers: int, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        orthogonal = [torch.linalg.qr(torch.randn(N, N)).Q for _ in range(layers)]
        self.W = nn.Parameter(torch.stack(orthogonal))
        self.b = nn.Parameter(torch.zeros(layers, N))
        self.increasing = nn.ModuleList(Increasing() for _ in range(layers))
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density of each row of x."""
        log_det = torchdet.slogdet(self.W).logabsdet.sum() - self.std.log().sum()
        x = (x - self.mean) / self.std
        for increasing, W, b in zip(self.increasing, self.W, self.b, strict=True):
            x, log_slope = increasing(x)
            x, log_det = x @ W.mT + b, log_det + log_slope
        return log_det - (x * x).sum(-1) / 2 - N / 2 * math.log(2 * math.pi)

    @torch.no_grad()
    def sample(self, count: int) -> Tensor:
        """Maps noise back through the layers."""
        x = torch.randn(count, N)
        layers = list(zip(self.increasing, self.W, self.b, strict=True))
        for increasing, W, b in reversed(layers):
            x = increasing.inverse(torch.linalg.solve(W, (x - b).mT).mT)
        return x * self.std + self.mean


def bits(log_prob: Tensor, log_slope: Tensor) -> Tensor:
    """Bits per pixel of the whole numbers, from the density on the line."""
    return -(log_prob + log_slope).mean() / (N * math.log(2))


@dataclass
class History:
    """Bits per pixel at the steps where the held-out digits are looked at."""

    steps: list[int] = field(default_factory=list)
    training: list[float] = field(default_factory=list)
    held_out: list[float] = field(default_factory=list)


def train(flow: Flow, training: Tensor, held_out: Tensor, steps: int, batch: int) -> History:
    """Maximum likelihood with Adam; fresh dequantisation noise at each step."""
    optimizer = torch.optim.Adam(flow.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    history = History()
    columns = (
        TextColumn("digits flow"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("held out {task.fields[held_out]:.3f} bits per pixel"),
    )
    with Progress(*columns) as progress:
        task = progress.add_task("", total=steps, held_out=math.nan)
        for step in range(steps + 1):
            x, log_slope = to_line(training[torch.randint(len(training), (batch,))])
            loss = bits(flow.log_prob(x), log_slope)
            if step % max(1, steps // 40) == 0 or step == steps:
                with torch.no_grad():
                    x, log_slope = to_line(held_out)
                    history.held_out.append(bits(flow.log_prob(x), log_slope).item())
                history.steps.append(step)
                history.training.append(loss.item())
                progress.update(task, held_out=history.held_out[-1])
            if step == steps:
                break
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(flow.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            progress.update(task, advance=1)
    return history


def gaussian_bits(training: Tensor, held_out: Tensor) -> float:
    """Held-out bits per pixel of a normal distribution fitted to the training digits.

    Linear layers alone give normal distributions: the increasing functions improve on this.
    """
    x, _ = to_line(training.repeat(8, 1))
    normal = torch.distributions.MultivariateNormal(x.mean(0), torch.cov(x.mT))
    x, log_slope = to_line(held_out)
    return bits(normal.log_prob(x), log_slope).item()


def sheet(images: Tensor, rows: int) -> Tensor:
    """Lays out rows * rows images as one, a pixel apart."""
    canvas = torch.zeros(rows, SIDE + 1, rows, SIDE + 1)
    canvas[:, :SIDE, :, :SIDE] = images.view(rows, rows, SIDE, SIDE).permute(0, 2, 1, 3)
    return canvas.reshape(rows * (SIDE + 1), rows * (SIDE + 1))[:-1, :-1]


def plot(history: History, baseline: float, digits: Tensor, samples: Tensor, path: Path) -> None:
    """Loss curves, digits and samples side by side."""
    figure, (curves, left, right) = plt.subplots(
        1, 3, figsize=(12.5, 4.0), width_ratios=(1.35, 1, 1), layout="constrained"
    )
    curves.plot(
        history.steps, history.training, color=ORANGE, label="training batch", linewidth=1.4
    )
    curves.plot(history.steps, history.held_out, color=BLUE, label="held-out digits", linewidth=2)
    curves.axhline(
        baseline, color=GREY, linestyle="--", linewidth=1.2, label="normal distribution, held out"
    )
    curves.set(
        title=f"Flow with dense 64×64 layers: {history.held_out[-1]:.2f} bits per pixel",
        xlabel="step",
        ylabel="bits per pixel",
        xlim=(0, history.steps[-1]),
    )
    curves.legend()
    for axes, images, title in ((left, digits, "held-out digits"), (right, samples, "samples")):
        axes.imshow(sheet(images, 8), cmap="gray_r", vmin=0, vmax=16, interpolation="nearest")
        axes.set_title(title)
        axes.set_axis_off()
    save(figure, path)


def main(arguments: list[str] | None = None) -> None:
    """Trains the flow and draws what it learned."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--out", type=Path, default=Path("docs/images"), help="folder for the figure"
    )
    parser.add_argument("--steps", type=count, default=600, help="steps of training")
    parser.add_argument("--layers", type=count, default=4, help="number of dense layers")
    parser.add_argument("--batch", type=count, default=256, help="digits in a step")
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the split, the noise and the layers"
    )
    given = parser.parse_args(arguments)

    torch.set_num_threads(1)  # steps this small lose more to waiting for threads than they gain
    torch.manual_seed(given.seed)
    pixels = torch.from_numpy(load_digits().data).float()
    pixels = pixels[torch.randperm(len(pixels))]
    held_out, training = pixels[:360], pixels[360:]

    x, _ = to_line(training)
    flow = Flow(given.layers, x.mean(0), x.std(0))
    history = train(flow, training, held_out, given.steps, given.batch)
    baseline = gaussian_bits(training, held_out)
    samples = to_pixels(flow.sample(64))
    plot(history, baseline, held_out[:64], samples, given.out / "digits_flow.png")
    print(
        f"held-out digits: {history.held_out[0]:.3f} -> {history.held_out[-1]:.3f} bits per pixel "
        f"(normal distribution {baseline:.3f}, uniform {math.log2(LEVELS):.3f})"
    )


if __name__ == "__main__":
    main()
