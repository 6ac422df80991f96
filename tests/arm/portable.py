"""Writes what the extension computes with packs of 16 bytes on this machine (test_arm.py reads it).

A process of its own, since the instruction set is chosen once and for all.
"""

from __future__ import annotations

import pickle
import sys

import checks
import numpy as np
import torch

import torchdet._C  # noqa: F401  registers the operators


def run(operator: str, A: np.ndarray, *others: np.ndarray) -> tuple[np.ndarray, ...]:
    tensors = [torch.from_numpy(x) for x in (A, *others)]
    if operator.endswith("_backward"):
        tensors.reverse()
    results = getattr(torch.ops.torchdet, operator)(*tensors)
    return tuple(x.numpy() for x in (results if isinstance(results, tuple) else (results,)))


def main() -> int:
    results = {
        (operator, n, dtype): run(operator, *right.arguments)
        for n in map(int, sys.argv[1:])
        for dtype in ("float32", "float64", "complex64", "complex128")
        for operator, right in checks.expected(n, dtype).items()
    }
    pickle.dump(results, sys.stdout.buffer)
    return 0


if __name__ == "__main__":
    sys.exit(main())
