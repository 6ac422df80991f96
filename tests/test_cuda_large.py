"""The CUDA class "large" on the emulation, with LAPACK in the place of torch's LU and products."""

from __future__ import annotations

import functools
import itertools

import checks
import emulated
import numpy as np
import pytest
import torch
from checks import assert_same_bits
from problems import arguments

import cases
import oracles
import units

MISSING = emulated.missing()
pytestmark = [
    pytest.mark.skipif(MISSING is not None, reason=str(MISSING)),
    pytest.mark.usefixtures("plain_schedule"),
]


@pytest.mark.parametrize("operator", emulated.OPERATORS)
@pytest.mark.parametrize("n", (1, 3, 6, 20, 33))
@pytest.mark.parametrize("dtype", emulated.DTYPES)
def test_the_class_large_agrees_with_the_others(operator, n, dtype):
    # In global memory every order can be checked against the class that owns it. Both are within
    # a few units of the truth; the matrices here are well conditioned.
    args = tuple(x[8:9] for x in arguments(operator, n, dtype, 9))
    A = args[0] + 4 * np.eye(n, dtype=dtype)
    native = emulated.run(operator, A, *args[1:])
    large = emulated.run(operator, A, *args[1:], large=True)
    scale = 1 + max(np.abs(x).max() for x in native)
    tolerance = 50 * n * np.finfo(dtype).eps * np.linalg.cond(A[0].astype(complex)) * scale
    for x, y in zip(native, large, strict=True):
        assert np.abs(x - y).max() <= tolerance


# Strips of 32 rows that are one, one and a bit, and three; rows of whole and of broken words.
LARGE_ORDERS = (1, 3, 8, 33, 68)
LARGE_CASES = tuple(itertools.product(emulated.OPERATORS, LARGE_ORDERS, emulated.DTYPES))
run_large = functools.partial(emulated.run, large=True)


@pytest.mark.parametrize(("operator", "n", "dtype"), LARGE_CASES)
def test_the_class_large_keeps_matrices_apart(operator, n, dtype):
    """On the properties of the other classes; LAPACK, in torch's place, takes matrix by matrix."""
    checks.no_matrix_depends_on_its_neighbours(run_large, operator, n, dtype, 9)
    checks.nan_and_inf_stay_in_their_own_matrix(run_large, operator, n, dtype, 9)
    checks.strides_do_not_change_a_bit(run_large, operator, n, dtype, 9)


@pytest.mark.parametrize(("operator", "n", "dtype"), LARGE_CASES)
def test_no_order_of_threads_changes_a_bit_of_the_class_large(operator, n, dtype):
    args = arguments(operator, n, dtype, 9)
    expected = run_large(operator, *args)
    for order, seed, fill in (("reverse", 0, 0), ("random", 1, emulated.GPU_NAN)):
        emulated.schedule(order, seed, fill)
        assert_same_bits(run_large(operator, *args), expected, f"{order} {seed} {fill:#x}")


@pytest.mark.parametrize("n", (*range(1, 10), 31, 32, 33, 64, 65))
@pytest.mark.parametrize("dtype", emulated.DTYPES)
def test_every_order_of_the_class_large_is_right(n, dtype):
    checks.every_operator_is_right(run_large, n, dtype)


def test_rows_of_more_words_than_a_block_has_threads():
    checks.every_operator_is_right(run_large, 132, "complex128")


def in_their_frame(rng: np.random.Generator, batch: int, n: int, dtype: str) -> np.ndarray:
    """Random matrices with entries in [1/2, 1), up to signs: the frame of units.py is their own."""

    def part() -> np.ndarray:
        return rng.uniform(0.5, 1, (batch, n, n)) * rng.choice((-1, 1), (batch, n, n))

    return (part() + 1j * part() if dtype.startswith("c") else part()).astype(dtype)


@pytest.mark.parametrize("dtype", emulated.DTYPES)
@pytest.mark.parametrize("n", (5, 33, 48))
def test_ranks_down_to_n_minus_1_are_not_left_to_the_ldu(n, dtype):
    """The other class does these by LDU. Of random matrices the sensitivity leaves a few."""
    rng = np.random.default_rng(n)
    A, Z = (in_their_frame(rng, 24, n, dtype) for _ in range(2))
    A[12:, :, -1] = A[12:, :, 0]
    for operator, other, k in (("cofactor", (), 1), ("det_hvp", (Z,), 2)):
        (fast,) = run_large(operator, A, *other, by_ldu=False)
        (all_of_it,) = run_large(operator, A, *other)
        served = np.array([np.array_equal(x, y) for x, y in zip(fast, all_of_it, strict=True)])
        assert served[:12].sum() >= 10
        assert served[12:].sum() >= 10
        (native,) = emulated.run(operator, A, *other)
        for b in range(24):
            directions = [torch.from_numpy(x[b]) for x in other]
            unit = units.unit(torch.from_numpy(A[b]), k, directions)
            error = all_of_it[b].astype(np.complex128) - native[b]
            assert np.linalg.norm(error) <= unit


@pytest.mark.parametrize("dtype", ("float64", "complex128"))
def test_the_condition_does_not_leave_second_derivatives_to_the_ldu(dtype):
    """What counts is how far the two smallest singular values are below the one before them."""
    n = 33
    draw = cases.Draw("falling", n, getattr(torch, dtype))
    s = np.logspace(0, -8, n)
    apart = np.r_[s[:-2], 1e-6 * s[-2:]]
    numbers = [draw.with_singular_values(x) for x in (s, s, apart, apart)]
    A = torch.from_numpy(np.stack(numbers).astype(dtype))
    Z = torch.from_numpy(in_their_frame(draw.rng, len(A), n, dtype))
    fast, all_of_it = (
        run_large("det_hvp", A.numpy(), Z.numpy(), by_ldu=by_ldu)[0] for by_ldu in (False, True)
    )
    served = [np.array_equal(x, y) for x, y in zip(fast, all_of_it, strict=True)]
    assert served == [True, True, False, False]
    exact = [oracles.hvp(a, z) for a, z in zip(A, Z, strict=True)]
    units.assert_within(torch.from_numpy(all_of_it), exact, A, 2, 1.0, (Z,))


@pytest.mark.parametrize("dtype", emulated.DTYPES)
@pytest.mark.parametrize("n", (2, 33, 70))
def test_the_entry_that_the_last_pivot_stands_for_is_found(n, dtype):
    """C(P) = det(P) P for permutations, each number of it exact; the shift is exchanged at every
    step. With one entry 0 the cofactor there is all that is left: the last pivot where it is in the
    last row."""
    rng = np.random.default_rng(n)
    orders = [np.roll(np.arange(n), 1), np.arange(n)[::-1], *(rng.permutation(n) for _ in range(6))]
    P = np.stack([np.eye(n, dtype=dtype)[order] for order in orders])
    signs = np.array([np.linalg.slogdet(np.eye(n)[order])[0] for order in orders])
    C = signs[:, None, None] * P
    assert np.array_equal(run_large("cofactor", P, by_ldu=False)[0], C)
    zeroed = P.copy()
    zeroed[:, -1] = 0
    left = np.where(np.arange(n)[:, None] == n - 1, C, 0)
    assert np.array_equal(run_large("cofactor", zeroed, by_ldu=False)[0], left)


@pytest.mark.parametrize("dtype", ("float32", "complex128"))
def test_a_power_of_two_in_the_direction_is_one_in_the_product(dtype):
    A, Z = (x[[0, 1, 2, 8]] for x in arguments("det_hvp", 33, dtype, 9))
    (expected,) = run_large("det_hvp", A, Z)
    for e in (-60, 60):
        scale = np.float32(2.0**e)
        (got,) = run_large("det_hvp", A, Z * scale)
        assert_same_bits((got,), (expected * scale,), f"2^{e}")


@pytest.mark.parametrize("transposed", (False, True))
def test_an_inverse_that_is_too_large_is_left_to_the_ldu(transposed):
    """B = bidiagonal(1, -2) has (B^-1)_ij = 2^(j - i) for j >= i, and det B = 1. So H(B)[Z] is
    (tr(G Z) G - G Z G)^T with G = B^-1, in integers."""
    n = 40
    B = np.eye(n) - 2 * np.diag(np.ones(n - 1), 1)
    Z = np.random.default_rng(n).integers(-3, 4, (n, n))
    G = np.array([[2 ** (j - i) if j >= i else 0 for j in range(n)] for i in range(n)], object)
    GZ = G @ Z.astype(object)
    H = (GZ.trace() * G - GZ @ G).T
    if transposed:
        B, Z, H = B.T, Z.T, H.T
    B, Z = B.astype(np.float32)[None], Z.astype(np.float32)[None]
    (got,) = run_large("det_hvp", B, Z)
    unit = units.unit(torch.from_numpy(B[0]), 2, [torch.from_numpy(Z[0])])
    rows, columns = units.frame_exponents(torch.from_numpy(B[0]))
    # In the frame, where H_ij has 2^(r_i + c_j) and det B has 2^-(sum r + sum c).
    scale = 2.0 ** (rows[:, None] + columns - (rows.sum() + columns.sum()))
    error = np.linalg.norm((got[0].astype(object) - H).astype(float) * scale)
    assert error <= unit


def test_more_matrices_than_blocks_are_served_in_turn():
    # LDU_BLOCKS blocks share what is left to the LDU: all of these matrices, of rank n - 2.
    rng = np.random.default_rng(6)
    A, Z = (in_their_frame(rng, 9, 6, "float32") for _ in range(2))
    A[:, :2] = 0
    (together,) = run_large("det_hvp", A, Z)
    for b in range(9):
        alone = run_large("det_hvp", A[b : b + 1], Z[b : b + 1])
        assert_same_bits(alone, (together[b : b + 1],), f"matrix {b}")
    assert np.isfinite(together).all()
    assert together.any((1, 2)).all()
