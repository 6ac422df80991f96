"""Run every CUDA kernel on small batches, for compute-sanitizer (make gpu-sanitize).

The inputs are made on the host: what only the sanitized kernels write is initialised for the
sanitizer, and what is copied from the host.
"""

import argparse

import torch
from torch import Tensor

import torchdet  # noqa: F401 (registers the operators)

# The ends of every class and of every number of lanes per matrix; a block's last passes are ragged.
ORDERS = (1, 2, 3, 4, 5, 8, 9, 16, 17, 32, 33, 40, 64)
BATCH = 35  # neither whole warps nor whole blocks
BLOCK_BATCH = 2  # from order 33 on, where a block works on one matrix at a time
# The first orders that go to the class "large" on every device: beyond 227 KB for one matrix.
LARGE = {
    torch.float32: 240,
    torch.float64: 170,
    torch.complex64: 170,
    torch.complex128: 120,
}


def layouts(A: Tensor) -> list[Tensor]:
    """The matrices on the device: contiguous, transposed, with every other column of a larger."""
    X = A.cuda()
    return [X, X.mT, A.repeat_interleave(2, -1).cuda()[..., ::2]]


def run(n: int, dtype: torch.dtype, batch: int, large: bool, with_lu: bool) -> None:
    """Launch every operator for one order and dtype."""
    ops = torch.ops.torchdet
    A = torch.randn(batch, n, n, dtype=dtype)
    A[-1] = 0  # singular: the slow paths
    A[0, 0] *= 2.0**40  # unbalanced
    grad, Z = torch.ones(batch, dtype=dtype).cuda(), torch.randn_like(A).cuda()
    for X in layouts(A)[: 1 if large else None]:
        ops.det_hvp(X, Z)
        if with_lu or not large:
            ops.det(X)
            ops.slogdet(X)
            ops.cofactor(X)
            ops.det_backward(grad, X)
            ops.slogdet_backward(grad, X)


def main() -> None:
    """Launch them all; the sanitizer says what is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--n", type=int, action="append", help="only this order, several times; none of 'large'"
    )
    parser.add_argument("--batch", type=int, default=BATCH, help="of the orders to 32")
    parser.add_argument(
        "--without-lu",
        action="store_true",
        help="leave out what torch's LU has a part in: where only these kernels are watched, "
        "initcheck does not know that torch's have written something",
    )
    arguments = parser.parse_args()
    for dtype, large_n in LARGE.items():
        for n in arguments.n or ORDERS:
            run(n, dtype, arguments.batch if n <= 32 else BLOCK_BATCH, False, True)
        if not arguments.n:
            run(large_n, dtype, BLOCK_BATCH, True, not arguments.without_lu)
    torch.cuda.synchronize()
    print("all kernels ran")


if __name__ == "__main__":
    main()
