"""The CPU kernels under the sanitizers of memory, of undefined behaviour and of threads.

A finding ends the program that runs the kernels, and the test with the sanitizer's report. Answers
are compared as well, with what is right and with each other: uninitialised memory shows in them.
"""

from __future__ import annotations

import itertools
import subprocess

import checks
import numpy as np
import pytest
import sanitized_cpu
from checks import assert_same_bits
from kernel_program import DTYPES, FURTHER_OPERATORS, KEEPING_OPERATORS, OPERATORS
from problems import arguments
from sanitized_cpu import program

MISSING = sanitized_cpu.missing()
pytestmark = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))

SETS = sanitized_cpu.INSTRUCTION_SETS
# The edges of lanes, packs, words, classes and panels.
ORDERS = (*range(1, 25), 31, 32, 33, 34, 40, 64, 65, 72, 96, 97, 128, 129, 130, 150)
KEPT_ORDERS = (33, 34, 40, 64, 65, 72, 96, 97, 128, 129, 130, 150)
KEPT_COMPLEX_ORDERS = (21, 24, 25, 32)  # and those above
LARGE_ORDERS = (161, 200, 257)  # wider panels, and the order from which threads share a matrix

instructions = pytest.mark.parametrize("instructions", SETS)
dtypes = pytest.mark.parametrize("dtype", DTYPES)


def keeping(*orders: int) -> pytest.MarkDecorator:
    """These orders, and of complex dtypes smaller ones, of which a forward pass keeps something."""
    return pytest.mark.parametrize(("n", "dtype"), [
        (n, dtype)
        for dtype in DTYPES
        for n in (*(KEPT_COMPLEX_ORDERS if dtype.startswith("complex") else ()), *orders)
    ])  # fmt: skip


operators = pytest.mark.parametrize("operator", (*OPERATORS, *FURTHER_OPERATORS))


def batch_of(n: int) -> int:
    """Ragged: no whole packs or groups, and with all the special matrices where that is quick."""
    return 19 if n <= 24 else 11 if n <= 97 else 9


@instructions
@dtypes
@pytest.mark.parametrize("n", (*ORDERS, *LARGE_ORDERS))
def test_every_operator_is_right(instructions, n, dtype):
    checks.every_operator_is_right(program(instructions).run, n, dtype)


@instructions
@dtypes
@operators
@pytest.mark.parametrize("n", ORDERS)
def test_no_strides_and_no_content_of_scratch_change_a_bit(instructions, operator, n, dtype):
    if operator == "slogdet_backward_inverse" and n < program(instructions).least_both_results():
        return
    args = arguments(operator, n, dtype, batch_of(n))
    run = program(instructions).run
    expected = run(operator, *args)
    for name, layout in checks.LAYOUTS.items():
        moved = (layout(x) if np.ndim(x) == 3 and not isinstance(x, tuple) else x for x in args)
        assert_same_bits(run(operator, *moved), expected, name)
    for fill in (0x00, 0x7F):
        again = program(instructions, fill=fill).run(operator, *args)
        assert_same_bits(again, expected, f"scratch of {fill:#x}")
    checks.nan_and_inf_stay_in_their_own_matrix(run, operator, n, dtype, len(args[0]))


@pytest.mark.parametrize(
    ("sanitize", "fault"),
    (
        ("address", "before a tensor"),
        ("address", "behind a tensor"),
        ("address", "between pieces"),
        ("address", "overflow"),
        ("thread", "race"),
    ),
)
def test_a_fault_is_found(sanitize, fault):
    program = sanitized_cpu.build("portable", sanitize) / "faults"
    environment = sanitized_cpu.environment("portable")
    assert subprocess.run([program, "none"], env=environment).returncode == 0
    found = subprocess.run([program, fault], env=environment, capture_output=True, text=True)
    assert found.returncode != 0
    assert "SUMMARY: " in found.stderr or "runtime error: " in found.stderr


# ---- the ends of the formats


def extremes(n: int, dtype: str) -> np.ndarray:
    """Matrices of the largest, the smallest and the special numbers, one kind each, and mixed."""
    rng = np.random.default_rng(n)
    real = np.dtype(dtype).type(0).real.dtype
    limits = np.finfo(real)
    numbers = np.array(
        [
            limits.max,
            limits.tiny,
            limits.smallest_subnormal,
            limits.tiny * 0.75,
            1.0,
            0.0,
            np.inf,
            np.nan,
        ],
        real,
    )
    signs = rng.choice(np.array([-1, 1], real), (len(numbers), n, n))
    each = numbers[:, None, None] * signs
    finite = rng.choice(np.concatenate((numbers[:6], -numbers[:6])), (4, n, n))
    mixed = rng.choice(np.concatenate((numbers, -numbers)), (3, n, n))
    A = np.concatenate((each, finite, mixed)).astype(dtype)
    if np.iscomplexobj(A):
        A.imag = np.roll(A.real, (1, 1, 1), (0, 1, 2))
    return A


@instructions
@dtypes
@pytest.mark.parametrize("n", ORDERS)
def test_numbers_at_the_ends_of_the_formats(instructions, n, dtype):
    A = extremes(n, dtype)
    run = program(instructions).run
    grad = np.resize(A[:, 0, 0], len(A)).copy()
    others = {"det_backward": (grad,), "slogdet_backward": (grad,), "det_hvp": (A[::-1].copy(),)}
    finite = np.isfinite(A).all((1, 2))
    others["slogdet_hvp"] = others["det_hvp"]
    run("slogdet_hvp", A, *others["slogdet_hvp"])
    run("det_jet", A, np.stack([A[::-1], A], 1))
    run("det_backward_jvp", A, A[::-1].copy(), (grad, grad[::-1].copy()))
    run("slogdet_hvp_scaled", A, A[::-1].copy(), (grad, grad))
    if n >= program(instructions).least_both_results():
        assert_same_bits(
            run("slogdet_backward_inverse", A, grad),
            (*run("slogdet_backward", A, grad), *run("slogdet_backward", A, np.ones_like(grad))),
            "both results",
        )
    for operator in (*OPERATORS, "det_frexp"):
        results = run(operator, A, *others.get(operator, ()))
        assert not np.isfinite(results[0].reshape(len(A), -1)[~finite]).any(), operator
    if n >= program(instructions).least_kept(dtype):
        for operator in KEEPING_OPERATORS:
            *_, kept, integers = run(operator, A)
            run(operator.replace("keep", "backward"), A, grad, (kept, integers))
            run("slogdet_backward_inverse", A, grad, (kept, integers))


# ---- exactly singular matrices: of zeros and ones, with zero pivots at every place


def singular(n: int, dtype: str) -> np.ndarray:
    """Matrices of rank n - 1, n - 2, n / 2, 1 and 0 to the eye; no operation on them is rounded."""
    rng = np.random.default_rng(n)
    matrices = []
    for rank in sorted({n - 1, max(n - 2, 0), n // 2, min(1, n - 1), 0}):
        A = np.zeros((n, n))
        A[:rank, :rank] = np.eye(rank)
        for _ in range(2):
            matrices.append(A[rng.permutation(n)][:, rng.permutation(n)])
            A[:, rank:] = A[:, :1] if rank > 0 else 0  # dependent columns, not zero ones
    return np.stack(matrices).astype(dtype)


@instructions
@dtypes
@pytest.mark.parametrize("n", ORDERS)
def test_determinants_of_singular_matrices_are_zero(instructions, n, dtype):
    A = singular(n, dtype)
    run = program(instructions).run
    ones = np.ones(len(A), dtype)
    (det,) = run("det", A)
    assert (det == 0).all()
    sign, log = run("slogdet", A)
    assert (sign == 0).all()
    assert (log == -np.inf).all()
    mantissa, exponent = run("det_frexp", A)
    assert (mantissa == 0).all()
    # Powers of two above the largest entry, which is 1 or all are 0.
    assert set(exponent) <= {0, n}
    for operator in ("cofactor", "det_backward", "slogdet_backward", "det_hvp"):
        other = () if operator == "cofactor" else (A,) if operator == "det_hvp" else (ones,)
        run(operator, A, *other)
    run("det_backward_jvp", A, A, (ones, ones))
    first, second = run("det_jet", A, np.stack([A, A], 1))
    # det(A + t A) = (1 + t)^n det A.
    assert (first == 0).all()
    assert (second == 0).all()
    if n >= program(instructions).least_kept(dtype):
        det, *kept = run("det_keep", A)
        assert (det == 0).all()
        (gradient,) = run("det_backward", A, ones, tuple(kept))
        assert (gradient == run("det_backward", A, ones)[0]).all()
        kept = run("slogdet_keep", A)[2:]
        (gradient,) = run("slogdet_backward", A, ones, kept)
        both = run("slogdet_backward_inverse", A, ones, kept)
        assert_same_bits(both, (gradient, gradient), "both results")


# ---- what is kept


@instructions
@keeping(*KEPT_ORDERS)
@pytest.mark.parametrize("name", ("det", "slogdet"))
def test_backward_from_what_is_kept_is_right(instructions, name, n, dtype):
    run = program(instructions).run
    right = checks.expected(n, dtype)
    A, grad = right[f"{name}_backward"].arguments
    *determinant, numbers, integers = run(f"{name}_keep", A)
    gradient = run(f"{name}_backward", A, grad, (numbers, integers))
    for operator, results in ((name, determinant), (f"{name}_backward", gradient)):
        _, expected, errors = right[operator]
        for got, true, error in zip(results, expected, errors, strict=True):
            assert (np.abs(got - true) <= error).all(), operator


def foreign(integers: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    """Integers that no forward pass has written: of all sizes, and its own, altered."""
    limits = np.iinfo(np.int32)
    shape, n = integers.shape, integers.shape[-1]
    constants = (0, 1, -1, 7, 255, 256, limits.max, limits.min, limits.min + 1)
    found = [np.full(shape, c, np.int32) for c in constants]
    for most in (2, n, 1 << 12, 1 << 24, limits.max):
        found.append(rng.integers(-most, most, shape, np.int32))
        found.append(rng.integers(0, most, shape, np.int32))
    for most in (1, 3):
        for value in (*constants, n, n - 1, 1 << 20):
            altered = integers.copy()
            for row in altered:
                row[rng.integers(0, n, most)] = value
            found.append(altered)
    found.append(rng.permuted(integers, axis=-1))
    found.append(integers ^ (np.int32(1) << rng.integers(0, 31, shape, np.int32)))
    for first in (0, 1, -1):  # so that what follows is looked at
        usable = rng.integers(limits.min, limits.max, shape, np.int32)
        usable[..., 0] = first
        found.append(usable)
        found.append(usable % max(n // 3, 1))
    return found


@instructions
@keeping(33, 34, 64, 65, 97, 129)
@pytest.mark.parametrize("name", ("det", "slogdet"))
def test_integers_that_no_forward_pass_has_written(instructions, name, n, dtype):
    run = program(instructions).run
    rng = np.random.default_rng(n)
    A, grad = arguments(f"{name}_backward", n, dtype, 5 if n <= 33 else 2)
    *_, numbers, integers = run(f"{name}_keep", A)
    odd = rng.choice(extremes(n, dtype).reshape(-1), numbers.shape)
    for i, written in enumerate(foreign(integers, rng)):
        run(f"{name}_backward", A, grad, (numbers if i % 2 == 0 else odd, written))
        run("slogdet_backward_inverse", A, grad, (numbers, written))
    run(f"{name}_backward", A, grad, (odd, integers))


# ---- threads


@instructions
@pytest.mark.parametrize("operator", (*OPERATORS, *KEEPING_OPERATORS))
@pytest.mark.parametrize(
    ("n", "batch"), ((3, 200), (16, 40), (20, 40), (40, 20), (65, 7), (130, 1))
)
@dtypes
def test_threads_do_not_change_a_bit(instructions, operator, n, batch, dtype):
    of_threads(program(instructions), operator, n, batch, dtype)


THREADED = ((1, 100), (3, 200), (9, 33), (20, 40), (40, 20), (65, 7), (130, 1), (130, 3), (257, 2))


@pytest.mark.parametrize("operator", (*OPERATORS, *KEEPING_OPERATORS))
@pytest.mark.parametrize(("n", "batch"), THREADED)
@dtypes
def test_threads_do_not_race(operator, n, batch, dtype):
    of_threads(program("portable", "thread"), operator, n, batch, dtype)


def of_threads(kernels, operator, n, batch, dtype):
    """Three threads to a call, three calls at once, and both, with the bits of one and of one."""
    if operator in KEEPING_OPERATORS and n < kernels.least_kept(dtype):
        return
    args = arguments(operator, n, dtype, batch)
    expected = kernels.run(operator, *args)
    for threads, callers in itertools.product((1, 3), (1, 3)):
        got = kernels.run(operator, *args, threads=threads, callers=callers)
        assert_same_bits(got, expected, f"{threads} threads, {callers} callers")
    if operator in KEEPING_OPERATORS:
        backward = operator.replace("keep", "backward")
        A, grad = arguments(backward, n, dtype, batch)
        kept = expected[-2:]
        alone = kernels.run(backward, A, grad, kept)
        shared = kernels.run(backward, A, grad, kept, threads=3, callers=3)
        assert_same_bits(shared, alone, "backward")


def test_linear_systems_take_any_numbers_and_integers():
    program = sanitized_cpu.build("portable", "address", "solve") / "solve"
    done = subprocess.run([program], env=sanitized_cpu.environment("portable"), capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
