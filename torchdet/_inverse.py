r"""Derivatives of X = A^-T, the gradient of log|det A|, in plain PyTorch: for what has no kernel.

From dX = -X dA^T X follows, over all orders sigma of the directions,

    D^m X[Z_1..Z_m] = (-1)^m sum_sigma X Z_sigma1^T X .. Z_sigmam^T X.

With Y_S for the directions in the set S this is Y_S = -sum_{i in S} X Z_i^T Y_{S - i}, Y_0 = X.
A set is written as a bit mask.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from ._reference import check_dense, check_same, check_square
from ._reference_lu import unexpand
from ._reference_numbers import wide


def slogdet_hvp(A: Tensor, Z: Tensor) -> Tensor:
    """Return -X Z^T X."""
    check_square("slogdet_hvp", A)
    check_same("slogdet_hvp", "Z", Z, A)
    X = _conjugate_inverse(A).expand(Z.shape)
    return torch.ops.torchdet._slogdet_hvp_kept(X, wide(Z)).to(A.dtype)


@torch.no_grad()  # the operator has no derivative, whatever its kernel is made of
def slogdet_hvp_kept(A: Tensor, Z: Tensor) -> Tensor:
    """Return -X Z^T X, conj(X) being what is given for A."""
    check_square("slogdet_hvp", A)
    check_same("slogdet_hvp", "Z", Z, A)
    return _derivative(wide(A).conj(), (wide(Z),)).to(Z.dtype)


def check_scaled(grad: Tensor, A: Tensor, Z: Tensor) -> None:
    """Raise RuntimeError unless grad and Z go with A."""
    check_square("slogdet_hvp", A)
    check_same("slogdet_hvp", "grad", grad, A, A.shape[:-2])
    check_same("slogdet_hvp", "Z", Z, A)


@torch.no_grad()  # likewise
def slogdet_hvp_scaled(grad: Tensor, A: Tensor, Z: Tensor) -> Tensor:
    """Return -X (grad Z)^T X, conj(X) being what is given for A."""
    check_scaled(grad, A, Z)
    gradZ = wide(grad)[..., None, None] * wide(Z)
    return torch.ops.torchdet._slogdet_hvp_kept(wide(A), gradZ).to(Z.dtype)


def slogdet_backward_inverse(grad: Tensor, A: Tensor) -> tuple[Tensor, Tensor]:
    """Return grad conj(X) and conj(X), one after the other."""
    backward = torch.ops.torchdet.slogdet_backward
    return backward(grad, A), backward(torch.ones_like(grad), A)


def derivative(A: Tensor, Zs: Sequence[Tensor]) -> Tensor:
    """Return D^m X[Z_1..Z_m]."""
    return _derivative(_conjugate_inverse(A).conj(), [wide(Z) for Z in Zs]).to(A.dtype)


def _conjugate_inverse(A: Tensor) -> Tensor:
    """Return conj(X), once of a matrix that many directions share."""
    distinct = wide(unexpand(A))
    ones = distinct.new_ones(()).expand(distinct.shape[:-2])
    return torch.ops.torchdet.slogdet_backward(ones, distinct)


def _derivative(X: Tensor, Zs: Sequence[Tensor]) -> Tensor:
    with without_autocast(X.device.type):
        # Z^T X does not change where A and Z are scaled alike, nor where their rows are.
        ZX = [Z.mT @ X for Z in Zs]
        D: dict[int, Tensor] = {}  # Y_S = X D_S, S not empty
        for S in range(1, 1 << len(Zs)):
            members = [i for i in range(len(Zs)) if S >> i & 1]
            terms = (ZX[i] @ D[S ^ 1 << i] if S ^ 1 << i else ZX[i] for i in members)
            D[S] = -reduce(torch.add, terms)
        return (X @ D[(1 << len(Zs)) - 1]).contiguous()


def without_autocast(device: str) -> AbstractContextManager[Any]:
    """Keep matrix products in the dtype of their factors."""
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        return torch.autocast(device, enabled=False)
    return nullcontext()


def check_directions(op: str, A: Tensor, Z: Tensor) -> None:
    """Raise RuntimeError unless Z has directions for A, at least one."""
    check_square(op, A)
    check_dense(op, "Z", Z)
    if Z.dim() < 3 or Z.shape[-3] == 0:
        raise RuntimeError(
            f"{op}: expected Z of shape (*, m, n, n) with m >= 1 directions, got {tuple(Z.shape)}"
        )
    *batch, n, _ = A.shape
    check_same(op, "Z", Z, A, torch.Size((*batch, Z.shape[-3], n, n)))
