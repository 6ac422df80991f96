"""Sums of determinants as wave functions take them: ``python -m bench.wavefunction``.

Value, gradient and local energy of K determinants for many walkers, and training steps of a small
network (bench/network.py): by torch.linalg with log-sum-exp as it is written by hand, by the same
code with torchdet.slogsumdet, and by torchdet.slogsumdet_laplacian. All sides take turns; a ratio
is taken round by round. The answers for the first and the last walker are compared with long double
(bench/energies.py); those that are off by more than their format explains are marked as wrong.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import track
from torch import Tensor

import torchdet
from bench import machine
from bench.energies import Answer, Walker
from bench.files import write_json
from bench.network import Carried, Network, logarithm
from bench.timing import Spread

RESULT = Path(__file__).parents[1] / "out" / "bench" / "wavefunction.json"
ORDERS = (2, 4, 8, 16, 32, 64)
TERMS = (1, 16)
WALKERS = (1, 32, 1024)
TRAINED = ((4, 16, 128), (8, 16, 64), (14, 16, 32), (14, 1, 32), (28, 16, 8))
NUMBERS = 1 << 23  # the most of a case's matrices, with their derivatives
STEPS = 10  # of the walk between two energies
BY_HAND = "torch.linalg"
OURS = ("slogsumdet", "slogsumdet_laplacian")
OTHERS = (OURS[0], "torch.linalg.inv", OURS[1])
LONGEST = 3.0  # seconds of all rounds of a case, which has two rounds at least
Call = Callable[[], Any]


@dataclass
class Sum:
    """K matrices for each walker, with d derivatives and a Laplacian."""

    A: Tensor
    J: Tensor
    L: Tensor
    rows: bool

    @classmethod
    def random(cls, n: int, K: int, walkers: int, rows: bool, d: int) -> Sum:
        """Normal numbers; d coordinates in all, or for each row."""
        generator = torch.Generator().manual_seed(n)

        def normal(*shape: int) -> Tensor:
            return torch.randn(walkers, K, *shape, generator=generator, dtype=torch.float64)

        return cls(normal(n, n), normal(*((n, d) if rows else (d, n)), n), normal(n, n), rows)

    def walker(self, index: int) -> Walker:
        """For the truth: with rows, a coordinate moves one row only."""
        A, J, L = (X[index].numpy() for X in (self.A, self.J, self.L))
        if self.rows:
            K, n, d, _ = J.shape
            dense = np.zeros((K, n, d, n, n))
            dense[:, np.arange(n), :, np.arange(n)] = J.swapaxes(0, 1)
            J = dense.reshape(K, n * d, n, n)
        return Walker([(A, J, L)])

    def moved(self, x: Tensor, A: Tensor, J: Tensor, L: Tensor) -> Tensor:
        """The matrices of one walker at coordinates x, whose derivatives at 0 are J and L."""
        change = (x.unsqueeze(-1) * J).sum(-2) if self.rows else torch.tensordot(x, J, 1)
        return A + change + x.square().sum() / (2 * x.numel()) * L

    def energy_by_transforms(self, stock: bool) -> Call:
        """As for any function: forward over reverse mode, coordinate by coordinate."""
        d = self.J.shape[3 if self.rows else 2]
        x = self.A.new_zeros((self.A.shape[-1], d) if self.rows else (d,))
        eye = torch.eye(x.numel(), dtype=x.dtype).view(-1, *x.shape)

        def one(A: Tensor, J: Tensor, L: Tensor) -> Tensor:
            def log(x: Tensor) -> Tensor:
                return logarithm([self.moved(x, A, J, L)], None, stock)

            def second(v: Tensor) -> Tensor:
                return (torch.func.jvp(torch.func.grad(log), (x,), (v,))[1] * v).sum()

            g = torch.func.grad(log)(x)
            return -0.5 * (torch.func.vmap(second)(eye).sum() + g.square().sum())

        # The product with x wants the coordinates in front.
        J = self.J if self.rows else self.J.transpose(1, 2).contiguous()
        return lambda: torch.func.vmap(one)(self.A, J, self.L)

    def energy_by_inverse(self) -> Tensor:
        """As it is written by hand: traces of A^-1 dA, where no matrix is singular."""
        A, J, L = self.A, self.J, self.L
        X = torch.linalg.inv(A)
        sign, log = torch.linalg.slogdet(A)
        D = sign * (log - log.amax(-1, keepdim=True)).exp()
        D = D / D.sum(-1, keepdim=True)
        of_L = torch.einsum("wkij,wkji->wk", X, L)
        if self.rows:
            g = torch.einsum("wkcr,wkrdc->wkrd", X, J).flatten(2)
            second = of_L
        else:
            Y = X.unsqueeze(2) @ J
            g = Y.diagonal(dim1=-2, dim2=-1).sum(-1)
            second = of_L + g.square().sum(-1) - (Y * Y.mT).sum((-3, -2, -1))
        return -0.5 * (D * second).sum(-1)

    def energy_in_one_pass(self) -> Tensor:
        """By torchdet.slogsumdet_laplacian."""
        out = torchdet.slogsumdet_laplacian([self.A], [self.J], [self.L], rows=self.rows)
        squares = out.derivatives.square()
        return -0.5 * (out.laplacian + (squares.sum((-2, -1)) if self.rows else squares.sum(-1)))


@dataclass
class Case:
    """The calls of one operation by who computes it, and the truth for single walkers."""

    op: str
    calls: dict[str, Call]
    truth: Callable[[int], Answer]
    walkers: int


def sums(n: int, K: int, walkers: int) -> list[Case]:
    """The operations of K determinants of order n; those that are too large are left out."""
    numbers = walkers * K * n * n
    if numbers > NUMBERS:
        return []
    plain = Sum.random(n, K, walkers, True, 1)
    leaf = plain.A.requires_grad_()

    def walker(index: int) -> Walker:
        return Walker([(leaf.detach()[index].numpy(), None, None)])

    def value(stock: bool) -> Call:
        A = leaf.detach()
        return lambda: logarithm([A], None, stock)

    def gradient(stock: bool) -> Call:
        return lambda: torch.autograd.grad(logarithm([leaf], None, stock).sum(), leaf)[0]

    cases = [
        Case(
            "value",
            {BY_HAND: value(True), OURS[0]: value(False)},
            lambda index: walker(index).logarithm(),
            walkers,
        ),
        Case(
            "gradient",
            {BY_HAND: gradient(True), OURS[0]: gradient(False)},
            lambda index: walker(index).gradient(0),
            walkers,
        ),
    ]
    for rows, d in ((False, 3 * n), (True, 3)):
        if numbers * 3 * n > NUMBERS:
            continue
        case = Sum.random(n, K, walkers, rows, d)
        calls = {
            BY_HAND: case.energy_by_transforms(True),
            OURS[0]: case.energy_by_transforms(False),
            OTHERS[1]: case.energy_by_inverse,
            OURS[1]: case.energy_in_one_pass,
        }
        name = "local energy, rows" if rows else "local energy"
        energy = lambda index, case=case: case.walker(index).energy()  # noqa: E731
        cases.append(Case(name, calls, energy, walkers))
    return cases


def training_step(particles: int, K: int, walkers: int) -> Case:
    """A step of each kind: walk, energy, gradient of the loss; its answer is the energy."""
    torch.manual_seed(0)
    r = torch.randn(walkers, particles, 3, dtype=torch.float64)
    networks = {}
    for stock in (True, False):
        torch.manual_seed(1)
        networks[stock] = Network(particles, K, stock).double()

    def step(stock: bool, one_pass: bool) -> Call:
        network = networks[stock]

        def call() -> Tensor:
            with torch.no_grad():
                for _ in range(STEPS):
                    network(r + 0.1)
            kinetic = network.kinetic_energy_in_one_pass if one_pass else network.kinetic_energy
            energy = kinetic(r)
            network.zero_grad()
            ((energy - energy.mean()) * network(r)).mean().backward()
            return energy

        return call

    def truth(index: int) -> Answer:
        with torch.no_grad():
            one = Carried.of_coordinates(r[index].unsqueeze(0))
            blocks = [
                (A.value[0].numpy(), A.first[:, 0].transpose(0, 1).numpy(), A.second[0].numpy())
                for A in networks[True].matrices(one)
            ]
        return Walker(blocks, networks[True].weights.detach().numpy()).energy()

    calls = {BY_HAND: step(True, False), OURS[0]: step(False, False), OURS[1]: step(False, True)}
    return Case("step", calls, truth, walkers)


def wrong(case: Case) -> list[str]:
    """Whose answers are wrong for the first or the last walker."""
    truths = {index: case.truth(index) for index in (0, case.walkers - 1)}
    answers = {name: call().detach().numpy() for name, call in case.calls.items()}
    return [
        name
        for name, answer in answers.items()
        if not all(truth.is_right(answer[index]) for index, truth in truths.items())
    ]


def measure(case: Case, seconds: float, rounds: int) -> dict[str, Any]:
    """Seconds of each, and how many times those of the first the others are faster."""
    found = wrong(case)
    calls = case.calls
    first = next(iter(calls))
    times: dict[str, list[float]] = {name: [] for name in calls}
    started = time.perf_counter()
    for k in range(rounds):
        for name in reversed(calls) if k % 2 else calls:
            count, start = 0, time.perf_counter()
            while count == 0 or time.perf_counter() - start < seconds:
                calls[name]()
                count += 1
            times[name].append((time.perf_counter() - start) / count)
        if k and time.perf_counter() - started > LONGEST:
            break
    ratios = {
        name: asdict(Spread.of([a / b for a, b in zip(times[first], own, strict=True)]))
        for name, own in times.items()
        if name != first
    }
    return {
        "op": case.op,
        "seconds": {name: asdict(Spread.of(own)) for name, own in times.items()},
        "ratio": ratios,
        "errors": dict.fromkeys(found, "the answer is wrong"),
    }


def main() -> int:
    """Writes the JSON; 1 if an answer of torchdet is wrong."""
    parser = argparse.ArgumentParser(prog="python -m bench.wavefunction", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="of interleaved measurements")
    parser.add_argument("--seconds", type=float, default=0.03, help="of one measurement")
    parser.add_argument("--minutes", type=float, default=60.0, help="leave out what is later")
    parser.add_argument("--n", type=int, action="append", help="sums of this order; several times")
    parser.add_argument("--json", type=Path, default=RESULT, help="the file of the result")
    options = parser.parse_args()
    end = time.monotonic() + 60 * options.minutes
    torch.set_num_threads(1)
    result: dict[str, Any] = {"machine": machine.facts(), "threads": 1, "rounds": options.rounds}
    result |= {"training": [], "sums": [], "stopped": None}
    jobs = [("training", *sizes) for sizes in TRAINED]
    jobs += [("sums", n, K, w) for w in WALKERS[::-1] for K in TERMS for n in options.n or ORDERS]
    jobs.sort(key=lambda job: (job[0] != "training", job[3] != 32))  # if time is short
    for kind, n, K, walkers in track(jobs, "wave functions"):
        if time.monotonic() > end:
            result["stopped"] = "out of time"
            break
        cases = [training_step(n, K, walkers)] if kind == "training" else sums(n, K, walkers)
        for case in cases:
            entry = measure(case, options.seconds, options.rounds)
            result[kind].append({"n": n, "K": K, "walkers": walkers} | entry)
    write_json(result, options.json)
    print(f"wrote {options.json}")
    return int(
        any(name in e["errors"] for e in result["sums"] + result["training"] for name in OURS)
    )


if __name__ == "__main__":
    sys.exit(main())
