"""The libraries that are timed, each behind the same two functions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

import torchdet


@dataclass(frozen=True)
class Peer:
    """A library: (*, n, n) -> (*), differentiable by torch.autograd."""

    name: str
    det: Callable[[Tensor], Tensor]
    logabsdet: Callable[[Tensor], Tensor]


def _torch_logabsdet(A: Tensor) -> Tensor:
    return torch.linalg.slogdet(A).logabsdet


def _torchdet_logabsdet(A: Tensor) -> Tensor:
    return torchdet.slogdet(A).logabsdet


# The first is measured, every other one is what it is compared with.
PEERS = (
    Peer("torchdet", torchdet.det, _torchdet_logabsdet),
    Peer("torch.linalg", torch.linalg.det, _torch_logabsdet),
)
