"""The CUDA kernels' source, run on the host by an emulation of CUDA's threads (cuda_emulation/).

Values are tested by running the other files on the emulated kernels (make test-cuda-emulation);
here are the properties that only the emulation can show: nothing depends on the order in which
threads run or on what shared memory held before, no matrix on its neighbours. Accesses outside:
test_cuda_sanitizers.py; faults: test_cuda_faults.py; the class "large": test_cuda_large.py.
"""

from __future__ import annotations

import itertools

import checks
import emulated
import numpy as np
import pytest
from checks import assert_same_bits
from problems import NOT_FINITE, arguments

MISSING = emulated.missing()
pytestmark = [
    pytest.mark.skipif(MISSING is not None, reason=str(MISSING)),
    pytest.mark.usefixtures("plain_schedule"),
]

# A member of every class: orders at the ends of threads (4, 5, 8, 12); of warps, with lanes and
# numbers left over and without, one matrix to a warp or several, by dtype to 32, 48 or 64; and of
# blocks: with whole and broken words and panels. In threads, matrices of an odd number of numbers
# (5), of an odd number of words (6), and of an even one (8, 12).
ORDERS = (1, 2, 3, 4, 5, 6, 8, 12, 13, 16, 17, 20, 32, 33, 47, 64, 67)


def batch_of(n: int) -> int:
    """Ragged: neither whole warps nor whole blocks, and with all the special matrices."""
    return 35 if n <= 16 else 19 if n <= 32 else 9


OPERATORS = emulated.OPERATORS + emulated.FURTHER_OPERATORS
CASES = tuple(itertools.product(OPERATORS, ORDERS, emulated.DTYPES))


@pytest.mark.parametrize(("operator", "n", "dtype"), CASES)
def test_no_order_of_threads_and_no_memory_content_changes_a_bit(operator, n, dtype):
    args = arguments(operator, n, dtype, batch_of(n))
    expected = emulated.run(operator, *args)
    for order, seed, fill in (
        ("reverse", 0, 0x00000000),
        ("random", 1, 0xFFFFFFFF),
        ("random", 2, emulated.GPU_NAN),
    ):
        emulated.schedule(order, seed, fill)
        assert_same_bits(emulated.run(operator, *args), expected, f"{order} {seed} {fill:#x}")


@pytest.mark.parametrize(("operator", "n", "dtype"), CASES)
def test_no_matrix_depends_on_its_neighbours_or_its_place(operator, n, dtype):
    checks.no_matrix_depends_on_its_neighbours(emulated.run, operator, n, dtype, batch_of(n))


@pytest.mark.parametrize(("operator", "n", "dtype"), CASES)
def test_nan_and_inf_stay_in_their_own_matrix(operator, n, dtype):
    checks.nan_and_inf_stay_in_their_own_matrix(emulated.run, operator, n, dtype, batch_of(n))


@pytest.mark.parametrize("operator", emulated.OPERATORS)
@pytest.mark.parametrize("n", (4, 13, 32, 33, 64))
def test_nan_as_a_gpu_makes_it_changes_no_other_matrix(operator, n):
    # Of all ones, where a host's NaN ends in zeros: the largest of all bit patterns.
    A, *others = arguments(operator, n, "float32", 9)
    expected = emulated.run(operator, A, *others)[0]
    A[0, n // 2, n // 3] = np.array(0x7FFFFFFF, np.int32).view(np.float32)
    result = emulated.run(operator, A, *others)[0]
    assert np.isnan(result[0]).all()
    assert_same_bits((result[1:],), (expected[1:],), "neighbours")


@pytest.mark.parametrize(("operator", "n", "dtype"), CASES)
def test_the_nan_of_a_gpu_is_like_any_other(operator, n, dtype):
    # Integer keys of a search compare bits: this NaN is the largest of all, and one more wraps.
    args = tuple(x[NOT_FINITE[0] :][:1] for x in arguments(operator, n, dtype, 9))
    expected = emulated.run(operator, *args)
    A = args[0]
    real = A.view(A.real.dtype)
    words = real.view(np.uint32 if real.itemsize == 4 else np.uint64)
    words[np.isnan(real)] = np.iinfo(words.dtype).max >> 1
    assert_same_bits(emulated.run(operator, *args), expected, "0x7fffffff")


@pytest.mark.parametrize(("operator", "n", "dtype"), CASES)
def test_strides_do_not_change_a_bit(operator, n, dtype):
    checks.strides_do_not_change_a_bit(emulated.run, operator, n, dtype, 9)


@pytest.mark.parametrize("n", (2, 7, 20, 40))
def test_a_gradient_that_is_not_given_is_one(n):
    (A,) = arguments("cofactor", n, "float32", 9)
    ones = np.ones(9, np.float32)
    expected = emulated.run("slogdet_backward", A, ones)
    assert_same_bits(emulated.run("slogdet_backward", A), expected, "no gradient")


# Orders of matrices that one thread eliminates.
ELIMINATED = {
    "float32": (5, 6, 7, 8, 9, 10, 11, 12),
    "float64": (5, 6, 7, 8),
    "complex64": (5, 6, 7, 8),
    "complex128": (5,),
}


@pytest.mark.parametrize("operator", ("det", "slogdet", "cofactor", "slogdet_backward"))
@pytest.mark.parametrize(
    ("dtype", "n"), [(d, n) for d, orders in ELIMINATED.items() for n in orders]
)
def test_powers_of_two_in_rows_change_no_bit_of_a_mantissa(operator, n, dtype):
    # Rows are weighed by powers of two, so every pivot is the same, and every rounding.
    args = arguments(operator, n, dtype, 8)
    shift = np.random.default_rng(n).integers(-9, 10, (8, n))
    A = np.ldexp(args[0].real, shift[:, :, None])
    if dtype.startswith("c"):
        A = A + 1j * np.ldexp(args[0].imag, shift[:, :, None])
    got = emulated.run(operator, A.astype(dtype), *args[1:])[0]
    expected = emulated.run(operator, *args)[0]
    # det(DA) = det(D) det(A), C(DA) = det(D) D^-1 C(A), (DA)^-T = D^-1 A^-T; the sign stays.
    total = shift.sum(1) * (operator in ("det", "cofactor"))
    moved = (
        np.float64(2) ** total
        if got.ndim == 1
        else np.exp2(total[:, None, None] - shift[:, :, None])
    )
    assert_same_bits((got,), ((expected * moved).astype(dtype),), "rows")


@pytest.mark.parametrize("n", (*range(1, 37), 41, 48, 49, 55, 56, 57, 63, 64, 65))
@pytest.mark.parametrize("dtype", emulated.DTYPES)
def test_every_order_is_right(n, dtype):
    checks.every_operator_is_right(emulated.run, n, dtype)


# Orders of the class "block" where something ends: words between rows, the threads of a block,
# shared memory. A matrix takes up to a second here.
EDGES = (
    *((n, "float32") for n in (64, 65, 96, 97, 128, 129, 160, 161, 200, 237, 238)),
    *((n, dtype) for n in (65, 96, 97, 128, 129, 168) for dtype in ("float64", "complex64")),
    *((n, "complex128") for n in (65, 96, 97, 119)),
)


def assert_right_in_a_block(operator: str, n: int, dtype: str, case: checks.Expected) -> None:
    assert emulated.fits(operator, dtype, n)
    emulated.schedule()
    got = emulated.run(operator, *case.arguments)
    for g, right, error in zip(got, case.results, case.errors, strict=True):
        assert (np.abs(g - right) <= error).all(), operator
    emulated.schedule("random", 1, emulated.GPU_NAN)
    one = tuple(x[:1] for x in case.arguments)
    assert_same_bits(emulated.run(operator, *one), tuple(x[:1] for x in got), operator)


@pytest.mark.parametrize(("n", "dtype"), EDGES)
def test_orders_to_the_end_of_the_class_block_are_right(n, dtype):
    expected = checks.expected(n, dtype)
    for operator in ("slogdet", "cofactor", "slogdet_backward"):
        assert_right_in_a_block(operator, n, dtype, expected[operator])


# The same of second derivatives, which keep two matrices: panels of two to five warps.
@pytest.mark.parametrize(
    ("n", "dtype"),
    (
        *((n, "float32") for n in (96, 97, 128, 129, 155, 156)),
        *((n, dtype) for n in (96, 97, 109, 110) for dtype in ("float64", "complex64")),
        *((n, "complex128") for n in (75, 76)),
    ),
)
def test_second_derivatives_to_the_end_of_the_class_block_are_right(n, dtype):
    assert_right_in_a_block("det_hvp", n, dtype, checks.expected(n, dtype)["det_hvp"])


@pytest.mark.parametrize(("n", "dtype"), EDGES)
def test_cofactors_of_a_singular_matrix_to_the_end_of_the_class_block(n, dtype):
    # The cofactors of a row do not depend on that row. Where it is 0, all others are.
    A, _, _ = checks.well_conditioned(n, dtype)
    A = A[:1].copy()
    row = n // 3
    wide = A.astype(np.complex128)
    right = (np.linalg.det(wide)[:, None, None] * np.linalg.inv(wide).swapaxes(1, 2))[:, row]
    error = checks.tolerance(A) * np.abs(right).max()
    A[:, row] = 0
    (C,) = emulated.run("cofactor", A)
    assert (np.abs(C[:, row] - right) <= error).all()
    C[:, row] = 0
    assert (C == 0).all()
    emulated.schedule("random", 1, emulated.GPU_NAN)
    (again,) = emulated.run("cofactor", A)
    again[:, row] = 0
    assert (again == 0).all()


# Panels of one, two and four warps, with one to four rows in a thread (block/factor.h).
@pytest.mark.parametrize(
    ("n", "dtype"),
    ((70, "float32"), (110, "float32"), (130, "float32"), (165, "float32"), (100, "float64"),
     (130, "float64")),
)  # fmt: skip
def test_equal_rows_of_a_block_cancel_exactly(n, dtype):
    # To the last bit, whichever warps eliminate them, in the same panel or far apart.
    A, _, _ = checks.well_conditioned(n, dtype)
    A = A[:1].repeat(2, 0)
    A[0, n - 1] = A[0, 0]
    A[1, n // 2] = A[1, n // 2 + 1]
    (det,) = emulated.run("det", A)
    assert (det == 0).all()


@pytest.mark.parametrize("n", (60, 125))
def test_pivots_that_grow_do_not_spoil_a_result(n):
    # Wilkinson's matrix: the last column doubles with each step, and the last pivot is 2^(n - 1).
    # All numbers are powers of two, so that nothing but the logarithm rounds.
    A = (np.eye(n) - np.tril(np.ones((n, n)), -1)).astype(np.float32)[None]
    A[:, :, -1] = 1
    (det,) = emulated.run("det", A)
    assert det == 2.0 ** (n - 1)
    sign, logabsdet = emulated.run("slogdet", A)
    assert sign == 1
    log = (n - 1) * np.log(2)
    assert abs(logabsdet - log) <= 2 * np.finfo(np.float32).eps * log
    (X,) = emulated.run("slogdet_backward", A, np.ones(1, np.float32))
    assert (X[0] == np.linalg.inv(A[0].astype(float)).T).all()


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("dtype", emulated.DTYPES)
def test_the_class_block_ends_where_shared_memory_does(operator, dtype):
    n = emulated.largest_block(operator, dtype)
    assert emulated.fits(operator, dtype, n)
    assert not emulated.fits(operator, dtype, n + 1)


def scalings(n: int, dtype: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """Exponents of rows and columns, around what the class "warp" takes as it is and far beyond."""
    far = (np.finfo(dtype).maxexp) // 4
    least, most = np.finfo(dtype).minexp - np.finfo(dtype).nmant + 4, np.finfo(dtype).maxexp - 8
    none, first = np.zeros(n, int), np.arange(n) == 0
    ramp = np.arange(n) - n // 2
    uniform = [(np.full(n, e), none) for e in (least, -far - 4, 2 - far, far - 9, far + 1, most)]
    one_row = [(first * e, none) for e in (least, -2 * far, -far, far, most)]
    one_column = [(none, first * e) for e in (least, -far, -6, -4, -2, 2, 4, 6, far, most)]
    graded = [(ramp, none), (none, ramp), (ramp, ramp[::-1]), (-ramp * far // n, ramp * far // n)]
    return [*uniform, *one_row, *one_column, *graded]


@pytest.mark.parametrize("n", (5, 9, 13, 16, 24, 32, 33, 48, 64))
@pytest.mark.parametrize("dtype", emulated.DTYPES)
def test_every_scaling_of_rows_and_columns_is_right(n, dtype):
    # Entries are multiples of 1/8 below 2^6: powers of two scale them exactly, to the ends of the
    # range. But for the scales, determinant and inverse are those of `base`, whose entries are all
    # of similar size, so that equilibration leads back to it, within a few powers of two.
    rng = np.random.default_rng(n)
    base = rng.choice((-1, 1), (n, n)) * rng.integers(4, 9, (n, n)) / 8
    base = base + np.diag(np.sign(np.diag(base)) * np.round(2 * n**0.5))
    if dtype.startswith("c"):
        base = base * (1 + 1j)
    scales = scalings(n, dtype)
    A = np.stack([scaled(base, rows[:, None] + columns) for rows, columns in scales]).astype(dtype)
    sign, log = np.linalg.slogdet(base)
    inverse = np.linalg.inv(base).T.conj()
    tolerance = checks.tolerance(base[None].astype(dtype))
    got_sign, got_log = emulated.run("slogdet", A)
    (got_inverse,) = emulated.run("slogdet_backward", A)
    for k, (rows, columns) in enumerate(scales):
        exponent = int(rows.sum() + columns.sum())
        right = log + exponent * np.log(2)
        assert abs(got_sign[k] - sign) <= tolerance, (k, rows, columns)
        # The logarithm is rounded, too.
        rounding = 12 * np.finfo(dtype).eps * max(1, abs(right))
        assert abs(got_log[k] - right) <= tolerance + rounding, (k, rows, columns)
        wide = got_inverse[k].astype(np.complex128)
        frame = scaled(wide, rows[:, None] + columns)
        # Entries that leave the range of the format do so in the truth, too.
        size = np.abs(scaled(inverse, -(rows[:, None] + columns)))
        fits = (size < np.finfo(dtype).max / 2) & (size > np.finfo(dtype).tiny)
        error = np.abs(np.where(fits, frame - inverse, 0)).max()
        assert error <= tolerance * np.abs(inverse).max(), (k, rows, columns)


def scaled(x: np.ndarray, exponent: np.ndarray) -> np.ndarray:
    """x 2^exponent, in halves: a power of two may leave the range although the product does not."""
    half = exponent // 2
    with np.errstate(over="ignore", invalid="ignore"):
        if np.iscomplexobj(x):
            return scaled(x.real, exponent) + 1j * scaled(x.imag, exponent)
        return np.ldexp(np.ldexp(x, half), exponent - half)
