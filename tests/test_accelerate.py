"""accelerate: which calls it serves, with which results and errors, and where."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import torchdet

SINGULAR = torch.tensor([[1.0, 2.0], [2.0, 4.0]])
COFACTOR = torch.tensor([[4.0, -2.0], [-2.0, 1.0]])
DETERMINANTS: dict[str, Callable[..., Any]] = {
    "torch.det": torch.det,
    "torch.linalg.det": torch.linalg.det,
    "Tensor.det": Tensor.det,
}


def gradient(f: Callable[[Tensor], Tensor]) -> Tensor:
    A = SINGULAR.clone().requires_grad_()
    f(A).backward()
    return A.grad


@pytest.mark.parametrize("name", DETERMINANTS)
def test_inside_the_gradient_at_a_singular_matrix_is_right(name):
    f = DETERMINANTS[name]
    with torchdet.accelerate():
        assert torch.equal(gradient(f), COFACTOR)
    assert torch.equal(gradient(torchdet.accelerate()(f)), COFACTOR)
    assert not torch.equal(gradient(f), COFACTOR)  # torch itself: left again
