"""Derivatives of the mantissa of a determinant, made of those of the determinant itself.

det A = m 2^e. With R = diag(2^-rho_i) for whole numbers rho_i whose sum is e, m = det(R A). So the
derivatives of m are those of det at R A, in range as m is:

    D^k m [Z_1..Z_k] = D^k det(R A) [R Z_1..R Z_k].                                              (1)

Kernels that take e itself need no R. This file is for devices that have kernels of det alone.
"""

import math

import torch
from torch import Tensor

from ._reference import (
    check_dense,
    check_device,
    check_directions,
    check_same,
    check_square,
    det_jet,
    dtype_name,
    exponent_of_zero,
)
from ._reference import det_frexp as reference_frexp
from ._reference_numbers import power_of_two, split, wide


def exponent_dtype(A: Tensor) -> torch.dtype:
    """The dtype of exponents, which autograd takes: no integers, and no half type."""
    return torch.float64 if A.dtype in (torch.float64, torch.complex128) else torch.float32


def scale_rows(X: Tensor, e: Tensor) -> Tensor:
    """Return R X with the R of (1)."""
    # rho_i = floor((e + i) / n): their sum is e (Hermite's identity). In two steps, as 2^-rho may
    # be out of range where the result is not.
    n = X.shape[-1]
    i = e.new_ones(n).cumsum(0) - 1  # a DTensor where e is one
    rho = torch.div(e.unsqueeze(-1) + i, n, rounding_mode="floor").unsqueeze(-1)
    largest = 250 if e.dtype == torch.float32 else 2000
    rho = rho.nan_to_num(0, largest, -largest).clamp(-largest, largest)
    half = torch.div(rho, 2, rounding_mode="floor")
    return X * power_of_two(-half, e.dtype) * power_of_two(half - rho, e.dtype)


def check_backward(grad: Tensor, A: Tensor, exponent: Tensor) -> None:
    """Raise RuntimeError unless grad and exponent go with A."""
    check_square("det_frexp_backward", A)
    check_same("det_frexp_backward", "grad", grad, A, A.shape[:-2])
    _check_exponent("det_frexp_backward", exponent, A)


def check_hvp(A: Tensor, Z: Tensor, exponent: Tensor) -> None:
    """Raise RuntimeError unless Z and exponent go with A."""
    check_square("det_frexp_hvp", A)
    check_same("det_frexp_hvp", "Z", Z, A)
    _check_exponent("det_frexp_hvp", exponent, A)


def check_backward_jvp(
    grad: Tensor, A: Tensor, exponent: Tensor, grad_tangent: Tensor, Z: Tensor
) -> None:
    """Raise RuntimeError unless everything goes with A."""
    op = "det_frexp_backward_jvp"
    check_square(op, A)
    check_same(op, "grad", grad, A, A.shape[:-2])
    check_same(op, "grad_tangent", grad_tangent, A, A.shape[:-2])
    check_same(op, "Z", Z, A)
    _check_exponent(op, exponent, A)


def check_freedom(A: Tensor, mantissa: Tensor) -> None:
    """Raise RuntimeError unless mantissa goes with A."""
    check_square("det_freedom", A)
    check_same("det_freedom", "mantissa", mantissa, A, A.shape[:-2])


def check_relative(A: Tensor, mantissa: Tensor, exponent: Tensor, share: Tensor) -> None:
    """Raise RuntimeError unless everything goes with A."""
    op = "det_relative"
    check_square(op, A)
    check_same(op, "mantissa", mantissa, A, A.shape[:-2])
    for x in (exponent, share):
        _check_exponent(op, x, A)


def check_jet(A: Tensor, J: Tensor, exponent: Tensor) -> None:
    """Raise RuntimeError unless J and exponent go with A."""
    check_square("det_frexp_jet", A)
    check_directions("det_frexp_jet", "J", J, A)
    _check_exponent("det_frexp_jet", exponent, A)


def _check_exponent(op: str, exponent: Tensor, A: Tensor) -> None:
    check_dense(op, "exponent", exponent)
    remedy = "; pass those that det_frexp returned"
    if exponent.shape != A.shape[:-2]:
        raise RuntimeError(
            f"{op}: expected exponent of shape {tuple(A.shape[:-2])}, "
            f"got {tuple(exponent.shape)}{remedy}"
        )
    expected = exponent_dtype(A)
    if exponent.dtype != expected:
        raise RuntimeError(
            f"{op}: expected exponent of dtype {dtype_name(expected)}, "
            f"got {dtype_name(exponent.dtype)}{remedy}"
        )
    check_device(op, "exponent", exponent, A)


def det_frexp(A: Tensor) -> tuple[Tensor, Tensor]:
    """Return m and e as _reference.det_frexp does, e from log|det A| and m = det(R A)."""
    check_square("det_frexp", A)
    A_ = wide(A)
    if A.numel() == 0:
        return reference_frexp(A)
    sign, log = torch.ops.torchdet.slogdet(A_)
    e = (log / math.log(2)).round().masked_fill(~torch.isfinite(log), 0)
    # Rounding leaves det(R A) within a small factor of 1; the rest of its exponent is exact.
    m = torch.ops.torchdet.det(scale_rows(A_, e))
    m, more = split(torch.where(sign == 0, 0, m))
    e = torch.where(m == 0, exponent_of_zero(A_), e + more)
    return m.to(A.dtype), e.masked_fill(~torch.isfinite(m.abs()), 0)


def backward(grad: Tensor, A: Tensor, exponent: Tensor) -> Tensor:
    """Return grad conj(C(A)) 2^-exponent."""
    check_backward(grad, A, exponent)
    if A.numel() == 0:
        return torch.empty_like(A, memory_format=torch.contiguous_format)
    # The power of two of grad goes into e: then the steps are in range where the result is.
    g, x = split(wide(grad))
    e = exponent - x
    result = torch.ops.torchdet.det_backward(g, scale_rows(wide(A), e))
    return scale_rows(result, e).to(A.dtype)


def hvp(A: Tensor, Z: Tensor, exponent: Tensor) -> Tensor:
    """Return H(A)[Z] 2^-exponent."""
    check_hvp(A, Z, exponent)
    if A.numel() == 0:
        return torch.empty_like(A, memory_format=torch.contiguous_format)
    H = torch.ops.torchdet.det_hvp(scale_rows(A, exponent), scale_rows(Z, exponent))
    return scale_rows(H, exponent).to(A.dtype)


def backward_jvp(
    grad: Tensor, A: Tensor, exponent: Tensor, grad_tangent: Tensor, Z: Tensor
) -> Tensor:
    """Return (grad_tangent conj(C(A)) + grad conj(H(A)[Z])) 2^-exponent."""
    check_backward_jvp(grad, A, exponent, grad_tangent, Z)
    g, A_, dg, Z_ = map(wide, (grad, A, grad_tangent, Z))
    # Not conj, which torch 2.13 ignores in a kernel that runs for a DTensor.
    H = torch.conj_physical(hvp(A_, Z_, exponent))
    return (backward(dg, A_, exponent) + g[..., None, None] * H).to(A.dtype)


def freedom(A: Tensor, mantissa: Tensor) -> Tensor:
    """Return how much of an exponent a determinant may take (_logsum.logsum_shares).

    0 for one that is not zero, 1 for one that is, 2 where its first and second derivatives are zero
    too: for a matrix of zeros from order 3 on.
    """
    check_freedom(A, mantissa)
    is_zero = mantissa == 0
    freedom = is_zero.to(exponent_dtype(A))
    return freedom + (is_zero & (A == 0).all(-1).all(-1)) if A.shape[-1] > 2 else freedom


def relative(A: Tensor, mantissa: Tensor, exponent: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    """Return mantissa and exponent with a share of the latter, a whole number, in the former.

    A mantissa of 0 takes any share, another one at most 0.
    """
    check_relative(A, mantissa, exponent, share)
    least = -126 if exponent.dtype == torch.float32 else -1022
    h = share.nan_to_num(0).clamp(least, 0).trunc()
    own = exponent - torch.where(mantissa == 0, share, h)
    return mantissa * power_of_two(h, h.dtype).to(mantissa.dtype), own


def jet(A: Tensor, J: Tensor, exponent: Tensor) -> tuple[Tensor, Tensor]:
    """Return the first and second derivatives of det(A + t J) 2^-exponent at t = 0."""
    check_jet(A, J, exponent)
    if A.numel() == 0 or J.numel() == 0:
        return A.new_zeros(J.shape[:-2]), A.new_zeros(J.shape[:-2])
    A_, J_ = wide(A), wide(J)
    C = torch.conj_physical(backward(A_.new_ones(()).expand(A.shape[:-2]), A_, exponent))
    e = exponent.unsqueeze(-1).expand(J.shape[:-2])
    H = hvp(A_.unsqueeze(-3).expand(J.shape), J_, e)
    first, second = ((X * J_).sum((-2, -1)).to(A.dtype) for X in (C.unsqueeze(-3), H))
    return first, second


def jet_by_minors(A: Tensor, J: Tensor, exponent: Tensor) -> tuple[Tensor, Tensor]:
    """The same from one factorisation for all directions, in plain PyTorch."""
    check_jet(A, J, exponent)
    largest = 2.0**24
    shift = exponent.nan_to_num(0, largest, -largest).clamp(-largest, largest)
    return det_jet(A, J, shift.to(torch.int32))
