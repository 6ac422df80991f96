"""Where the microseconds of one small matrix go: ``python -m bench.latency``.

All calls are public ones: torchdet's, torch's, and Functions that compute nothing, written as torch
documents them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils.benchmark import Timer

import torchdet
from bench import machine
from bench.checks import Truth
from bench.clocks import Call
from bench.files import write_json
from bench.suites import cpu_cases

ROUNDS = 25
SECONDS = 0.01
# The end of the name of a call that is timed there.
INSIDE = " inside torchdet.accelerate"


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
    """Two results, one of them not differentiable: the least that slogdet needs.

    Its forward takes ctx, which costs no binding of arguments, and torch.func cannot use it.
    """

    @staticmethod
    def forward(ctx: Any, A: Tensor) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        sign, logabsdet = A.new_empty(()), A.new_empty(())
        ctx.mark_non_differentiable(sign)
        ctx.save_for_backward(A)
        return sign, logabsdet

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
    return {
        "torchdet.det(A)": lambda: torchdet.det(A),
        "torch.linalg.det(A)": lambda: torch.linalg.det(A),
        "torchdet.det(A), A requires a gradient": lambda: torchdet.det(leaf),
        "torch.linalg.det(A), A requires a gradient": lambda: torch.linalg.det(leaf),
        "backward of torchdet.det": _backward(torchdet.det(leaf), leaf, one),
        "backward of torch.linalg.det": _backward(torch.linalg.det(leaf), leaf, one),
        "backward of torchdet.det" + INSIDE: _backward(torchdet.det(leaf), leaf, one),
        "torch.relu(A)": lambda: torch.relu(A),
        "torch.relu(A)" + INSIDE: lambda: torch.relu(A),
        "torch.nn.functional.relu(A)": lambda: torch.nn.functional.relu(A),
        "torch.nn.functional.relu(A)" + INSIDE: lambda: torch.nn.functional.relu(A),
        "torch.linalg.det(A)" + INSIDE: lambda: torch.linalg.det(A),
        "a Function that copies A": lambda: _Copy.apply(leaf),
        "its backward, which returns A": _backward(_Copy.apply(leaf), leaf, A),
        "torchdet.slogdet, forward and backward": _both(
            lambda: torchdet.slogdet(leaf).logabsdet, leaf, one
        ),
        "torch.linalg.slogdet, forward and backward": _both(
            lambda: torch.linalg.slogdet(leaf).logabsdet, leaf, one
        ),
        "a Function with two results, forward and backward": _both(
            lambda: _Pair.apply(leaf)[1], leaf, one
        ),
    }


def wrong() -> list[str]:
    """Which operations on such a matrix torchdet answers wrongly."""
    found = []
    for case in cpu_cases("latency", [torch.float32], None, 1, False):
        ((A, Z),) = case.inputs(torch.device("cpu"), 1)
        leaf = A.requires_grad_()
        answer = torchdet.slogdet(leaf).logabsdet if case.slogdet else torchdet.det(leaf)
        if case.backward:
            (answer,) = torch.autograd.grad(answer, leaf)
        if Truth(case, A.detach(), Z).fault(answer.detach()):
            found.append(case.op)
    return found


def main() -> int:
    """Prints the fastest of some measurements in turn: a call can only be held up."""
    parser = argparse.ArgumentParser(prog="python -m bench.latency", description=__doc__)
    parser.add_argument("--json", type=Path, help="write the result to this file, too")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    faults = wrong()
    timers = {name: Timer("f()", globals={"f": call}) for name, call in calls().items()}
    fastest = dict.fromkeys(timers, float("inf"))
    for _ in range(options.rounds):
        for name, timer in timers.items():
            with torchdet.accelerate() if name.endswith(INSIDE) else nullcontext():
                seconds = timer.blocked_autorange(min_run_time=SECONDS).median
            fastest[name] = min(fastest[name], seconds)
    table = Table("call", title="3 x 3, float32, one thread")
    table.add_column("µs", justify="right")
    for name, seconds in fastest.items():
        table.add_row(name, f"{1e6 * seconds:.1f}")
    Console().print(table)
    if options.json:
        facts = {"machine": machine.facts(), "threads": 1, "rounds": options.rounds}
        write_json({**facts, "wrong": faults, "seconds": fastest}, options.json)
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
