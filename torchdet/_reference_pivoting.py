"""Elimination with partial pivoting, of the plain PyTorch implementation.

Row k of X is column k of B, with the rows of B as places. Those stay where they are: only the order
of the pivots is written down. All matrices of the batch are eliminated together; its one dimension
comes first. Numbers are given by their parts (_reference_numbers.py).
"""

import math

import torch
from torch import Tensor

from ._reference_numbers import (
    divide_parts,
    magnitude,
    magnitude_of_parts,
    multiply_parts,
    parts_of_columns,
    subtract_product,
    whole,
)

# Partial pivoting serves a matrix if U has no entry above the larger of 4 and n / 2: its rounding
# errors are proportional to the largest entry.
_GROWTH, _GROWTH_SHARE = 4.0, 0.5
# Gauss-Jordan elimination serves a matrix if it has no multiplier above this one.
_MULTIPLIER = 2.0**10


def sign_of(odd: Tensor, dtype: torch.dtype) -> Tensor:
    """Return 1 or -1, real."""
    return (1 - 2 * odd).to(dtype.to_real())


def _is_odd(order: Tensor) -> Tensor:
    # Whether permutations (*, n) are odd, from the number of their inversions.
    pairs = order.unsqueeze(-1) > order.unsqueeze(-2)
    return pairs.triu_().sum((-2, -1), dtype=torch.int32) & 1


def _reach(p: Tensor, X: Tensor) -> Tensor:
    # The places p in every row of X, for gather and scatter_.
    return p.expand(*X.shape[:-1], -1)


def _out_of_range(d: Tensor) -> Tensor:
    # Which complex matrices have a pivot that is not 0, but too small to be squared.
    if d.shape[-2] == 1:
        return torch.zeros_like(d[:, 0, 0, 0], dtype=torch.bool)
    size = magnitude_of_parts(d).flatten(1)
    return ((size < torch.finfo(d.dtype).tiny ** 0.375) & (size != 0)).any(-1)


def eliminate(B: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Partial pivoting: return pivots, sign, and which matrices are not served.

    Step k finds the largest number d of row k, at place p, and subtracts x l from every later row,
    x its number at p, l = row k / d. At p itself l is exactly 1, which leaves zeros: no later step
    finds its pivot there. Where row k is zero, l is NaN, and so is all that comes later. It does
    not count: the determinant is 0.
    """
    X = parts_of_columns(B)
    n = B.shape[-1]
    pivots, places, upper = [], [], []
    for k, row in enumerate(X.chunk(n, 1)):
        p = magnitude_of_parts(row).argmax(-1, keepdim=True)
        d = row.gather(-1, _reach(p, row))
        pivots.append(d)
        places.append(p)
        if k + 1 < n:
            after = X[:, k + 1 :]
            x = after.gather(-1, _reach(p, after))
            subtract_product(after, x, divide_parts(row, d))
            upper.append(x)
    d = torch.cat(pivots, -1)
    singular = (d == 0).all(-2, keepdim=True).any(-1, keepdim=True)
    # No number can overflow before one of U is too large.
    U = torch.cat([*upper, d.transpose(1, 3)], 1)
    largest = magnitude_of_parts(U).nan_to_num_().flatten(1).amax(-1)
    failed = (largest > max(_GROWTH, _GROWTH_SHARE * n)) | _out_of_range(d)
    sign = sign_of(_is_odd(torch.cat(places, -1).flatten(1)), B.dtype)
    return whole(d.masked_fill(singular, 0)).squeeze(1), sign, failed


def invert(B: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Partial pivoting: return pivots, sign, S B^-T and which matrices are not served.

    S B^-T is that of (2) of _reference_lu.py.

    As `eliminate`, but from every row of X: the inverse grows in those up to k. So l is 0 at p, and
    row k, before the subtraction, is 1 there and 0 elsewhere. What belongs to a row of B is divided
    by its pivot at the end.
    """
    X = parts_of_columns(B)
    batch, n, _, _ = X.shape
    used = X.new_zeros(batch, 1, 1, n)
    pivots, places, multipliers = [], [], []
    for row, real in zip(X.chunk(n, 1), X[:, :, :1].chunk(n, 1), strict=True):
        p = magnitude_of_parts(row).add_(used).argmax(-1, keepdim=True)
        reach = _reach(p, row)
        d = row.gather(-1, reach)
        pivots.append(d)
        places.append(p)
        last = len(pivots) == n
        l = (row.clone() if last else divide_parts(row, d)).scatter_(-1, reach, 0)
        row.zero_()
        real.scatter_(-1, p, 1)
        x = X.gather(-1, _reach(p, X))
        if last:  # multiplied by the last pivot
            X = multiply_parts(X, d)
        else:
            used.scatter_(-1, p, -math.inf)
            multipliers.append(l)
        subtract_product(X, x, l)
    X.scatter_(-1, _reach(p, X), x)
    d, place = torch.cat(pivots, -1), torch.cat(places, -1)
    one = torch.zeros_like(pivots[-1]).index_fill_(-2, p.new_zeros(1), 1)
    divisors = torch.cat([*pivots[:-1], one], -1)
    X = whole(divide_parts(X, divisors.scatter(-1, _reach(place, d), divisors)))
    place = place.flatten(1)
    # Row p_k of the result is row k, with the numbers at p_0, p_1, ..
    index = place.argsort(-1).unsqueeze(-1) * n + place.unsqueeze(-2)
    core = X.flatten(1).gather(1, index.flatten(1)).view_as(X)
    served = torch.isfinite(magnitude(core).amax((-2, -1)))
    if multipliers:
        served &= magnitude_of_parts(torch.cat(multipliers, 1)).flatten(1).amax(-1) <= _MULTIPLIER
        served &= ~_out_of_range(d[..., :-1])
    return whole(d).squeeze(1), sign_of(_is_odd(place), B.dtype), core, ~served
