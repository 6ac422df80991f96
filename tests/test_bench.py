"""Benchmarks: what a comparison calls slower, which runs it refuses; how runs keep their time."""

from __future__ import annotations

import json
import math
from typing import Any

import mpmath
import pytest
import torch

from bench import compare, wavefunction
from bench.cases import OPS, Case
from bench.clocks import CpuClock
from bench.network import Network
from bench.peers import JaxPeer, peers
from bench.suites import SUITES, cuda_cases
from bench.timing import Effort, measure
from sum_oracles import Truth, allowed_error, assert_blocks


def run(ratio: float, spread: float = 0.02, **changed: Any) -> dict[str, Any]:
    """A run of one case with this ratio to torch.linalg."""
    quartiles = {"median": ratio, "q25": ratio * (1 - spread), "q75": ratio * (1 + spread)}
    case = {"suite": "small", "op": "det forward", "n": 3, "dtype": "float32", "batch": 100}
    case |= {"layout": "contiguous", "singular": False}
    case["ratio"] = {"torch.linalg": quartiles}
    return {"peers": ["torchdet", "torch.linalg"], "threads": 1, "cases": [case]} | changed


@pytest.mark.parametrize(
    ("old", "new", "slower", "faster"),
    (
        (run(10), run(10), False, False),
        (run(10), run(8), True, False),
        (run(10), run(12.5), False, True),
        (run(10), run(9.5), False, False),  # within the tolerance
        (run(10, spread=0.3), run(8, spread=0.3), False, False),  # within the spread
    ),
)
def test_a_case_is_slower_only_beyond_tolerance_and_spread(old, new, slower, faster):
    (change,) = compare.changes(old, new)
    assert change.slower(compare.TOLERANCE) is slower
    assert change.faster(compare.TOLERANCE) is faster


@pytest.mark.parametrize(
    ("new", "word"),
    ((run(10, threads=2), "threads"), (run(10, cases=[]), "no case in common")),
)
def test_runs_of_different_things_are_not_compared(new, word):
    with pytest.raises(ValueError, match=word):
        compare.changes(run(10), new)


@pytest.mark.parametrize(("ratio", "code"), ((10, 0), (5, 1)))
def test_the_exit_status_says_whether_something_got_slower(ratio, code, tmp_path, capsys):
    paths = [str(tmp_path / name) for name in ("old.json", "new.json")]
    for path, value in zip(paths, (10, ratio), strict=True):
        with open(path, "w") as file:
            json.dump(run(value), file)
    assert compare.main(paths) == code
    assert ("SLOWER" in capsys.readouterr().out) is (code == 1)
    assert compare.main([paths[0], str(tmp_path / "missing.json")]) == 2


class Still(CpuClock):
    """Every call takes a millisecond."""

    def stopwatch(self, calls, finish):
        return lambda number: 1e-3


@pytest.mark.parametrize(("whole", "rounds"), ((math.inf, 15), (0.0, 3)))
def test_a_case_whose_preparation_took_its_time_gets_the_fewest_rounds(whole, rounds):
    case = Case("small", OPS[0], 3, torch.float32, 10)
    compared = peers(torch.device("cpu"))[:2]
    measurement = measure(case, compared, Still(1), Effort(15, 0.01, whole=whole))
    assert {len(times) for times in measurement.times.values()} == {rounds}


def test_on_a_gpu_compilers_start_for_few_cases_only():
    dtypes = [torch.float32, torch.float64]
    cases = [c for suite in SUITES["cuda"] for c in cuda_cases(suite, dtypes, None, False)]
    compiled = [case for case in cases if JaxPeer().supports(case)]
    assert {case.n for case in compiled} == {3, 8, 32}
    assert 0 < len(compiled) < len(cases) / 10


def test_a_network_carries_its_laplacian():
    torch.manual_seed(0)
    network = Network(5, 3, stock=False).double()
    r = torch.randn(4, 5, 3, dtype=torch.float64)
    twice, carried = network.kinetic_energy(r), network.kinetic_energy_in_one_pass(r)
    assert torch.allclose(twice, carried, rtol=1e-9)
    stock = Network(5, 3, stock=True).double()
    stock.load_state_dict(network.state_dict())
    assert torch.allclose(stock(r), network(r), rtol=1e-12)


@pytest.mark.parametrize("K", (1, 3))
def test_every_way_to_a_wave_function_is_right(K):
    # One walker: of several, torch.linalg's second derivatives under vmap are wrong for K = 1.
    n, eps = 3, torch.finfo(torch.float64).eps
    every = wavefunction.sums(n, K, 1)
    for rows, name in ((True, "local energy, rows"), (False, "local energy")):
        case = wavefunction.Sum.random(n, K, 1, rows, 3 if rows else 3 * n)
        truth = Truth([case.A[0]], torch.ones(K).double())
        J = case.J[0]
        if rows:  # directions of whole matrices
            J = torch.eye(n).double()[:, None, :, None] * J.unsqueeze(-2)
            J = J.flatten(1, 2)
        first, lap, _, size = truth.along([J], [case.L[0]])
        energy = -(lap + (first * first).sum()) / 2
        # As for slogsumdet_laplacian; the inverse has as large an error as a cofactor.
        for way, call in every[name].items():
            assert abs(float(call()) - energy) <= 4 * allowed_error(truth, 2) * size, (name, way)
    truth = Truth([wavefunction.Sum.random(n, K, 1, True, 1).A[0]], torch.ones(K).double())
    log = mpmath.log(abs(truth.psi))
    for way, call in every["value"].items():
        assert abs(float(call()) - log) <= allowed_error(truth, 0) + 4 * eps * abs(log), way
    for way, call in every["gradient"].items():
        assert_blocks(call()[0], truth.gradient()[0][0], allowed_error(truth, 1), way)


def test_a_measurement_of_sums_has_the_ratios_of_all_but_its_base():
    calls = wavefunction.sums(3, 1, 1)["value"]
    entry = wavefunction.measure(calls, 0.0, 2)
    assert set(entry["ratio"]) == set(calls) - {wavefunction.BY_HAND}
    assert set(entry["errors"]) == set(calls)
