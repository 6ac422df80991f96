r"""Determinants and their derivatives at n <= 3 as formulas over numbers, for inductor.

inductor calls a formula with placeholders for the entries of one matrix, and makes of it one loop
over all matrices, with what comes before and after. All numbers are float64, those of narrower
matrices too; `ops` has the operations on them. There are no branches: every formula is right at
every matrix.

Accuracy: cofactors are differences of two products, within 3/2 units in the last place whatever
cancels in them (`difference`). The determinant is their sum with the entries of a row; its error is
some units in the last place of the sum of |a_0j C_0j|, which is at most sqrt(6) s_1 s_1 s_2 with the
singular values s_1 >= s_2 >= s_3. A change of A by n eps s_1 moves it by as much, at every rank.

Range: products of three float32 are far inside of the range of float64. A matrix that is float64
itself is scaled by powers of two so that all of its rows and columns are of one size (`Frame`).
Results are scaled back at the very end (`times_power_of_two`).

Compilers that fuse a multiplication and an addition change nothing of this: the only product that
must be rounded by itself is an addend of fma, never of an addition.
"""

import math
from typing import Any

import torch

from . import _torch_internals

_inductor = _torch_internals.inductor()
assert _inductor is not None  # _inductor.py imports this module where it is there
ops = _inductor.ops

Number = Any
Matrix = list[list[Number]]

# float64: 52 bits of fraction below 11 of the exponent, which is 0 for 0 and subnormal numbers.
_BITS = 52
_BIAS = 1023
_WITHOUT_SIGN = (1 << 63) - 1
_WITHOUT_FRACTION = -1 << _BITS
_INFINITY = (2 * _BIAS + 1) << _BITS
_LARGEST_POWER = (2 * _BIAS) << _BITS


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
    """x 2^-bits, rounded down."""
    return ops.bitwise_right_shift(x, whole(bits))


def power_of_two(e: Number) -> Number:
    """2^e for -1022 <= e <= 1023."""
    return from_bits((e + whole(_BIAS)) << whole(_BITS))


def exponent(x: Number) -> Number:
    """e in [-1023, 1022] with |x| < 2^(e + 1), or 2^(e + 2) at the upper end; |x| >= 2^e if normal.

    So 2^-e is a number.
    """
    return ops.minimum(shift_right(magnitude(x), _BITS) - whole(_BIAS), whole(_BIAS - 1))


def times_power_of_two(x: Number, e: Number) -> Number:
    """x 2^e for any e: it leaves the range only where the result does.

    All factors lie on one side of 1. Beyond 2^+-4080 nothing remains of a number.
    """
    e = ops.maximum(ops.minimum(e, whole(4080)), whole(-4080))
    quarter = shift_right(e, 2)
    factor = power_of_two(quarter)
    return x * factor * factor * factor * power_of_two(e - quarter * whole(3))


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


# ---- polynomials of the entries


def difference(a: Number, b: Number, c: Number, d: Number) -> Number:
    """a b - c d: the rounding error of c d is computed exactly, and added.

    Kahan's method; Jeannerod, Louvet and Muller, Further analysis of Kahan's algorithm for the
    accurate computation of 2 x 2 determinants, Mathematics of Computation 82 (2013).
    """
    product = c * d
    return ops.fma(a, b, -product) + ops.fma(-c, d, product)


def minor(a: Matrix, i: int, j: int) -> Number:
    """The cofactor C(a)_ij."""
    if len(a) == 1:
        return real(1.0)
    if len(a) == 2:
        return a[1 - i][1 - j] if i == j else -a[1 - i][1 - j]
    (p, q), (s, t) = others(i), others(j)
    return difference(a[p][s], a[q][t], a[p][t], a[q][s])


def others(i: int) -> tuple[int, int]:
    """The other two rows of three, in cyclic order: they carry the sign (-1)^(i+j)."""
    return (i + 1) % 3, (i + 2) % 3


def determinant(a: Matrix) -> Number:
    """The determinant of a."""
    if len(a) == 2:
        return difference(a[0][0], a[1][1], a[0][1], a[1][0])
    return total(*(a[0][j] * minor(a, 0, j) for j in range(len(a))))


def minor_derivative(a: Matrix, z: Matrix, i: int, j: int) -> Number:
    """The derivative of C_ij at a in direction z."""
    if len(a) == 1:
        return real(0.0)
    if len(a) == 2:
        return minor(z, i, j)
    (p, q), (s, t) = others(i), others(j)
    return difference(a[p][s], z[q][t], a[p][t], z[q][s]) + difference(
        z[p][s], a[q][t], z[p][t], a[q][s]
    )


# ---- frames


class Frame:
    """B with A = 2^r B 2^c, and whether all entries of A are finite.

    The largest entry of every row and column of B is about 1, or subnormal times 2^1023: products
    of three such entries are far inside of the range. Nothing is lost by 2^-(r_i + c_j) a_ij, which
    is at most 4 in modulus, but what is 2^-1022 beside its row and its column.
    """

    def __init__(self, a: Matrix, scale: bool) -> None:
        """Without `scale`, B is A."""
        n = len(a)
        self.B, self.scale = a, scale
        if not scale:
            self.finite = ops.abs(total(*entries(a))) < real(math.inf)  # no such sum overflows
            return
        size = [[magnitude(x) for x in row] for row in a]
        top = [largest(*row) for row in size]
        self.finite = largest(*top) < whole(_INFINITY)
        # Exponents r and c where they stand in a number, above the bits of the fraction. c_j <= 0.
        # c_j >= e_ij - r_i, so that -(r_i + c_j) <= -e_ij <= 1023; and it is at least -1022.
        r = [ops.minimum(x & whole(_WITHOUT_FRACTION), whole(_LARGEST_POWER - (1 << _BITS)))
             for x in top]  # fmt: skip
        c = [largest(*(size[i][j] - r[i] for i in range(n))) & whole(_WITHOUT_FRACTION)
             for j in range(n)]  # fmt: skip
        inverse = [whole(_LARGEST_POWER) - x for x in r]
        self.B = [
            [a[i][j] * from_bits(inverse[i] - c[j]) for j in range(n)] for i in range(n)
        ]
        self.rows = [shift_right(x, _BITS) - whole(_BIAS) for x in r]
        self.columns = [shift_right(x, _BITS) for x in c]

    def of_determinant(self) -> Number:
        """e with det A = 2^e det B."""
        return total(*self.rows, *self.columns)

    def of_inverse(self, i: int, j: int) -> Number:
        """e with (A^-T)_ij = 2^e (B^-T)_ij."""
        return -(self.rows[i] + self.columns[j])

    def checked(self, x: Number) -> Number:
        """x, or NaN where A is not finite."""
        return ops.where(self.finite, x, real(math.nan))

    def direction(self, Z: Matrix) -> tuple[Matrix, Number, Number]:
        """Z' and z with Z = 2^(r + c + z) Z', entries of Z' at most 4; whether Z is finite."""
        finite = ops.abs(total(*(x * real(0.0) for x in entries(Z)))) < real(1.0)
        if not self.scale:
            return Z, whole(0), finite
        n = len(Z)
        e = [[exponent(Z[i][j]) + self.of_inverse(i, j) for j in range(n)] for i in range(n)]
        z = largest(*entries(e))
        scaled = [
            [times_power_of_two(Z[i][j], self.of_inverse(i, j) - z) for j in range(n)]
            for i in range(n)
        ]
        return scaled, z, finite


# ---- the operators: of a frame, other arguments, and the place of a result that is a matrix


def det(f: Frame) -> Number:
    """The determinant."""
    d = f.checked(determinant(f.B))
    return times_power_of_two(d, f.of_determinant()) if f.scale else d


def sign(f: Frame) -> Number:
    """The sign of the determinant; 0 for 0."""
    return f.checked(ops.sign(determinant(f.B)))


def logabsdet(f: Frame) -> Number:
    """The logarithm of its modulus; -inf for 0."""
    log = ops.log(ops.abs(f.checked(determinant(f.B))))
    if not f.scale:
        return log
    return ops.fma(ops.to_dtype(f.of_determinant(), torch.float64), real(math.log(2)), log)


def cofactor(f: Frame, i: int, j: int) -> Number:
    """C_ij."""
    C = f.checked(minor(f.B, i, j))
    return times_power_of_two(C, f.of_determinant() + f.of_inverse(i, j)) if f.scale else C


def det_backward(f: Frame, grad: Number, i: int, j: int) -> Number:
    """grad C_ij. Only the product need be in range."""
    return _times(f, grad, minor(f.B, i, j), i, j, of_determinant=True)


def slogdet_backward(f: Frame, grad: Number, i: int, j: int) -> Number:
    """grad (A^-T)_ij; not finite where the determinant is 0."""
    X = minor(f.B, i, j) / determinant(f.B)
    return _times(f, grad, X, i, j, of_determinant=False)


def _times(
    f: Frame, grad: Number, X: Number, i: int, j: int, of_determinant: bool
) -> Number:
    grad = f.checked(grad)
    if not f.scale:
        return grad * X
    e = exponent(grad)
    grad = grad * power_of_two(-e)
    e = e + f.of_inverse(i, j)
    if of_determinant:
        e = e + f.of_determinant()
    return times_power_of_two(grad * X, e)


def det_hvp(f: Frame, Z: Matrix, i: int, j: int) -> Number:
    """The derivative of C_ij in direction Z."""
    Z, z, finite = f.direction(Z)
    H = f.checked(ops.where(finite, minor_derivative(f.B, Z, i, j), real(math.nan)))
    if not f.scale:
        return H
    return times_power_of_two(H, f.of_determinant() + f.of_inverse(i, j) + z)
