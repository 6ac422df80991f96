"""Run every CUDA kernel on small batches, for compute-sanitizer (tools/gpu/checks.py).

The inputs are made on the host: what only the sanitized kernels write is initialised for the
sanitizer, and what is copied from the host.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable

import torch
from torch import Tensor

import torchdet  # registers the operators

DTYPES = ("float32", "float64", "complex64", "complex128")
OPERATORS = ("det", "slogdet", "cofactor", "det_backward", "slogdet_backward", "det_hvp")
# Beside the ends of the classes: every number of lanes per matrix.
ORDERS = (1, 2, 3, 5, 8, 9, 13, 16, 17, 20, 24, 28, 32, 33, 40, 64)
BATCH = 35  # neither whole warps nor whole blocks
BLOCK_BATCH = 2  # from order BLOCK on, where a block or a warp works on one matrix at a time
BLOCK = 33
NO_LIMIT = 1 << 62


def ends(dtype: str) -> list[int]:
    """The last order of every class and the first of the next; csrc/cuda/select.h says which."""
    found = set()
    for operator in OPERATORS:
        n = 1
        while (last := torchdet._C.select(operator, dtype, n, "cuda")["largest_n"]) < NO_LIMIT:
            found |= {last, last + 1}
            n = last + 1
    return sorted(found)


def matrices_in_shared_memory(n: int, dtype: str) -> float:
    """How many a block could have: fewer than two, and torch's LU may have a part in it."""
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    return properties.shared_memory_per_block_optin / (n * n * getattr(torch, dtype).itemsize)


def layouts(A: Tensor) -> list[Tensor]:
    """The matrices on the device: contiguous, transposed, with every other column of a larger."""
    X = A.cuda()
    return [X, X.mT, A.repeat_interleave(2, -1).cuda()[..., ::2]]


def run(n: int, dtype: str, batch: int, with_lu: bool) -> None:
    """Launch every operator for one order and dtype."""
    ops = torch.ops.torchdet
    large = matrices_in_shared_memory(n, dtype) < 2
    A = torch.randn(batch, n, n, dtype=getattr(torch, dtype))
    A[-1] = 0  # singular: the slow paths
    A[0, 0] *= 2.0**40  # unbalanced
    grad, Z = torch.ones(batch, dtype=A.dtype).cuda(), torch.randn_like(A).cuda()
    for X in layouts(A)[: 1 if large else None]:
        ops.det_hvp(X, Z)
        if with_lu or not large:
            ops.det(X)
            ops.slogdet(X)
            ops.cofactor(X)
            ops.det_backward(grad, X)
            ops.slogdet_backward(grad, X)
            ops.slogdet_hvp(X, Z)


def main() -> None:
    """Launch them all; the sanitizer says what is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, action="append", help="only this order, several times")
    parser.add_argument("--dtype", choices=DTYPES, action="append", help="only this one")
    parser.add_argument("--batch", type=int, default=BATCH, help=f"of the orders below {BLOCK}")
    parser.add_argument("--large", action="store_true", help="the class 'large' beside the --n")
    parser.add_argument(
        "--without-lu",
        action="store_true",
        help="leave out what torch's LU has a part in: where only these kernels are watched, "
        "initcheck does not know that torch's have written something",
    )
    arguments = parser.parse_args()
    for dtype in arguments.dtype or DTYPES:
        at_ends = ends(dtype)
        orders: Iterable[int] = arguments.n or sorted({*ORDERS, *at_ends[:-1]})
        for n in orders:
            batch = arguments.batch if n < BLOCK else BLOCK_BATCH
            run(n, dtype, batch, not arguments.without_lu)
        if arguments.large or not arguments.n:
            n = at_ends[-1]
            while matrices_in_shared_memory(n, dtype) >= 1:
                n += 1
            run(n, dtype, BLOCK_BATCH, not arguments.without_lu)
    torch.cuda.synchronize()
    print("all kernels ran")


if __name__ == "__main__":
    main()
