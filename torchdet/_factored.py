r"""Linear systems and the determinant from one factorisation, in plain PyTorch.

With B = 2^-r A 2^-c and G B F = D as in _reference_lu.py, by complete pivoting,

    A^-1 = 2^-c F D^-1 G 2^-r.

G and F are inverses of unit triangular matrices without an entry above 1, so their condition is
moderate whatever that of A, and products with them are stable. The inverse of A itself is no way to
X: it may have any error of relative size cond(A) eps, and then A (A^-1 B) is far from B.

What is left of the factorisation is F, D and G side by side, and as integers r and c. The CPU's
kernels leave something else, L U in n x n numbers (csrc/cpu/solve/solve.h).
"""

import math

import torch
from torch import Tensor

from ._reference import check_dense, check_same, check_square, dtype_name, slogdet_of
from ._reference_kept import check_integers
from ._reference_lu import factor
from ._reference_numbers import HALF, exponents, ldexp, matmul, ratio, without_zeros


def slogdet_factor(A: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return sign and log|det A|, and what is left of the factorisation: numbers, integers."""
    check_wide("slogdet_solve", A)
    f = factor(A)
    sign, logabsdet = slogdet_of(A, f)
    factors = torch.cat([f.F, f.d.unsqueeze(-1), f.G], -1)
    factors = factors.masked_fill(~f.finite[..., None, None], math.nan)
    r = f.scale[..., :1].sum(-1)  # of one, or of none where n = 0
    c = (f.scale - r.unsqueeze(-1))[..., :1, :].sum(-2)
    return sign, logabsdet, factors, torch.cat([r, c], -1).to(torch.int32)


def sizes(n: int) -> tuple[int, int]:
    """How many columns of numbers and how many integers slogdet_factor leaves."""
    return 2 * n + 1, 2 * n


def backward(grad: Tensor, A: Tensor, factors: Tensor, integers: Tensor) -> Tensor:
    """Return grad conj(A^-T)."""
    check_factors("slogdet_backward", A, factors, integers)
    return torch.ops.torchdet.slogdet_backward(grad, A)


def solve(A: Tensor, B: Tensor, factors: Tensor, integers: Tensor) -> Tensor:
    """Return A^-1 B."""
    check_system(A, B, factors, integers)
    F, d, G = _split(factors)
    r, c = (-integers.unsqueeze(-1)).tensor_split(2, -2)
    B, e = _scaled(B, r)
    return ldexp(matmul(F, ratio(matmul(G, B), d)), c + e)


def solve_adjoint(A: Tensor, B: Tensor, factors: Tensor, integers: Tensor) -> Tensor:
    """Return A^-H B."""
    check_system(A, B, factors, integers)
    F, d, G = (x.conj().resolve_conj() for x in _split(factors))
    r, c = (-integers.unsqueeze(-1)).tensor_split(2, -2)
    B, e = _scaled(B, c)
    return ldexp(matmul(G.mT, ratio(matmul(F.mT, B), d)), r + e)


def _scaled(B: Tensor, exponent: Tensor) -> tuple[Tensor, Tensor]:
    # 2^(exponent - e) B and e: columns with a largest entry of about 1, which cannot overflow.
    if B.shape[-2] == 0:
        return B, exponent.sum(-2, keepdim=True)
    own = exponents(B).masked_fill(~torch.isfinite(B), 0)
    e = without_zeros((own + exponent).amax(-2, keepdim=True))
    return ldexp(B, exponent - e), e


def _split(factors: Tensor) -> tuple[Tensor, ...]:
    n = factors.shape[-2]
    return factors.split((n, 1, n), -1)


# ---- checks


def check_wide(op: str, A: Tensor) -> None:
    """Raise RuntimeError unless A is what these operators take."""
    check_square(op, A)
    if A.dtype in HALF:
        raise RuntimeError(
            f"{op}: expected A of dtype float32, float64, complex64 or complex128, got "
            f"{dtype_name(A.dtype)}; convert it first, e.g. A.to(torch.float32)"
        )


def check_factors(
    op: str, A: Tensor, factors: Tensor, integers: Tensor, form: tuple[int, int] | None = None
) -> None:
    """Raise RuntimeError unless these go with A; form: columns and integers, as of `sizes`."""
    check_wide(op, A)
    columns, count = form or sizes(A.shape[-1])
    check_same(op, "factors", factors, A, torch.Size((*A.shape[:-1], columns)))
    check_integers(op, A, integers, count)


def check_system(
    A: Tensor, B: Tensor, factors: Tensor, integers: Tensor, form: tuple[int, int] | None = None
) -> None:
    """Raise RuntimeError unless B is (*, n, k) where A is (*, n, n), and the rest goes with A."""
    op = "slogdet_solve"
    check_factors(op, A, factors, integers, form)
    check_dense(op, "B", B)
    if B.dim() != A.dim() or B.shape[:-1] != A.shape[:-1]:
        raise RuntimeError(
            f"{op}: expected B of shape (*, n, k) for A of shape {tuple(A.shape)}, "
            f"got {tuple(B.shape)}; expand or reshape it first"
        )
    check_same(op, "B", B, A, B.shape)
