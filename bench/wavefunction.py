"""Sums of determinants as wave functions take them: ``python -m bench.wavefunction``.

Value, gradient and local energy of K determinants for many walkers, and training steps of a small
network (bench/network.py): by torch.linalg with log-sum-exp as it is written by hand, by the same
code with torchdet.slogsumdet, and by torchdet.slogsumdet_laplacian. All sides take turns; a ratio
is taken round by round. Energies are compared with those by torch.linalg.inv, which is right as no
matrix is singular; values, gradients and the energies of training steps with torch.linalg's.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

import torchdet
from bench import machine
from bench.network import Network, logarithm
from bench.timing import Spread

RESULTS = Path(__file__).parent / "results"
ORDERS = (2, 4, 8, 16, 32, 64)
TERMS = (1, 16)
WALKERS = (1, 32, 1024, 4096)
TRAINED = ((4, 16, 128), (8, 16, 64), (14, 16, 32), (14, 1, 32), (28, 16, 8))
NUMBERS = 1 << 23  # the most of a case's matrices, with their derivatives
STEPS = 10  # of the walk between two energies
BY_HAND = "torch.linalg"
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


def sums(n: int, K: int, walkers: int) -> dict[str, dict[str, Call]]:
    """The calls of each operation, by who computes it; those that are too large are left out."""
    calls: dict[str, dict[str, Call]] = {}
    numbers = walkers * K * n * n
    if numbers > NUMBERS:
        return calls
    leaf = Sum.random(n, K, walkers, True, 1).A.requires_grad_()

    def value(stock: bool) -> Call:
        A = leaf.detach()
        return lambda: logarithm([A], None, stock)

    def gradient(stock: bool) -> Call:
        return lambda: torch.autograd.grad(logarithm([leaf], None, stock).sum(), leaf)[0]

    for name, make in (("value", value), ("gradient", gradient)):
        calls[name] = {BY_HAND: make(True), "slogsumdet": make(False)}
    for rows, d in ((False, 3 * n), (True, 3)):
        if numbers * 3 * n > NUMBERS:
            continue
        case = Sum.random(n, K, walkers, rows, d)
        name = "local energy, rows" if rows else "local energy"
        calls[name] = {
            BY_HAND: case.energy_by_transforms(True),
            "slogsumdet": case.energy_by_transforms(False),
            "torch.linalg.inv": case.energy_by_inverse,
            "slogsumdet_laplacian": case.energy_in_one_pass,
        }
    return calls


def training_steps(particles: int, K: int, walkers: int) -> dict[str, Call]:
    """A step of each kind: walk, energy, gradient of the loss."""
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

    return {
        BY_HAND: step(True, False),
        "slogsumdet": step(False, False),
        "slogsumdet_laplacian": step(False, True),
    }


def errors(answers: dict[str, Tensor]) -> dict[str, float]:
    """The largest difference of each to what is right here, relative to its size."""
    expected = answers.get("torch.linalg.inv", answers[BY_HAND])
    size = expected.abs() + expected.abs().mean()
    return {name: float(((x - expected).abs() / size).max()) for name, x in answers.items()}


def measure(calls: dict[str, Call], seconds: float, rounds: int) -> dict[str, Any]:
    """Seconds of each, and how many times those of the first the others are faster."""
    answers = {name: call().detach() for name, call in calls.items()}
    times: dict[str, list[float]] = {name: [] for name in calls}
    for k in range(rounds):
        for name in reversed(calls) if k % 2 else calls:
            count, start = 0, time.perf_counter()
            while count == 0 or time.perf_counter() - start < seconds:
                calls[name]()
                count += 1
            times[name].append((time.perf_counter() - start) / count)
    ratios = {
        name: asdict(Spread.of([a / b for a, b in zip(times[BY_HAND], own, strict=True)]))
        for name, own in times.items()
        if name != BY_HAND
    }
    return {
        "seconds": {name: asdict(Spread.of(own)) for name, own in times.items()},
        "ratio": ratios,
        "errors": errors(answers),
    }


def _ratio(entry: dict[str, Any], name: str) -> str:
    spread = entry["ratio"].get(name)
    return f"{spread['median']:.2f} ({spread['q25']:.2f}-{spread['q75']:.2f})" if spread else ""


def _time(seconds: float) -> str:
    return f"{1e3 * seconds:.3g} ms"


def markdown(result: dict[str, Any]) -> str:
    """The page of a result."""
    facts = result["machine"]
    others = ("slogsumdet", "torch.linalg.inv", "slogsumdet_laplacian")
    lines = [
        f"# Wave functions, {facts['date'][:10]}, commit {facts['commit']}",
        "",
        f"{facts['cpu']}, 1 thread, torchdet {facts['torchdet']} "
        f"({(facts['build'] or {}).get('active_instruction_set', 'plain PyTorch')}), "
        f"torch {facts['torch']}, float64, {result['rounds']} rounds.",
        "",
        __doc__.split("\n\n", 1)[1].strip(),
        "",
        "Times of torch.linalg with log-sum-exp, and how many times that fast the others are",
        "(quartiles); *off by*: the largest relative difference of an answer by torch.linalg,",
        "and of one by torchdet.",
    ]
    header = ["", "n", "K", "walkers", BY_HAND, *others, "off by", "off by"]
    for title, key in (("Sums", "sums"), ("Training steps (n particles)", "training")):
        lines += ["", f"## {title}", "", f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
        for e in result[key]:
            cells = [e["op"], *(str(e[x]) for x in ("n", "K", "walkers"))]
            cells += [_time(e["seconds"][BY_HAND]["median"]), *(_ratio(e, x) for x in others)]
            ours = max(e["errors"].get(x, 0.0) for x in (others[0], others[2]))
            cells += [f"{e['errors'][BY_HAND]:.1e}", f"{ours:.1e}"]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Writes JSON and a page beside it."""
    parser = argparse.ArgumentParser(prog="python -m bench.wavefunction", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="of interleaved measurements")
    parser.add_argument("--seconds", type=float, default=0.05, help="of one measurement")
    parser.add_argument("--n", type=int, action="append", help="only this order; several times")
    parser.add_argument("--out", type=Path, default=RESULTS, help="the folder of the result")
    options = parser.parse_args()
    torch.set_num_threads(1)
    result: dict[str, Any] = {"machine": machine.facts(), "rounds": options.rounds}
    result |= {"sums": [], "training": []}
    cases = [(n, K, w) for n in options.n or ORDERS for K in TERMS for w in WALKERS]
    for n, K, walkers in track(cases, "sums"):
        for op, calls in sums(n, K, walkers).items():
            entry = {"op": op, "n": n, "K": K, "walkers": walkers}
            result["sums"].append(entry | measure(calls, options.seconds, options.rounds))
    for particles, K, walkers in track([] if options.n else TRAINED, "training steps"):
        entry = {"op": "step", "n": particles, "K": K, "walkers": walkers}
        calls = training_steps(particles, K, walkers)
        result["training"].append(entry | measure(calls, options.seconds, options.rounds))
    facts = result["machine"]
    name = f"{facts['date'][:10]}-wavefunction-1t-{facts['commit'] or 'uncommitted'}"
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
    (options.out / f"{name}.md").write_text(markdown(result))
    Console().print(f"wrote {options.out / name}.json and .md")


if __name__ == "__main__":
    main()
