"""Runs every kernel once; started with the sanitizers loaded (test_cuda_sanitizers.py).

The address sanitizer watches shared memory, workspace and the arrays of numpy, which all have
exactly the size that the kernels were promised.
"""

from __future__ import annotations

import sys

import emulated
from problems import arguments

ORDERS = (1, 2, 3, 4, 5, 7, 8, 12, 16, 27, 32, 33, 40, 64, 67)
BATCH = 9


def main() -> int:
    """Runs what the command line names: fault FAULT, or nothing for all kernels."""
    if len(sys.argv) > 1:
        emulated.fault(sys.argv[2])
        return 0
    for operator in emulated.OPERATORS + emulated.FURTHER_OPERATORS:
        for dtype in emulated.DTYPES:
            for n in ORDERS:
                args = arguments(operator, n, dtype, BATCH)
                emulated.run(operator, *args)
                if n <= 5 and operator in emulated.OPERATORS:
                    emulated.run(operator, *args, large=True)
    print("all kernels ran")
    return 0


if __name__ == "__main__":
    sys.exit(main())
