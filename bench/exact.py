"""det and its first two derivatives of single matrices to more digits than any format has.

They are polynomials in the entries, so they may be evaluated beside a singular A: at A + delta R,
with random R and delta = 2^-SHIFT, each differs from its value at A by about delta. With
X = (A + delta R)^-T and d its determinant, the matrix of cofactors and its derivative along Z are

    C = d X,    H[Z] = d (sum(X * Z) X - X Z^T X).

X is at most about 1 / delta, at any rank of A. Its elimination loses SHIFT bits, and the difference
in H loses SHIFT more; BITS are four times as many.
"""

from __future__ import annotations

import functools
from typing import Any

import mpmath
import numpy as np

SHIFT = 128
BITS = 4 * SHIFT


def _exact_numbers(values: np.ndarray) -> np.ndarray:
    """The same numbers, as objects of mpmath."""
    convert = mpmath.mpc if np.iscomplexobj(values) else mpmath.mpf
    return np.frompyfunc(convert, 1, 1)(values.astype(object))


def _eliminate(M: np.ndarray) -> tuple[Any, np.ndarray]:
    """(det, inverse) by Gauss-Jordan elimination with partial pivoting, in place of M."""
    n, det = len(M), mpmath.mpf(1)
    order = np.arange(n)
    for k in range(n):
        pivot = max(range(k, n), key=lambda i: abs(M[i, k]))
        if pivot != k:
            M[[k, pivot]], order[[k, pivot]] = M[[pivot, k]], order[[pivot, k]]
            det = -det
        det *= M[k, k]
        column, inverted = M[:, k].copy(), 1 / M[k, k]
        column[k] = M[:, k] = mpmath.mpf(0)
        M[k] *= inverted
        M[k, k] = inverted
        M -= np.multiply.outer(column, M[k])
    inverse = np.empty_like(M)
    inverse[:, order] = M
    return det, inverse


@functools.lru_cache(maxsize=256)
def _regular(data: bytes, dtype: str, n: int) -> tuple[Any, np.ndarray]:
    """(d, X) at A + delta R; the operations of a benchmark ask for the same matrices."""
    A = np.frombuffer(data, dtype).reshape(n, n)
    R = np.random.default_rng(n).standard_normal((n, n))
    with mpmath.workprec(BITS):
        delta = mpmath.ldexp(1, -SHIFT)
        det, inverse = _eliminate(_exact_numbers(A) + _exact_numbers(R) * delta)
        return det, inverse.T


def _rounded(values: Any, like: np.ndarray) -> Any:
    """In the precision of ``like``; what is there by the shift alone is 0, for entries near 1."""
    kind, least = complex if np.iscomplexobj(like) else float, mpmath.ldexp(1, -SHIFT // 2)

    def part(value: Any) -> float:
        return float(value) if abs(value) > least else 0.0

    def rounded(value: Any) -> complex:
        return complex(part(value.real), part(value.imag)) if kind is complex else part(value)

    if not isinstance(values, np.ndarray):
        return rounded(values)
    return np.frompyfunc(rounded, 1, 1)(values).astype(like.dtype)


def det(A: np.ndarray) -> complex:
    """The determinant of a matrix of float64 or complex128."""
    d, _ = _regular(A.tobytes(), A.dtype.str, len(A))
    return _rounded(d, A)


def cofactors(A: np.ndarray) -> np.ndarray:
    """C(A), the derivatives of det by the entries, at any rank."""
    d, X = _regular(A.tobytes(), A.dtype.str, len(A))
    with mpmath.workprec(BITS):
        return _rounded(X * d, A)


def cofactors_along(A: np.ndarray, Z: np.ndarray) -> np.ndarray:
    """H(A)[Z], the derivative of C at A in the direction Z, at any rank."""
    d, X = _regular(A.tobytes(), A.dtype.str, len(A))
    with mpmath.workprec(BITS):
        direction = _exact_numbers(Z)
        inner = (X * direction).sum()
        return _rounded((X * inner - X @ direction.T @ X) * d, A)
