"""Compiled energies of tetrahedra: ``python -m bench.fusion``.

A simulation of an elastic body takes, at every step, the gradient of a sum over tetrahedra. Each
has a deformation gradient F = Ds inv(Dm), a 3 x 3 matrix, and an energy of F with its determinant.
Here such energies and their gradients by Ds are compiled by torch.compile: with torchdet, with
torchdet's operators in place of the pointwise code that inductor makes of them, with the
determinant written out by hand, and with torch.linalg. All sides take turns; a ratio is taken round
by round.

Some tetrahedra are flat and some inverted. Their gradients, and those of others, are compared with
rational arithmetic; sides that are off by more than their format explains are marked as wrong.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import torchdet
from bench import machine
from bench.files import write_json
from bench.timing import Spread
from torchdet import _inductor

RESULT = Path(__file__).parents[1] / "out" / "bench" / "fusion.json"
TETRAHEDRA = 200_000
OPERATORS, BY_HAND = "torchdet, operators", "by hand"
CHECKED = 60  # a third of them flat, a third inverted
DTYPES = (torch.float32, torch.float64)
Determinant = Callable[[Tensor], Tensor]
Energy = Callable[[Tensor, Tensor, Tensor], Tensor]
Step = Callable[[Tensor, Tensor, Tensor], Tensor]


def by_hand(F: Tensor) -> Tensor:
    """The determinant as people write it."""
    (a, b, c), (d, e, f), (g, h, i) = (row.unbind(-1) for row in F.unbind(-2))
    return a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)


def by_operators(F: Tensor) -> Tensor:
    """torchdet.det, as a function of its own for torch.compile's caches."""
    return torchdet.det(F)


def gradient_of(Ds: Tensor, inverse: Tensor) -> Tensor:
    """Ds @ inverse, as sums of products: torch.compile's code for them joins what comes after."""
    return (Ds.unsqueeze(-1) * inverse.unsqueeze(-3)).sum(-2)


def square(det: Determinant) -> Energy:
    """Volumes are to stay as they are: defined for every matrix."""

    def energy(Ds: Tensor, inverse: Tensor, volume: Tensor) -> Tensor:
        return (volume * (det(gradient_of(Ds, inverse)) - 1) ** 2).sum()

    return energy


def neo_hookean(det: Determinant) -> Energy:
    """Compressible neo-Hookean, for regular elements: mu = lambda = 1, of log |J|."""

    def energy(Ds: Tensor, inverse: Tensor, volume: Tensor) -> Tensor:
        F = gradient_of(Ds, inverse)
        log = det(F).abs().log()
        density = 0.5 * ((F * F).sum((-2, -1)) - 3) - log + 0.5 * log * log
        return (volume * density).sum()

    return energy


ENERGIES = {"(det F - 1)^2": square, "neo-Hookean": neo_hookean}
SIDES: dict[str, Determinant] = {
    "torchdet": torchdet.det,
    OPERATORS: by_operators,
    BY_HAND: by_hand,
    "torch.linalg": torch.linalg.det,
}
EAGER = "torchdet, eager"


def tetrahedra(number: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Deformed edges, inverses of the edges at rest, volumes; the first CHECKED are the hard ones.

    Of those, thirds are regular, flat (to rounding, or exactly) and inverted. At rest their edges
    are unit vectors, so that F = Ds exactly.
    """
    generator = torch.Generator().manual_seed(0)

    def normal() -> Tensor:
        return torch.randn(number, 3, 3, generator=generator, dtype=torch.float64)

    rest = torch.eye(3, dtype=torch.float64) + 0.1 * normal()
    deformed, inverse = rest + 0.02 * normal(), torch.linalg.inv(rest)
    hard, third = slice(0, CHECKED), CHECKED // 3
    inverse[hard] = torch.eye(3, dtype=torch.float64)
    deformed[third : 2 * third, :, 2] = deformed[third : 2 * third, :, :2].sum(-1)
    deformed[2 * third : CHECKED, :, 0] *= -1
    volume = torch.ones(number, dtype=torch.float64)
    return deformed.to(dtype), inverse.to(dtype), volume.to(dtype)


def step(energy: Energy) -> Step:
    """The gradient by Ds."""

    def gradient(Ds: Tensor, inverse: Tensor, volume: Tensor) -> Tensor:
        leaf = Ds.detach().requires_grad_()
        return torch.autograd.grad(energy(leaf, inverse, volume), leaf)[0]

    return gradient


def compiled(side: str, energy: Energy, args: tuple[Tensor, ...]) -> Step:
    """The step with its code, which is made at the first call."""
    devices = _inductor.DEVICES
    _inductor.DEVICES = () if side == OPERATORS else devices
    try:
        gradient = step(torch.compile(energy, fullgraph=True))
        gradient(*args)
    finally:
        _inductor.DEVICES = devices
    return gradient


# ---- what is right


def exact_gradient(F: Tensor) -> np.ndarray:
    """2 (det F - 1) C(F), correctly rounded."""
    a = [[Fraction(float(x)) for x in row] for row in F]
    C = [
        [
            a[(i + 1) % 3][(j + 1) % 3] * a[(i + 2) % 3][(j + 2) % 3]
            - a[(i + 1) % 3][(j + 2) % 3] * a[(i + 2) % 3][(j + 1) % 3]
            for j in range(3)
        ]
        for i in range(3)
    ]
    det = sum(x * y for x, y in zip(a[0], C[0], strict=True))
    return np.array([[float(2 * (det - 1) * x) for x in row] for row in C])


def error(gradient: Tensor, Ds: Tensor) -> float:
    """The largest error of a gradient of (det F - 1)^2, in units of its format.

    A change of F by 3 eps |F| moves det F by 3 eps |F| |C| and C by 6 eps |F|, to first order; |F|
    |C| is at least 3 |det F|. So the gradient moves by the sum of both, which is the unit.
    """
    eps, worst = torch.finfo(Ds.dtype).eps, 0.0
    for F, G in zip(Ds[:CHECKED], gradient[:CHECKED], strict=True):
        true = exact_gradient(F)
        a = F.double().numpy()
        size = np.linalg.norm(a)
        C = np.linalg.norm(np.cross(a[[1, 2, 0]], a[[2, 0, 1]]))
        det = float(np.linalg.det(a))
        unit = 2 * 3 * eps * size * (C * C + 2 * abs(det - 1))
        worst = max(worst, float(np.linalg.norm(G.double().numpy() - true)) / unit)
    return worst


# ---- measuring


def seconds(call: Callable[[], object]) -> float:
    """Of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def measure(name: str, dtype: torch.dtype, number: int, rounds: int) -> dict[str, object]:
    """All sides of one energy."""
    args = tetrahedra(number, dtype)
    if name == "neo-Hookean":  # flat elements have no such energy
        args = tuple(x[CHECKED:] for x in args)  # type: ignore[assignment]
    energy = ENERGIES[name]
    steps = {side: compiled(side, energy(det), args) for side, det in SIDES.items()}
    steps[EAGER] = step(energy(torchdet.det))
    errors = {}
    if name != "neo-Hookean":
        errors = {side: error(gradient(*args), args[0]) for side, gradient in steps.items()}
    times: dict[str, list[float]] = {side: [] for side in steps}
    for k in range(rounds):
        for side in list(steps)[:: 1 if k % 2 == 0 else -1]:
            gradient = steps[side]
            times[side].append(seconds(lambda gradient=gradient: gradient(*args)))
    hand = times[BY_HAND]
    return {
        "energy": name,
        "dtype": str(dtype).removeprefix("torch."),
        "tetrahedra": len(args[0]),
        "seconds": {side: asdict(Spread.of(values)) for side, values in times.items()},
        "ratio": {
            side: asdict(Spread.of([x / y for x, y in zip(hand, values, strict=True)]))
            for side, values in times.items()
            if side != BY_HAND
        },
        "error": errors,
    }


def main() -> None:
    """Print a line for each energy and dtype, and write the file."""
    parser = argparse.ArgumentParser(prog="python -m bench.fusion", description=__doc__)
    parser.add_argument("--tetrahedra", type=int, default=TETRAHEDRA)
    parser.add_argument("--rounds", type=int, default=21, help="of interleaved measurements")
    parser.add_argument("--minutes", type=float, default=60.0, help="leave out what is later")
    parser.add_argument("--json", type=Path, default=RESULT, help="the file of the result")
    options = parser.parse_args()
    end = time.monotonic() + 60 * options.minutes
    torch.set_num_threads(1)
    torch._dynamo.config.recompile_limit = 64  # two energies, two dtypes, four sides share code
    results, stopped = [], None
    for name in ENERGIES:
        for dtype in DTYPES:
            if time.monotonic() > end:
                stopped = "out of time"
                break
            result = measure(name, dtype, options.tetrahedra, options.rounds)
            results.append(result)
            print(f"{name}, {result['dtype']}: time by hand / times of the others", flush=True)
            for side, ratio in result["ratio"].items():  # type: ignore[attr-defined]
                off = result["error"].get(side)  # type: ignore[attr-defined]
                mark = "" if off is None else f", error {off:.2g} units"
                spread = f"{ratio['median']:.2f} ({ratio['q25']:.2f}-{ratio['q75']:.2f})"
                print(f"  {side:20} {spread}{mark}")
    facts = {"machine": machine.facts(), "threads": 1, "rounds": options.rounds}
    write_json(facts | {"energies": results, "stopped": stopped}, options.json)
    print(f"wrote {options.json}")


if __name__ == "__main__":
    main()
