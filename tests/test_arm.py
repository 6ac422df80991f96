"""The CPU kernels on Arm: compiled for aarch64, where packs are NEON registers, and run by QEMU.

Values are tested by running other files on these kernels (make test-arm); here is what holds of
every operator at every order, and what the extension does not show on this machine.
"""

from __future__ import annotations

import importlib.util
import itertools
import os
import pickle
import subprocess
import sys
from pathlib import Path

import checks
import numpy as np
import on_arm
import pytest
from checks import assert_same_bits
from problems import arguments

MISSING = on_arm.missing()
pytestmark = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))

# A member of every class and every instantiation: orders known at compile time to 16 (10 for
# cofactors), rows of any number of packs, triangular systems by blocks from 48, panels from 65.
ORDERS = (1, 2, 3, 4, 5, 8, 10, 11, 16, 17, 33, 48, 65)
LARGE_ORDERS = (48, 49, 64, 65, 100)
CASES = tuple(itertools.product(on_arm.OPERATORS, ORDERS, on_arm.DTYPES))


def batch_of(n: int) -> int:
    """Ragged: no whole packs or groups, and with all the special matrices."""
    return 35 if n <= 17 else 11


@pytest.mark.parametrize("n", (*range(1, 37), *LARGE_ORDERS))
@pytest.mark.parametrize("dtype", on_arm.DTYPES)
def test_every_order_is_right(n, dtype):
    checks.every_operator_is_right(on_arm.run, n, dtype)


@pytest.mark.parametrize(
    ("n", "dtype"),
    ((161, "float32"), (200, "float64"), (257, "float64"), (130, "complex64"), (161, "complex128")),
)
def test_orders_of_many_panels_are_right(n, dtype):
    checks.every_operator_is_right(on_arm.run, n, dtype)


@pytest.mark.parametrize(("operator", "n", "dtype"), CASES)
def test_no_matrix_depends_on_its_neighbours_or_its_place(operator, n, dtype):
    checks.no_matrix_depends_on_its_neighbours(on_arm.run, operator, n, dtype, batch_of(n))


@pytest.mark.parametrize(("operator", "n", "dtype"), CASES)
def test_nan_and_inf_stay_in_their_own_matrix(operator, n, dtype):
    checks.nan_and_inf_stay_in_their_own_matrix(on_arm.run, operator, n, dtype, batch_of(n))


@pytest.mark.parametrize(("operator", "n", "dtype"), CASES)
def test_strides_do_not_change_a_bit(operator, n, dtype):
    checks.strides_do_not_change_a_bit(on_arm.run, operator, n, dtype, 9 if n <= 33 else 2)


# Three threads share a batch, or a matrix where there is one; from n = 256 on also where there are
# fewer matrices than threads.
@pytest.mark.parametrize("operator", on_arm.OPERATORS)
@pytest.mark.parametrize(("n", "batch"), ((3, 500), (20, 40), (40, 20), (65, 2), (130, 1)))
@pytest.mark.parametrize("dtype", on_arm.DTYPES)
def test_threads_do_not_change_a_bit(operator, n, batch, dtype):
    args = arguments(operator, n, dtype, batch)
    expected = on_arm.run(operator, *args)
    assert_same_bits(on_arm.run(operator, *args, threads=3), expected, "three threads")


def test_threads_that_share_matrices_of_a_batch_do_not_change_a_bit():
    args = arguments("cofactor", 257, "float32", 2)
    expected = on_arm.run("cofactor", *args)
    assert_same_bits(on_arm.run("cofactor", *args, threads=3), expected, "three threads")


@pytest.mark.parametrize("name", ("det", "slogdet"))
@pytest.mark.parametrize("n", (33, 36, 64, 65, 100))
@pytest.mark.parametrize("dtype", on_arm.DTYPES)
def test_backward_from_what_is_kept_is_right(name, n, dtype):
    right = checks.expected(n, dtype)
    A, grad = right[f"{name}_backward"].arguments
    kept = on_arm.run(f"{name}_keep", A)
    assert_same_bits(on_arm.run(f"{name}_keep", A, threads=3), kept, "three threads")
    *determinant, numbers, integers = kept
    gradient = on_arm.run(f"{name}_backward", A, grad, (numbers, integers))
    shared = on_arm.run(f"{name}_backward", A, grad, (numbers, integers), threads=3)
    assert_same_bits(shared, gradient, "three threads")
    for operator, results in ((name, determinant), (f"{name}_backward", gradient)):
        _, expected, errors = right[operator]
        for got, true, error in zip(results, expected, errors, strict=True):
            assert (np.abs(got - true) <= error).all(), operator


@pytest.mark.skipif(
    importlib.util.find_spec("torchdet._C") is None, reason="the extension is not built"
)
def test_the_same_source_gives_the_same_results_with_packs_of_16_bytes_on_this_machine():
    """But for rounding: Arm fuses multiplications and additions. Either is within its error."""
    program = Path(on_arm.__file__).with_name("portable.py")
    orders = (1, 3, 4, 7, 16, 33, 65, 130)
    environment = {
        **{k: v for k, v in os.environ.items() if k != "TORCHDET_EXTENSION"},
        "PYTHONPATH": str(Path(checks.__file__).parent),
        "TORCHDET_CPU_CAPABILITY": "portable",
    }
    command = [sys.executable, str(program), *map(str, orders)]
    here = pickle.loads(subprocess.run(command, env=environment, check=True, stdout=-1).stdout)
    for n, dtype in itertools.product(orders, on_arm.DTYPES):
        for operator, (args, _, errors) in checks.expected(n, dtype).items():
            there = on_arm.run(operator, *args)
            for x, y, error in zip(there, here[operator, n, dtype], errors, strict=True):
                assert (np.abs(x - y) <= 2 * error).all(), (operator, n, dtype)
