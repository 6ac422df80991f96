"""Determinants from plain torch operations, which autograd differentiates by itself.

Of small matrices, and of singular ones, the determinant is expanded along its rows, each minor
once: a polynomial, right in derivatives of every order and under every transform. Of others it is
found by Gaussian elimination with partial pivoting; those must be well conditioned. Neither calls
torch.linalg.det or slogdet, whose derivatives are wrong at singular matrices and in transforms.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache, reduce
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

LARGEST_EXPANSION = 8


@cache
def _expansion(n: int, rows: int) -> tuple[list[Any], list[Any], list[float]]:
    """For each set of `rows` columns: its columns, the sets without each of them, the signs.

    No Tensors: one that is made under a transform belongs to its level, and dies with it.
    """
    before = {s: i for i, s in enumerate(combinations(range(n), rows - 1))}
    columns = list(combinations(range(n), rows))
    smaller = [[before[s[:k] + s[k + 1 :]] for k in range(rows)] for s in columns]
    signs = [(-1.0) ** (rows - 1 - k) for k in range(rows)]
    return columns, smaller, signs


def _expand(A: Tensor, times: Callable[[Tensor, Tensor], Tensor] = torch.mul) -> Tensor:
    n = A.shape[-1]
    minors = A[..., 0, :]  # of the first row
    for rows in range(2, n + 1):
        columns, smaller, signs = map(torch.tensor, _expansion(n, rows))
        products = times(A[..., rows - 1, :][..., columns], minors[..., smaller])
        minors = (products * signs.to(A.dtype)).sum(-1)
    return minors[..., 0]


def _eliminate(A: Tensor) -> tuple[Tensor, Tensor]:
    """The pivots of elimination with partial pivoting, and the sign of the permutation."""
    n = A.shape[-1]
    pivots, swaps = [], []
    positions = torch.arange(n)
    for k in range(n - 1):
        m = n - k
        best = A[..., 0].detach().abs().argmax(-1, keepdim=True)
        i = positions[:m].expand(*A.shape[:-2], m)
        order = torch.where(i == best, torch.zeros_like(i), torch.where(i == 0, best, i))
        A = torch.take_along_dim(A, order[..., None], -2)
        swaps.append(torch.where(best[..., 0] == 0, 1.0, -1.0))
        pivot = A[..., :1, :1]
        pivots.append(pivot[..., 0, 0])
        A = A[..., 1:, 1:] - A[..., 1:, :1] / pivot * A[..., :1, 1:]
    pivots.append(A[..., 0, 0])
    sign = torch.stack(swaps, -1).prod(-1) if swaps else torch.ones(())
    return torch.stack(pivots, -1), sign


def _product(x: Tensor) -> Tensor:
    # Not x.prod(-1), whose derivatives torch takes by way of a division.
    while x.shape[-1] > 1:
        if x.shape[-1] % 2:
            x = torch.cat([x[..., :-2], x[..., -2:-1] * x[..., -1:]], -1)
        if x.shape[-1] > 1:
            x = x[..., ::2] * x[..., 1::2]
    return x[..., 0]


def polynomial_det(A: Tensor) -> Tensor:
    """Determinants, of singular matrices too; the time grows as 2^n."""
    # What is returned is saved nowhere, so that it can be changed in place.
    return _expand(A) * 1.0


def det(A: Tensor) -> Tensor:
    """Determinants; well conditioned above LARGEST_EXPANSION."""
    if A.shape[-1] <= LARGEST_EXPANSION:
        return polynomial_det(A)
    pivots, sign = _eliminate(A)
    return _product(pivots) * sign.to(A.dtype)


def slogdet(A: Tensor) -> tuple[Tensor, Tensor]:
    """Sign and log|det A|; the sign of a real matrix is constant."""
    n = A.shape[-1]
    if n <= LARGEST_EXPANSION:
        d = det(A)
        modulus = (d * d.conj()).real.sqrt() if A.is_complex() else d.abs()
        sign = d / modulus if A.is_complex() else d.detach().sign()
        return sign, modulus.log()
    pivots, swaps = _eliminate(A)
    if A.is_complex():
        squares = (pivots * pivots.conj()).real
        return _product(pivots / squares.sqrt()) * swaps.to(A.dtype), 0.5 * squares.log().sum(-1)
    return swaps.to(A.dtype) * pivots.detach().sign().prod(-1), pivots.abs().log().sum(-1)


def logdet(A: Tensor) -> Tensor:
    """Logarithms of determinants."""
    sign, log = slogdet(A)
    return log + sign.log() if A.is_complex() else log.masked_fill(sign < 0, math.nan)


def cofactor(A: Tensor) -> Tensor:
    """Cofactor matrices: minors of small matrices, det times inverse of others."""
    n = A.shape[-1]
    if n > 6:
        return det(A)[..., None, None] * torch.linalg.inv(A).mT
    if n == 1:
        return A * 0 + 1
    rows = []
    for i in range(n):
        keep = torch.tensor([k for k in range(n) if k != i])
        without = A[..., keep, :]
        minors = [without[..., [k for k in range(n) if k != j]] for j in range(n)]
        rows.append(torch.stack([(-1.0) ** (i + j) * _expand(M) for j, M in enumerate(minors)], -1))
    return torch.stack(rows, -2)


def adjugate(A: Tensor) -> Tensor:
    """Adjugates."""
    return cofactor(A).mT


# ---- sums of products of determinants


def logabs(x: Tensor) -> Tensor:
    """Logarithms of moduli."""
    return 0.5 * (x * x.conj()).real.log() if x.is_complex() else x.abs().log()


def _times(x: Tensor, y: Tensor) -> Tensor:
    """The product of two power series in t, to t^2; the coefficients come first."""
    first = x[0] * y[1] + x[1] * y[0]
    return torch.stack([x[0] * y[0], first, x[0] * y[2] + x[1] * y[1] + x[2] * y[0]])


def _along_rows(jacobians: list[Tensor]) -> list[Tensor]:
    """Directions of all matrices for coordinates that move one row of one of them."""
    orders = [J.shape[-1] for J in jacobians]
    result = []
    for s, J in enumerate(jacobians):
        n, d = orders[s], J.shape[-2]
        rows = torch.eye(n, dtype=J.dtype)[:, None, :, None] * J.unsqueeze(-2)
        whole = rows.flatten(-4, -3)  # (n, d, n, n), row r alone
        counts = [d * sum(orders[:s]), d * sum(orders[s + 1 :])]
        before, after = (whole.new_zeros(*whole.shape[:-3], c, n, n) for c in counts)
        result.append(torch.cat([before, whole, after], -3))
    return result


def log_laplacian(
    matrices: list[Tensor], jacobians: list[Tensor], laplacians: list[Tensor], w: Tensor, rows: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """log|psi|, its derivatives and its Laplacian, from power series along each coordinate."""
    if rows:
        jacobians = _along_rows(jacobians)
    count = jacobians[0].shape[-3]
    dets = []
    for A, J, L in zip(matrices, jacobians, laplacians, strict=True):
        # Second derivatives of a matrix along single coordinates: any that add up to L.
        second = (L / (2 * count)).unsqueeze(-3).expand(J.shape)
        dets.append(_expand(torch.stack([A.unsqueeze(-3).expand(J.shape), J, second]), _times))
    psi = (reduce(_times, dets) * w.unsqueeze(-1)).sum(-2)
    first = psi[1] / psi[0]
    second = 2 * psi[2] / psi[0] - first * first
    real = (x.real if x.is_complex() else x for x in (first, second.sum(-1)))
    return logabs(psi[0][..., 0]), *real
