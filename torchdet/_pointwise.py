r"""Determinants and their derivatives at n <= 3 as formulas over numbers, for inductor.

inductor calls a formula with placeholders for the entries of one matrix, and makes of it one loop
over all matrices, with what comes before and after. All numbers are float64, those of narrower
matrices too; `ops` has the operations on them. There are no branches: every formula is right at
every matrix.

Accuracy: cofactors are differences of two products, within 3/2 units in the last place whatever
cancels in them (Frame.difference). The determinant is their sum with the entries of a row; its
error is some units in the last place of the sum of |a_0j C_0j|, which is at most sqrt(2) s_1 s_1
s_2 with the singular values s_1 >= s_2 >= s_3. A change of A by n eps s_1 moves it by as much, at
every rank.

Range: products of three float32 are far inside of the range of float64. A matrix that is float64
itself is scaled by powers of two so that all of its rows and columns are of one size (Frame), and
results are scaled back at the very end.

Compilers that fuse multiplications and additions change nothing of this: the one product whose
rounding error is computed is never added to anything but by fma.
"""

import math
from typing import Any

import torch

from . import _torch_internals

_inductor = _torch_internals.inductor()
assert _inductor is not None  # who imports this module has looked
ops = _inductor.ops

Number = Any
Matrix = list[list[Number]]

# float64: 52 bits of fraction below 11 of the exponent, which is 0 for 0 and subnormal numbers.
_BITS = 52
_BIAS = 1023
_WITHOUT_SIGN = (1 << 63) - 1
_INFINITY = (2 * _BIAS + 1) << _BITS
_OF_ZERO = -(1 << 20)  # below the exponents of all numbers


def real(value: float) -> Number:
    """A constant."""
    return ops.constant(value, torch.float64)


def whole(value: int) -> Number:
    """A constant."""
    return ops.constant(value, torch.int64)


# ---- numbers and their exponents


def magnitude(x: Number) -> Number:
    """The bits of |x| as an integer, which grows with |x|."""
    return ops.to_dtype_bitcast(x, torch.int64, torch.float64) & whole(_WITHOUT_SIGN)


def from_bits(x: Number) -> Number:
    """The number that has these bits."""
    return ops.to_dtype_bitcast(x, torch.float64, torch.int64)


def shift_right(x: Number, bits: int) -> Number:
    """Return x 2^-bits, rounded down."""
    return ops.bitwise_right_shift(x, whole(bits))


def power_of_two(e: Number) -> Number:
    """2^e for -1022 <= e <= 1023."""
    return from_bits((e + whole(_BIAS)) << whole(_BITS))


def exponent(x: Number) -> Number:
    """Return e in [-1023, 1022] with |x| 2^-e in [1, 4), or less if x is subnormal."""
    return ops.minimum(shift_right(magnitude(x), _BITS) - whole(_BIAS), whole(_BIAS - 1))


def times_power_of_two(x: Number, e: Number) -> Number:
    """Return x 2^e = x t t t u. Beyond 2^+-4080 nothing remains of a number."""
    e = ops.maximum(ops.minimum(e, whole(4080)), whole(-4080))
    quarter = shift_right(e, 2)
    t, u = power_of_two(quarter), power_of_two(e - quarter * whole(3))
    return x * t * t * t * u


def largest(*numbers: Number) -> Number:
    """The largest of them."""
    out = numbers[0]
    for x in numbers[1:]:
        out = ops.maximum(out, x)
    return out


def total(*numbers: Number) -> Number:
    """Their sum."""
    out = numbers[0]
    for x in numbers[1:]:
        out = out + x
    return out


def entries(a: Matrix) -> list[Number]:
    """Row by row."""
    return [x for row in a for x in row]


def others(i: int) -> tuple[int, int]:
    """The other two of three rows, or columns, in cyclic order: minors then have their sign."""
    return (i + 1) % 3, (i + 2) % 3


class Frame:
    """A = 2^r B 2^c.

    The largest entry of every row and column of B is about 1, or 2^1023 times a subnormal number,
    so that products of three are far inside of the range. An entry loses nothing on the way, or it
    is below 2^-1022 beside its row and its column. Where A is narrower than float64, B is A.
    """

    def __init__(self, a: Matrix, narrow: bool) -> None:
        self.A = self.B = a
        self.n, self.narrow = len(a), narrow
        self.finite = self.is_finite(a)
        if narrow:
            return
        # An entry of 0 has no size: its row and its column are as large as what else they hold.
        zero, none = real(0.0), whole(_OF_ZERO)
        size = [[ops.where(ops.eq(x, zero), none, exponent(x)) for x in row] for row in a]
        lowest = whole(-_BIAS)
        self.r = [ops.maximum(largest(*row), lowest) for row in size]
        self.c = [
            ops.maximum(
                largest(*(x - y for x, y in zip(column, self.r, strict=True))), lowest * whole(2)
            )
            for column in zip(*size, strict=True)
        ]
        # c_j <= 0, so that -(r_i + c_j) >= -1022. Where a_ij is not 0, e_ij - r_i <= c_j, and it is
        # at most -e_ij <= 1023; 0 remains 0 whatever it is multiplied by.
        self.B = [
            [
                x * power_of_two(ops.minimum(-(y + z), whole(_BIAS)))
                for x, z in zip(row, self.c, strict=True)
            ]
            for row, y in zip(a, self.r, strict=True)
        ]
        # e with det A = 2^e det B.
        self.exponent = total(*self.r, *self.c)

    def is_finite(self, a: Matrix) -> Number:
        """Whether all entries are. The sum of narrower numbers does not overflow."""
        if self.narrow:
            return ops.abs(total(*entries(a))) < real(math.inf)
        return largest(*map(magnitude, entries(a))) < whole(_INFINITY)

    def checked(self, x: Number) -> Number:
        """x, or NaN where A is not finite."""
        return ops.where(self.finite, x, real(math.nan))

    def difference(self, a: Number, b: Number, c: Number, d: Number) -> Number:
        """Return a b - c d. Products of narrow numbers are exact; else the error of one is added.

        Jeannerod, Louvet and Muller, Further analysis of Kahan's algorithm for the accurate
        computation of 2 x 2 determinants, Mathematics of Computation 82 (2013).
        """
        product = c * d
        if self.narrow:
            return a * b - product
        return ops.fma(a, b, -product) + ops.fma(-c, d, product)

    def minor(self, a: Matrix, i: int, j: int) -> Number:
        """The cofactor C(a)_ij."""
        if self.n == 1:
            return real(1.0)
        if self.n == 2:
            return a[1 - i][1 - j] if i == j else -a[1 - i][1 - j]
        (p, q), (s, t) = others(i), others(j)
        return self.difference(a[p][s], a[q][t], a[p][t], a[q][s])

    def determinant(self) -> Number:
        """Det B."""
        B = self.B
        if self.n == 2:
            return self.difference(B[0][0], B[1][1], B[0][1], B[1][0])
        return total(*(B[0][j] * self.minor(B, 0, j) for j in range(self.n)))


# ---- the operators: of a frame, the other arguments, and the place in a result that is a matrix


def det(f: Frame) -> Number:
    """The determinant."""
    d = f.checked(f.determinant())
    return d if f.narrow else times_power_of_two(d, f.exponent)


def sign(f: Frame) -> Number:
    """The sign of the determinant; 0 for 0."""
    d = f.checked(f.determinant())
    return ops.where(ops.ne(d, d), d, ops.sign(d))


def logabsdet(f: Frame) -> Number:
    """The logarithm of its modulus; -inf for 0."""
    log = ops.log(ops.abs(f.checked(f.determinant())))
    if f.narrow:
        return log
    return ops.fma(ops.to_dtype(f.exponent, torch.float64), real(math.log(2)), log)


def cofactor(f: Frame, i: int, j: int) -> Number:
    """C_ij."""
    return _cofactor(f, f.checked(real(1.0)), whole(0), i, j)


def det_backward(f: Frame, grad: Number, i: int, j: int) -> Number:
    """Return grad C_ij. Only the product need be in range."""
    grad = f.checked(grad)
    if f.narrow:
        return _cofactor(f, grad, whole(0), i, j)
    e = exponent(grad)
    return _cofactor(f, grad * power_of_two(-e), e, i, j)


def _cofactor(f: Frame, grad: Number, e: Number, i: int, j: int) -> Number:
    """Return grad 2^e C_ij, with C_ij = C(B)_ij 2^(R - r_i - c_j), R the exponent of det A."""
    C = grad * f.minor(f.B, i, j)
    return C if f.narrow else times_power_of_two(C, f.exponent - f.r[i] - f.c[j] + e)


def slogdet_backward(f: Frame, grad: Number, i: int, j: int) -> Number:
    """Return grad (A^-T)_ij; not finite where the determinant is 0."""
    grad, C, d = f.checked(grad), f.minor(f.B, i, j), f.determinant()
    if f.narrow:
        return grad / d * C
    e = exponent(grad)
    return times_power_of_two(grad * power_of_two(-e) / d * C, e - f.r[i] - f.c[j])


def det_hvp(f: Frame, Z: Matrix, i: int, j: int) -> Number:
    """The derivative of C_ij in direction Z."""
    if f.n == 1:
        H = real(0.0)
    elif f.n == 2:
        H = f.minor(Z, i, j)
    else:
        H = _sum_of_products(f.A, Z, i, j)
        if not f.narrow:
            # What underflows is nothing beside the smallest number. Where a product overflows, the
            # sum is taken of smaller ones.
            scale = math.ldexp(1, 520)
            A, smaller = ([[x * real(1 / scale) for x in row] for row in a] for a in (f.A, Z))
            again = _sum_of_products(A, smaller, i, j) * real(scale) * real(scale)
            H = ops.where(ops.abs(H) < real(math.inf), H, again)
    return f.checked(ops.where(f.is_finite(Z), H, real(math.nan)))


def _sum_of_products(a: Matrix, z: Matrix, i: int, j: int) -> Number:
    (p, q), (s, t) = others(i), others(j)
    return (a[p][s] * z[q][t] - a[p][t] * z[q][s]) + (z[p][s] * a[q][t] - z[p][t] * a[q][s])
