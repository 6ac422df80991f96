"""The truth for one walker of bench/wavefunction.py, in long double: psi, its gradient, its energy.

With D_k = w_k prod_b det A_bk and X = A^-1, the logarithm of psi = sum_k D_k has the gradient
D_k X_bk^T / psi by A_bk, and with derivatives J_c and Laplacians L of the matrices

    lap psi / psi = sum_k a_k t_k,  a_k = D_k / psi,
    t_k = sum_b tr(X L) + sum_c [ (sum_b tr(X J_c))^2 - sum_b tr((X J_c)^2) ],

of which the kinetic energy is -1/2. No matrix of the benchmark is singular.

How far off an answer may be, to first order: a backward stable method returns what is exact at
A + E with |E| <= d = n eps s_1, so with e = sum_b sum_i d / s_i for the singular values s_i of the
matrices of a term, D_k is off by e |D_k| and X by e |X|. With m_k, the sum of the norms of what t_k
is made of, t_k is off by 3 e m_k (two factors X, and rounding), a_k by e |a_k| and, since all are
divided by psi, by |a_k| r more, where r = sum_k e |a_k|.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Block = tuple[np.ndarray, np.ndarray | None, np.ndarray | None]  # A, J, L of one determinant


def inverse(A: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(det, inverse) of matrices (K, n, n) by Gauss-Jordan elimination in long double."""
    K, n, _ = A.shape
    M = np.concatenate((A, np.broadcast_to(np.eye(n), A.shape)), -1).astype(np.longdouble)
    det, all_ = np.ones(K, np.longdouble), np.arange(K)
    for k in range(n):
        pivot = k + np.abs(M[:, k:, k]).argmax(1)
        row = M[all_, pivot].copy()
        M[all_, pivot] = M[:, k]
        det *= np.where(pivot == k, 1, -1) * row[:, k]
        row /= row[:, k, None]
        M[:, k] = row
        column = M[:, :, k].copy()
        column[:, k] = 0
        M -= column[:, :, None] * row[:, None, :]
    return det, M[:, :, n:]


@dataclass(frozen=True)
class Answer:
    """What is right, and how far off an answer may be."""

    value: np.ndarray
    allowed: np.ndarray

    def is_right(self, answer: np.ndarray) -> bool:
        """Whether every entry of it is within what is allowed."""
        return bool((np.abs(answer - self.value) <= self.allowed).all())


def _norm(X: np.ndarray) -> np.ndarray:
    return np.sqrt((X**2).sum((-2, -1)))


class Walker:
    """Blocks of K matrices (K, n, n), their derivatives (K, d, n, n) and Laplacians (K, n, n)."""

    def __init__(self, blocks: Sequence[Block], weights: np.ndarray | None = None) -> None:
        self.blocks, K = blocks, len(blocks[0][0])
        self.X = []
        D, e, self.logs = np.ones(K, np.longdouble), np.zeros(K), np.zeros(K)
        for A, _, _ in blocks:
            det, X = inverse(A)
            s = np.linalg.svd(A, compute_uv=False)
            D, e = D * det, e + A.shape[-1] * np.finfo(float).eps * (s[:, :1] / s).sum(-1)
            self.logs = self.logs + A.shape[-1] * np.finfo(float).eps * np.abs(np.log(s)).sum(-1)
            self.X.append(X)
        if weights is not None:
            D = D * weights
        self.psi, self.e = D.sum(), e
        self.a = D / self.psi
        self.r = (e * np.abs(self.a)).sum()

    def logarithm(self) -> Answer:
        """log|psi|; the logarithms of each term are sums of rounded ones."""
        return Answer(np.log(np.abs(self.psi)), self.r + (np.abs(self.a) * self.logs).sum())

    def gradient(self, block: int) -> Answer:
        """Of log|psi| by the matrices of one block, each as far off as its norm may be."""
        X, a = self.X[block], np.abs(self.a)
        value = self.a[:, None, None] * np.swapaxes(X, -1, -2)
        return Answer(value, (a * _norm(X) * (2 * self.e + self.r))[:, None, None])

    def energy(self) -> Answer:
        """-(lap psi) / (2 psi)."""
        traces, lap, squares, sizes, m = 0, 0, 0, 0, 0
        for X, (_, J, L) in zip(self.X, self.blocks, strict=True):
            Y = X[:, None] @ J.astype(np.longdouble)
            lap = lap + (X * np.swapaxes(L, -1, -2)).sum((-2, -1))
            traces = traces + np.trace(Y, axis1=-2, axis2=-1)
            squares = squares + (Y * np.swapaxes(Y, -1, -2)).sum((-3, -2, -1))
            size = _norm(X)[:, None] * _norm(J)
            sizes = sizes + size
            m = m + _norm(X) * _norm(L) + (size**2).sum(-1)
        t = lap + (traces**2).sum(-1) - squares
        m = m + (sizes**2).sum(-1)
        off = (np.abs(self.a) * (3 * self.e * m + (self.e + self.r) * np.abs(t))).sum()
        return Answer(-0.5 * (self.a * t).sum(), 0.5 * off)
