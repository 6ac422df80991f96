"""Measures one case: first whether every peer is right, then their times in turn."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from bench.cases import Case
from bench.checks import Truth
from bench.clocks import Clock, Stopwatch
from bench.memory import peak_bytes
from bench.peers import Peer

SHORT = 2e-3  # seconds of a call; in longer ones the launch does not count


@dataclass(frozen=True)
class Effort:
    """How long to measure."""

    rounds: int
    seconds: float  # of one measurement of one peer
    longest: float = 8.0  # of all rounds of a case; slow cases get fewer rounds, at least 3
    whole: float = math.inf  # of a case, of which inputs, checks and compilers take their part


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


@dataclass
class Measurement:
    """Seconds per call of each peer, one per round, and what went wrong with a peer."""

    times: dict[str, list[float]] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    memory: dict[str, int] = field(default_factory=dict)  # peak in bytes, in the suite of that name


def graph_of(name: str) -> str:
    """The name under which the times of a library's captured calls are kept."""
    return f"{name}, graph"


def _seconds_once(stopwatch: Stopwatch, effort: Effort) -> float:
    if (once := stopwatch(1)) > effort.seconds:
        return once
    return min(once, stopwatch(max(1, int(effort.seconds / 4 / once))))


def _message(error: Exception) -> str:
    first_line = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {first_line[:200]}"


def measure(case: Case, peers: Sequence[Peer], clock: Clock, effort: Effort) -> Measurement:
    """Times the peers that can do this case.

    The peers take turns, in alternating order, so that a change of the machine's speed meets all of
    them; ratios are taken round by round. What is wrong with a peer is written down. If it has no
    answer, or takes longer for a call than the case may take, it is not timed: but the second,
    which the ratios that must be reached refer to, however long it takes.

    Raises:
        Exception: Whatever the first peer, the library that is measured, raises.
    """
    started = time.monotonic()
    inputs = case.inputs(clock.device, clock.copies(case.input_bytes))
    truth = Truth(case, *inputs[0])
    measurement = Measurement()
    stopwatches: dict[str, Stopwatch] = {}
    seconds: dict[str, float] = {}
    ours, reference = peers[0], peers[1]
    for peer in peers:
        if not peer.supports(case):
            continue
        try:
            calls = [peer.operation(case, A, Z) for A, Z in inputs]
            if fault := truth.fault(peer.tensor(calls[0]())):
                measurement.errors[peer.name] = fault
            if case.suite == "memory" and (peak := peak_bytes(calls[0])) is not None:
                measurement.memory[peer.name] = peak
            stopwatch = clock.stopwatch(calls, peer.finish)
            once = _seconds_once(stopwatch, effort)
        except Exception as error:
            if peer is ours:
                raise
            measurement.errors[peer.name] = _message(error)
            continue
        if once > effort.longest and peer not in (ours, reference):
            measurement.errors[peer.name] = f"not timed: one call takes {once:.2g} s"
            continue
        stopwatches[peer.name], seconds[peer.name] = stopwatch, once
        if peer is ours and once < SHORT:
            name = graph_of(peer.name)
            try:
                if in_graph := clock.graph_stopwatch(calls):
                    stopwatches[name], seconds[name] = in_graph, _seconds_once(in_graph, effort)
            except RuntimeError as error:
                measurement.errors[name] = _message(error)
    numbers = {name: max(1, int(effort.seconds / once)) for name, once in seconds.items()}
    one_round = math.fsum(numbers[name] * seconds[name] for name in numbers)
    measurement.times = {name: [] for name in stopwatches}
    longest = min(effort.longest, effort.whole - (time.monotonic() - started))
    for i in range(min(effort.rounds, max(3, int(longest / one_round)))):
        for name in list(stopwatches)[:: 1 if i % 2 == 0 else -1]:
            measurement.times[name].append(stopwatches[name](numbers[name]))
    return measurement
