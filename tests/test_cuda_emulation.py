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

# A member of every class and every instantiation: orders at the ends of threads (1..4), of 8, 16
# and 32 numbers per lane, and of blocks: with whole and broken words and panels, and with two and
# three rows of a panel to a lane.
ORDERS = (1, 2, 3, 4, 5, 8, 9, 16, 17, 32, 33, 40, 67)


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


@pytest.mark.parametrize(("operator", "n", "dtype"), CASES)
def test_strides_do_not_change_a_bit(operator, n, dtype):
    checks.strides_do_not_change_a_bit(emulated.run, operator, n, dtype, 9)


@pytest.mark.parametrize("n", (2, 7, 20, 40))
def test_a_gradient_that_is_not_given_is_one(n):
    (A,) = arguments("cofactor", n, "float32", 9)
    ones = np.ones(9, np.float32)
    expected = emulated.run("slogdet_backward", A, ones)
    assert_same_bits(emulated.run("slogdet_backward", A), expected, "no gradient")


@pytest.mark.parametrize("n", range(1, 37))
@pytest.mark.parametrize("dtype", emulated.DTYPES)
def test_every_order_is_right(n, dtype):
    checks.every_operator_is_right(emulated.run, n, dtype)


# Orders of the class "block" where something ends: words between rows, the threads of a block,
# shared memory. A matrix takes up to a second here.
EDGES = (
    *((n, "float32") for n in (64, 65, 96, 128, 129, 168, 200, 237, 238)),
    *((n, dtype) for n in (65, 128, 129, 168) for dtype in ("float64", "complex64")),
    *((n, "complex128") for n in (65, 96, 119)),
)


@pytest.mark.parametrize(("n", "dtype"), EDGES)
def test_orders_to_the_end_of_the_class_block_are_right(n, dtype):
    expected = checks.expected(n, dtype)
    for operator in ("slogdet", "cofactor", "slogdet_backward"):
        assert emulated.fits(operator, dtype, n)
        case = expected[operator]
        emulated.schedule()
        got = emulated.run(operator, *case.arguments)
        for g, right, error in zip(got, case.results, case.errors, strict=True):
            assert (np.abs(g - right) <= error).all(), operator
        emulated.schedule("random", 1, 0x7F)
        one = tuple(x[:1] for x in case.arguments)
        assert_same_bits(emulated.run(operator, *one), tuple(x[:1] for x in got), operator)


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
    emulated.schedule("random", 1, 0x7F)
    (again,) = emulated.run("cofactor", A)
    again[:, row] = 0
    assert (again == 0).all()


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


@pytest.mark.parametrize("sound", ("barrier", "warp barrier", "whole warp", "named barriers"))
def test_with_its_barrier_the_same_kernel_always_gives_one_result(sound):
    assert len(outcomes(sound)) == 1


@pytest.mark.parametrize(
    ("fault", "where"),
    (
        ("exited lane", "0..19 at shuffle 20..31 at the end"),
        ("diverged", "0..0 at shuffle_xor 1..1 at any_in_warp"),
        ("skipped barrier", "0..31 at sync_block 32..63 at the end"),
        ("other lanes", "0..15 at sync_warp 16..31 at the end"),
        ("other barrier", "0..63 at sync_threads"),
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
        (
            "other count",
            "calls sync_threads of (32|64) at barrier 1, where others wait for (64|32)",
        ),
        ("one too many", "calls sync_threads of 32 at barrier 1, where all have arrived"),
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
