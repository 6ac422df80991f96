"""The worst matrices that a search has found (accuracy/): every operator keeps to its bound."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

import oracles
from accuracy import measure, report, truth
from accuracy.search import Search

# In units, as docs/accuracy.md publishes them. Not proven: no search has found more.
BOUNDS = {
    "det": 1.0,
    "det_frexp": 1.0,
    "principal_minors": 1.0,
    "slogdet": 1.0,
    "_slogdet_factor": 1.0,
    "slogsumdet": 1.0,
    "cofactor": 1.0,
    "slogdet_backward": 1.0,
    "slogdet_solve": 2.0,
    "slogdet_hvp": 1.0,
    "det_hvp": 2.0,
    "_det_frexp_jet": 3.0,
    "_cofactor_derivative": 5.0,
}
CASES = report.read_cases()


@pytest.mark.parametrize(
    "case", [pytest.param(c, id=f"{c.operator}-{c.dtype}-n{c.n}-{c.found}") for c in CASES]
)
def test_the_worst_matrices_found_are_within_the_published_bound(case):
    error = measure.exact_error(measure.OPERATORS[case.operator], case.batch)
    assert error <= BOUNDS[case.operator]


def test_the_bounds_are_those_that_are_published():
    page = (Path(__file__).parents[1] / "docs" / "accuracy.md").read_text()
    section = page.split("## The bounds")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (`.*) \| ([0-9.]+) \|$", section, re.MULTILINE)
    published = {
        name: float(bound) for names, bound in rows for name in re.findall("`(.*?)`", names)
    }
    assert {name: published[name] for name in BOUNDS} == BOUNDS


@pytest.mark.parametrize("operator", measure.OPERATORS)
@pytest.mark.parametrize("dtype", ("float32", "complex128"))
def test_the_search_measures_what_rational_arithmetic_measures(operator, dtype):
    op = measure.OPERATORS[operator]
    worst = Search(op, 4, np.dtype(dtype), 0).run(400)
    for k in range(4):
        one = worst.batch[k : k + 1]
        assert measure.exact_error(op, one) == pytest.approx(
            measure.errors(op, one)[0][0], rel=0.01
        )


def test_the_search_finds_the_same_for_the_same_seed():
    op = measure.OPERATORS["det"]
    first, again, other = (Search(op, 3, np.dtype("f4"), seed).run(400) for seed in (1, 1, 2))
    assert np.array_equal(first.batch.A, again.batch.A)
    assert not np.array_equal(first.batch.A, other.batch.A)


def test_an_operator_that_is_wrong_is_found():
    """Cofactors as inverse times determinant, which loses everything near singular matrices."""

    def naive(A):
        return torch.linalg.det(A)[:, None, None] * torch.linalg.inv_ex(A).inverse.mT

    op = measure.Operator("cofactor", 1, 0, naive, truth.cofactor)
    worst = Search(op, 3, np.dtype("f4"), 0).run(2000)
    assert worst.error[0] > 100
    assert measure.exact_error(op, worst.batch[:1]) > 100


@pytest.mark.parametrize("n", (1, 2, 3, 5))
@pytest.mark.parametrize("dtype", ("f8", "c16"))
def test_the_truth_of_the_search_is_that_of_rational_arithmetic(n, dtype):
    rng = np.random.default_rng(n)
    A, Z, V = (rng.integers(-3, 4, (4, n, n)).astype(dtype) for _ in range(3))
    if dtype == "c16":
        A, Z = A + 1j * Z, Z - 1j * A
    A[1, 0] = 0  # of lower rank
    A[2] = A[2, :1]
    f = truth.diagonalise(A.astype(truth.WIDER[A.dtype]))
    exact = {
        truth.value: lambda a, z, v: oracles.det(a),
        truth.cofactor: lambda a, z, v: oracles.cofactor(a),
        lambda f: truth.derivative(f, Z): lambda a, z, v: oracles.hvp(a, z),
        lambda f: truth.derivative(f, Z, V): lambda a, z, v: oracles.derivative(a, z, v),
    }
    for got, expected in exact.items():
        for x, *arguments in zip(got(f), A, Z, V, strict=True):
            y = expected(*(torch.from_numpy(X) for X in arguments)).tensor(torch.complex128)
            assert np.allclose(x.astype(complex), y.numpy(), rtol=0, atol=1e-12)
