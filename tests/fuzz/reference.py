"""Determinants from plain torch operations, which autograd differentiates by itself.

Of small matrices, and of singular ones, the determinant is expanded along its rows, each minor
once: a polynomial, right in derivatives of every order and under every transform. Of others it is
found by Gaussian elimination with partial pivoting; those must be well conditioned. Neither calls
torch.linalg.det or slogdet, whose derivatives are wrong at singular matrices and in transforms.
"""

from __future__ import annotations

import math
from functools import cache
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


def _expand(A: Tensor) -> Tensor:
    n = A.shape[-1]
    minors = A[..., 0, :]  # of the first row
    for rows in range(2, n + 1):
        columns, smaller, signs = map(torch.tensor, _expansion(n, rows))
        products = A[..., rows - 1, :][..., columns] * minors[..., smaller]
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
