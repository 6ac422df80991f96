r"""Determinants and linear systems from one factorisation, in plain PyTorch.

What a factorisation leaves has one of two forms; the number of integers tells which.

Inverse, no integers: conj(A^-T). The error of a product with the inverse is as large as
|A^-1| |B|, which may be far above |X|. One step of iterative refinement in the same precision,
X + A^-1 (B - A X), makes X as good as elimination does, unless A is singular to working precision
(Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., sections 12.1 and 14.1).

Factors, 3 n + 2 integers, in the CPU's kernels only (csrc/cpu/saved/integers.h). With the powers of
two R and C, the permutation P of the rows, and the exchange Q of two columns,

    P (R A C) Q = L U,  so  A^-1 B = C Q U^-1 L^-1 P R B  and  A^-H B = R P^T L^-H U^-H Q C B.
"""

import torch
from torch import Tensor

from ._inverse import without_autocast
from ._reference import check_dense, check_same, check_square, dtype_name
from ._reference_kept import check_kept

_HALF = (torch.float16, torch.bfloat16)


def slogdet_factor(A: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return sign and log|det A|, conj(A^-T), and no integers."""
    check_factored("slogdet_solve", A)
    sign, logabsdet = torch.ops.torchdet.slogdet(A)
    ones = A.new_ones(()).expand(A.shape[:-2])
    inverse = torch.ops.torchdet.slogdet_backward(ones, A)
    return sign, logabsdet, inverse, A.new_empty((*A.shape[:-2], 0), dtype=torch.int32)


def backward(grad: Tensor, A: Tensor, factors: Tensor, integers: Tensor) -> Tensor:
    """Return grad conj(A^-T)."""
    check_factors("slogdet_backward", A, factors, integers)
    check_same("slogdet_backward", "grad", grad, A, A.shape[:-2])
    return (grad[..., None, None] * factors).contiguous()


def solve(A: Tensor, B: Tensor, factors: Tensor, integers: Tensor) -> Tensor:
    """Return A^-1 B."""
    check_system(A, B, factors, integers)
    return _refined(A, B, factors.mH)


def solve_adjoint(A: Tensor, B: Tensor, factors: Tensor, integers: Tensor) -> Tensor:
    """Return A^-H B."""
    check_system(A, B, factors, integers)
    return _refined(A.mH, B, factors)


def _refined(A: Tensor, B: Tensor, inverse: Tensor) -> Tensor:
    with without_autocast(A.device.type):
        X = inverse @ B
        correction = inverse @ (B - A @ X)
    # Where A X leaves the range, X is what there is.
    return X + correction.masked_fill_(~correction.isfinite(), 0)


# ---- checks


def check_factored(op: str, A: Tensor) -> None:
    """Raise RuntimeError unless A is what these operators take."""
    check_square(op, A)
    if A.dtype in _HALF:
        raise RuntimeError(
            f"{op}: expected A of dtype float32, float64, complex64 or complex128, got "
            f"{dtype_name(A.dtype)}; convert it first, e.g. A.to(torch.float32)"
        )


def check_factors(op: str, A: Tensor, factors: Tensor, integers: Tensor, count: int = 0) -> None:
    """Raise RuntimeError unless these go with A; count: of the integers, where there are any."""
    check_factored(op, A)
    check_kept(op, A, factors, integers, count if integers.shape[-1:] == (count,) else 0)


def check_system(
    A: Tensor, B: Tensor, factors: Tensor, integers: Tensor, count: int = 0
) -> None:
    """Raise RuntimeError unless B is (*, n, k) for A of shape (*, n, n), and the rest goes with A."""
    op = "slogdet_solve"
    check_factors(op, A, factors, integers, count)
    check_dense(op, "B", B)
    if B.dim() != A.dim() or B.shape[:-1] != A.shape[:-1]:
        raise RuntimeError(
            f"{op}: expected B of shape (*, n, k) for A of shape {tuple(A.shape)}, "
            f"got {tuple(B.shape)}; expand or reshape it first"
        )
    check_same(op, "B", B, A, B.shape)
