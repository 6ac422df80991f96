"""Derivatives of the mantissa of a determinant, made of those of the determinant itself.

det A = m 2^e. With R = diag(2^-rho_i) for whole numbers rho_i whose sum is e, m = det(R A). So the
derivatives of m are those of det at R A, in range as m is:

    D^k m [Z_1..Z_k] = D^k det(R A) [R Z_1..R Z_k].                                              (1)

Kernels that take e itself need no R; this is for what has none.
"""

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
)
from ._reference_numbers import power_of_two


def row_factors(A: Tensor, e: Tensor) -> Tensor:
    """Return the 2^-rho_i of (1), (*, n, 1)."""
    # rho_i = floor((e + i) / n): their sum is e (Hermite's identity).
    n = A.shape[-1]
    i = torch.arange(n, dtype=e.dtype, device=e.device)
    rho = torch.div(e.unsqueeze(-1) + i, n, rounding_mode="floor").unsqueeze(-1)
    largest = 120 if e.dtype == torch.float32 else 1000
    return power_of_two(-rho.clamp(-largest, largest), e.dtype)


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
    wide = A.dtype in (torch.float64, torch.complex128)
    expected = torch.float64 if wide else torch.float32
    if exponent.dtype != expected:
        raise RuntimeError(
            f"{op}: expected exponent of dtype {dtype_name(expected)}, "
            f"got {dtype_name(exponent.dtype)}{remedy}"
        )
    check_device(op, "exponent", exponent, A)


def backward(grad: Tensor, A: Tensor, exponent: Tensor) -> Tensor:
    """Return grad conj(C(A)) 2^-exponent."""
    check_backward(grad, A, exponent)
    if A.numel() == 0:
        return torch.empty_like(A, memory_format=torch.contiguous_format)
    R = row_factors(A, exponent)
    RA = R * A  # in float32 for half types
    result = R * torch.ops.torchdet.det_backward(grad.to(RA.dtype), RA)
    return result.to(A.dtype)


def hvp(A: Tensor, Z: Tensor, exponent: Tensor) -> Tensor:
    """Return H(A)[Z] 2^-exponent."""
    check_hvp(A, Z, exponent)
    if A.numel() == 0:
        return torch.empty_like(A, memory_format=torch.contiguous_format)
    R = row_factors(A, exponent)
    return (R * torch.ops.torchdet.det_hvp(R * A, R * Z)).to(A.dtype)


def jet(A: Tensor, J: Tensor, exponent: Tensor) -> tuple[Tensor, Tensor]:
    """Return the first and second derivatives of det(A + t J) 2^-exponent at t = 0."""
    check_jet(A, J, exponent)
    largest = 2.0**24
    shift = exponent.nan_to_num(0, largest, -largest).clamp(-largest, largest)
    return det_jet(A, J, shift.to(torch.int32))
