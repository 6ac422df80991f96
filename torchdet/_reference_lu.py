"""Factorisations of the plain PyTorch implementation: LU for determinants, LDU for derivatives.

Rows and columns of A are scaled by powers of two, which is exact,

    B = 2^-r A 2^-c,   nonzero rows and columns of B have their largest entry in [1/2, 1),     (1)

and B is eliminated in place, one rank-one update to a step, all matrices of the batch together.
Multipliers are true quotients, so a row that equals another one, or a multiple of it by a power of
two, leaves a pivot of exactly 0. With partial pivoting the columns of B lie in memory one after the
other, and rows stay where they are: only the order of the pivots is written down.

Determinants need no more than *partial pivoting*: `pivots`. Its error grows with the entries of U,
which are as a rule not much larger than those of B. A matrix with larger ones is eliminated again
with complete pivoting.

First derivatives come from the inverse, by Gauss-Jordan elimination with partial pivoting, in which
the last pivot S divides nothing: with the others d_1 .. d_{n-1},

    C(B) = +-1 d_1 .. d_{n-1} (S B^-1)^T                                                       (2)

is as right at S = 0 as anywhere. A matrix with another pivot of 0, with large multipliers or with
numbers out of range is eliminated again with complete pivoting.

Higher derivatives come from *complete pivoting*, which reveals the rank, B = sum_k l_k d_k u_k^T.
With the l_k as columns of L and the u_k^T as rows of U (unit triangular up to a permutation, no
entry above 1), G = L^-1 and F = U^-1:

    G B F = D = diag(d),   det G det F = s = +-1.                                              (3)

No branch depends on the data but those to complete pivoting, which are taken matrix by matrix; the
rest is masks. So no matrix has an influence on another one.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from . import _reference_pivoting
from ._reference_numbers import (
    add_product,
    exponents,
    ldexp,
    magnitude,
    matmul,
    power_of_two,
    quotient,
    scale,
    share,
    times,
    wide,
    without_zeros,
)

# On a CPU, entries that are eliminated together: few enough for the cache, enough to keep it busy.
_CHUNK = 1 << 18


class Pivots(NamedTuple):
    """det A = sign 2^shift prod d for a batch of matrices."""

    shift: Tensor  # (*) int32: R = sum r + sum c
    d: Tensor  # (*, n): pivots
    sign: Tensor  # (*): s, real
    finite: Tensor  # (*) bool: false where A holds NaN or inf; such a matrix is factored as zero


class Inverse(NamedTuple):
    """Equation (2) for a batch of matrices: C(B) = sign prod d core."""

    scale: Tensor  # (*, n, n) int32: r_i + c_j
    shift: Tensor  # as in Pivots
    sign: Tensor
    finite: Tensor
    d: Tensor  # (*, n - 1): all pivots but one
    last: Tensor  # (*, 1): that one
    core: Tensor  # (*, n, n): last B^-T


class Factors(NamedTuple):
    """Equations (1) and (3) for a batch of matrices, pivots in ascending order of modulus."""

    scale: Tensor  # (*, n, n) int32: r_i + c_j
    shift: Tensor  # as in Pivots
    d: Tensor
    sign: Tensor
    finite: Tensor
    G: Tensor  # (*, n, n)
    F: Tensor  # (*, n, n)


# ---- to B and back


def compute(X: Tensor) -> tuple[Tensor, Tensor]:
    """Return X in its dtype of computation, non-finite matrices zeroed, and which are finite."""
    X = wide(X).resolve_conj()
    x = torch.view_as_real(X).flatten(-2) if X.is_complex() else X
    # The largest entry is NaN if one of them is.
    largest = x.abs().flatten(-2).amax(-1) if x.shape[-1] else x.sum((-2, -1))
    finite = torch.isfinite(largest)
    return X.masked_fill(~finite[..., None, None], 0), finite


def equilibrate(e: Tensor) -> tuple[Tensor, Tensor]:
    """Return r_i + c_j and R of (1) from the exponents of a matrix.

    r_i is the largest exponent in row i, c_j <= 0 the largest in column j of 2^-r A: scaling
    columns up lifts no entry above 1, so the rows stay scaled.
    """
    if e.shape[-1] == 0:
        return e, e.sum((-2, -1), dtype=torch.int32)
    r = without_zeros(e.amax(-1, keepdim=True))
    c = without_zeros((e - r).amax(-2, keepdim=True))
    return r + c, (r.sum(-2) + c.sum(-1)).squeeze(-1).to(torch.int32)


def _scaled(A: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return B of (1), its exponents r and c, with r_i + c_j as their sum, R and what is finite."""
    A, finite = compute(A)
    x = torch.view_as_real(A) if A.is_complex() else A.unsqueeze(-1)
    if A.shape[-1] == 0:
        none = torch.zeros_like(x[..., 0], dtype=torch.int32)
        return A, none, none, none.sum((-2, -1), dtype=torch.int32), finite
    # Rows go up as far as they can on the way, so that small columns are not lost.
    top = math.frexp(torch.finfo(x.dtype).max)[1]
    r = torch.frexp(x.abs().flatten(-2).amax(-1)).exponent[..., None, None]
    third = (top - r) // 3
    x = scale(x * power_of_two(third, x.dtype), top - r - third)
    largest = x.abs().amax(-3, keepdim=True).amax(-1, keepdim=True)
    c = (torch.frexp(largest).exponent - top).masked_fill_(largest == 0, 0)
    x = scale(x, -c - top)
    r, c = r.squeeze(-1), c.squeeze(-1)
    R = (r.sum(-2) + c.sum(-1)).squeeze(-1).to(torch.int32)
    return torch.view_as_complex(x) if A.is_complex() else x.squeeze(-1), r, c, R, finite


def unscale(X: Tensor, exponent: Tensor, finite: Tensor, dtype: torch.dtype) -> Tensor:
    """Return X 2^exponent in the given dtype; NaN for the matrices that are not finite."""
    if X.is_complex():
        parts = torch.view_as_real(X)
        parts = unscale(parts, exponent.unsqueeze(-1), finite, parts.dtype)
        return torch.view_as_complex(parts)
    finite = finite.reshape(finite.shape + (1,) * (exponent.dim() - finite.dim()))
    return ldexp(X, exponent).masked_fill(~finite, math.nan).to(dtype).contiguous()


# ---- elimination in place. The batch has one dimension, and lies in memory matrix by matrix.


def _in_chunks(f: Callable[[Tensor], tuple[Tensor, ...]], X: Tensor) -> tuple[Tensor, ...]:
    # f of a batch, on a CPU a few matrices at a time.
    size = max(1, _CHUNK // X[0].numel()) if X.is_cpu else len(X)
    return tuple(torch.cat(x) for x in zip(*map(f, X.split(size)), strict=True))


class _Rows:
    """Rows of a batch of matrices, picked and exchanged at another place in each of them."""

    def __init__(self, X: Tensor) -> None:
        self.X = X
        self.flat = X.flatten(0, 1)
        self.first = torch.arange(0, len(self.flat), X.shape[1], device=X.device)

    def bring_up(self, k: int, below: Tensor) -> Tensor:
        """Exchange rows k and k + below of each matrix and return what row k is then."""
        place, rest, kth = self.first + below, self.flat[k:], self.X[:, k]
        row = rest.index_select(0, place)
        rest.index_copy_(0, place, kth.clone())
        kth.copy_(row)
        return row


def _bring_column_up(X: Tensor, k: int, behind: Tensor) -> Tensor:
    place, rest = behind[:, None, None].expand(-1, X.shape[1], 1), X[:, :, k:]
    column, kth = rest.gather(2, place), rest[:, :, :1]
    rest.scatter_(2, place, kth.clone())
    kth.copy_(column)
    return column


def _odd(exchanges: list[Tensor]) -> Tensor:
    # Whether the number of true exchanges of each matrix is odd.
    return (torch.stack(exchanges, -1) != 0).sum(-1, dtype=torch.int32) & 1


def _eliminate_completely(S: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Complete pivoting. Return pivots, sign, L^-1 and U^-1 in one matrix, row and column order.

    Step k takes the largest entry d of the residual to place (k, k) and subtracts l d u^T from the
    rest. The row operations that do so carry I to L^-1, the column operations I to U^-1. Both are
    unit triangular. Off the diagonal they grow where the residual has shrunk, with the other sign:

        rows before k:   U^-1 to the right of the diagonal, L^-1 to the left, which is final;
        row k:           u^T, the new row of U^-1, replaces the row of the residual;
        rows after k:    l, the new column of L^-1, replaces the column of the residual.

    A last row and column hold the number that each column and row had at the start.
    """
    batch, n, _ = S.shape
    X = S.new_zeros(batch, n + 1, n + 1)
    X[:, :n, :n] = S
    X[:, :n, n] = X[:, n, :n] = torch.arange(n, device=S.device).to(S.dtype)
    rows, pivots = _Rows(X), []
    exchanges: tuple[list[Tensor], list[Tensor]] = ([], [])
    for k in range(n):
        below = magnitude(X[:, k:n, k:n]).amax(-1).argmax(-1)
        behind = magnitude(rows.bring_up(k, below)[:, k:n]).argmax(-1)
        column = _bring_column_up(X, k, behind)
        row = X[:, k : k + 1, :n].clone()
        d = column[:, k]
        l = share(column[:, k + 1 : n], d.unsqueeze(-1))
        u = share(row[:, :, k + 1 :], d.unsqueeze(-1))
        after = X[:, k + 1 : n, :n]
        add_product(after, l, row, -1)
        add_product(X[:, :k, k + 1 : n], column[:, :k], u, -1)
        after[:, :, k : k + 1] = l
        X[:, k : k + 1, k + 1 : n] = u
        pivots.append(d)
        exchanges[0].append(below)
        exchanges[1].append(behind)
    i, j = (x.real.long() for x in (X[:, :n, n], X[:, n, :n]))
    sign = _reference_pivoting.sign_of(_odd(exchanges[0]) ^ _odd(exchanges[1]), X.dtype)
    return torch.cat(pivots, -1), sign, X[:, :n, :n], i, j


def pivots(A: Tensor) -> Pivots:
    """Equilibrate and eliminate with partial pivoting, or completely where U grows."""
    B, _, _, R, finite = _scaled(A)
    n = B.shape[-1]
    if B.numel() == 0:
        return Pivots(R, B.new_ones(B.shape[:-1]), torch.ones_like(R).to(B.real.dtype), finite)
    X = B.reshape(-1, n, n)
    d, sign, grown = _in_chunks(_reference_pivoting.eliminate, X)
    if grown.any():
        d[grown], sign[grown] = _in_chunks(_eliminate_completely, X[grown])[:2]
    return Pivots(R, d.view(B.shape[:-1]), sign.view(R.shape), finite)


def invert(A: Tensor) -> Inverse:
    """Equilibrate and invert with partial pivoting, or complete pivoting where that does not do."""
    B, r, c, R, finite = _scaled(A)
    n = B.shape[-1]
    if B.numel() == 0:
        sign = torch.ones_like(R).to(B.real.dtype)
        one = B.new_ones(B.shape[:-1])
        return Inverse(r + c, R, sign, finite, one[..., 1:], one[..., :1], B)
    X = B.reshape(-1, n, n)
    d, sign, core, failed = _in_chunks(_reference_pivoting.invert, X)
    if failed.any():
        d[failed], sign[failed], core[failed] = _in_chunks(_invert_completely, X[failed])
    d = d.view(B.shape[:-1])
    return Inverse(
        r + c, R, sign.view(R.shape), finite, d[..., :-1], d[..., -1:], core.view(B.shape)
    )


def _invert_completely(B: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    # S B^-T = G^T diag(S / d_i) F^T with the smallest pivot S.
    d, sign, G, F = _factored(*_eliminate_completely(B))
    q = quotient(d[:, :1], d)
    q[:, 0] = 1
    return d.roll(-1, -1), sign, matmul(times(G, q.unsqueeze(-1)).mT, F.mT)


def factor(A: Tensor) -> Factors:
    """Equilibrate and eliminate with complete pivoting."""
    B, r, c, R, finite = _scaled(A)
    n = B.shape[-1]
    if B.numel() == 0:
        sign = torch.ones_like(R).to(B.real.dtype)
        return Factors(r + c, R, B.new_ones(B.shape[:-1]), sign, finite, B, B)
    d, sign, G, F = _in_chunks(lambda x: _factored(*_eliminate_completely(x)), B.reshape(-1, n, n))
    return Factors(
        r + c, R, d.view(B.shape[:-1]), sign.view(R.shape), finite, G.view(B.shape), F.view(B.shape)
    )


def _factored(
    d: Tensor, sign: Tensor, X: Tensor, i: Tensor, j: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    # Pivots in ascending order, and with them the rows of G and the columns of F.
    order = magnitude(d).argsort(dim=-1, stable=True)
    one = torch.eye(X.shape[-1], dtype=X.dtype, device=X.device)
    batch = torch.arange(len(X), device=X.device)[:, None, None]
    G = (one - X.tril(-1))[batch, order.unsqueeze(-1), i.argsort(-1).unsqueeze(-2)]
    F = (one - X.triu(1))[batch, j.argsort(-1).unsqueeze(-1), order.unsqueeze(-2)]
    return d.gather(-1, order), sign, G, F


# ---- directions


def unexpand(A: Tensor) -> Tensor:
    """Undo `expand` on batch dimensions: a matrix met with many directions is factored once."""
    stride = A.stride()[:-2]
    return A[tuple(slice(0, 1) if step == 0 else slice(None) for step in stride)]


def direction(f: Factors, Z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return W and e with W 2^e = G Z_B F, Z_B = 2^-r Z 2^-c scaled below 1; which Z are finite."""
    Z, finite = compute(Z)
    if Z.shape[-1] == 0:
        return Z, f.shift, finite
    e = without_zeros((exponents(Z) - f.scale).amax((-2, -1)))
    return matmul(matmul(f.G, ldexp(Z, -f.scale - e[..., None, None])), f.F), e, finite


def scaled_direction(f: Factors, Z: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return Z_B 2^-e and e, whether a row of it stands out, and which Z are finite.

    Z_B = 2^-r Z 2^-c; e is the mean of the exponents of its two largest columns, or rows where a
    row stands out from the others by more than a column.
    """
    Z, finite = compute(Z)
    size = exponents(Z) - f.scale
    (e_row, row), (e_column, column) = (_two_largest(size.amax(dim)) for dim in (-1, -2))
    by_row = row > column + 8
    e = without_zeros(torch.where(by_row, e_row, e_column))[..., None, None]
    return ldexp(Z, -f.scale - e), e[..., 0, 0], by_row[..., None, None], finite


def _two_largest(e: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean of the two largest exponents, and by how much they differ."""
    first, second = torch.cat([e, torch.full_like(e, -(1 << 20))], -1).topk(2).values.unbind(-1)
    gap = first - torch.maximum(second, torch.full_like(second, -(1 << 19)))
    return first - (gap >> 1).clamp(max=50), gap  # the square of 2^50 n is in range


def carry_back(f: Factors, K: Tensor) -> Tensor:
    """Return G^T K F^T, without the sign."""
    return matmul(matmul(f.G.mT, K), f.F.mT)
