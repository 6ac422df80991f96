"""Plain PyTorch implementation of the operators that keep a gradient for the backward pass.

What is kept is gradient * 2^exponent, with conj(C(A)) or conj(A^-T) for a gradient and one
exponent for each matrix. Backward multiplies it by grad; where a number of the gradient lost bits
to the ends of its format, the exponent is NOT_KEPT and backward starts from A.
"""

import torch
from torch import Tensor

from . import _reference

NOT_KEPT = torch.iinfo(torch.int32).min


def _keep(A: Tensor, X: Tensor, exponent: Tensor, finite: Tensor) -> tuple[Tensor, Tensor]:
    # X_ij 2^exponent_ij with the largest exponent of the matrix taken out. Half types keep nothing.
    if X.shape[-1] == 0 or A.dtype != X.dtype:
        return A.new_zeros(A.shape), A.new_full(A.shape[:-2], NOT_KEPT, dtype=torch.int32)
    common = exponent.amax((-2, -1))
    kept = _reference.unscale(X, exponent - common[..., None, None], finite, X.dtype)
    size = _reference.exponents(kept)
    largest = torch.finfo(X.dtype).max
    smallest = torch.finfo(X.dtype).tiny
    limits = _reference.exponents(X.real.new_tensor([smallest, largest]))
    right = (X == 0) | ((size >= limits[0]) & (size < limits[1]))
    return kept, common.masked_fill(~right.all(-1).all(-1), NOT_KEPT).to(torch.int32)


def det_with_gradient(A: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return det A, and conj(C(A)) as gradient and exponent."""
    det = _reference.det(A)
    f = _reference.factor(A)
    X, e = _reference.cofactor_scaled(f)
    return det, *_keep(A, torch.conj_physical(X), e, f.finite)


def slogdet_with_gradient(A: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return sign and log|det A|, and conj(A^-T) as gradient and exponent."""
    sign, logabsdet = _reference.slogdet(A)
    f = _reference.factor(A)
    X, e = _reference.inverse_transpose_scaled(f)
    return sign, logabsdet, *_keep(A, torch.conj_physical(X), e, f.finite)


def check_kept(op: str, A: Tensor, gradient: Tensor, exponent: Tensor) -> None:
    """Raise RuntimeError unless gradient and exponent go with A."""
    _reference.check_same(op, "gradient", gradient, A)
    if exponent.shape != A.shape[:-2]:
        raise RuntimeError(
            f"{op}: expected exponent of shape {tuple(A.shape[:-2])}, got {tuple(exponent.shape)}"
        )
    if exponent.dtype != torch.int32:
        raise RuntimeError(f"{op}: expected exponent of dtype int32, got {exponent.dtype}")


def _multiply(grad: Tensor, A: Tensor, gradient: Tensor, exponent: Tensor, start: Tensor) -> Tensor:
    # start: the result as computed from A.
    not_kept = exponent == NOT_KEPT
    m, e = _reference.split(grad.to(gradient.dtype).resolve_conj())
    e = e + exponent.masked_fill(not_kept, 0)
    everywhere = torch.ones_like(not_kept)
    X = _reference.unscale(m[..., None, None] * gradient, e[..., None, None], everywhere, A.dtype)
    return torch.where(not_kept[..., None, None], start, X).contiguous()


def det_backward_kept(grad: Tensor, A: Tensor, gradient: Tensor, exponent: Tensor) -> Tensor:
    """Return grad conj(C(A)) from what det_with_gradient kept."""
    start = _reference.det_backward(grad, A)
    check_kept("det_backward", A, gradient, exponent)
    return _multiply(grad, A, gradient, exponent, start)


def slogdet_backward_kept(grad: Tensor, A: Tensor, gradient: Tensor, exponent: Tensor) -> Tensor:
    """Return grad conj(A^-T) from what slogdet_with_gradient kept."""
    start = _reference.slogdet_backward(grad, A)
    check_kept("slogdet_backward", A, gradient, exponent)
    return _multiply(grad, A, gradient, exponent, start)


def multiply_kept(
    gradient: Tensor, exponent: Tensor, grad: Tensor, A: Tensor, of_slogdet: bool
) -> None:
    """Write grad conj(A^-T) or grad conj(C(A)) over the gradient that was kept."""
    backward = slogdet_backward_kept if of_slogdet else det_backward_kept
    gradient.copy_(backward(grad, A, gradient, exponent))
