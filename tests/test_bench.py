"""Benchmarks: what a comparison calls slower, which runs it refuses; how runs keep their time."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import compare, likelihood, pages, report, sections, wavefunction
from bench.cases import OPS, Case
from bench.clocks import CpuClock
from bench.files import append_line
from bench.network import Network
from bench.peers import JaxPeer, TorchPeer, peers
from bench.run import (
    MISSED,
    REACHED,
    REFERENCE_FAILED,
    REFERENCE_WRONG,
    WRONG,
    run_case,
    run_cases,
)
from bench.suites import SUITES, cuda_cases
from bench.timing import Effort, measure


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
    compared = peers(torch.device("cpu"), only_torch=True)[:2]
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
def test_energies_of_wave_functions_are_right(K):
    # One walker: of several, torch.linalg's second derivatives under vmap are wrong for K = 1.
    for case in wavefunction.sums(3, K, 1):
        entry = wavefunction.measure(case, 0.0, 2)
        assert not entry["errors"], case.op
        assert set(entry["ratio"]) == set(case.calls) - {wavefunction.BY_HAND}


def test_the_energy_of_a_training_step_is_right():
    case = wavefunction.training_step(3, 2, 2)
    assert wavefunction.wrong(case) == []


@pytest.mark.parametrize("op", ("value", "gradient", "local energy", "local energy, rows"))
def test_a_wrong_answer_for_one_walker_is_found(op):
    (case,) = (case for case in wavefunction.sums(3, 2, 3) if case.op == op)
    right = case.calls["slogsumdet"]
    off = right().detach()
    off[-1] *= 1 + 1e-9
    case.calls["slogsumdet"] = lambda: off
    assert "slogsumdet" in wavefunction.wrong(case)


def test_likelihoods_are_right_and_a_wrong_one_is_found(monkeypatch):
    for name, small in (("KERNEL", 40), ("SETS", 5), ("LARGEST", 9)):
        monkeypatch.setattr(likelihood, name, small)
    for case in [*likelihood.densities(4, 3), *likelihood.minors()]:
        entry = wavefunction.measure(case, 0.0, 2)
        assert not entry["errors"], case.op
        right = case.calls[likelihood.OURS]().detach()
        right[-1] *= 1 + 1e-9
        case.calls[likelihood.OURS] = lambda right=right: right
        assert wavefunction.wrong(case) == [likelihood.OURS]


NEVER = TorchPeer("torch.linalg", lambda A: 1 / 0, lambda A: 1 / 0)
ALWAYS_ONE = TorchPeer("torch.linalg", lambda A: (A * 0).sum((-2, -1)) + 1, lambda A: 1 / 0)
LIMITS = {"copy_bandwidth": {"cache": 1e9, "dram": 1e9}, "fma_peak": {"float32": 1e9}}
LIMITS["fma_peak"]["float64"] = 1e9


@pytest.mark.parametrize(
    ("ours", "reference", "verdict"),
    (
        (0, 1, REACHED),  # det of 3 x 3 must only be as fast, and takes the same time here
        (0, NEVER, REFERENCE_FAILED),
        (0, ALWAYS_ONE, REFERENCE_WRONG),
        (ALWAYS_ONE, 1, WRONG),
    ),
)
def test_only_a_ratio_to_a_right_answer_is_a_success(ours, reference, verdict):
    compared = peers(torch.device("cpu"), only_torch=True)
    ours, reference = (compared[x] if isinstance(x, int) else x for x in (ours, reference))
    if ours is ALWAYS_ONE:
        ours = replace(ours, name="torchdet")
    case = Case("small", OPS[0], 3, torch.float32, 10)
    entry = run_case(case, (ours, reference), Still(1), Effort(3, 0.01), LIMITS)
    assert entry["verdict"] == verdict
    assert ("torch.linalg" in entry["ratio"]) is (reference is not NEVER)
    assert report.tally([entry]) == f"1 {verdict}"


def test_an_error_costs_its_own_case_and_every_entry_is_written_at_once(tmp_path):
    def det(A: torch.Tensor) -> torch.Tensor:
        if A.shape[-1] == 4:
            raise RuntimeError("det: CUDA: no")
        return torch.linalg.det(A)

    reference = peers(torch.device("cpu"), only_torch=True)[1]
    ours = TorchPeer("torchdet", det, lambda A: 1 / 0)
    cases = [Case("small", OPS[0], n, torch.float32, 10) for n in (3, 4, 5)]
    lines, seen = tmp_path / "lines.jsonl", []

    def record(entry: dict[str, Any]) -> None:
        append_line(entry, lines)
        seen.append(len(lines.read_text().splitlines()))

    effort = Effort(3, 0.01)
    outcome = run_cases(cases, (ours, reference), Still(1), effort, LIMITS, math.inf, record)
    assert [case["n"] for case in outcome.cases] == [3, 5]
    assert [case["n"] for case in outcome.failed] == [4]
    assert outcome.failed[0]["error"].endswith("RuntimeError: det: CUDA: no\n")
    assert outcome.stopped is None
    assert seen == [1, 2, 3]
    assert [json.loads(line)["n"] for line in lines.read_text().splitlines()] == [3, 4, 5]


@pytest.mark.parametrize(
    ("spread", "errors", "text"),
    (
        (0.02, {}, "8.0"),
        (0.3, {}, "~8.0"),
        (0.02, {"torch.linalg": "wrong"}, "8.0 ✗"),
        (0.3, {"torch.linalg": "wrong", "torchdet": "wrong"}, "~8.0 ✗ ✗✗"),
    ),
)
def test_no_table_drops_a_mark(spread, errors, text):
    facts = {"date": "2026-01-01", "commit": "0", "cpu": "", "torch": "", "modified": False}
    speed = run(8, spread, machine=facts | {"load_average": 0.0})
    speed["cases"][0] |= {"errors": errors, "verdict": REFERENCE_WRONG if errors else REACHED}
    assert text in pages.readme_block({"cpu-speed": speed}).splitlines()[3].split("|")[2].strip()
    assert report.compact_table(speed)[2] == f"| 3 | {text} |  |  |  |"
    assert sections.cell(speed["cases"], n=3) == text
    assert sections.slowest(speed)[-1].startswith("| " + text.split(".")[0])
    assert "reached" not in sections.slowest(speed)[0] or not errors


def test_the_smallest_ratio_is_of_right_answers_and_has_its_quartiles():
    cases = [run(ratio, spread)["cases"][0] for ratio, spread in ((0.5, 0.0), (1.17, 0.5), (3, 0))]
    for case, verdict in zip(cases, (REFERENCE_WRONG, MISSED, REACHED), strict=True):
        case |= {"verdict": verdict, "errors": {}}
    assert sections.least(cases).startswith("~1.17 (0.58-1.75): det forward")
    assert report.tally(cases) == "1 reached, 1 missed, 1 torch wrong"


@pytest.mark.parametrize(
    "module", ("cases", "peers", "latency", "likelihood", "memory", "network", "wavefunction")
)
def test_what_is_timed_is_public(module):
    text = (Path(compare.__file__).parent / f"{module}.py").read_text()
    assert not re.search(r"torch\.ops|torchdet\._|torch\._C", text)
