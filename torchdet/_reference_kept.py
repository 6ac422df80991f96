"""Plain PyTorch implementation of the operators that keep something for the backward pass.

No function of torchdet calls it; a graph that was traced for the CPU's kernels may. Nothing is
kept, which the one integer of each matrix says, and backward starts from A.
"""

import torch
from torch import Tensor

from . import _reference

NOT_KEPT = torch.iinfo(torch.int32).min


def _keep_nothing(A: Tensor) -> tuple[Tensor, Tensor]:
    return A.new_zeros(A.shape), A.new_full((*A.shape[:-2], 1), NOT_KEPT, dtype=torch.int32)


def det_keep(A: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return det A, and nothing as numbers and integers."""
    return _reference.det(A), *_keep_nothing(A)


def slogdet_keep(A: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return sign and log|det A|, and nothing as numbers and integers."""
    return *_reference.slogdet(A), *_keep_nothing(A)


def check_kept(op: str, A: Tensor, kept: Tensor, integers: Tensor, count: int = 1) -> None:
    """Raise RuntimeError unless the numbers and integers go with A."""
    _reference.check_same(op, "kept", kept, A)
    check_integers(op, A, integers, count)


def check_integers(op: str, A: Tensor, integers: Tensor, count: int) -> None:
    """Raise RuntimeError unless there are so many integers for each matrix of A."""
    if integers.shape != (*A.shape[:-2], count):
        raise RuntimeError(
            f"{op}: expected integers, {count} for each matrix of A {tuple(A.shape)}, "
            f"got {tuple(integers.shape)}; pass those that the forward pass returned"
        )
    if integers.dtype != torch.int32:
        raise RuntimeError(
            f"{op}: expected integers of dtype int32, got {_reference.dtype_name(integers.dtype)}; "
            "pass those that the forward pass returned"
        )
    _reference.check_device(op, "integers", integers, A)


def det_backward_kept(grad: Tensor, A: Tensor, kept: Tensor, integers: Tensor) -> Tensor:
    """Return grad conj(C(A))."""
    result = _reference.det_backward(grad, A)
    check_kept("det_backward", A, kept, integers)
    return result


def slogdet_backward_kept(grad: Tensor, A: Tensor, kept: Tensor, integers: Tensor) -> Tensor:
    """Return grad conj(A^-T)."""
    result = _reference.slogdet_backward(grad, A)
    check_kept("slogdet_backward", A, kept, integers)
    return result


def slogdet_backward_inverse_kept(
    grad: Tensor, A: Tensor, kept: Tensor, integers: Tensor
) -> tuple[Tensor, Tensor]:
    """Return grad conj(A^-T) and conj(A^-T), one after the other."""
    backward = torch.ops.torchdet._slogdet_backward_kept
    gradient = backward(grad, A, kept, integers)
    return gradient, backward(torch.ones_like(grad), A, kept, integers)
