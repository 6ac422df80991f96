"""The oracles against each other and against definitions: the other tests lean on them."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
import torch

import cases
import oracles
import units

PROMISED_RANK = {
    "integer_full_rank": 0,
    "integer_rank_n-1": 1,
    "integer_rank_n-2": 2,
    "integer_rank_n-3": 3,
    "shift": 1,
}


def same(left: oracles.Exact, right: oracles.Exact) -> bool:
    return all(
        left.fraction(index) == right.fraction(index) for index in np.ndindex(*left.values.shape)
    )


@pytest.mark.parametrize("n", range(6))
def test_elimination_and_minors_give_the_same_cofactors_at_every_rank(n, dtype):
    for rank in range(n + 1):
        left = torch.randint(-3, 4, (n, rank)).to(dtype) @ torch.randint(-3, 4, (rank, n)).to(dtype)
        A = left * 2.0 ** torch.randint(-9, 9, (n, 1)) * 2.0 ** torch.randint(-9, 9, (1, n))
        assert same(oracles.cofactor(A), oracles.minors(A))


@pytest.mark.parametrize("n", range(6))
def test_both_ways_to_the_hessian_product_agree_at_every_rank(n, dtype):
    for rank in range(n + 1):
        A = torch.randint(-3, 4, (n, rank)).to(dtype) @ torch.randint(-3, 4, (rank, n)).to(dtype)
        Z = torch.randn(n, n, dtype=dtype)
        assert same(oracles.hvp(A, Z), oracles.derivative(A, Z))


def test_known_determinants_are_found():
    assert oracles.det(torch.tensor([[1.0, 2.0], [3.0, 4.0]])).fraction()[0] == -2
    assert oracles.det(torch.tensor([[1j, 2], [3, 1j]])).fraction() == (-7, 0)
    assert oracles.det(torch.eye(0)).fraction()[0] == 1
    hilbert = torch.tensor([[1.0, 0.5], [0.5, 0.25 + 2.0**-20]])
    assert oracles.det(hilbert).fraction()[0] == oracles.Fraction(1, 2**20)


def test_a_third_derivative_of_a_cubic_is_its_leading_coefficient():
    """det(tZ) = t^n det Z, so D^(n-1) C [Z, .., Z] contracted with Z is n! det Z."""
    Z = torch.randn(3, 3, dtype=torch.float64)
    T = oracles.derivative(torch.randn(3, 3, dtype=torch.float64), Z, Z)
    total = sum(T.fraction((i, j))[0] * oracles.Fraction(Z[i, j].item())
                for i in range(3) for j in range(3))  # fmt: skip
    assert total == 6 * oracles.det(Z).fraction()[0]


def test_slogdet_and_inverse_match_mpmath():
    A = torch.randn(6, 6, dtype=torch.complex128)
    with mpmath.workdps(60):
        M = mpmath.matrix([[mpmath.mpc(x) for x in row] for row in A.tolist()])
        d, inverse = mpmath.det(M), mpmath.inverse(M)
        sign, log = oracles.slogdet(A)
        assert abs(log - mpmath.log(abs(d))) < 1e-50
        assert abs(sign - complex(d / abs(d))) < 1e-15
        X = oracles.inverse_transpose(A)
        assert max(abs(X[i, j] - inverse[j, i]) for i in range(6) for j in range(6)) < 1e-45


@pytest.mark.parametrize("n", (5, 40))
def test_long_double_elimination_matches_the_integers(n, wide_dtype):
    A = torch.randn(n, n, dtype=wide_dtype)
    sign, log, inverse = oracles.extended(A)
    exact_sign, exact_log = oracles.slogdet(A)
    assert abs(sign - exact_sign) < 1e-16 * n
    assert abs(float(log) - float(exact_log)) < 4e-16 * max(1, abs(float(exact_log)))
    assert np.abs(inverse @ A.numpy() - np.eye(n)).max() < 1e-16 * n * units.condition(A)


@pytest.mark.parametrize("family", PROMISED_RANK)
@pytest.mark.parametrize("n", (3, 5, 8, 16))
def test_families_have_the_rank_that_they_promise(family, n, dtype):
    expected = n - PROMISED_RANK[family]
    assert oracles.rank(cases.matrices(family, n, dtype)[0]) == expected


def test_every_family_is_finite_and_of_its_shape(dtype):
    for family in cases.FAMILIES:
        for n in filter(lambda n, family=family: cases.exists(family, n), (1, 2, 5, 8)):
            A = cases.matrices(family, n, dtype)
            assert A.shape[1:] == (n, n) and A.dtype == dtype and A.isfinite().all(), family
            assert cases.directions(A, 0).isfinite().all(), family


def test_the_unit_of_the_identity_is_known():
    """B = I / 2, so s = 1/2 and d = n eps / 2: unit_1 is 2^(1-n) n^2 eps to first order."""
    n, eps = 4, torch.finfo(torch.float32).eps
    assert math.isclose(units.unit(torch.eye(n), 1), n * n * eps / 2 ** (n - 1), rel_tol=1e-4)
    assert units.unit(torch.eye(n), n + 1) == 0


def test_an_error_of_half_a_unit_is_half_a_unit_at_any_scale():
    for scale in (1.0, 2.0**-300, 2.0**200):
        A = torch.eye(3, dtype=torch.float64) * scale
        C = oracles.cofactor(A)
        wrong = C.tensor(A.dtype).clone()
        # The frame of scale * I is I / 2, and C there is 4 scale^2 times smaller.
        wrong[0, 1] += 0.5 * units.unit(torch.eye(3, dtype=torch.float64), 1) * 4 * scale**2
        units.assert_within(wrong[None], [C], A[None], 1, budget=0.51)
        with pytest.raises(AssertionError, match="units off"):
            units.assert_within(wrong[None], [C], A[None], 1, budget=0.49)


@pytest.mark.parametrize("bad", (math.nan, math.inf, -math.inf, 0.0))
def test_a_wrong_nan_infinity_or_zero_is_never_within_the_budget(bad):
    A = torch.eye(3)
    C = oracles.cofactor(A)
    wrong = C.tensor(A.dtype).clone()
    wrong[1, 1] = bad
    with pytest.raises(AssertionError, match="units off"):
        units.assert_within(wrong[None], [C], A[None], 1)


def test_overflow_is_right_where_the_truth_overflows():
    A = torch.eye(3) * 1e30
    C = oracles.cofactor(A)
    right = torch.where(torch.eye(3) == 1, math.inf, 0.0)
    units.assert_within(right[None], [C], A[None], 1)


def test_the_cycle_laplacian_has_constant_cofactors():
    A, sign = cases.cycle_laplacian(7, torch.float64)
    C = oracles.cofactor(A).tensor(torch.float64)
    assert C.abs().eq(7).all()
    assert C.prod(dim=0).ne(0).all()
    assert (
        oracles.cofactor(cases.cycle_laplacian(8, torch.float64, 2)[0]).tensor(A.dtype).eq(0).all()
    )
    assert sign in (1, -1)
