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


def test_local_energies_are_those_of_automatic_differentiation(example, tmp_path):
    module, results = example("wave_function")
    assert (tmp_path / "wave_function.png").exists()
    for result in results:
        energy = result.psi.local_energy(result.walkers)
        # Fourteen digits of each second derivative, of which few cancel at a walker off the nodes.
        torch.testing.assert_close(
            energy, module.local_energy_by_torch(result.psi, result.walkers), rtol=1e-9, atol=1e-9
        )


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
    torch.testing.assert_close(energy, torch.full_like(energy, -4.0), rtol=1e-12, atol=1e-10)


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
