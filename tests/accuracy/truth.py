"""Derivatives of det for batches of matrices in a wider format, to find suspects by.

What is published is confirmed in rational arithmetic (oracles.py). This needs to be fast, and right
at every rank to far less than a unit of the narrower format: complete pivoting makes P B Q = L D U,
so that G B F = D with G = L^-1 P and F = Q U^-1, and every derivative at B is that at the diagonal
D carried back. There it is given by products of all pivots but a few, formed without division.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy import ndarray

# Where a long double is no wider than a double (Arm under macOS, Windows), float64 has no truth.
WIDER = {
    np.dtype("f4"): np.dtype("f8"),
    np.dtype("c8"): np.dtype("c16"),
    np.dtype("f8"): np.dtype(np.longdouble),
    np.dtype("c16"): np.dtype(np.clongdouble),
}


@dataclass(frozen=True)
class Diagonal:
    """G B F = diag(d) with det G det F = sign."""

    G: ndarray
    F: ndarray
    d: ndarray
    sign: ndarray

    def carry_back(self, K: ndarray) -> ndarray:
        return self.sign[:, None, None] * (_t(self.G) @ K @ _t(self.F))


def _t(X: ndarray) -> ndarray:
    return X.swapaxes(-2, -1)


def _odd(permutation: ndarray) -> ndarray:
    later_is_smaller = permutation[:, :, None] > permutation[:, None, :]
    return np.triu(later_is_smaller, 1).sum((1, 2)) % 2


def diagonalise(B: ndarray) -> Diagonal:
    """Gauss elimination of every matrix of the batch with complete pivoting."""
    batch, n = B.shape[:2]
    at = np.arange(batch)
    S, G = B.copy(), np.broadcast_to(np.eye(n, dtype=B.dtype), B.shape).copy()
    F = G.copy()
    used = np.zeros(B.shape, B.real.dtype)  # -1 in rows and columns that had their pivots
    rows, columns, pivots = [], [], []
    for _ in range(n):
        place = (np.abs(S) + used).reshape(batch, -1).argmax(1)
        i, j = place // n, place % n
        d = S[at, i, j]
        safe = np.where(d == 0, 1, d)[:, None]
        row, column = S[at, i].copy(), S[at, :, j].copy()
        l, u = column / safe, row / safe
        l[at, i] = u[at, j] = 0
        S -= l[:, :, None] * row[:, None, :]
        S[at, i] = 0
        S[at, :, j] = 0
        used[at, i] = used[at, :, j] = -1
        G -= l[:, :, None] * G[at, i][:, None, :]
        F -= F[at, :, j][:, :, None] * u[:, None, :]
        rows.append(i)
        columns.append(j)
        pivots.append(d)
    order_i, order_j = np.stack(rows, 1), np.stack(columns, 1)
    sign = 1 - 2 * ((_odd(order_i) + _odd(order_j)) % 2)
    G = np.take_along_axis(G, order_i[:, :, None], 1)
    F = np.take_along_axis(F, order_j[:, None, :], 2)
    return Diagonal(G, F, np.stack(pivots, 1), sign.astype(B.dtype))


def _products_without(d: ndarray, indices: int) -> ndarray:
    """prod d_k over all k but the given number of different indices; 0 where two are equal."""
    if indices == 0:
        return d.prod(-1)
    n = d.shape[-1]
    parts = []
    for i in range(n):
        rest = d.copy()
        rest[:, i] = 1
        part = _products_without(rest, indices - 1)
        for axis in range(1, indices):
            np.moveaxis(part, axis, 0)[i] = 0
        parts.append(part)
    return np.stack(parts, 1)


def value(f: Diagonal) -> ndarray:
    """det B."""
    return f.sign * f.d.prod(-1)


def sum_of_values(f: Diagonal, Z: ndarray) -> ndarray:
    """det B + det Z."""
    return value(f) + value(diagonalise(Z))


def cofactor(f: Diagonal) -> ndarray:
    """C(B)."""
    return f.carry_back(_diagonal(_products_without(f.d, 1)))


def inverse_transpose(f: Diagonal) -> ndarray:
    """B^-T; of no meaning where B is singular."""
    return _t(f.G) @ _diagonal(1 / np.where(f.d == 0, 1, f.d)) @ _t(f.F)


def solution(f: Diagonal, Z: ndarray) -> ndarray:
    """B^-1 Z."""
    return _t(inverse_transpose(f)) @ Z


def derivative(f: Diagonal, *directions: ndarray) -> ndarray:
    """D^m C(B)[Z_1 .. Z_m], m = 1 or 2.

    For m = 1, K_ij = -r_ij W_ji and K_ii = sum_k r_ik W_kk with r_ij the product of all pivots but
    d_i and d_j; for m = 2 accordingly with three indices.
    """
    rho = _products_without(f.d, 1 + len(directions))
    W = [f.G @ Z @ f.F for Z in directions]
    own = [w.diagonal(axis1=1, axis2=2) for w in W]
    if len(W) == 1:
        K = _diagonal(np.einsum("bik,bk->bi", rho, own[0])) - rho * _t(W[0])
        return f.carry_back(K)
    (W, X), (w, x) = W, own
    K = np.einsum("bijk,bjk,bki->bij", rho, W, X) + np.einsum("bijk,bjk,bki->bij", rho, X, W)
    K -= np.einsum("bijk,bk->bij", rho, w) * _t(X) + np.einsum("bijk,bk->bij", rho, x) * _t(W)
    both = w[:, :, None] * x[:, None, :] - W * _t(X)
    return f.carry_back(K + _diagonal(np.einsum("bijk,bjk->bi", rho, both)))


def second(f: Diagonal, Z: ndarray) -> ndarray:
    """D^2 det(B)[Z, Z]."""
    return (derivative(f, Z) * Z).sum((1, 2))


def derivative_of_inverse(f: Diagonal, Z: ndarray) -> ndarray:
    """-X Z^T X with X = B^-T."""
    X = inverse_transpose(f)
    return -(X @ _t(Z) @ X)


def _diagonal(d: ndarray) -> ndarray:
    return d[:, :, None] * np.eye(d.shape[-1], dtype=d.dtype)
