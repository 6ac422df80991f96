"""What tools/packages.py takes for agreement, and what it does not; no package is downloaded."""

from __future__ import annotations

import copy
import importlib
from pathlib import Path

import pytest
import torch

import torchdet
from tools import packages, packages_report

EPS = 2.0**-52


@pytest.fixture
def determinants(monkeypatch):
    """The module of tests/packages, which runs in an environment without this folder's others."""
    monkeypatch.syspath_prepend(Path(__file__).parent / "packages")
    return importlib.import_module("determinants")


def suite(outcomes, made=3, reached_torch=0):
    return {
        "outcomes": outcomes, "reasons": dict.fromkeys(outcomes, "no"),
        "made": {"det": made, "slogdet": 0}, "reached_torch": {"det": reached_torch, "slogdet": 0},
    }  # fmt: skip


def job(rerouted, controls=None, stock=(3.0, 2.0, 1.0), made=9, reached_torch=0):
    """Controls part by 0, 1 and 4 units of 1e-12; the matrices are 2 x 2."""
    controls = controls or [
        [loss + step**2 * 1e-12 for step, loss in enumerate(stock)],
        list(stock),
    ]
    return {
        "about": "two numbers", "stock": list(stock), "rerouted": list(rerouted),
        "controls": controls, "order": 2, "made": {"det": made},
        "reached_torch": {"det": reached_torch},
        "seconds": {"stock": [2.0, 2.0, 4.0], "rerouted": [1.0, 1.0, 1.0]},
    }  # fmt: skip


# ---- suites


@pytest.mark.parametrize(
    ("stock", "rerouted", "right"),
    (
        ({"a": "passed"}, {"a": "passed"}, True),
        ({"a": "passed"}, {"a": "failed"}, False),
        ({"a": "failed"}, {"a": "passed"}, False),
        ({"a": "failed"}, {"a": "failed"}, False),
        ({"a": "skipped"}, {"a": "skipped"}, False),
        ({"a": "passed"}, {"a": "skipped"}, False),
        ({"a": "passed", "b": "passed"}, {"a": "passed"}, False),
        ({}, {}, False),
        ({"known": "failed"}, {"known": "failed"}, True),
        ({"known": "passed"}, {"known": "failed"}, False),
        ({"known": "failed"}, {"known": "passed"}, False),
    ),
)
def test_outcomes_agree_and_failures_have_a_reason(stock, rerouted, right, monkeypatch):
    monkeypatch.setattr(packages_report, "EXPLAINED", {"p 1": {"known": "it is so"}})
    found = packages_report.outcomes("p 1", suite(stock), suite(rerouted))
    assert (not found) == right


@pytest.mark.parametrize(("made", "left"), ((0, 0), (3, 3), (3, 1)))
def test_a_run_without_rerouted_calls_proves_nothing(made, left):
    passed = {"a": "passed"}
    assert packages_report.outcomes("p 1", suite(passed), suite(passed, made, left))
    assert packages_report.curves("j", job((3.0, 2.0, 1.0), made=made, reached_torch=left))


def test_a_run_that_wrote_nothing_is_a_problem():
    broken = {"problem": "p 1: no module"}
    passed = suite({"a": "passed"})
    assert packages_report.outcomes("p 1", broken, passed) == ["p 1: no module"]
    assert packages_report.outcomes("p 1", passed, broken) == ["p 1: no module"]
    assert packages_report.curves("j", broken) == ["p 1: no module"]


# ---- curves


@pytest.mark.parametrize(
    ("rerouted", "right"),
    (
        ((3.0, 2.0, 1.0), True),
        ((3.0 + 8 * EPS, 2.0, 1.0), True),
        ((3.0 + 1e-13, 2.0, 1.0), False),
        ((3.0, 2.0 + 3.9e-12, 1.0), True),
        ((3.0, 2.0 + 4.1e-12, 1.0), False),
        ((3.0, 2.0, 1.0 + 15e-12), True),
        ((3.0, 2.0, 1.0 + 17e-12), False),
        ((3.0, 2.0, float("nan")), False),
    ),
)
def test_curves_may_part_by_what_the_controls_do(rerouted, right):
    assert (not packages_report.curves("j", job(rerouted))) == right


def test_the_allowance_does_not_fall_where_controls_meet_again():
    controls = [[3.0, 2.0 + 1e-12, 1.0]]
    assert packages_report.allowed(job((3.0, 2.0, 1.0), controls))[2] >= 4e-12


def test_a_job_that_rounding_moves_as_much_as_training_shows_nothing():
    controls = [[3.0, 2.0, 1.5]]
    assert packages_report.curves("j", job((3.0, 2.0, 1.0), controls))


# ---- what stands in between


def test_calls_are_counted_where_they_go(determinants):
    A = torch.eye(3)
    for rerouted, left in ((False, 5), (True, 1)):
        with determinants.counted(rerouted) as (made, reached_torch):
            torch.det(A)
            A.slogdet()
            torch.linalg.slogdet(A)
            A.logdet()
            with torchdet.accelerate(enable=False):
                torch.linalg.det(A)
        assert made.calls == {"det": 2, "slogdet": 2, "logdet": 1}
        assert sum(reached_torch.calls.values()) == left


def test_rounded_moves_a_matrix_by_its_rounding(determinants):
    A = torch.tensor([[0.0, 2.0], [4.0, 1.0]], dtype=torch.float64)
    moved = [determinants.Rounded(seed) for seed in (1, 1, 2)]
    differences = [mode.rounding(A) for mode in moved]
    # A = P L U with L = 1: |P| |L| |U| = |A|.
    assert torch.equal(differences[0].abs(), 2 * EPS * A)
    assert torch.equal(differences[0], differences[1])
    with moved[2] as mode:
        values = {torch.det(A).item() for _ in range(8)}
    assert len(values) > 1 and max(abs(value + 8) for value in values) <= 2 * 2 * 2 * EPS * 8
    assert mode.order == 2


# ---- the page


def test_the_page_says_what_differs():
    result = {
        "package": "p 1", "date": "2026-01-02", "cpu": "a processor", "busy": False,
        "torch": "2.13.0",
        "reached_by": "`f`", "files": ["tests/a.py"], "archive": True,
        "stock": suite({"tests/a.py::one": "passed"}),
        "rerouted": suite({"tests/a.py::one": "passed"}),
        "jobs": {"j": job((3.0, 2.0, 1.0))},
    }  # fmt: skip
    assert not packages_report.problems(result)
    text = packages_report.page([result])
    assert "| p 1 | its own `a.py` | 3 det | 1 of 1 | 1 of 1 |" in text
    assert "2.00 s | 1.00 s | 2.00 (2.00-4.00) |" in text
    assert "No test has another outcome" in text
    broken = copy.deepcopy(result)
    broken["rerouted"]["outcomes"]["tests/a.py::one"] = "failed"
    broken["jobs"]["j"] = {"problem": "killed"}
    assert len(packages_report.problems(broken)) == 2
    text = packages_report.page([broken])
    assert "1 test has another outcome" in text and "NOT EXPLAINED" in text and "FAILED" in text


def test_what_is_run_is_there():
    programs = Path(__file__).parent / "packages"
    jobs = (programs / "jobs.py").read_text()
    for package in packages.PACKAGES:
        assert package.has_tests or (programs / package.tests[0]).exists()
        assert all(f'"{name}": ' in jobs for name in package.jobs)
    assert set(packages_report.EXPLAINED) <= {package.key for package in packages.PACKAGES}
