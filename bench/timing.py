"""Measures one case: first whether every peer is right, then their times in turn."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.benchmark import Timer

from bench.cases import IN_CACHE, IN_DRAM, Case
from bench.peers import Peer

CHECKED = 4096  # matrices of a batch that are compared with the float64 reference


@dataclass(frozen=True)
class Effort:
    """How long to measure."""

    rounds: int
    seconds: float  # of one measurement of one peer
    longest: float = 8.0  # of all rounds of a case; slow cases get fewer rounds, at least 3


@dataclass(frozen=True)
class Spread:
    """Median and quartiles over the rounds."""

    median: float
    q25: float
    q75: float

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        """Of at least two values."""
        q25, median, q75 = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, q25, q75)


def operation(case: Case, peer: Peer, A: Tensor) -> Callable[[], Tensor]:
    """What is timed; the whole call, autograd and allocation included."""
    function = peer.det if case.op.startswith("det") else peer.logabsdet
    if not case.backward:
        return lambda: function(A)
    leaf = A.detach().requires_grad_()
    with torch.no_grad():
        ones = torch.ones_like(function(A))
    return lambda: torch.autograd.grad(function(leaf), leaf, ones)[0]


def check(case: Case, peer: Peer, A: Tensor) -> None:
    """Compares with torch in double precision, within the condition number of each matrix.

    Raises:
        ArithmeticError: naming the peer, the case and the worst matrix.
    """
    stride = max(1, (case.batch or 1) // CHECKED)
    got = operation(case, peer, A)()
    if not bool(torch.isfinite(got).all()):
        raise ArithmeticError(f"{peer.name}, {case}: a result is not finite")
    # In front of a single matrix this adds the batch dimension that the others have.
    wide = torch.complex128 if case.dtype.is_complex else torch.float64
    A = A.reshape(-1, case.n, case.n)[::stride].to(wide)
    got = got.reshape(-1, *got.shape[-2:])[::stride] if case.backward else got.reshape(-1)[::stride]
    inverse = torch.linalg.inv(A)
    det = torch.linalg.det(A)
    condition = torch.linalg.matrix_norm(A) * torch.linalg.matrix_norm(inverse)
    unit = 4 * case.n * torch.finfo(case.dtype).eps * condition
    if case.backward:
        truth = (
            inverse.mH
            if case.op.startswith("slogdet")
            else (det[:, None, None] * inverse.mT).conj()
        )
        error = torch.linalg.matrix_norm(got - truth) / torch.linalg.matrix_norm(truth)
    elif case.op.startswith("slogdet"):
        error = (got - det.abs().log()).abs()
    else:
        error = (got - det).abs() / det.abs()
    # Beyond this the bound says nothing: the matrix is as good as singular at this precision.
    ratio = torch.where(unit < 0.1, error / unit, 0.0)
    if (worst := ratio.max().item()) > 1:
        index = ratio.argmax().item() * stride
        raise ArithmeticError(f"{peer.name}, {case}: matrix {index} is wrong by {worst:.3g} units")


def measure(
    case: Case, peers: tuple[Peer, ...], threads: int, effort: Effort
) -> dict[str, list[float]]:
    """Seconds per call of each peer, one per round.

    The peers take turns, in alternating order, so that a change of the machine's speed meets all of
    them; ratios are taken round by round.
    """
    A = case.matrices()
    timers, numbers = {}, {}
    one_round = 0.0
    for peer in peers:
        check(case, peer, A)
        timer = Timer("f()", globals={"f": operation(case, peer, A)}, num_threads=threads)
        once = timer.timeit(1).mean
        once = min(once, timer.timeit(max(1, int(effort.seconds / 4 / once))).mean)
        timers[peer.name], numbers[peer.name] = timer, max(1, int(effort.seconds / once))
        one_round += once * numbers[peer.name]
    times: dict[str, list[float]] = {peer.name: [] for peer in peers}
    for i in range(min(effort.rounds, max(3, int(effort.longest / one_round)))):
        for name in list(timers)[:: 1 if i % 2 == 0 else -1]:
            times[name].append(timers[name].timeit(numbers[name]).mean)
    return times


def copy_bandwidth(threads: int, effort: Effort, quick: bool) -> dict[str, float]:
    """Bytes read and written per second by Tensor.copy_, in cache and in memory."""
    bandwidth = {}
    for name, size in (("cache", IN_CACHE), ("dram", IN_DRAM // (64 if quick else 1))):
        source = torch.ones(size // 4)
        target = torch.empty_like(source)
        timer = Timer("t.copy_(s)", globals={"s": source, "t": target}, num_threads=threads)
        number = max(1, int(effort.seconds / timer.timeit(2).mean))
        seconds = statistics.median(timer.timeit(number).mean for _ in range(effort.rounds))
        bandwidth[name] = 2 * size / seconds
    return bandwidth
