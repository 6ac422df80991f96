"""Stage "smoke": is every kernel right on this machine? A first look, in seconds, without pytest.

The properties are those of the tests on the emulation (tests/emulation/checks.py), at orders taken
from the library. On top of that a batch that fills the device must give, bit for bit, what a small
one gives; and two host threads launch one kernel with different amounts of shared memory.
"""

from __future__ import annotations

import functools
import itertools
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch

from tools.gpu.library import ALL_OPERATORS, DTYPES, OPERATORS, KernelLibrary
from tools.gpu.results import Results

ROOT = Path(__file__).parents[2]
# Beside the ends of the classes: words, lanes and panels are whole at some and broken at others.
ORDERS = (1, 2, 3, 5, 7, 8, 12, 13, 16, 17, 24, 27, 32, 33, 40, 48, 63, 65)
SMALL_BATCH, LARGE_BATCH = 35, 9  # ragged, with all the special matrices; from LARGE on fewer
LARGE = 33
FILLING_ENTRIES = 1 << 22  # of the batch that fills the device
LAUNCHES = 10_000  # by each of two host threads
GPU_NAN = {4: 0x7FFFFFFF, 8: 0x7FFFFFFFFFFFFFFF}  # as the arithmetic of a GPU makes it


def _tests() -> None:
    """The tests' helpers, which are no package."""
    for folder in (ROOT / "tests" / "emulation", ROOT / "tests" / "cuda_emulation"):
        if str(folder) not in sys.path:
            sys.path.append(str(folder))


def emulation() -> Path:
    """The library of the emulation, brought up to date."""
    _tests()
    import emulated

    return emulated.build()


def orders(library: KernelLibrary, operator: str, dtype: torch.dtype) -> list[int]:
    """Those that have a kernel of their own: ORDERS, the ends of the classes and what follows."""
    ends = library.ends(operator, dtype)
    wanted = {*ORDERS, *ends, *(end + 1 for end in ends)}
    return sorted(n for n in wanted if library.serves(operator, dtype, n))


def name(dtype: torch.dtype) -> str:
    """As in 'float32'."""
    return str(dtype).removeprefix("torch.")


class Runner:
    """Runs a library's kernels on arrays of numpy, as the tests do."""

    def __init__(self, library: KernelLibrary) -> None:
        self.library = library

    def _tensor(self, x: np.ndarray) -> torch.Tensor:
        if any(stride < 0 for stride in x.strides):
            x = x.copy()  # torch has no negative strides
        # Strides and all: what lies between the entries comes along.
        span = sum((size - 1) * s for size, s in zip(x.shape, x.strides, strict=True))
        span = span // x.itemsize + 1 if x.size else 0
        flat = np.lib.stride_tricks.as_strided(x, (span,), (x.itemsize,))
        on_device = torch.from_numpy(flat.copy()).to(self.library.device)
        return on_device.as_strided(x.shape, [s // x.itemsize for s in x.strides])

    def __call__(
        self, operator: str, A: np.ndarray, other: np.ndarray | None = None
    ) -> tuple[np.ndarray, ...]:
        """The results."""
        out = self.library.run(
            operator, self._tensor(A), None if other is None else self._tensor(other)
        )
        return tuple(x.cpu().numpy() for x in out)


def _gpu_nan(args: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
    """The same arguments with the NaN of a GPU for each NaN."""
    changed = tuple(x.copy() for x in args)
    for x in changed:
        parts = x.view(x.real.dtype)
        parts.view(f"u{parts.itemsize}")[np.isnan(parts)] = GPU_NAN[parts.itemsize]
    return changed


class Checks:
    """What is asked of one operator at one order."""

    def __init__(self, library: KernelLibrary) -> None:
        _tests()
        import checks
        import problems

        self.library, self.run = library, Runner(library)
        self.checks, self.problems = checks, problems
        self.expected = functools.lru_cache(maxsize=64)(checks.expected)

    def of(self, operator: str, dtype: torch.dtype, n: int) -> Iterable[tuple[str, Callable]]:
        """Named checks, which raise where something is wrong."""
        batch = SMALL_BATCH if n < LARGE else LARGE_BATCH
        args = (self.run, operator, n, name(dtype), batch)
        if operator in OPERATORS:
            yield "right", lambda: self.right(operator, n, name(dtype))
        yield "neighbours", lambda: self.checks.no_matrix_depends_on_its_neighbours(*args)
        yield "NaN", lambda: self.checks.nan_and_inf_stay_in_their_own_matrix(*args)
        yield "NaN of a GPU", lambda: self.nan_of_a_gpu(operator, n, name(dtype), batch)
        yield "strides", lambda: self.checks.strides_do_not_change_a_bit(*args)
        if operator in ("det", "cofactor"):
            yield "singular", lambda: self.singular(operator, n, name(dtype), batch)
        if self.library.device.type == "cuda":
            yield "many", lambda: self.many(operator, n, name(dtype), batch)

    def right(self, operator: str, n: int, dtype: str) -> None:
        """Against LAPACK in double precision."""
        right = self.expected(n, dtype)[operator]
        got = self.run(operator, *right.arguments)
        for g, r, error in zip(got, right.results, right.errors, strict=True):
            worst = np.max(np.abs(g - r) / error)
            assert worst <= 1, f"off by {worst:.2g} times what is allowed"

    def nan_of_a_gpu(self, operator: str, n: int, dtype: str, batch: int) -> None:
        """Like any other NaN."""
        args = self.problems.arguments(operator, n, dtype, batch)
        expected = self.run(operator, *args)
        self.checks.assert_same_bits(self.run(operator, *_gpu_nan(args)), expected, "another NaN")

    def singular(self, operator: str, n: int, dtype: str, batch: int) -> None:
        """A row of zeros, two equal columns, all zeros."""
        (A,) = self.problems.arguments(operator, n, dtype, batch)
        (got,) = self.run(operator, A)
        if operator == "det":
            assert not got[[1, 3]].any(), f"{got[[1, 3]]} for exactly 0"
            if n > 1:
                # det(A + E), |E| <= d: at most the product of all s_i + d, the last s_i being 0.
                s = np.linalg.svd(A[2].astype(np.complex128), compute_uv=False)
                allowed = np.prod(s + 8 * n * np.finfo(dtype).eps * s[0])
                assert np.abs(got[2]) <= allowed, f"{got[2]}, {allowed:.2g} is allowed"
        elif n > 1:
            # Of rank n - 1. What comes is C(A + E) with |E| <= c n eps |A|, so that, from
            # C(A + E) (A + E)^T = det(A + E) I and |det(A + E)| <= |E| |C| to first order,
            # |C A^T| <= 2 |E| |C|; c = 4 as complex products and sums in any order take it.
            C, X = got[1].astype(np.complex128), A[1].astype(np.complex128)
            error = np.linalg.norm(C @ X.T, 2)
            size = np.linalg.norm(C) * np.linalg.norm(X)
            allowed = 8 * n * np.finfo(dtype).eps * size
            assert size > 0
            assert error <= allowed, f"C A^T is {error:.2g}, {allowed:.2g} is allowed"

    def many(self, operator: str, n: int, dtype: str, batch: int) -> None:
        """A batch that fills the device, three times: no race, no dependence on the place."""
        args = self.problems.arguments(operator, n, dtype, batch)
        expected = self.run.library.run(operator, *map(self.run._tensor, args))
        copies = max(2, FILLING_ENTRIES // (batch * n * n))
        tensors = [self.run._tensor(x).repeat(copies, *[1] * (x.ndim - 1)) for x in args]
        for _ in range(3):
            for got, small in zip(self.library.run(operator, *tensors), expected, strict=True):
                tiled = small.repeat(copies, *[1] * (small.dim() - 1))
                real = torch.view_as_real if got.is_complex() else lambda x: x
                g, t = real(got), real(tiled)
                integer = torch.int32 if g.element_size() == 4 else torch.int64
                wrong = (g.view(integer) != t.view(integer)) & ~(g.isnan() & t.isnan())
                assert not wrong.any(), f"{int(wrong.sum())} numbers differ from a small batch's"


def race(library: KernelLibrary, launches: int = LAUNCHES) -> dict[str, object] | None:
    """Two host threads launch one kernel with different amounts of shared memory.

    The attribute of a kernel that allows more than 48 KB belongs to the kernel, not to the launch.
    None where no kernel needs so much at two orders.
    """
    operator, dtype = "det", torch.float32
    last = max(library.ends(operator, dtype))
    bytes_of = {
        n: library.block_bytes(operator, dtype, n)
        for n in range(2, last + 1)
        if library.serves(operator, dtype, n)
    }
    large = [n for n, size in bytes_of.items() if size > 48 * 1024]
    if len(large) < 2:
        return None
    pair = (large[0], next(n for n in large if bytes_of[n] > bytes_of[large[0]]))
    errors: list[str] = []

    def work(n: int) -> None:
        A = torch.eye(n, device=library.device).expand(1, n, n).contiguous()
        out = library.results(operator, A)
        torch.cuda.synchronize()
        with torch.cuda.stream(torch.cuda.Stream()):
            try:
                for _ in range(launches):
                    library.launch(operator, A, None, out)
                torch.cuda.current_stream().synchronize()
                if out[0].tolist() != [1.0]:
                    errors.append(f"n = {n}: the determinant is {out[0].tolist()}")
            except RuntimeError as error:
                errors.append(str(error))

    threads = [threading.Thread(target=work, args=(n,)) for n in pair]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {"check": "two host threads", "orders": pair, "launches": launches, "errors": errors}


def run(
    results: Results,
    library: KernelLibrary,
    dtypes: Iterable[torch.dtype] = DTYPES,
    chosen: Iterable[int] | None = None,
) -> int:
    """Everything, one row for each operator, order and dtype; how many of them are wrong."""
    checks, wrong = Checks(library), 0
    if library.device.type == "cuda" and (found := race(library)):
        wrong += bool(found["errors"])
        results.add("smoke", **found)
    for dtype, operator in itertools.product(dtypes, ALL_OPERATORS):
        for n in orders(library, operator, dtype):
            if chosen is not None and n not in chosen:
                continue
            started, faults = time.monotonic(), {}
            for check, body in checks.of(operator, dtype, n):
                try:
                    body()
                except Exception as error:
                    last = traceback.format_exception_only(error)[-1].strip()
                    faults[check] = last[-300:]
            wrong += bool(faults)
            results.add(
                "smoke",
                operator=operator,
                dtype=name(dtype),
                n=n,
                size_class=library.served_by(operator, dtype, n),
                device=library.device.type,
                faults=faults,
                seconds=round(time.monotonic() - started, 3),
            )
    return wrong
