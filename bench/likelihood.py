"""Likelihoods with a matrix in them: ``python -m bench.likelihood``.

The log density of a normal distribution, -(log det S + y^T S^-1 y) / 2, and its first term alone,
for symmetric positive definite S: by torch's Cholesky decomposition, by torch.linalg.slogdet with
torch.linalg.solve, and by torchdet. And log det of many principal submatrices of one matrix, as a
determinantal point process takes them. Value and gradient, in float64. All sides take turns, and
answers are compared with long double.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import track
from torch import Tensor

import torchdet
from bench import machine
from bench.energies import Answer, inverse
from bench.files import write_json
from bench.wavefunction import Call, Case, measure

RESULT = Path(__file__).parents[1] / "out" / "bench" / "likelihood.json"
ORDERS = (2, 4, 8, 16, 32, 64, 128, 256, 500)
NUMBERS = 1 << 17  # of a batch: 1 MB
CHOLESKY, LINALG, OURS = "Cholesky", "torch.linalg", "torchdet"
LOOP, PADDED = "torch, set by set", "torch, padded"
SETS, KERNEL, SMALLEST, LARGEST = 400, 1600, 5, 60
Value = Callable[[Tensor, Tensor], Tensor]


def logdet_by_cholesky(S: Tensor, _: Tensor) -> Tensor:
    """As it is written by hand."""
    return 2 * torch.linalg.cholesky(S).diagonal(dim1=-2, dim2=-1).log().sum(-1)


def density_by_cholesky(S: Tensor, y: Tensor) -> Tensor:
    """As it is written by hand."""
    L = torch.linalg.cholesky(S)
    z = torch.linalg.solve_triangular(L, y.unsqueeze(-1), upper=False)
    logdet = 2 * L.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return -0.5 * (logdet + z.square().sum((-2, -1)))


def density_by_linalg(S: Tensor, y: Tensor) -> Tensor:
    """Two factorisations."""
    x = torch.linalg.solve(S, y.unsqueeze(-1)).squeeze(-1)
    return -0.5 * (torch.linalg.slogdet(S).logabsdet + (x * y).sum(-1))


def density(S: Tensor, y: Tensor) -> Tensor:
    """One factorisation."""
    _, logabsdet, X = torchdet.slogdet_solve(S, y.unsqueeze(-1))
    return -0.5 * (logabsdet + (X.squeeze(-1) * y).sum(-1))


VALUES: dict[str, dict[str, Value]] = {
    "log det": {
        CHOLESKY: logdet_by_cholesky,
        LINALG: lambda S, _: torch.linalg.slogdet(S).logabsdet,
        OURS: lambda S, _: torchdet.slogdet(S).logabsdet,
    },
    "log density": {CHOLESKY: density_by_cholesky, LINALG: density_by_linalg, OURS: density},
}


def _truth(op: str, S: np.ndarray, y: np.ndarray, gradient: bool) -> Answer:
    (det,), (X,) = inverse(S[None])
    n, x = len(y), X @ y
    whole = op == "log density"
    # Both terms for S (1 + n eps): cond(S) n eps of the solution, n eps of each logarithm.
    s = np.linalg.svd(S, compute_uv=False)
    off = 4 * n * np.finfo(float).eps * (s[0] / s[-1])
    if gradient:
        value = (np.outer(x, x) - X) / 2 if whole else X
        return Answer(value, off * (np.linalg.norm(X) + (whole and x @ x)))
    quadratic = y @ x
    value = -(np.log(det) + quadratic) / 2 if whole else np.log(det)
    return Answer(value, off * (n + np.abs(np.log(s)).sum() + whole * quadratic))


def densities(n: int, batch: int) -> list[Case]:
    """Value and gradient of both terms, and of the first, for matrices of condition 5 or so."""
    generator = torch.Generator().manual_seed(n)
    M = torch.randn(batch, n, n, generator=generator, dtype=torch.float64)
    S = (M @ M.mT / n + torch.eye(n, dtype=torch.float64)).requires_grad_()
    y = torch.randn(batch, n, generator=generator, dtype=torch.float64)
    cases = []
    for op, values in VALUES.items():

        def value(f: Value) -> Call:
            return lambda: f(S.detach(), y)

        def gradient(f: Value) -> Call:
            return lambda: torch.autograd.grad(f(S, y).sum(), S)[0]

        for name, call in ((op, value), (f"{op}, gradient", gradient)):

            def truth(index: int, op: str = op, name: str = name) -> Answer:
                return _truth(op, S[index].detach().numpy(), y[index].numpy(), name != op)

            cases.append(Case(name, {peer: call(f) for peer, f in values.items()}, truth, batch))
    return cases


def minors() -> list[Case]:
    """SETS principal submatrices of different sizes, and their gradient."""
    generator = torch.Generator().manual_seed(0)
    G = torch.randn(KERNEL, KERNEL, generator=generator, dtype=torch.float64)
    L = (G @ G.mT / KERNEL + torch.eye(KERNEL, dtype=torch.float64)).requires_grad_()
    sizes = torch.randint(SMALLEST, LARGEST + 1, (SETS,), generator=generator).tolist()
    sets = [torch.randperm(KERNEL, generator=generator)[:k] for k in sizes]
    index = torch.nn.utils.rnn.pad_sequence(sets, batch_first=True, padding_value=-1)

    def padded(L: Tensor) -> Tensor:
        used, rows = index >= 0, index.clamp(min=0)
        both = used.unsqueeze(-1) & used.unsqueeze(-2)
        blocks = L[rows.unsqueeze(-1), rows.unsqueeze(-2)]
        return torch.logdet(torch.where(both, blocks, torch.eye(index.shape[-1]).to(L)))

    def one_by_one(L: Tensor) -> Tensor:
        return torch.stack([torch.logdet(L[s.unsqueeze(-1), s]) for s in sets])

    def ours(L: Tensor) -> Tensor:
        return torchdet.principal_minors(L, index, log=True)

    functions = {LOOP: one_by_one, PADDED: padded, OURS: ours}

    def block(i: int) -> np.ndarray:
        return L.detach()[sets[i].unsqueeze(-1), sets[i]].numpy()

    def value_truth(i: int) -> Answer:
        return _truth("log det", block(i), np.zeros(sizes[i]), False)

    def gradient_truth(_: int) -> Answer:
        value, allowed = np.zeros((2, KERNEL, KERNEL), np.longdouble)
        for i, s in enumerate(sets):
            one = _truth("log det", block(i), np.zeros(sizes[i]), True)
            value[np.ix_(s, s)] += one.value
            allowed[np.ix_(s, s)] += one.allowed
        return Answer(value, allowed)

    def value(f: Callable[[Tensor], Tensor]) -> Call:
        return lambda: f(L.detach())

    def gradient(f: Callable[[Tensor], Tensor]) -> Call:
        return lambda: torch.autograd.grad(f(L).sum(), L)[0].unsqueeze(0)

    return [
        Case("minors", {peer: value(f) for peer, f in functions.items()}, value_truth, SETS),
        Case(
            "minors, gradient",
            {peer: gradient(f) for peer, f in functions.items()},
            gradient_truth,
            1,
        ),
    ]


def main() -> int:
    """Writes the JSON; 1 if an answer of torchdet is wrong."""
    parser = argparse.ArgumentParser(prog="python -m bench.likelihood", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="of interleaved measurements")
    parser.add_argument("--seconds", type=float, default=0.03, help="of one measurement")
    parser.add_argument("--minutes", type=float, default=60.0, help="leave out what is later")
    parser.add_argument("--json", type=Path, default=RESULT, help="the file of the result")
    options = parser.parse_args()
    end = time.monotonic() + 60 * options.minutes
    torch.set_num_threads(1)
    result: dict[str, Any] = {"machine": machine.facts(), "threads": 1, "rounds": options.rounds}
    result |= {"densities": [], "minors": [], "stopped": None}
    jobs = [(n, batch) for n in ORDERS for batch in sorted({1, max(1, NUMBERS // n**2)})]
    for n, batch in track([(0, 0), *jobs], "likelihoods"):
        if time.monotonic() > end:
            result["stopped"] = "out of time"
            break
        kind, cases = ("densities", densities(n, batch)) if n else ("minors", minors())
        for case in cases:
            entry = measure(case, options.seconds, options.rounds)
            result[kind].append({"n": n, "batch": batch} | entry)
    write_json(result, options.json)
    print(f"wrote {options.json}")
    return int(any(OURS in e["errors"] for e in result["densities"] + result["minors"]))


if __name__ == "__main__":
    sys.exit(main())
