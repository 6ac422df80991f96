"""The programs of the folder examples, with arguments that take seconds."""

from __future__ import annotations

import importlib
import math
from pathlib import Path

import pytest
import torch

pytest.importorskip(
    "sklearn", reason="the examples' own requirements: pip install torchdet[examples]"
)
EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def example(monkeypatch, tmp_path):
    """Runs an example in this process: its module, and what main() returns."""
    monkeypatch.syspath_prepend(EXAMPLES)
    threads = torch.get_num_threads()

    def run(name: str):
        module = importlib.import_module(name)
        short = importlib.import_module("short").ARGUMENTS[name]
        return module, module.main(["--out", str(tmp_path), *short])

    yield run
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", ("determinant_squared", "digits_flow"))
def test_it_runs_and_draws(name, example, tmp_path):
    example(name)
    assert (tmp_path / "determinant_squared.png").exists() or (tmp_path / f"{name}.png").exists()


EPS = torch.finfo(torch.float64).eps
ROUNDINGS = 1000  # more than any term passes on its way to a local energy


def size_of_terms(psi, x):
    """Of the terms that add up to a local energy: derivatives by distances, and the potential."""
    nucleus = psi.atom.charge / x.norm(dim=-1)
    i, j = torch.triu_indices(x.shape[1], x.shape[1], 1)
    return psi.atom.charge**2 + 3 * nucleus.sum(-1) + 2 / (x[:, i] - x[:, j]).norm(dim=-1).sum(-1)


def cancellation(psi, x):
    """Sum of the moduli of all products of orbitals in psi, beside the modulus of their sum."""

    def expanded(A):  # the determinant, and the same with all signs positive
        if psi.n == 1:
            return A[..., 0, 0], A[..., 0, 0].abs()
        first, second = A[..., 0, 0] * A[..., 1, 1], A[..., 0, 1] * A[..., 1, 0]
        return first - second, first.abs() + second.abs()

    up, down = (psi.orbitals(part).value for part in x.split(psi.n, dim=1))
    (u, U), (d, D) = (
        expanded(value[..., index].movedim(-2, 1))
        for value, index in ((up, psi.up), (down, psi.down))
    )
    return (psi.weights.abs() * U * D).sum(-1) / (psi.weights * u * d).sum(-1).abs()


def test_local_energies_are_those_of_automatic_differentiation(example, tmp_path):
    module, results = example("wave_function")
    assert (tmp_path / "wave_function.png").exists()
    for result in results:
        psi, x = result.psi, result.walkers
        difference = (psi.local_energy(x) - module.local_energy_by_torch(psi, x)).detach().abs()
        # First derivatives of log|psi| are squared, so what cancels in psi counts twice.
        bound = ROUNDINGS * EPS * cancellation(psi, x).detach() ** 2 * size_of_terms(psi, x)
        assert (difference <= bound).all(), (difference / bound).max()


def test_the_local_energy_of_an_exact_state_is_constant(monkeypatch):
    """Two electrons that do not see each other: 1s of the nucleus, each with -Z^2 / 2."""
    monkeypatch.syspath_prepend(EXAMPLES)
    module = importlib.import_module("wave_function")
    psi = module.WaveFunction(module.ATOMS["helium"])
    with torch.no_grad():
        psi.log_exponents.fill_(math.log(2))
        psi.mixing.copy_(torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
        psi.slope.zero_()
        psi.log_range.fill_(40.0)  # no Jastrow factor
        x = torch.randn(50, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        repulsion = 1 / (x[:, 0] - x[:, 1]).norm(dim=-1)
        energy = psi.local_energy(x) - repulsion
        assert ((energy + 4).abs() <= ROUNDINGS * EPS * size_of_terms(psi, x)).all()


def test_a_flat_solid_springs_back(example, tmp_path):
    _, history = example("neo_hookean")
    assert (tmp_path / "neo_hookean.png").exists()
    assert history.negative[0] > 0
    assert history.untangled is not None
    assert history.negative[-1] == 0


def test_a_process_learns(example, tmp_path):
    example("point_process")
    assert (tmp_path / "point_process.png").exists()


def test_the_best_design_is_the_known_one(example, tmp_path):
    """Sixty steps of the multiplicative algorithm leave one part in a hundred."""
    module, design = example("optimal_design")
    assert (tmp_path / "optimal_design.png").exists()
    assert design.log_det[-1] > design.log_det[0]
    weights = module.groups(module.candidates(9), design.w)
    for name, weight in weights.items():
        assert abs(weight - module.KNOWN[name]) < 0.01, name
