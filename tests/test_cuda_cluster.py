"""Determinants by a cluster of blocks (csrc/cuda/cluster), on the emulation, against closed forms.

A = S (D + x y^T) with D diagonal, rows and columns in any order, S the order of the rows: with
numbers that are small multiples of powers of two A is exact in every format, and

    det A = sign(S) prod d (1 + sum_i x_i y_i / d_i)

is a rational number. The pivots lie all over the rows and every step of the elimination rounds.
"""

from __future__ import annotations

import functools
from fractions import Fraction

import checks
import emulated
import mpmath
import numpy as np
import pytest
import scipy.linalg
from checks import assert_same_bits
from problems import arguments

MISSING = emulated.missing()
pytestmark = [
    pytest.mark.skipif(MISSING is not None, reason=str(MISSING)),
    pytest.mark.usefixtures("plain_schedule"),
]

# Just above what one block holds, and above what 2 and 4 hold; then eight blocks with one or two
# panels each. Two matrices: one thread of the emulation for each thread of the cluster takes time.
CASES = (
    *(("float32", n, 0) for n in (257, 300, 337)),
    *((dtype, n, 0) for dtype in ("float64", "complex64") for n in (170, 239)),
    *(("complex128", n, 0) for n in (120, 168)),
    ("float32", 203, 8),
    *((dtype, 101, 8) for dtype in ("float64", "complex64")),
    ("complex128", 49, 8),
)


def odd(order: np.ndarray) -> bool:
    """Whether a permutation is odd: by its cycles."""
    seen, exchanges = np.zeros(len(order), bool), 0
    for start in range(len(order)):
        k = int(order[start])
        while not seen[start] and k != start:
            seen[k], exchanges, k = True, exchanges + 1, int(order[k])
        seen[start] = True
    return exchanges % 2 == 1


def product_form(n: int, dtype: str, seed: int = 0) -> tuple[np.ndarray, tuple[Fraction, Fraction]]:
    """A matrix, and the real and imaginary part of its determinant."""
    rng = np.random.default_rng(1000 * n + seed)
    d = rng.choice([-2, -1, 1, 2], n)
    # Small beside the diagonal, or rounding would be amplified; the sum of x_i y_i / d_i is about
    # sqrt(n) / 40, far more than rounding makes of it.
    x, y = (rng.choice([-3, -2, -1, 1, 2, 3], n) for _ in range(2))
    i = np.where(rng.random(n) < 0.5, 1j, 1) if dtype.startswith("c") else np.ones(n)
    rows, columns = rng.permutation(n), rng.permutation(n)
    A = (np.diag(d) + np.outer(x * i, y) / 128)[rows][:, columns].astype(dtype)
    factor = Fraction(int(np.prod(np.sign(d)))) * 2 ** int((np.abs(d) == 2).sum())
    factor = -factor if odd(rows) != odd(columns) else factor
    terms = [Fraction(int(p), 128 * int(q)) for p, q in zip(x * y, d, strict=True)]
    re = 1 + sum((t for t, k in zip(terms, i, strict=True) if k == 1), Fraction(0))
    im = sum((t for t, k in zip(terms, i, strict=True) if k != 1), Fraction(0))
    return A, (factor * re, factor * im)


def relative_error(A: np.ndarray) -> float:
    """What rounding may change of a determinant, relative to it.

    The factors are those of A + E with |E| <= gamma_n |L||U| (Higham, Accuracy and Stability of
    Numerical Algorithms, 2nd ed., theorem 9.3), complex arithmetic having 2 sqrt(2) times the unit
    roundoff at the most, and det(A + E) / det A - 1 is trace(A^-1 E) to first order. n eps, eps
    being twice the unit roundoff, times 2 holds both; the product of the pivots adds n roundings.
    """
    n, eps = len(A), np.finfo(A.dtype).eps
    wide = A.astype(np.complex128)
    _, L, U = scipy.linalg.lu(wide)
    P = scipy.linalg.lu(wide, p_indices=True)[0]
    sizes = (np.abs(L) @ np.abs(U))[P]
    return 2 * n * eps * (1 + (np.abs(np.linalg.inv(wide)).T * sizes).sum())


def assert_right(A: np.ndarray, det: tuple[Fraction, Fraction], sign: complex, log: float, twos=0):
    """twos: A is the matrix that was made with rows and columns times powers of two."""
    with mpmath.workprec(200):
        exact = mpmath.mpc(*(mpmath.mpf(x.numerator) / x.denominator for x in det))
        size = abs(exact)
        expected_log = float(mpmath.log(size) + twos * mpmath.log(2))
        expected_sign = complex(exact / size)
    error = relative_error(A)
    assert error < 0.1
    assert abs(sign - expected_sign) <= 2 * error
    assert abs(log - expected_log) <= 2 * error + 2 * np.finfo(A.dtype).eps * abs(expected_log)


@pytest.mark.parametrize(("dtype", "n", "cluster"), CASES)
def test_determinants_are_those_of_closed_forms(dtype, n, cluster):
    A, det = product_form(n, dtype)
    if not cluster:
        assert not emulated.fits("det", dtype, n)
        assert emulated.cluster_of("det", dtype, n) in emulated.CLUSTER_SIZES
    (sign,), (log,) = emulated.run("slogdet", A[None], cluster=cluster)
    assert_right(A, det, sign, log)


@pytest.mark.parametrize("dtype", emulated.DTYPES)
def test_a_hadamard_matrix_has_its_determinant_to_the_last_bit(dtype):
    # H H^T = n I, so |det H| = n^(n / 2). Entries of the Schur complements are 0 and +-2^k: nothing
    # rounds, and all of them are as large as the multipliers, so that none can be missing.
    n = 256
    rows = np.random.default_rng(0).permutation(n)
    H = scipy.linalg.hadamard(n)
    scale = 1j if dtype.startswith("c") else 1
    (sign,), (log,) = emulated.run("slogdet", (H[rows] * scale).astype(dtype)[None])
    # det [[H, H], [H, -H]] = (-2)^n det(H)^2: positive from n = 2 on.
    assert sign == (-1 if odd(rows) else 1)
    assert abs(log - n / 2 * np.log(n)) <= np.finfo(dtype).eps * log


@pytest.mark.parametrize("dtype", emulated.DTYPES)
def test_scaled_rows_and_columns_change_the_exponent_alone(dtype):
    # To the ends of the format and beyond what a determinant without exponent can be.
    n = 53
    A, det = product_form(n, dtype)
    rng = np.random.default_rng(1)
    reach = np.finfo(dtype).maxexp // 2 - 3
    rows, columns = rng.integers(-reach, reach, (2, n))
    scaled = (A * 2.0 ** rows[:, None].astype(float) * 2.0 ** columns.astype(float)).astype(dtype)
    (sign,), (log,) = emulated.run("slogdet", scaled[None], cluster=2)
    assert_right(A, det, sign, log, int(rows.sum() + columns.sum()))
    assert np.isfinite(log)


@pytest.mark.parametrize("dtype", emulated.DTYPES)
def test_singular_matrices_have_a_determinant_of_exactly_zero(dtype):
    n = 70
    A = arguments("det", n, dtype, 9)[0][:1].repeat(5, 0)
    A[0, 57] = A[0, 3]  # equal rows cancel, wherever their columns lie
    A[1, :, 69] = 0
    A[2, 11] = 0
    A[3, 5] = A[3, 69]
    A[3] *= np.float32(2.0**-30)  # scaled first
    A[4] = 0
    sign, log = emulated.run("slogdet", A, cluster=2)
    assert (sign == 0).all()
    assert (log == -np.inf).all()


@pytest.mark.parametrize(
    ("dtype", "n", "cluster"),
    tuple(zip(emulated.DTYPES, (35, 20, 18, 14), (2, 2, 2, 4), strict=True)),
)
def test_a_cluster_has_the_properties_of_every_class(dtype, n, cluster):
    run = functools.partial(emulated.run, cluster=cluster)
    (A,) = arguments("slogdet", n, dtype, 9)
    A = A[[1, 4, 6, 8]]
    expected = run("slogdet", A)
    for order, seed, fill in (("reverse", 0, 0x00), ("random", 1, 0xFF), ("random", 2, 0x7F)):
        emulated.schedule(order, seed, fill)
        assert_same_bits(run("slogdet", A), expected, f"{order} {seed} {fill:#x}")
    emulated.schedule()
    checks.no_matrix_depends_on_its_neighbours(run, "slogdet", n, dtype, 9)
    checks.nan_and_inf_stay_in_their_own_matrix(run, "det", n, dtype, 9)
    checks.strides_do_not_change_a_bit(run, "slogdet", n, dtype, 3)


@pytest.mark.parametrize("dtype", ("float32", "complex64"))
def test_nan_as_a_gpu_makes_it_is_chosen_as_a_pivot(dtype):
    # 0x7fffffff, all bits but the sign: a key that wrapped around would be the least of all.
    n = 50
    A = arguments("det", n, dtype, 9)[0][:1].copy()
    A.view(np.int32)[0, 40, -1] = 0x7FFFFFFF
    (det,) = emulated.run("det", A, cluster=2)
    assert np.isnan(det).all()


@pytest.mark.parametrize("dtype", ("float32", "complex64"))
def test_pivots_that_have_grown_to_the_end_of_the_range_are_divided_by(dtype):
    # Each step doubles column n - 2. Its pivot is 2^(n - 2), whose reciprocal no normal number is;
    # the row behind it has half of that there, and loses half of what the pivot's row has in the
    # last column: det = 2^(n - 2) (1 - 1/2). All numbers are powers of two, without rounding.
    n = 129
    A = (np.eye(n) - np.tri(n, k=-1)).astype(dtype)
    A[:, -2] = 1
    A[-1] = 0
    A[-1, -3] = -1
    A[-2:, -1] = 1
    (sign,), (log,) = emulated.run("slogdet", A[None], cluster=2)
    assert sign == 1
    assert abs(log - (n - 3) * np.log(2)) <= 2 * np.finfo(dtype).eps * log


@pytest.mark.parametrize("dtype", emulated.DTYPES)
def test_a_stride_of_zero_repeats_a_matrix(dtype):
    A = arguments("det", 40, dtype, 9)[0][8]
    (alone,) = emulated.run("det", A[None], cluster=2)
    (three,) = emulated.run("det", np.broadcast_to(A, (3, 40, 40)), cluster=2)
    assert_same_bits((three,), (alone.repeat(3),), "broadcast")
