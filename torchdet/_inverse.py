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

from ._reference import check_same, check_square
from ._reference_lu import unexpand


def slogdet_hvp(A: Tensor, Z: Tensor) -> Tensor:
    """Return -X Z^T X."""
    check_square("slogdet_hvp", A)
    check_same("slogdet_hvp", "Z", Z, A)
    X = _conjugate_inverse(A).expand(Z.shape)
    return torch.ops.torchdet._slogdet_hvp_kept(X, _wide(Z)).to(A.dtype)


def slogdet_hvp_kept(A: Tensor, Z: Tensor) -> Tensor:
    """Return -X Z^T X, conj(X) being what is given for A."""
    check_square("slogdet_hvp", A)
    check_same("slogdet_hvp", "Z", Z, A)
    return _derivative(_wide(A).conj(), (_wide(Z),)).to(Z.dtype)


def derivative(A: Tensor, Zs: Sequence[Tensor]) -> Tensor:
    """Return D^m X[Z_1..Z_m]."""
    return _derivative(_conjugate_inverse(A).conj(), [_wide(Z) for Z in Zs]).to(A.dtype)


def _conjugate_inverse(A: Tensor) -> Tensor:
    """Return conj(X), once of a matrix that many directions share."""
    distinct = _wide(unexpand(A))
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


def _wide(X: Tensor) -> Tensor:
    return X.to(torch.float32) if X.dtype in (torch.float16, torch.bfloat16) else X


def without_autocast(device: str) -> AbstractContextManager[Any]:
    """Keep matrix products in the dtype of their factors."""
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        return torch.autocast(device, enabled=False)
    return nullcontext()
