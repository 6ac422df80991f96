"""The CUDA kernels' source, run on the host by an emulation of CUDA's threads (cuda_emulation/).

Values are tested by running the other files on the emulated kernels (make test-cuda-emulation);
here are the properties that only the emulation can show: nothing depends on the order in which
threads run or on what shared memory held before, no matrix on its neighbours. Accesses outside:
test_cuda_sanitizers.py.
"""

from __future__ import annotations

import itertools

import checks
import emulated
import numpy as np
import pytest
from checks import assert_same_bits
from problems import arguments

MISSING = emulated.missing()
pytestmark = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))

# A member of every class: orders at the ends of threads (1..4); of warps, with lanes and numbers
# left over and without, one matrix to a warp or several, by dtype to 32, 48 or 64; and of blocks:
# with whole and broken words and panels, and with two and three rows of a panel to a lane.
ORDERS = (1, 2, 3, 4, 5, 8, 9, 16, 17, 20, 32, 33, 40, 47, 48, 64, 67)


def batch_of(n: int) -> int:
    """Ragged: neither whole warps nor whole blocks, and with all the special matrices."""
    return 35 if n <= 32 else 9


@pytest.fixture(autouse=True)
def _plain_schedule():
    emulated.schedule()
    yield
    emulated.schedule()


OPERATORS = emulated.OPERATORS + emulated.FURTHER_OPERATORS
CASES = tuple(itertools.product(OPERATORS, ORDERS, emulated.DTYPES))


@pytest.mark.parametrize(("operator", "n", "dtype"), CASES)
def test_no_order_of_threads_and_no_memory_content_changes_a_bit(operator, n, dtype):
    args = arguments(operator, n, dtype, batch_of(n))
    expected = emulated.run(operator, *args)
    for order, seed, fill in (("reverse", 0, 0x00), ("random", 1, 0xFF), ("random", 2, 0x7F)):
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
def test_strides_do_not_change_a_bit(operator, n, dtype):
    checks.strides_do_not_change_a_bit(emulated.run, operator, n, dtype, 9)


@pytest.mark.parametrize("n", (2, 7, 20, 40))
def test_a_gradient_that_is_not_given_is_one(n):
    (A,) = arguments("cofactor", n, "float32", 9)
    ones = np.ones(9, np.float32)
    expected = emulated.run("slogdet_backward", A, ones)
    assert_same_bits(emulated.run("slogdet_backward", A), expected, "no gradient")


@pytest.mark.parametrize("n", (*range(1, 37), 41, 48, 49, 55, 56, 57, 63, 64, 65))
@pytest.mark.parametrize("dtype", emulated.DTYPES)
def test_every_order_is_right(n, dtype):
    checks.every_operator_is_right(emulated.run, n, dtype)


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


def test_more_matrices_than_blocks_of_workspace_are_served_in_turn():
    # Hessian-vector products of the class "large" have work space for LARGE_BLOCKS matrices.
    A, Z = arguments("det_hvp", 6, "float32", 9)
    (together,) = emulated.run("det_hvp", A, Z, large=True)
    for b in range(9):
        alone = emulated.run("det_hvp", A[b : b + 1], Z[b : b + 1], large=True)
        assert_same_bits(alone, (together[b : b + 1],), f"matrix {b}")


# ---- the emulation shows what it is for


def outcomes(fault: str) -> set[bytes]:
    """What the kernel writes in all orders and on all contents of shared memory."""
    seen = set()
    for order, fill in itertools.product(emulated.ORDERS, (0x00, 0xFF)):
        emulated.schedule(order, 1, fill)
        seen.add(emulated.fault(fault).tobytes())
    return seen


@pytest.mark.parametrize("fault", ("no barrier", "no warp barrier", "half warps", "uninitialised"))
def test_a_race_or_uninitialised_memory_shows_in_the_result(fault):
    assert len(outcomes(fault)) > 1


@pytest.mark.parametrize("sound", ("barrier", "warp barrier", "whole warp"))
def test_with_its_barrier_the_same_kernel_always_gives_one_result(sound):
    assert len(outcomes(sound)) == 1


@pytest.mark.parametrize(
    ("fault", "where"),
    (
        ("exited lane", "0..19 at shuffle 20..31 at the end"),
        ("diverged", "0..0 at shuffle_xor 1..1 at any_in_warp"),
        ("skipped barrier", "0..31 at sync_block 32..63 at the end"),
        ("other lanes", "0..15 at sync_warp 16..31 at the end"),
    ),
)
def test_threads_that_do_not_meet_at_a_collective_are_named(fault, where):
    with pytest.raises(RuntimeError, match="do not meet") as error:
        emulated.fault(fault)
    assert where in str(error.value)


@pytest.mark.parametrize(
    ("fault", "what"),
    (
        ("foreign lane", "shuffles from lane 20, which does not take part in 0x0000ffff"),
        ("unnamed caller", "calls any_in_warp of 0xfffeffff, which does not name it"),
    ),
)
def test_a_thread_that_does_what_its_lanes_forbid_is_named(fault, what):
    for order in emulated.ORDERS:
        emulated.schedule(order, 1)
        with pytest.raises(RuntimeError, match=rf"block 0: thread \d+ {what}"):
            emulated.fault(fault)


def test_lanes_of_a_warp_may_meet_on_their_own():
    def warp(first: int) -> list[int]:
        sums = [4 * first + 10 - lane for lane in range(5)]
        exchanged = [first + lane for lane in range(15, 7, -1)]
        return [*sums, *(1,) * 3, *exchanged, *(first + 119,) * 16]

    for order in emulated.ORDERS:
        emulated.schedule(order, 1)
        assert emulated.fault("lanes apart").tolist() == warp(0) + warp(32)
