"""Stage "kernels": the time of every kernel, and of variants of it in other libraries.

Kernels alone, launched through the C interface and replayed in a CUDA graph, on batches that fill
the device. What is compared takes turns: the libraries that have a kernel for the order.
"""

from __future__ import annotations

import functools
import itertools
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tools.gpu.library import KernelLibrary
from tools.gpu.results import Results, Row, of_stage

MAIN = "kernels"  # the name of the library that is not a variant
OPERATORS = ("det", "det_backward", "det_hvp")
# Where CUDA_NEXT's tables and the committed measurements have a row; ends of classes are added.
ORDERS = (2, 3, 4, 5, 8, 9, 12, 16, 17, 20, 24, 28, 32, 33, 40, 48, 56, 64, 96, 128, 192, 256)
COMPLEX_ORDERS = (3, 8, 16, 32)
DTYPES = (torch.float32, torch.float64, torch.complex64, torch.complex128)
BATCH_BYTES = 256 << 20  # several times the L2 cache
MOST_MATRICES = 8_000_000
ROUNDS, SECONDS = 3, 0.008  # of one measurement of one library
# Launches in a graph; one where a launch takes so long that the gaps between replays do not count.
IN_GRAPH, LONG = 8, 2e-3


def batch_of(n: int, dtype: torch.dtype) -> int:
    """How many matrices fill the device."""
    return min(MOST_MATRICES, max(2, BATCH_BYTES // (n * n * dtype.itemsize)))


def least_bytes(operator: str, n: int, batch: int, dtype: torch.dtype) -> int:
    """What has to be read and written."""
    matrices = {"det": 1, "det_backward": 2, "det_hvp": 3}[operator]
    numbers = 0 if operator == "det_hvp" else 1
    return batch * (matrices * n * n + numbers) * dtype.itemsize


def inputs(operator: str, n: int, batch: int, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    """Normal matrices, scaled so that their determinants are about 1, and grad or Z."""
    generator = torch.Generator("cuda").manual_seed(n)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=dtype, device="cuda", generator=generator)

    A = normal(batch, n, n).mul_(math.exp(-math.lgamma(n + 1) / (2 * n)))
    if operator == "det":
        return A, None
    return A, normal(batch) if operator == "det_backward" else normal(batch, n, n)


def _seconds(work: Callable[[], object]) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    work()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3


class _Replays:
    """Launches of one library's kernel in a graph, all of which write the same results."""

    def __init__(
        self, library: KernelLibrary, operator: str, A: Tensor, other: Tensor | None
    ) -> None:
        out = library.results(operator, A)
        launch = functools.partial(library.launch, operator, A, other, out)
        launch()  # loads the kernel
        self.launches = IN_GRAPH if _seconds(launch) < LONG else 1
        self.out = out  # lives as long as the graph
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            for _ in range(self.launches):
                launch()
        self.number = max(1, int(SECONDS / max(_seconds(self.graph.replay), 1e-6)))

    def seconds(self) -> float:
        """Of one launch."""

        def work() -> None:
            for _ in range(self.number):
                self.graph.replay()

        return _seconds(work) / (self.number * self.launches)


def measure(
    libraries: Sequence[KernelLibrary], operator: str, n: int, dtype: torch.dtype
) -> dict[str, list[float]]:
    """Nanoseconds per matrix of each library, one per round."""
    batch = batch_of(n, dtype)
    A, other = inputs(operator, n, batch, dtype)
    replays = {name_of(library): _Replays(library, operator, A, other) for library in libraries}
    times: dict[str, list[float]] = {name: [] for name in replays}
    for i in range(ROUNDS):
        for name in list(replays)[:: 1 if i % 2 == 0 else -1]:
            times[name].append(float(f"{replays[name].seconds() / batch * 1e9:.5g}"))
    return times


def name_of(library: KernelLibrary) -> str:
    """Of the file, without lib and .so."""
    return library.path.stem.removeprefix("lib")


def cases(library: KernelLibrary) -> Iterable[tuple[str, int, torch.dtype]]:
    """The most important first: float32, determinants, all orders."""
    for dtype, operator in itertools.product(DTYPES, OPERATORS):
        orders = set(COMPLEX_ORDERS if dtype.is_complex else ORDERS)
        if not dtype.is_complex:
            orders |= set(library.ends(operator, dtype))
        for n in sorted(orders):
            yield operator, n, dtype


def _key(row: Row) -> tuple[Any, ...]:
    return row["operator"], row["n"], row["dtype"], row["library"]


def run(results: Results, earlier: Iterable[Row], main: Path, variants: Iterable[Path]) -> int:
    """One row for each kernel and library; how many cases went wrong.

    What is known from earlier is not repeated.

    Cases that only the main library has come first, then those that have variants.
    """
    everything = [KernelLibrary(path, "cuda") for path in (main, *sorted(variants))]
    known = {_key(row) for row in of_stage(earlier, "kernels") if "ns" in row}
    plan = []
    for operator, n, dtype in cases(everything[0]):
        libraries = [x for x in everything if x.serves(operator, dtype, n)]
        if libraries:
            plan.append((len(libraries) > 1, operator, n, dtype, libraries))
    wrong = 0
    for _, operator, n, dtype, libraries in sorted(plan, key=lambda case: case[0]):
        of = {"operator": operator, "n": n, "dtype": str(dtype).removeprefix("torch.")}
        if all((operator, n, of["dtype"], name_of(x)) in known for x in libraries):
            continue
        batch = batch_of(n, dtype)
        try:
            times = measure(libraries, operator, n, dtype)
        except RuntimeError as error:
            wrong += 1
            results.add("kernels", **of, batch=batch, error=str(error)[:300])
            continue
        size = least_bytes(operator, n, batch, dtype) / batch
        for library in libraries:
            ns = times[name_of(library)]
            results.add(
                "kernels",
                library=name_of(library),
                **of,
                batch=batch,
                size_class=library.served_by(operator, dtype, n),
                ns=ns,
                gigabytes_per_second=round(size / statistics.median(ns), 1),
            )
    return wrong
