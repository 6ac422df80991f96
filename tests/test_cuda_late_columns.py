"""Determinants in the class "block" whose last columns come late (csrc/cuda/block/factor.h), on the
emulation: float32, n = 239 to 256.

Rows and columns of Hadamard matrices H, of orders m that are powers of two, among each other:
H H^T = m I, so |det H| = m^(m / 2). With the columns of each H in their order, entries of Schur
complements are 0 and +-2^k, so nothing rounds. Every entry counts, in each of the late columns too.
"""

from __future__ import annotations

import checks
import emulated
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

LATE = 48  # columns, as block/kernels.h has it
LEAST, LARGEST = 239, 256
ORDERS = (LEAST, 240, 255, LARGEST)  # with rows of whole words, and others


def hadamard(n: int) -> tuple[np.ndarray, int, int]:
    """A, the sign of det A and log2 |det A|."""
    sizes = [1 << k for k in reversed(range(9)) if n >> k & 1]
    A = scipy.linalg.block_diag(*map(scipy.linalg.hadamard, sizes))
    rng = np.random.default_rng(n)
    rows = rng.permutation(n)
    owners = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))  # of the columns
    columns = np.argsort(np.argsort(owners, kind="stable"))  # each H's in their order
    # det [[H, H], [H, -H]] = (-2)^m det(H)^2: negative for m = 2 alone, which becomes -2.
    sign = np.linalg.det(np.eye(n)[rows][:, columns])
    sign = round(-sign if 2 in sizes else sign)
    log2 = sum(m * (m.bit_length() - 1) for m in sizes) // 2
    return A[rows][:, columns].astype(np.float32), sign, log2


def assert_exact(A: np.ndarray, sign: int, log2: int):
    (got_sign,), (log,) = emulated.run("slogdet", A[None])
    assert got_sign == sign
    assert abs(log - log2 * np.log(2)) <= np.finfo(A.dtype).eps * abs(log2)


@pytest.mark.parametrize("n", ORDERS)
def test_hadamard_matrices_have_their_determinant_to_the_last_bit(n):
    assert emulated.fits("det", "float32", n)
    assert not emulated.fits("cofactor", "float32", n)
    assert_exact(*hadamard(n))


@pytest.mark.parametrize("n", ORDERS)
def test_rows_and_columns_are_scaled_whenever_they_come(n):
    # To the ends of the format. Scaling leads back to entries of +-1, exactly.
    A, sign, log2 = hadamard(n)
    rng = np.random.default_rng(1)
    graded = np.arange(n) // 4 - 32
    for rows, columns in ((rng.integers(-60, 60, n), rng.integers(-60, 60, n)), (graded, graded)):
        scaled = np.ldexp(A, rows[:, None] + columns)
        assert_exact(scaled, sign, log2 + int(rows.sum() + columns.sum()))


@pytest.mark.parametrize("n", ORDERS)
def test_determinants_are_right(n):
    case = checks.expected(n, "float32")["slogdet"]
    got = emulated.run("slogdet", *case.arguments)
    for g, right, error in zip(got, case.results, case.errors, strict=True):
        assert (np.abs(g - right) <= error).all()


@pytest.mark.parametrize("n", (LEAST, LARGEST))
def test_singular_matrices_have_a_determinant_of_exactly_zero(n):
    A = arguments("det", n, "float32", 1)[0].repeat(6, 0)
    A[0, n - 1] = A[0, 0]  # equal rows cancel
    A[1, 100] = A[1, 101]
    A[1] *= np.float32(2.0**-30)  # scaled first
    A[2, :, n - 1] = 0
    A[3, :, LATE - 1] = 0
    A[4, 11] = 0
    A[5, :, :-LATE] = 0  # no pivot is left before the late columns come
    sign, log = emulated.run("slogdet", A)
    assert (sign == 0).all()
    assert (log == -np.inf).all()


@pytest.mark.parametrize("n", (LEAST, LARGEST))
def test_what_is_not_finite_stays_in_its_own_matrix(n):
    # In a column that is there first, and in ones that come late.
    A = arguments("det", n, "float32", 1)[0].repeat(4, 0)
    (expected,) = emulated.run("det", A[:1])
    A[0, 7, 3] = np.nan
    A[2, 200, n - 2] = np.inf
    A.view(np.int32)[3, 0, n - LATE] = emulated.GPU_NAN
    (det,) = emulated.run("det", A)
    assert np.isnan(det[[0, 2, 3]]).all()
    assert_same_bits((det[1:2],), (expected,), "neighbours")


def pair(n: int) -> np.ndarray:
    """A matrix that is eliminated as it is, and one that is scaled."""
    (A,) = arguments("slogdet", n, "float32", 2)
    A[1] *= 2.0 ** np.random.default_rng(n).integers(-30, 30, (n, 1))
    return A


@pytest.mark.parametrize("n", (LEAST, LARGEST))
def test_no_order_of_threads_and_no_memory_content_changes_a_bit(n):
    A = pair(n)
    expected = emulated.run("slogdet", A)
    emulated.schedule("random", 1, emulated.GPU_NAN)
    for b in range(2):
        got = emulated.run("slogdet", A[b : b + 1])  # nor does the place in a batch
        assert_same_bits(got, tuple(x[b : b + 1] for x in expected), f"matrix {b}")


def test_strides_do_not_change_a_bit():
    A = pair(LARGEST)
    expected = emulated.run("slogdet", A)
    for name, layout in checks.LAYOUTS.items():
        assert_same_bits(emulated.run("slogdet", layout(A)), expected, name)
