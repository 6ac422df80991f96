"""Runs every kernel once; started with the sanitizers loaded (test_cuda_sanitizers.py).

The address sanitizer watches shared memory, workspace and the arrays of numpy, which all have
exactly the size that the kernels were promised. The thread sanitizer takes the threads of CUDA for
threads (races.h).
"""

from __future__ import annotations

import sys

import emulated
import numpy as np
from problems import arguments

ORDERS = {
    "address,undefined": (1, 2, 3, 4, 5, 6, 7, 8, 12, 13, 16, 27, 32, 33, 40, 64, 67),
    "thread": (1, 3, 4, 5, 8, 12, 16, 27, 32, 33),
}
# The class "block": panels of each number of warps, and determinants whose last columns come late.
BLOCK_ORDERS = {
    ("det", "float32"): (65, 100, 130, 239),
    ("cofactor", "float32"): (65, 130, 170),
    ("cofactor", "float64"): (70, 100, 134),
    ("det_hvp", "float32"): (65,),
    ("det_hvp", "float64"): (70,),
}
LARGE_ORDERS = (1, 2, 3, 4, 5, 33, 40)  # also by the kernels of the class "large"
BATCH = 9
# The LU of the class "large": three panels, and the first one with the rows of two blocks.
LU_ORDERS = {"float32": (137,), "float64": (73,), "complex64": (73,), "complex128": (41, 259)}


def run_kept(n: int, dtype: str) -> None:
    """What a forward pass keeps, and backward from it and from any bytes in its place."""
    A, grad = arguments("det_backward", n, dtype, BATCH)
    rng = np.random.default_rng(n)
    for name in ("det", "slogdet"):
        numbers, integers = emulated.run(f"{name}_keep", A)[-2:]
        emulated.run(f"{name}_backward", A, grad, (numbers, integers))
        numbers, integers = numbers[7:], integers[7:]  # the LDU, where bytes lead to, is slow here
        any_numbers, any_integers = (
            np.frombuffer(rng.bytes(x.nbytes), x.dtype).reshape(x.shape)
            for x in (numbers, integers)
        )
        believed = any_integers.copy()
        believed[:, 0] = integers[:, 0]
        for kept in ((any_numbers, any_integers), (any_numbers, believed)):
            emulated.run(f"{name}_backward", A[7:], grad[7:], kept)


def main() -> int:
    """Runs what the command line names: SANITIZER fault FAULT, or SANITIZER for all kernels."""
    sanitizer, *fault = sys.argv[1:]
    if fault:
        emulated.fault(fault[1])
        return 0
    for operator in emulated.OPERATORS + emulated.FURTHER_OPERATORS:
        for dtype in emulated.DTYPES:
            for n in ORDERS[sanitizer]:
                args = arguments(operator, n, dtype, BATCH)
                emulated.run(operator, *args)
                if n in LARGE_ORDERS and operator in emulated.OPERATORS:
                    emulated.run(operator, *args, large=True)
                if n in LARGE_ORDERS and n >= 3 and operator == "det":
                    run_kept(n, dtype)
                if n in (33, 40) and operator in ("det", "slogdet"):
                    emulated.run(operator, *args, cluster=2)
    for dtype, orders in LU_ORDERS.items():
        for n in orders:
            (A,) = arguments("det", n, dtype, 2)
            emulated.factor(A, 2)
    for (operator, dtype), orders in BLOCK_ORDERS.items():
        for n in orders:
            emulated.run(operator, *arguments(operator, n, dtype, 1))
    print("all kernels ran")
    return 0


if __name__ == "__main__":
    sys.exit(main())
