"""Plain PyTorch implementation of the operators that keep something for the backward pass.

Here that is always kept * 2^integer, with conj(C(A)) or conj(A^-T) for the numbers kept and one
integer for each matrix. Backward multiplies it by grad; where a number lost bits to the ends of its
format, the integer is NOT_KEPT and backward starts from A.
"""

import torch
from torch import Tensor

from . import _reference

NOT_KEPT = torch.iinfo(torch.int32).min


def _keep(A: Tensor, X: Tensor, exponent: Tensor, finite: Tensor) -> tuple[Tensor, Tensor]:
    # X_ij 2^exponent_ij with the largest exponent of the matrix taken out. Half types keep nothing.
    if X.shape[-1] == 0 or A.dtype != X.dtype:
        return A.new_zeros(A.shape), A.new_full((*A.shape[:-2], 1), NOT_KEPT, dtype=torch.int32)
    common = exponent.amax((-2, -1))
    kept = _reference.unscale(X, exponent - common[..., None, None], finite, X.dtype)
    size = _reference.exponents(kept)
    largest = torch.finfo(X.dtype).max
    smallest = torch.finfo(X.dtype).tiny
    limits = _reference.exponents(X.real.new_tensor([smallest, largest]))
    right = (X == 0) | ((size >= limits[0]) & (size < limits[1]))
    integers = common.masked_fill(~right.all(-1).all(-1), NOT_KEPT).to(torch.int32)
    return kept, integers.unsqueeze(-1)


def det_keep(A: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return det A, and conj(C(A)) as numbers and integers."""
    det = _reference.det(A)
    f = _reference.factor(A)
    X, e = _reference.cofactor_scaled(f)
    return det, *_keep(A, torch.conj_physical(X), e, f.finite)


def slogdet_keep(A: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return sign and log|det A|, and conj(A^-T) as numbers and integers."""
    sign, logabsdet = _reference.slogdet(A)
    f = _reference.factor(A)
    X, e = _reference.inverse_transpose_scaled(f)
    return sign, logabsdet, *_keep(A, torch.conj_physical(X), e, f.finite)


def check_kept(op: str, A: Tensor, kept: Tensor, integers: Tensor, count: int = 1) -> None:
    """Raise RuntimeError unless the numbers and integers go with A."""
    _reference.check_same(op, "kept", kept, A)
    if integers.shape != (*A.shape[:-2], count):
        raise RuntimeError(
            f"{op}: expected integers, {count} for each matrix of A {tuple(A.shape)}, "
            f"got {tuple(integers.shape)}"
        )
    if integers.dtype != torch.int32:
        raise RuntimeError(f"{op}: expected integers of dtype int32, got {integers.dtype}")


def _multiply(grad: Tensor, A: Tensor, kept: Tensor, integers: Tensor, start: Tensor) -> Tensor:
    # start: the result as computed from A.
    exponent = integers.squeeze(-1)
    not_kept = exponent == NOT_KEPT
    m, e = _reference.split(grad.to(kept.dtype).resolve_conj())
    e = e + exponent.masked_fill(not_kept, 0)
    everywhere = torch.ones_like(not_kept)
    X = _reference.unscale(m[..., None, None] * kept, e[..., None, None], everywhere, A.dtype)
    return torch.where(not_kept[..., None, None], start, X).contiguous()


def det_backward_kept(grad: Tensor, A: Tensor, kept: Tensor, integers: Tensor) -> Tensor:
    """Return grad conj(C(A)) from what det_keep kept."""
    start = _reference.det_backward(grad, A)
    check_kept("det_backward", A, kept, integers)
    return _multiply(grad, A, kept, integers, start)


def slogdet_backward_kept(grad: Tensor, A: Tensor, kept: Tensor, integers: Tensor) -> Tensor:
    """Return grad conj(A^-T) from what slogdet_keep kept."""
    start = _reference.slogdet_backward(grad, A)
    check_kept("slogdet_backward", A, kept, integers)
    return _multiply(grad, A, kept, integers, start)


def backward_over_kept(
    kept: Tensor, integers: Tensor, grad: Tensor, A: Tensor, of_slogdet: bool
) -> None:
    """Write grad conj(A^-T) or grad conj(C(A)) over the numbers that were kept."""
    backward = slogdet_backward_kept if of_slogdet else det_backward_kept
    kept.copy_(backward(grad, A, kept, integers))
