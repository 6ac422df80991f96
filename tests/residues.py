"""Polynomials of integer matrices, exactly, by their residues modulo many primes at once.

Where the product of the primes is more than twice a bound of a number, its residues determine it.
Modulo a prime below 2^31 numpy divides without rounding: products fit into 64 bits. All primes are
congruent to 1 modulo 4, so -1 has a root s there, and a Gaussian integer a + ib is determined by
the residues of a + sb and a - sb.

A singular N is shifted to N + tR: in the order of its pivots, R is the identity on the trailing
r x r block, whose Schur complement is 0 in N and t I after the shift. A minor of N + tR, and so
each polynomial here, has degree r at most in t. Values at t = 1 .. r + 1 give the one at t = 0,

    f(N) = sum_t (-1)^(t + 1) binomial(r + 1, t) f(N + tR).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from itertools import count

import numpy as np

# f(N^-1, det N, p, further matrices) modulo p, for stacks of them.
Polynomial = Callable[..., np.ndarray]
# Real parts, and imaginary parts or None.
Integers = tuple[np.ndarray, np.ndarray | None]


def is_prime(p: int) -> bool:
    """By Miller's test, which needs no other bases than these below 3 215 031 751."""
    twos = ((p - 1) & (1 - p)).bit_length() - 1
    for base in (2, 3, 5, 7):
        x = pow(base, (p - 1) >> twos, p)
        if x not in (1, p - 1) and all((x := x * x % p) != p - 1 for _ in range(twos - 1)):
            return False
    return True


@cache
def prime(index: int) -> tuple[int, int]:
    """The index-th prime p = 4m + 1 below 2^31, from above, and a root of -1 modulo p."""
    p = (prime(index - 1)[0] if index else (1 << 31) + 1) - 4
    while not is_prime(p):
        p -= 4
    return p, next(x for g in count(2) if (x := pow(g, (p - 1) // 4, p)) ** 2 % p == p - 1)


def invert(X: np.ndarray, p: np.ndarray) -> np.ndarray:
    """X becomes its inverse modulo p, pivots on the diagonal; the determinant modulo p.

    A pivot that is 0 modulo its prime is a ValueError.
    """
    determinant = np.ones(len(X), dtype=np.int64)
    primes, p_ = p.tolist(), p[:, None]
    for k in range(X.shape[-1]):
        pivot = X[:, k, k].copy()
        determinant = determinant * pivot % p
        inverse = np.array([pow(x, -1, m) for x, m in zip(pivot.tolist(), primes, strict=True)])
        row, column = X[:, k] * inverse[:, None] % p_, X[:, :, k].copy()
        X -= column[:, :, None] * row[:, None, :]
        X %= p_[:, None]
        X[:, k], X[:, :, k] = row, -column * inverse[:, None] % p_
        X[:, k, k] = inverse
    return determinant


def product(A: np.ndarray, B: np.ndarray, p: np.ndarray) -> np.ndarray:
    """A B modulo p, one term after the other: a sum of them would leave the range."""
    C = np.zeros_like(A)
    for k in range(A.shape[-1]):
        C += A[:, :, k, None] * B[:, None, k] % p[:, None, None]
    return C % p[:, None, None]


def images(N: Integers, index: range) -> np.ndarray:
    """N modulo each prime; for Gaussian integers re + s im for both roots s of -1."""
    out = []
    for p, s in map(prime, index):
        re, *im = (part % p for part in N if part is not None)
        out += [re + s * im[0], re - s * im[0]] if im else [re]
    return np.stack([x % p for x, p in zip(out, moduli(N, index), strict=True)]).astype(np.int64)


def moduli(N: Integers, index: range) -> list[int]:
    """The prime of each image."""
    return [prime(k)[0] for k in index for part in N if part is not None]


def integers(x: np.ndarray, index: range) -> Integers:
    """The numbers nearest to 0 with these images, one or two for each prime."""
    primes = [prime(k) for k in index]
    modulus = math.prod(p for p, _ in primes)
    weights = [modulus // p * pow(modulus // p, -1, p) for p, _ in primes]

    def nearest(residues: list[np.ndarray]) -> np.ndarray:
        total = sum(w * r.astype(object) for w, r in zip(weights, residues, strict=True))
        return (total + modulus // 2) % modulus - modulus // 2

    if len(x) == len(primes):
        return nearest(list(x)), None
    re, im = [], []
    for (p, s), plus, minus in zip(primes, x[::2], x[1::2], strict=True):
        half = (p + 1) // 2
        re.append((plus + minus) * half % p)
        im.append((plus - minus) * (half * pow(s, -1, p) % p) % p)
    return nearest(re), nearest(im)


def order(N: Integers) -> list[int] | None:
    """Rows in the order of pivots modulo one prime; None where N is singular there."""
    first = range(1)
    p, X = moduli(N, first)[0], images(N, first)[0]
    n = len(X)
    rows = list(range(n))
    for k in range(n):
        nonzero = np.flatnonzero(X[k:, k])
        if len(nonzero) == 0:
            return None
        other = k + int(nonzero[0])
        X[[k, other]], rows[k], rows[other] = X[[other, k]], rows[other], rows[k]
        multipliers = X[k + 1 :, k] * pow(int(X[k, k]), -1, p) % p
        X[k + 1 :] = (X[k + 1 :] - np.multiply.outer(multipliers, X[k])) % p
    return rows


def evaluate(f: Polynomial, N: Integers, rank: int, bits: int, *others: Integers) -> Integers:
    """f(N, others) for N in the order of its pivots; its parts are below 2^bits in modulus."""
    n = len(N[0])
    r, primes = n - rank, bits // 30 + 1  # each prime is above 2^30
    for first in count(0, primes):
        index = range(first, first + primes)
        p = np.array(moduli(N, index))
        N_, *others_ = (images(x, index) for x in (N, *others))
        total: np.ndarray | int = 0
        try:
            for t in range(1, r + 2):
                X = N_.copy()
                X[:, range(rank, n), range(rank, n)] += t
                determinant = invert(X, p)
                value = f(X, determinant, p, *others_)
                total = total + (-1) ** (t + 1) * math.comb(r + 1, t) * value
        except ValueError:  # a pivot is a multiple of its prime
            continue
        return integers(total % p.reshape(-1, *[1] * (value.ndim - 1)), index)
    raise AssertionError
