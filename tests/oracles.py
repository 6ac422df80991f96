"""Exact answers for float matrices: det, cofactors and their derivatives in integer arithmetic.

A float is an integer times a power of two. Taking powers of two out of rows and columns, a matrix
of floats is A = 2^rows N 2^cols with integer N, and

    det A     = det N * 2^(sum rows + sum cols)
    C(A)_ij   = C(N)_ij * 2^(sum rows + sum cols - rows_i - cols_j).

Everything below is computed on N: determinants by fraction-free (Bareiss) elimination, where every
division is exact; cofactors and their derivatives modulo many primes (residues.py). Complex
matrices use Gaussian integers. Nothing here calls torchdet or a floating-point
factorisation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from itertools import permutations

import mpmath
import numpy as np
import torch
from torch import Tensor

import residues


class Gauss:
    """A Gaussian integer re + i im; `//` is exact division (the caller knows that it divides)."""

    __slots__ = ("im", "re")

    def __init__(self, re: int, im: int = 0) -> None:
        self.re, self.im = re, im

    def __add__(self, other: Gauss | int) -> Gauss:
        if isinstance(other, np.ndarray):
            return NotImplemented  # numpy applies the scalar to every entry
        other = _gauss(other)
        return Gauss(self.re + other.re, self.im + other.im)

    def __sub__(self, other: Gauss | int) -> Gauss:
        if isinstance(other, np.ndarray):
            return NotImplemented
        other = _gauss(other)
        return Gauss(self.re - other.re, self.im - other.im)

    def __mul__(self, other: Gauss | int) -> Gauss:
        if isinstance(other, np.ndarray):
            return NotImplemented
        other = _gauss(other)
        return Gauss(
            self.re * other.re - self.im * other.im, self.re * other.im + self.im * other.re
        )

    def __floordiv__(self, other: Gauss | int) -> Gauss:
        other = _gauss(other)
        if other.im == 0:
            return Gauss(self.re // other.re, self.im // other.re)
        norm = other.re * other.re + other.im * other.im
        product = self * Gauss(other.re, -other.im)
        return Gauss(product.re // norm, product.im // norm)

    __radd__ = __add__
    __rmul__ = __mul__

    def __rsub__(self, other: int) -> Gauss:
        return _gauss(other) - self

    def __neg__(self) -> Gauss:
        return Gauss(-self.re, -self.im)

    def __eq__(self, other: object) -> bool:
        other = _gauss(other)
        return self.re == other.re and self.im == other.im

    def __bool__(self) -> bool:
        return bool(self.re or self.im)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"({self.re}{self.im:+d}i)"


def _gauss(value: object) -> Gauss:
    return value if isinstance(value, Gauss) else Gauss(int(value))


Number = int | Gauss


def parts(value: Number) -> tuple[int, int]:
    """Real and imaginary part as integers."""
    return (value.re, value.im) if isinstance(value, Gauss) else (int(value), 0)


@dataclass(frozen=True)
class Exact:
    """An array of exact numbers, values * 2^exponents entry by entry."""

    values: np.ndarray
    exponents: np.ndarray

    def fraction(self, index: tuple[int, ...] = ()) -> tuple[Fraction, Fraction]:
        """Real and imaginary part of one entry."""
        scale = Fraction(2) ** int(self.exponents[index])
        re, im = parts(self.values[index])
        return re * scale, im * scale

    def tensor(self, dtype: torch.dtype) -> Tensor:
        """The entries correctly rounded to float64 or complex128, then cast."""
        out = np.empty(self.values.shape, dtype=complex)
        for index in np.ndindex(*self.values.shape):
            re, im = self.fraction(index)
            out[index] = complex(float(re), float(im))
        return torch.from_numpy(out if dtype.is_complex else out.real.copy()).to(dtype)


def _mantissa(value: float) -> tuple[int, int]:
    """Integer m (odd or 0) and e with value = m 2^e."""
    fraction, exponent = math.frexp(value)
    m, e = int(fraction * 2.0**53), exponent - 53
    if m == 0:
        return 0, 0
    twos = (m & -m).bit_length() - 1
    return m >> twos, e + twos


def dyadic(value: complex) -> tuple[Number, int]:
    """Number m and exponent e with value = m 2^e exactly; Gauss for a complex value."""
    if not isinstance(value, complex | np.complexfloating):
        return _mantissa(float(value))
    (a, ea), (b, eb) = _mantissa(value.real), _mantissa(value.imag)
    e = min(ea if a else eb, eb if b else ea)
    return Gauss(a << (ea - e) if a else 0, b << (eb - e) if b else 0), e


def _array(A: Tensor) -> np.ndarray:
    wide = torch.complex128 if A.dtype.is_complex else torch.float64
    return A.detach().resolve_conj().resolve_neg().cpu().to(wide).numpy()


class IntegerFrame:
    """A = 2^rows N 2^cols with integer N, and other matrices in the same frame."""

    def __init__(self, A: Tensor) -> None:
        values = _array(A)
        self.n = values.shape[-1]
        self.complex = A.dtype.is_complex
        pairs = [[dyadic(x) for x in row] for row in values]
        exponent = [[e if m else None for m, e in row] for row in pairs]

        def least(candidates: list[int]) -> int:
            return min(candidates, default=0)

        self.rows = [least([e for e in row if e is not None]) for row in exponent]
        self.cols = [
            least(
                [
                    row[j] - r
                    for row, r in zip(exponent, self.rows, strict=True)
                    if row[j] is not None
                ]
            )
            for j in range(self.n)
        ]
        self.N = self._integers(pairs, 0)
        self.total = sum(self.rows) + sum(self.cols)

    def _integers(self, pairs: list, shift: int) -> np.ndarray:
        out = np.empty((self.n, self.n), dtype=object)
        for i, row in enumerate(pairs):
            for j, (m, e) in enumerate(row):
                power = e - self.rows[i] - self.cols[j] - shift
                out[i, j] = m * (1 << power) if m else (Gauss(0) if self.complex else 0)
        return out

    def direction(self, Z: Tensor) -> tuple[np.ndarray, int]:
        """Integer Z' and z with Z = 2^(rows + cols + z) Z'."""
        pairs = [[dyadic(x) for x in row] for row in _array(Z)]
        powers = [
            e - self.rows[i] - self.cols[j]
            for i, row in enumerate(pairs)
            for j, (m, e) in enumerate(row)
            if m
        ]
        shift = min(powers, default=0)
        return self._integers(pairs, shift), shift

    def cofactor_exponents(self) -> np.ndarray:
        rows, cols = np.array(self.rows, dtype=object), np.array(self.cols, dtype=object)
        return self.total - rows[:, None] - cols[None, :]


def eliminate(N: np.ndarray) -> tuple[Number, list[int], list[int], int]:
    """Bareiss elimination with any nonzero pivot: (det, row order, column order, rank)."""
    M, n = N.copy(), N.shape[0]
    rows, cols, sign, last = list(range(n)), list(range(n)), 1, 1
    for k in range(n):
        nonzero = next(((i, j) for j in range(k, n) for i in range(k, n) if M[i, j]), None)
        if nonzero is None:
            return 0, rows, cols, k
        for axis, order, other in ((0, rows, nonzero[0]), (1, cols, nonzero[1])):
            if other != k:
                M = M.swapaxes(0, axis)
                M[[k, other]] = M[[other, k]]
                M = M.swapaxes(0, axis)
                order[k], order[other] = order[other], order[k]
                sign = -sign
        rest = M[k, k] * M[k + 1 :, k + 1 :] - np.multiply.outer(M[k + 1 :, k], M[k, k + 1 :])
        M[k + 1 :, k + 1 :] = rest // last
        last = M[k, k]
    return sign * last if n else 1, rows, cols, n


def _bits(N: np.ndarray) -> int:
    """log2 of Hadamard's bound for every minor of N, rounded up."""
    total = 0
    for row in N:
        square = sum(re * re + im * im for re, im in map(parts, row))
        total += (square.bit_length() + 1) // 2
    return total


def _odd(order: list[int]) -> bool:
    """Whether the permutation is an odd one."""
    return sum(x > y for k, x in enumerate(order) for y in order[k + 1 :]) % 2 == 1


def _polynomial(
    f: residues.Polynomial, bits: int, loss: int, N: np.ndarray, *others: np.ndarray
) -> np.ndarray:
    """f(N, others), a matrix that changes its rows, columns and signs as cofactors do with N's.

    Its parts are below 2^bits in modulus, and it is 0 where the rank is below n - loss.
    """
    n = len(N)
    values = _zeros(n)
    if n == 0:
        return values
    split = [(x, None) for x in (N, *others)]
    if isinstance(N[0, 0], Gauss):
        split = [tuple(np.frompyfunc(parts, 1, 2)(x)) for x, _ in split]
    rows, cols, rank = residues.order(split[0]), list(range(n)), n
    if rows is None:
        _, rows, cols, rank = eliminate(N)
    if rank < n - loss:
        return values
    place = np.ix_(rows, cols)
    split = [tuple(part if part is None else part[place] for part in x) for x in split]
    re, im = residues.evaluate(f, split[0], rank, bits, *split[1:])
    sign = -1 if _odd(rows) != _odd(cols) else 1
    values[place] = sign * (re if im is None else np.frompyfunc(Gauss, 2, 1)(re, im))
    return values


def _cofactor_residues(G: np.ndarray, det: np.ndarray, p: np.ndarray) -> np.ndarray:
    """C = det(N) N^-T."""
    return det[:, None, None] * G.swapaxes(1, 2) % p[:, None, None]


def _hvp_residues(G: np.ndarray, det: np.ndarray, p: np.ndarray, Z: np.ndarray) -> np.ndarray:
    """H[Z] = det(N) (sum(X * Z) X - X Z^T X) with X = N^-T."""
    X, p_ = G.swapaxes(1, 2), p[:, None, None]
    total = (X * Z % p_).sum((1, 2), keepdims=True) % p_
    XZX = residues.product(residues.product(X, Z.swapaxes(1, 2), p), X, p)
    return (total * X - XZX) % p_ * det[:, None, None] % p_


def det(A: Tensor) -> Exact:
    """det(A) of one float matrix."""
    frame = IntegerFrame(A)
    value = np.empty((), dtype=object)
    value[()] = eliminate(frame.N)[0]
    return Exact(value, np.array(frame.total))


def rank(A: Tensor) -> int:
    """The exact rank of the float matrix."""
    return eliminate(IntegerFrame(A).N)[3]


def _zeros(n: int) -> np.ndarray:
    return np.zeros((n, n), dtype=int).astype(object)


def cofactor(A: Tensor) -> Exact:
    """C(A), at any rank."""
    frame = IntegerFrame(A)
    values = _polynomial(_cofactor_residues, _bits(frame.N), 1, frame.N)
    return Exact(values, frame.cofactor_exponents())


def hvp(A: Tensor, Z: Tensor) -> Exact:
    """H(A)[Z], the derivative of C at A in direction Z, at any rank."""
    frame = IntegerFrame(A)
    Zi, shift = frame.direction(Z)
    # H is a sum over rows of minors with that row replaced by the one of Z.
    bits = _bits(frame.N) + max(map(_bits, Zi[:, None]), default=0) + frame.n.bit_length()
    values = _polynomial(_hvp_residues, bits, 2, frame.N, Zi)
    return Exact(values, frame.cofactor_exponents() + shift)


def derivative(A: Tensor, *directions: Tensor) -> Exact:
    """D^m C(A)[Z1, .., Zm] for small n, from multilinearity of det in the rows.

    The derivative of a multilinear function in direction Z is the sum over rows of the determinant
    with that row taken from Z; so D^m C_ij is the sum, over the ways to give m different rows other
    than i to Z1 .. Zm, of the (i, j) minor of the matrix with those rows replaced.
    """
    frame = IntegerFrame(A)
    n, m = frame.n, len(directions)
    integer = [frame.direction(Z) for Z in directions]
    values = _zeros(n)
    for i in range(n):
        others = [k for k in range(n) if k != i]
        for chosen in permutations(others, m):
            M = frame.N.copy()
            for row, (Zi, _) in zip(chosen, integer, strict=True):
                M[row] = Zi[row]
            for j in range(n):
                minor = eliminate(np.delete(M[others], j, axis=1))[0]
                values[i, j] = values[i, j] + (-1) ** (i + j) * minor
    return Exact(values, frame.cofactor_exponents() + sum(shift for _, shift in integer))


def minors(A: Tensor) -> Exact:
    """C(A) by n^2 minors: slow, and independent of the adjugate above."""
    return derivative(A)


def slogdet(A: Tensor) -> tuple[complex, mpmath.mpf]:
    """det / |det| as a float (0 at a singular matrix), and log|det| to 60 digits (-inf)."""
    d = det(A)
    re, im = parts(d.values[()])
    if not (re or im):
        return 0.0, mpmath.mpf("-inf")
    with mpmath.workdps(60):
        modulus = mpmath.sqrt(mpmath.mpf(re * re + im * im))
        log = mpmath.log(modulus) + int(d.exponents) * mpmath.log(2)
        return complex(mpmath.mpf(re) / modulus, mpmath.mpf(im) / modulus), log


def inverse_transpose(A: Tensor) -> np.ndarray:
    """A^-T as an object array of mpmath numbers with 60 digits; A nonsingular."""
    C, d = cofactor(A), det(A)
    out = np.empty(C.values.shape, dtype=object)
    with mpmath.workdps(60):
        dre, dim = parts(d.values[()])
        for index in np.ndindex(*C.values.shape):
            re, im = parts(C.values[index])
            value = mpmath.mpc(re, im) / mpmath.mpc(dre, dim)
            out[index] = mpmath.ldexp(1, int(C.exponents[index]) - int(d.exponents)) * value
    return out


def extended(A: Tensor) -> tuple[complex, float, np.ndarray]:
    """(sign, log|det|, inverse) of a well conditioned matrix by Gauss-Jordan in long double.

    For orders where integers take too long. On x86 a long double has 11 bits more than a float64,
    so the error is a thousandth of that of the best float64 computation.
    """
    M = _array(A)
    n = M.shape[0]
    M = M.astype(np.clongdouble if A.dtype.is_complex else np.longdouble)
    M = np.concatenate([M, np.eye(n, dtype=M.dtype)], axis=1)
    sign, log = M.dtype.type(1), np.longdouble(0)
    for k in range(n):
        pivot = k + int(np.argmax(np.abs(M[k:, k])))
        if pivot != k:
            M[[k, pivot]] = M[[pivot, k]]
            sign = -sign
        size = np.abs(M[k, k])
        sign, log = sign * (M[k, k] / size), log + np.log(size)
        M[k] /= M[k, k]
        column = M[:, k].copy()
        column[k] = 0
        M -= np.multiply.outer(column, M[k])
    return complex(sign), log, M[:, n:]
