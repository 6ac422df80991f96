"""Counts the calls of torch's determinants, and moves their matrices by what rounding may do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch.overrides import TorchFunctionMode

import torchdet

DETERMINANTS = {
    torch.det: "det", torch.linalg.det: "det", torch.Tensor.det: "det",
    torch.slogdet: "slogdet", torch.linalg.slogdet: "slogdet", torch.Tensor.slogdet: "slogdet",
    torch.logdet: "logdet", torch.Tensor.logdet: "logdet",
}  # fmt: skip


class Counter(TorchFunctionMode):
    """How often torch's determinants were called, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = dict.fromkeys(DETERMINANTS.values(), 0)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in DETERMINANTS:
            self.calls[DETERMINANTS[func]] += 1
        return func(*args, **(kwargs or {}))


@contextmanager
def counted(rerouted: bool) -> Iterator[tuple[Counter, Counter]]:
    """Counts the calls that a program makes, and those of them that reach torch.

    The mode that is entered last sees a call first: the first counter sees what the program calls,
    the second one sees what accelerate() leaves to torch.
    """
    made, reached_torch = Counter(), Counter()
    with ExitStack() as stack:
        stack.enter_context(reached_torch)
        if rerouted:
            stack.enter_context(torchdet.accelerate())
        stack.enter_context(made)
        yield made, reached_torch


class Rounded(TorchFunctionMode):
    """Gives torch's determinants A + E in place of A, |E| = n eps |P| |L| |U| with random signs.

    Gaussian elimination returns the factors of such a matrix (Higham, Accuracy and Stability of
    Numerical Algorithms, 2nd ed., theorem 9.3), so a program that runs under this mode differs from
    one that does not by what two correct implementations may differ by.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.random = torch.Generator().manual_seed(seed)
        self.order = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in DETERMINANTS:
            A, *others = args
            args = (A + self.rounding(A.detach()), *others)
        return func(*args, **(kwargs or {}))

    def rounding(self, A: torch.Tensor) -> torch.Tensor:
        """The matrix E for A."""
        n = A.shape[-1]
        self.order = max(self.order, n)
        P, L, U = torch.linalg.lu(A)
        signs = torch.randint(2, A.shape, generator=self.random, dtype=A.dtype) * 2 - 1
        return signs * n * torch.finfo(A.dtype).eps * (P @ L.abs() @ U.abs())
