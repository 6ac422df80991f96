"""Arithmetic of the plain PyTorch implementation, which rounds the same wherever a matrix lies.

Numbers are carried as mantissa and exponent, so that no product leaves the range on the way.

Sums and products are elementwise operations of real numbers. Torch rounds those in one way only,
but a complex product, a reduction or a library's matrix product in several: it depends on the place
in memory, the strides, the size of the batch or a setting (TF32, autocast) how they are rounded. So
complex products are spelt out in real ones, and sums of products are chains of `addcmul`.
"""

import torch
from torch import Tensor

_ZERO_EXPONENT = -(1 << 20)  # stands for the exponent of 0: below every exponent that occurs
_SMALLEST = _ZERO_EXPONENT // 2  # smaller differences of exponents come from a zero


# Types of which the operators compute in float32.
HALF = (torch.float16, torch.bfloat16)


def wide(X: Tensor) -> Tensor:
    """X in float32 where it has a half type, else X."""
    return X.to(torch.float32) if X.dtype in HALF else X


# ---- mantissas and exponents


def exponents(x: Tensor) -> Tensor:
    """Return e with |x| in [1/2, 1) * 2^e (larger of real and imaginary part); -2^20 for x = 0."""
    if x.is_complex():
        return torch.maximum(exponents(x.real), exponents(x.imag))
    return torch.frexp(x).exponent.masked_fill(x == 0, _ZERO_EXPONENT)


def without_zeros(exponent: Tensor) -> Tensor:
    """Replace the exponents of zeros, and differences from them, by 0."""
    return exponent.masked_fill(exponent < _SMALLEST, 0)


def power_of_two(exponent: Tensor, dtype: torch.dtype) -> Tensor:
    """Return 2^exponent, which must be a normal number."""
    # Written bit by bit: torch.ldexp goes through pow, whose rounding no device specifies.
    single = dtype == torch.float32
    bias, width, integer = (127, 23, torch.int32) if single else (1023, 52, torch.int64)
    return (exponent.to(integer) + bias).bitwise_left_shift_(width).view(dtype)


def scale(x: Tensor, exponent: Tensor) -> Tensor:
    """Return x * 2^exponent where neither |x| nor the result is above 1, or x is a mantissa.

    The power is applied in two halves, the first of which is exact. A zero stays zero.
    """
    if x.is_complex():
        return torch.view_as_complex(scale(torch.view_as_real(x), exponent.unsqueeze(-1)))
    largest = 252 if x.dtype == torch.float32 else 2044
    exponent = exponent.clamp(-largest, largest)
    half = exponent >> 1
    result = x * power_of_two(half, x.dtype)
    return result.mul_(power_of_two(exponent.sub_(half), x.dtype))


def ldexp(x: Tensor, exponent: Tensor) -> Tensor:
    """Return x * 2^exponent, rounded once, also where 2^exponent alone is out of range."""
    if x.is_complex():
        return torch.view_as_complex(ldexp(torch.view_as_real(x), exponent.unsqueeze(-1)))
    mantissa, own = torch.frexp(x)
    # |mantissa| >= 1/2: the first half is exact, unless the second vanishes altogether.
    return scale(mantissa, exponent + own)


def split(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return x as mantissa, of modulus about 1, and exponent; 0, inf and NaN have exponent 0."""
    mantissa, exponent = torch.frexp(torch.view_as_real(x) if x.is_complex() else x)
    if not x.is_complex():
        return mantissa, exponent.masked_fill_(~torch.isfinite(x), 0)
    own = exponent.masked_fill_(mantissa == 0, _ZERO_EXPONENT)
    exponent = without_zeros(own.amax(-1)).masked_fill_(~torch.isfinite(x), 0)
    return torch.view_as_complex(scale(mantissa, own - exponent.unsqueeze(-1))), exponent


def scaled_product(x: Tensor) -> tuple[Tensor, Tensor]:
    """Multiply along the last dimension; return mantissa and exponent."""
    mantissa, exponent = split(x)
    total = exponent.sum(-1, dtype=torch.int32)
    factors = 1
    while (length := mantissa.shape[-1]) > 1:
        half = length // 2
        pairs = times(mantissa[..., :half], mantissa[..., half : 2 * half])
        mantissa = torch.cat([pairs, mantissa[..., 2 * half :]], -1) if length % 2 else pairs
        factors *= 2
        if factors == 16 or length < 4:  # no product of so many mantissas leaves the range
            mantissa, exponent = split(mantissa)
            total = total + exponent.sum(-1, dtype=torch.int32)
            factors = 1
    return mantissa.prod(-1), total  # of one factor, or of none: 1


# ---- products, quotients and sums


def magnitude(x: Tensor) -> Tensor:
    """Return |Re x| + |Im x|, which orders as well as the modulus does, and cannot underflow."""
    return x.real.abs() + x.imag.abs() if x.is_complex() else x.abs()


def times(x: Tensor, y: Tensor) -> Tensor:
    """Return x * y."""
    if not x.is_complex():
        return times(y, x) if y.is_complex() else x * y
    if not y.is_complex():
        return torch.complex(x.real * y, x.imag * y)
    real = x.real * y.real - x.imag * y.imag
    return torch.complex(real, x.real * y.imag + x.imag * y.real)


def divide(x: Tensor, d: Tensor) -> Tensor:
    """Return x / d, exactly 1 for x = d, for a complex d of modulus about 1.

    So equal or proportional rows leave a pivot of exactly 0.
    """
    if not x.is_complex():
        return x / d
    square = d.real * d.real + d.imag * d.imag
    real = (x.real * d.real + x.imag * d.imag) / square
    return torch.complex(real, (x.imag * d.real - x.real * d.imag) / square)


def quotient(x: Tensor, d: Tensor) -> Tensor:
    """Return x / d for |x| of the order of |d| at most, and 0 where d = 0."""
    zero = d == 0
    d = d.masked_fill(zero, 1)
    if d.is_complex():
        d, e = split(d)
        x = ldexp(x, -e)
    return divide(x, d).masked_fill(zero, 0)


def ratio(x: Tensor, d: Tensor) -> Tensor:
    """Return x / d, |x| and |d| of any size at most about 1; not finite where d = 0."""
    if d.is_complex():
        d, e = split(d)
        x = ldexp(x, -e)
    return divide(x, d)


def share(x: Tensor, d: Tensor) -> Tensor:
    """Return x / d for entries that are not larger than d, nor than about 1; 0 where d = 0.

    `quotient` in fewer operations.
    """
    if not x.is_complex():
        return (x / d).nan_to_num_()  # of 0 / 0
    x, d = torch.view_as_real(x), torch.view_as_real(d)
    e = -torch.frexp(d.abs().amax(-1, keepdim=True)).exponent
    x, d = (torch.view_as_complex(scale(y, e)) for y in (x, d))
    return torch.view_as_complex(torch.view_as_real(divide(x, d)).nan_to_num_())


def add_product(total: Tensor, x: Tensor, y: Tensor, sign: int = 1) -> None:
    """Add sign * x * y to `total` in place."""
    if not total.is_complex():
        total.addcmul_(x, y, value=sign)
        return
    real, imag = total.real, total.imag
    real.addcmul_(x.real, y.real, value=sign)
    real.addcmul_(x.imag, y.imag, value=-sign)
    imag.addcmul_(x.real, y.imag, value=sign)
    imag.addcmul_(x.imag, y.real, value=sign)


# ---- complex numbers as real ones, for the innermost loops. The parts of a row lie side by side in
# memory: (*, p, n) with the real and the imaginary parts, p = 2, or p = 1 for real numbers.


def parts_of_columns(X: Tensor) -> Tensor:
    """Copy matrices (*, m, n) to the parts (*, n, p, m) of their columns."""
    x = torch.view_as_real(X) if X.is_complex() else X.unsqueeze(-1)
    return x.movedim(-3, -1).clone(memory_format=torch.contiguous_format)


def whole(x: Tensor) -> Tensor:
    """Return the numbers (*, n) with the parts (*, p, n)."""
    return torch.complex(x[..., 0, :], x[..., 1, :]) if x.shape[-2] == 2 else x.squeeze(-2)


def magnitude_of_parts(x: Tensor) -> Tensor:
    """Return (*, 1, n), the `magnitude` of the numbers with the parts (*, p, n)."""
    return x.abs() if x.shape[-2] == 1 else x.abs().sum(-2, keepdim=True)


def multiply_parts(x: Tensor, y: Tensor) -> Tensor:
    """`times`, given and returned by parts."""
    if x.shape[-2] == 1:
        return x * y
    real, imag = _real_and_imag(y)
    return (x * real).add_(_turned(x).mul_(imag))


def divide_parts(x: Tensor, d: Tensor) -> Tensor:
    """`divide`, given and returned by parts."""
    if x.shape[-2] == 1:
        return x / d
    real, imag = _real_and_imag(d)
    square = (d * d).sum(-2, keepdim=True)
    return (x * real).sub_(_turned(x).mul_(imag)).div_(square)


def subtract_product(total: Tensor, x: Tensor, y: Tensor) -> None:
    """Subtract x y from `total` in place, all given by their parts."""
    if x.shape[-2] == 1:
        total.addcmul_(x, y, value=-1)
        return
    real, imag = _real_and_imag(x)
    total.addcmul_(real, y, value=-1)
    total.addcmul_(imag, _turned(y), value=-1)


def _real_and_imag(x: Tensor) -> tuple[Tensor, ...]:
    return x.unsqueeze(-2).unbind(-3)


def _turned(x: Tensor) -> Tensor:
    # i x
    result = x.flip(-2)
    result.select(-2, 0).neg_()
    return result


def matmul(X: Tensor, Y: Tensor) -> Tensor:
    """Return X @ Y as a sum of rank-one updates."""
    if X.is_complex():
        # Parts on their own lie side by side in memory, which is several times faster.
        A, B, C, D = (x.contiguous() for x in (X.real, X.imag, Y.real, Y.imag))
        return torch.complex(_sum_of_products((A, C, 1), (B, D, -1)),
                             _sum_of_products((A, D, 1), (B, C, 1)))  # fmt: skip
    return _sum_of_products((X, Y, 1))


def _sum_of_products(*terms: tuple[Tensor, Tensor, int]) -> Tensor:
    X, Y, _ = terms[0]
    batch = torch.broadcast_shapes(X.shape[:-2], Y.shape[:-2])
    total = X.new_zeros(*batch, X.shape[-2], Y.shape[-1])
    for k in range(X.shape[-1]):
        for X, Y, sign in terms:
            total.addcmul_(X[..., :, k : k + 1], Y[..., k : k + 1, :], value=sign)
    return total


def sum_last(x: Tensor) -> Tensor:
    """Return the sum along the last dimension, by halves; 0 of nothing."""
    if x.shape[-1] == 0:
        return x.new_zeros(x.shape[:-1])
    while (length := x.shape[-1]) > 1:
        half = length // 2
        x = torch.cat([x[..., :half] + x[..., half : 2 * half], x[..., 2 * half :]], -1)
    return x.squeeze(-1)
