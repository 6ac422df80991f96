"""The LU that takes the place of torch's in the class "large" (csrc/cuda/lu), on the emulation.

As LAPACK's getrf: P A = L U in the place of A, columns one after the other. `emulated.factor` runs
the kernel alone.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import checks
import emulated
import numpy as np
import pytest

MISSING = emulated.missing()
pytestmark = [
    pytest.mark.skipif(MISSING is not None, reason=str(MISSING)),
    pytest.mark.usefixtures("plain_schedule"),
]

# Columns of a panel; a block of columns is two panels, a tile 128 (complex128: 64) x 64 numbers.
PANEL = dict(zip(emulated.DTYPES, (64, 32, 32, 16), strict=True))


class Factored(NamedTuple):
    """L, U, and the row exchanges, from 0 on."""

    L: np.ndarray
    U: np.ndarray
    exchanges: np.ndarray


def factor(A: np.ndarray, cluster: int = 2) -> list[Factored]:
    """Of a batch; that exchanges lead to rows of the matrix not above is checked."""
    columns = np.ascontiguousarray(A.swapaxes(-1, -2))
    exchanges = emulated.factor(columns, cluster) - 1
    n = A.shape[-1]
    assert (exchanges >= np.arange(n)).all()
    assert (exchanges < n).all()
    eye = np.eye(n, dtype=A.dtype)
    lu = columns.swapaxes(-1, -2)
    return [
        Factored(np.tril(x, -1) + eye, np.triu(x), p) for x, p in zip(lu, exchanges, strict=True)
    ]


def exchanged(A: np.ndarray, exchanges: np.ndarray) -> np.ndarray:
    """P A."""
    A = A.copy()
    for k, p in enumerate(exchanges):
        A[[k, p]] = A[[p, k]]
    return A


def normal(n: int, dtype: str, batch: int = 1) -> np.ndarray:
    rng = np.random.default_rng(n)
    A = rng.standard_normal((batch, n, n))
    return (A + 1j * rng.standard_normal(A.shape) if dtype.startswith("c") else A).astype(dtype)


def orders(dtype: str) -> tuple[int, ...]:
    """At the edges of words, panels, blocks and tiles."""
    P = PANEL[dtype]
    return (1, 2, 3, 5, P - 1, P, P + 1, 2 * P, 2 * P + 3, 4 * P + 1, 130)


@pytest.mark.parametrize(
    ("dtype", "n", "cluster"),
    (
        *((dtype, n, 2) for dtype in emulated.DTYPES for n in orders(dtype)),
        *((dtype, 101, cluster) for dtype in emulated.DTYPES for cluster in (4, 8)),
        # Panels whose rows are those of two blocks of the cluster, and of three.
        *((dtype, 259, 2) for dtype in emulated.DTYPES),
        ("complex64", 515, 4),
    ),
)
def test_the_factors_are_those_of_a_matrix_nearby(dtype, n, cluster):
    """Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., theorem 9.3.

    |P A - L U| <= gamma |L||U|: each number is a chain of at most n - 1 fused multiply-adds and, in
    L, a quotient with an error of less than two units roundoff. Numbers of complex chains have two
    roundings at each step, of parts that are sqrt(2) times the modulus at the most.
    """
    A = normal(n, dtype)[0]
    L, U, exchanges = factor(A[None], cluster)[0]
    wide = np.clongdouble if dtype.startswith("c") else np.longdouble
    residual = np.abs(L.astype(wide) @ U.astype(wide) - exchanged(A, exchanges))
    unit = np.finfo(dtype).eps / 2 * (2 * np.sqrt(2) if dtype.startswith("c") else 1)
    sizes = np.abs(L).astype(np.longdouble) @ np.abs(U)
    # long double evaluates the residual itself.
    gamma = (n + 1) * (unit + np.finfo(np.longdouble).eps) * 1.001
    assert (residual <= gamma * sizes).all()
    # Pivots are the largest of their columns up to what the search leaves out: 9 bits are compared.
    # Of complex numbers |re| + |im| is, within sqrt(2) of the modulus.
    assert np.abs(L).max() <= (1 + 2.0**-8) * (np.sqrt(2) if dtype.startswith("c") else 1)


def exact_factors(n: int, dtype: str, rank: int, scale: float) -> tuple[np.ndarray, Factored]:
    """A matrix of which every elimination is exact, and its factors.

    Entries of L below the diagonal are 0 or +-1/4, +-1/2, those of U are integers up to 2 with
    powers of two on the diagonal: all sums are multiples of 1/4 below n. Each pivot is the one
    largest entry of its column, by a factor of two; columns from `rank` on are 0 behind the others.
    """
    rng = np.random.default_rng(10 * n + rank)
    units = np.array([1, -1, 1j, -1j]) if dtype.startswith("c") else np.array([1, -1])
    L = np.tril(rng.choice([0, 0.25, 0.5], (n, n)) * rng.choice(units, (n, n)), -1)
    U = np.triu(rng.choice([0, 1, 2], (n, n)) * rng.choice(units, (n, n)), 1)
    U += np.diag(rng.choice([1, 2], n) * rng.choice(units, n))
    L[:, rank:] = 0
    U[rank:] = 0
    L += np.eye(n)
    exchanges = np.array([rng.integers(k, n) if k < rank else k for k in range(n)])
    A = L @ U
    for k in reversed(range(n)):
        A[[k, exchanges[k]]] = A[[exchanges[k], k]]
    cast = (A * scale).astype(dtype)
    return cast, Factored(L.astype(dtype), (U * scale).astype(dtype), exchanges)


def assert_exact(got: Factored, expected: Factored, rank: int):
    """Where columns are 0 any exchange will do."""
    assert np.array_equal(got.U, expected.U)
    assert np.array_equal(got.exchanges[:rank], expected.exchanges[:rank])
    L = expected.L.copy()
    for k in range(rank, len(L)):
        p = got.exchanges[k]
        L[[k, p], :rank] = L[[p, k], :rank]
    assert np.array_equal(got.L, L)


@pytest.mark.parametrize("scale", (1, 2.0**-120, 2.0**110))
@pytest.mark.parametrize("dtype", emulated.DTYPES)
def test_what_is_exact_comes_out_exact(dtype, scale):
    P = PANEL[dtype]
    for n in (7, 2 * P + 3) if scale != 1 else (1, 4, 33, P, P + 1, 2 * P, 3 * P + 2, 4 * P + 5):
        for rank in {n, n - 1, n // 2}:
            A, expected = exact_factors(n, dtype, rank, scale)
            assert_exact(factor(A[None])[0], expected, rank)


@pytest.mark.parametrize("dtype", emulated.DTYPES)
def test_what_is_exact_comes_out_exact_from_many_blocks(dtype):
    A, expected = exact_factors(273, dtype, 270, 1)
    assert_exact(factor(A[None], 4)[0], expected, 270)


@pytest.mark.parametrize("dtype", emulated.DTYPES)
def test_equal_rows_cancel_to_exactly_zero(dtype):
    """Wherever they lie: once one of them is a pivot row, nothing is left of the other."""
    n = 4 * PANEL[dtype] + 9
    A = normal(n, dtype, 4)
    for x, (i, j) in zip(
        A, ((0, 1), (3, n - 1), (n - 2, n // 2), (n // 3, 2 * n // 3)), strict=True
    ):
        x[i] = x[j]
    for L, U, _ in factor(A):
        assert U[-1, -1] == 0
        assert (U.diagonal()[:-1] != 0).all()
        assert np.isfinite(L).all()


@pytest.mark.parametrize("dtype", emulated.DTYPES)
def test_columns_of_zeros_are_passed(dtype):
    n = 2 * PANEL[dtype] + 5
    A = normal(n, dtype, 3)
    A[0] = 0
    A[1, :, ::3] = 0
    A[2, :, PANEL[dtype]] = 0
    for x, (L, U, _) in zip(A, factor(A), strict=True):
        assert np.isfinite(L).all()
        zero = (x == 0).all(0)
        assert (U[:, zero] == 0).all()
        assert (L[:, zero] == np.eye(n)[:, zero]).all()


@pytest.mark.parametrize("dtype", ("float32", "complex64", "float64"))
def test_pivots_that_grow_to_the_end_of_the_range_are_divided_by(dtype):
    # Wilkinson's matrix: each step doubles the last column, whose last number is 2^(n - 1), and
    # all multipliers are -1. The row behind, with half of the pivot, has a quotient of 1/2.
    n = 129
    A = (np.eye(n) - np.tri(n, k=-1)).astype(dtype)
    A[:, -2] = 1
    A[-1] = 0
    A[-1, -3], A[-1, -1] = -1, 1
    A[-2:, -1] = 1
    L, U, exchanges = factor(A[None])[0]
    assert U[-2, -2] == 2.0 ** (n - 2)
    assert L[-1, -2] == 0.5
    assert (exchanges == np.arange(n)).all()


@pytest.mark.parametrize("dtype", emulated.DTYPES)
@pytest.mark.parametrize("gpu_nan", (False, True))
def test_what_is_not_finite_stays_in_its_own_matrix(dtype, gpu_nan):
    n = PANEL[dtype] + 20
    A = normal(n, dtype, 4)
    A[1, n // 2, 3] = np.nan
    if gpu_nan and np.dtype(dtype).type in (np.float32, np.complex64):
        A[1].view(np.int32)[n // 2, 3] = emulated.GPU_NAN
    A[2, -1, 0] = np.inf
    together = factor(A)
    for b in (0, 3):
        checks.assert_same_bits(tuple(factor(A[b : b + 1])[0]), tuple(together[b]), f"matrix {b}")
        assert np.isfinite(together[b].L).all()
        assert np.isfinite(together[b].U).all()
    assert np.isnan(together[1].U.diagonal()).any()
    assert not np.isfinite(together[2].U.diagonal()).all()


@pytest.mark.parametrize(("dtype", "n"), (("float32", 150), ("complex128", 75), ("float64", 260)))
def test_neither_the_order_of_threads_nor_the_cluster_changes_a_bit(dtype, n):
    A = normal(n, dtype)
    expected = tuple(factor(A)[0])
    for cluster in (4, 8):
        checks.assert_same_bits(tuple(factor(A, cluster)[0]), expected, f"{cluster} blocks")
    for order, seed, fill in (("reverse", 0, 0), ("random", 1, emulated.GPU_NAN)):
        emulated.schedule(order, seed, fill)
        checks.assert_same_bits(tuple(factor(A)[0]), expected, f"{order} {seed} {fill:#x}")


@pytest.mark.parametrize("n", (3, 33, 70))
@pytest.mark.parametrize("dtype", emulated.DTYPES)
def test_every_operator_of_the_class_large_is_right_with_it(n, dtype):
    checks.every_operator_is_right(functools.partial(emulated.run, large=True, lu=2), n, dtype)


@pytest.mark.parametrize("dtype", emulated.DTYPES)
def test_no_banks_conflict(dtype):
    A = normal(2 * PANEL[dtype] + 40, dtype)
    counted = emulated.factor_accesses(A, 2)
    assert counted.accesses > 0
    assert counted.wavefronts == counted.least


def test_the_cluster_has_a_thread_for_each_row_and_fills_the_device():
    multiprocessors = 132
    chosen = functools.partial(emulated.lu_cluster, multiprocessors=multiprocessors)
    assert chosen(1024, 15) == 0
    assert chosen(2049, 1000) == 0
    assert chosen(2048, 1000) == 8
    for n, least in ((300, 2), (512, 2), (513, 4), (1024, 4), (1025, 8)):
        for batch in (16, 33, 40, 66, 67, 1000):
            cluster = chosen(n, batch)
            assert cluster >= least
            # No smaller one would do, or one block more for each would be too many at once.
            assert cluster == least or batch * cluster <= 2 * multiprocessors
            assert cluster == 8 or batch * 2 * cluster > 2 * multiprocessors
