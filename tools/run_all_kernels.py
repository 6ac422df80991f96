"""Run every CUDA kernel once on small batches, for compute-sanitizer (make gpu-sanitize)."""

import torch

import torchdet  # noqa: F401 (registers the operators)

# The ends of every class and of every number of lanes per matrix; 300 goes through torch's LU.
ORDERS = (1, 2, 3, 4, 5, 8, 9, 16, 17, 32, 33, 64, 300)
DTYPES = (torch.float32, torch.float64, torch.complex64, torch.complex128)
BATCH = 35  # neither whole warps nor whole blocks


def main() -> None:
    """Launch them all; the sanitizer says what is wrong."""
    ops = torch.ops.torchdet
    for n in ORDERS:
        for dtype in DTYPES:
            A = torch.randn(BATCH if n < 64 else 2, n, n, dtype=dtype, device="cuda")
            A[1] = 0  # singular: the slow paths
            A[0, 0] *= 2.0**40  # unbalanced
            grad, Z = torch.ones_like(A[..., 0, 0]), torch.randn_like(A)
            for X in (A, A.mT, A.repeat_interleave(2, -1)[..., ::2]):
                ops.det(X)
                ops.slogdet(X)
                ops.cofactor(X)
                ops.det_backward(grad, X)
                ops.slogdet_backward(grad, X)
                ops.det_hvp(X, Z)
    torch.cuda.synchronize()
    print("all kernels ran")


if __name__ == "__main__":
    main()
