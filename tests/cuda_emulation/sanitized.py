"""Runs every kernel once; started with the sanitizers loaded (test_cuda_sanitizers.py).

The address sanitizer watches shared memory, workspace and the arrays of numpy, which all have
exactly the size that the kernels were promised. The thread sanitizer takes the threads of CUDA for
threads (races.h).
"""

from __future__ import annotations

import sys

import emulated
from problems import arguments

ORDERS = {
    "address,undefined": (1, 2, 3, 4, 5, 6, 7, 8, 12, 13, 16, 27, 32, 33, 40, 64, 67),
    "thread": (1, 3, 4, 5, 8, 12, 16, 27, 32, 33),
}
# float32 in the class "block", with warps that go ahead of others and without.
BLOCK_ORDERS = (65, 130)
LARGE_ORDERS = (1, 2, 3, 4, 5, 33, 40)  # also by the kernels of the class "large"
BATCH = 9


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
                if n in (33, 40) and operator in ("det", "slogdet"):
                    emulated.run(operator, *args, cluster=2)
    for operator in ("det", "cofactor"):
        for n in BLOCK_ORDERS:
            emulated.run(operator, *arguments(operator, n, "float32", 1))
    print("all kernels ran")
    return 0


if __name__ == "__main__":
    sys.exit(main())
