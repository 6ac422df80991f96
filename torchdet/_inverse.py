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
    return derivative(A, (Z,))


def slogdet_hvp_kept(A: Tensor, Z: Tensor) -> Tensor:
    """Return -X Z^T X, conj(X) being what is given for A."""
    check_square("slogdet_hvp", A)
    check_same("slogdet_hvp", "Z", Z, A)
    return _derivative(_wide(A).conj(), (_wide(Z),)).to(Z.dtype)


def derivative(A: Tensor, Zs: Sequence[Tensor]) -> Tensor:
    """Return D^m X[Z_1..Z_m]; a matrix that many directions share is inverted once."""
    distinct = _wide(unexpand(A))
    ones = distinct.new_ones(()).expand(distinct.shape[:-2])
    inverse = torch.ops.torchdet.slogdet_backward(ones, distinct)
    return _derivative(inverse.conj(), [_wide(Z) for Z in Zs]).to(A.dtype)


def _derivative(X: Tensor, Zs: Sequence[Tensor]) -> Tensor:
    with _without_autocast(X.device.type):
        # Z^T X does not change where A and Z are scaled alike, nor where their rows are.
        ZX = [Z.mT @ X for Z in Zs]
        D = [torch.eye(X.shape[-1], dtype=X.dtype, device=X.device)]  # Y_S = X D_S
        for S in range(1, 1 << len(Zs)):
            members = (i for i in range(len(Zs)) if S >> i & 1)
            D.append(-reduce(torch.add, (ZX[i] @ D[S ^ 1 << i] for i in members)))
        return (X @ D[-1]).contiguous()


def _wide(X: Tensor) -> Tensor:
    return X.to(torch.float32) if X.dtype in (torch.float16, torch.bfloat16) else X


def _without_autocast(device: str) -> AbstractContextManager[Any]:
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        return torch.autocast(device, enabled=False)
    return nullcontext()
