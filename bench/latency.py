"""Where the microseconds of one small matrix go: ``python -m bench.latency``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils.benchmark import Timer

import torchdet
from bench.clocks import Call
from torchdet._torch_internals import recorder

ROUNDS = 25
SECONDS = 0.01


class _Copy(torch.autograd.Function):
    """As little as a Function written in Python can do."""

    @staticmethod
    def forward(A: Tensor) -> Tensor:
        return A.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return ctx.saved_tensors[0]


class _Pair(torch.autograd.Function):
    """The same with two results, one of them not differentiable: the least that slogdet needs."""

    results = None

    @staticmethod
    def forward(A: Tensor) -> tuple[Tensor, Tensor]:
        return A.new_empty(()), A.new_empty(())

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor]) -> None:
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(output[0])
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, _: Tensor | None, grad: Tensor) -> Tensor:
        return ctx.saved_tensors[0]


def _both(function: Callable[[], Tensor], leaf: Tensor, grad: Tensor) -> Call:
    return lambda: torch.autograd.grad(function(), leaf, grad)


def _backward(output: Tensor, leaf: Tensor, grad: Tensor) -> Call:
    return lambda: torch.autograd.grad(output, leaf, grad, retain_graph=True)


def calls() -> dict[str, Call]:
    """On a 3 x 3 matrix in float32: torchdet's calls, torch's, and what they are made of."""
    A, one = torch.randn(3, 3), torch.ones(())
    leaf = A.clone().requires_grad_()
    operators, pair = torch.ops.torchdet, recorder(_Pair)
    return {
        "torchdet.det(A)": lambda: torchdet.det(A),
        "torch.linalg.det(A)": lambda: torch.linalg.det(A),
        "torchdet.det(A), A requires a gradient": lambda: torchdet.det(leaf),
        "torch.linalg.det(A), A requires a gradient": lambda: torch.linalg.det(leaf),
        "backward of torchdet.det": _backward(torchdet.det(leaf), leaf, one),
        "backward of torch.linalg.det": _backward(torch.linalg.det(leaf), leaf, one),
        "torch.relu(A)": lambda: torch.relu(A),
        "the operator det_backward": lambda: operators.det_backward.default(one, A),
        "a Function that copies A": lambda: _Copy.apply(leaf),
        "its backward, which returns A": _backward(_Copy.apply(leaf), leaf, A),
        "torchdet.slogdet, forward and backward": _both(
            lambda: torchdet.slogdet(leaf).logabsdet, leaf, one
        ),
        "torch.linalg.slogdet, forward and backward": _both(
            lambda: torch.linalg.slogdet(leaf).logabsdet, leaf, one
        ),
        "a Function with two results, called as torchdet's are, forward and backward": _both(
            lambda: pair((leaf,))[1], leaf, one
        ),
    }


def main() -> None:
    """Prints the fastest of some measurements in turn: a call can only be held up."""
    torch.set_num_threads(1)
    timers = {name: Timer("f()", globals={"f": call}) for name, call in calls().items()}
    fastest = dict.fromkeys(timers, float("inf"))
    for _ in range(ROUNDS):
        for name, timer in timers.items():
            seconds = timer.blocked_autorange(min_run_time=SECONDS).median
            fastest[name] = min(fastest[name], seconds)
    table = Table("call", title="3 x 3, float32, one thread")
    table.add_column("µs", justify="right")
    for name, seconds in fastest.items():
        table.add_row(name, f"{1e6 * seconds:.1f}")
    Console().print(table)


if __name__ == "__main__":
    main()
