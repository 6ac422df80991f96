"""The sign and logarithm of sum_k t_k 2^E_k in plain PyTorch, and what its derivatives are made of.

Terms are brought under the largest exponent that one of them has, so psi = p 2^top, where no term
of p has a component above 1.
"""

import math

import torch
from torch import Tensor

from ._reference import check_dense, dtype_name, real_dtype
from ._reference_numbers import ldexp, split

_DTYPES = (torch.float32, torch.float64, torch.complex64, torch.complex128)
# Exponents are cut to +-_MOST: float32 has every whole number up to it. _LOWEST, the exponent of 0,
# is below all others, and differences from it stay in int32.
_LOWEST = -(1 << 28)
_MOST = 2.0**24


def check_terms(op: str, terms: Tensor, exponent: Tensor) -> None:
    """Raise RuntimeError unless terms are (*, K) and have an exponent each."""
    check_dense(op, "terms", terms)
    check_dense(op, "exponent", exponent)
    if terms.dim() < 1:
        raise RuntimeError(f"{op}: expected terms of shape (*, K), got ()")
    if terms.dtype not in _DTYPES:
        raise RuntimeError(
            f"{op}: expected terms of dtype float32, float64, complex64 or complex128, "
            f"got {dtype_name(terms.dtype)}"
        )
    if exponent.shape != terms.shape:
        raise RuntimeError(
            f"{op}: expected exponent of shape {tuple(terms.shape)}, got {tuple(exponent.shape)}"
        )
    expected = real_dtype(terms)
    if exponent.dtype != expected:
        raise RuntimeError(
            f"{op}: expected exponent of dtype {dtype_name(expected)}, "
            f"got {dtype_name(exponent.dtype)}"
        )
    if exponent.device != terms.device:
        raise RuntimeError(
            f"{op}: expected exponent on the device of terms, {terms.device}, got {exponent.device}"
        )


def _sum(terms: Tensor, exponent: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    # p, top and the E_k as integers; at least one term.
    E = exponent.nan_to_num(0, _MOST, -_MOST).clamp(-_MOST, _MOST).to(torch.int32)
    t, own = split(terms)
    top = (E + own).masked_fill(terms == 0, _LOWEST).amax(-1)
    return ldexp(t, E + own - top.unsqueeze(-1)).sum(-1), top, E


def logsum(terms: Tensor, exponent: Tensor) -> tuple[Tensor, Tensor]:
    """Return sign and logarithm of the modulus of the sum; (0, -inf) where it is zero."""
    check_terms("logsum", terms, exponent)
    if terms.shape[-1] == 0:
        zero = terms.new_zeros(terms.shape[:-1])
        return zero, zero.abs().log()
    p, top, _ = _sum(terms, exponent)
    sign = torch.where(p.isnan(), p, p.sgn())  # torch's sgn of NaN is 0
    size = p.abs()
    return sign, torch.where(size == 0, -math.inf, size.log() + top.to(size.dtype) * math.log(2))


def logsum_ratios(terms: Tensor, exponent: Tensor) -> Tensor:
    """Return 2^E_k / psi for every term, (*, K).

    It is at most about 2^1022 (float32: 2^126) unless psi is 0. The bound matters to a term of 0:
    it may have any exponent, and an infinite ratio times a derivative of 0 would be NaN.
    """
    check_terms("logsum_ratios", terms, exponent)
    if terms.numel() == 0:
        return torch.empty_like(terms, memory_format=torch.contiguous_format)
    p, top, E = _sum(terms, exponent)
    p, e = split(p)
    inverse = p.reciprocal().unsqueeze(-1).expand(terms.shape)
    largest = 126 if exponent.dtype == torch.float32 else 1022
    return ldexp(inverse, (E - (top + e).unsqueeze(-1)).clamp(max=largest))


def check_shares(terms: Tensor, exponent: Tensor, freedom: Tensor) -> None:
    """Raise RuntimeError unless terms have exponents and freedom is (*, K, S), S >= 1."""
    op = "logsum_shares"
    check_terms(op, terms, exponent)
    check_dense(op, "freedom", freedom)
    if freedom.shape[:-1] != terms.shape or freedom.shape[-1:] in ((), (0,)):
        raise RuntimeError(
            f"{op}: expected freedom of shape (*, K, S) with S >= 1 for terms of shape "
            f"{tuple(terms.shape)}, got {tuple(freedom.shape)}"
        )
    if freedom.dtype != exponent.dtype or freedom.device != terms.device:
        raise RuntimeError(
            f"{op}: expected freedom of the dtype and on the device of exponent, "
            f"{dtype_name(exponent.dtype)} on {terms.device}, got {dtype_name(freedom.dtype)} on "
            f"{freedom.device}"
        )


def logsum_shares(terms: Tensor, exponent: Tensor, freedom: Tensor) -> Tensor:
    """Return what each factor of a term takes of x = E_k less the exponent of psi, (*, K, S).

    These are whole numbers. The rule is that of `shares` in csrc/cpu/sums/logsum.h.
    """
    check_shares(terms, exponent, freedom)
    if freedom.numel() == 0:
        return torch.zeros_like(freedom)
    p, top, E = _sum(terms, exponent)
    most, quarter = (126, 31) if exponent.dtype == torch.float32 else (1022, 255)
    decides = (p != 0) & torch.isfinite(p)
    x = torch.where(decides.unsqueeze(-1), E - (top + split(p)[1]).unsqueeze(-1), -most)
    x = x.masked_fill(x.abs() <= quarter, 0).to(exponent.dtype).unsqueeze(-1)
    zeros, inert = ((freedom == i).sum(-1, keepdim=True).to(x.dtype) for i in (1, 2))
    S = freedom.shape[-1]
    of_others = (x / S).floor().clamp(-(most // S), 0)
    with_limit = torch.maximum(torch.minimum(x, most * zeros / (zeros + 1)), x - 0.75 * most)
    left = torch.where(x > 0, with_limit, x - of_others * (S - zeros))
    of_zero = (left / zeros).floor().masked_fill(inert > 0, 0)
    return torch.where(
        freedom == 2, (x / inert).floor(), torch.where(freedom == 1, of_zero, of_others)
    )
