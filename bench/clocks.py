"""Where the inputs lie and how calls are timed: what differs between a CPU and a GPU."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch.utils.benchmark import Timer

Call = Callable[[], Any]
Stopwatch = Callable[[int], float]  # number of calls to seconds of one

MOST_COPIES = 64
CALLS_IN_GRAPH = 16  # at least, so that the gap between two replays is shared by many
L2_BYTES = 50 << 20  # of devices whose properties do not tell


class Clock(Protocol):
    """A device and its way of timing."""

    device: torch.device

    def copies(self, size: int) -> int:
        """How many inputs of this many bytes must take turns for each call to find its cold."""

    def stopwatch(self, calls: Sequence[Call], finish: Callable[[Any], None]) -> Stopwatch:
        """Times calls that take turns; ``finish`` waits for the last result."""

    def graph_stopwatch(self, calls: Sequence[Call]) -> Stopwatch | None:
        """Times the calls without their launches; None where there is nothing of the kind."""


class CpuClock:
    """Wall clock, one input: it is in cache or larger than the cache by the choice of the case."""

    device = torch.device("cpu")

    def __init__(self, threads: int) -> None:
        self.threads = threads

    def copies(self, size: int) -> int:
        """One."""
        return 1

    def stopwatch(self, calls: Sequence[Call], finish: Callable[[Any], None]) -> Stopwatch:
        """The timer of torch, which sets the number of threads."""
        (call,) = calls
        timer = Timer("f()", globals={"f": call}, num_threads=self.threads)
        return lambda number: timer.timeit(number).mean

    def graph_stopwatch(self, calls: Sequence[Call]) -> None:
        """A CPU has no graphs."""


def take_turns(calls: Sequence[Call], number: int) -> Any:
    """Makes this many calls and returns the last result.

    One result of each call is kept, so that results rotate through the memory as the inputs do.
    """
    results: list[Any] = [None] * len(calls)
    for i in range(number):
        results[i % len(calls)] = calls[i % len(calls)]()
    return results[(number - 1) % len(calls)]


class CudaClock:
    """CUDA events on the current stream, inputs that in turn push each other out of the L2 cache.

    Inputs of less than a few MB stay in the cache nevertheless: no more than ``MOST_COPIES`` take
    turns, and at those sizes it is the launch that is measured.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        properties = torch.cuda.get_device_properties(device)
        self.l2_bytes = getattr(properties, "L2_cache_size", L2_BYTES)
        self.capturable = True

    def copies(self, size: int) -> int:
        """As many as four times the L2 cache holds."""
        return max(1, min(MOST_COPIES, math.ceil(4 * self.l2_bytes / size)))

    def _seconds(self, work: Call) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize(self.device)
        start.record()
        work()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3

    def stopwatch(self, calls: Sequence[Call], finish: Callable[[Any], None]) -> Stopwatch:
        """The calls as a program makes them: at small sizes the host is what takes the time."""
        return lambda number: self._seconds(lambda: finish(take_turns(calls, number))) / number

    def graph_stopwatch(self, calls: Sequence[Call]) -> Stopwatch | None:
        """Replays of a CUDA graph of the calls. The calls have run before, so nothing loads in it.

        Raises:
            RuntimeError: The calls cannot be captured. A broken capture may leave torch's allocator
                waiting for its end, so this clock then tries no other.
        """
        if not self.capturable:
            return None
        in_graph = len(calls) * math.ceil(CALLS_IN_GRAPH / len(calls))
        graph = torch.cuda.CUDAGraph()
        try:
            # Only this thread's calls count: other libraries' threads may do as they like.
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                take_turns(calls, in_graph)
        except Exception:
            self.capturable = False
            raise

        def seconds(number: int) -> float:
            replays = max(1, number // in_graph)

            def work() -> None:
                for _ in range(replays):
                    graph.replay()

            return self._seconds(work) / (replays * in_graph)

        return seconds
