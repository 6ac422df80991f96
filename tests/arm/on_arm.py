"""The CPU kernels on Arm: a program for aarch64, run by QEMU, that works on numpy arrays."""

from __future__ import annotations

import ctypes
import functools
import os
import shutil
import subprocess
import threading
from pathlib import Path

import building
import numpy as np

FOLDER = Path(__file__).parent
COMPILER = os.environ.get("ARM_CXX", "aarch64-linux-gnu-g++")
EMULATOR = next(filter(shutil.which, ("qemu-aarch64-static", "qemu-aarch64")), None)
OPERATORS = ("det", "slogdet", "cofactor", "det_backward", "slogdet_backward", "det_hvp")
KEEPING_OPERATORS = ("det_keep", "slogdet_keep")
DTYPES = ("float32", "float64", "complex64", "complex128")
# As csrc/size_class.h has them.
LEAST_KEPT, LEAST_FACTORS = 33, 65
_OPS = OPERATORS + KEEPING_OPERATORS  # in the order of csrc/problem.h
SECONDS = 100  # what a request may take at the most
_NOTHING = np.empty(0, np.uint8)


def missing() -> str | None:
    """What the program cannot be built or run without, if it is not there."""
    if shutil.which("make") is None or shutil.which(COMPILER) is None:
        return f"no make or no compiler for Arm ({COMPILER}; Debian: g++-aarch64-linux-gnu)"
    return None if EMULATOR else "no emulator of Arm (Debian: qemu-user-static)"


@functools.cache
def _program() -> subprocess.Popen[bytes]:
    if (reason := missing()) is not None:
        raise RuntimeError(reason)
    program = building.make(FOLDER, "arm", ARM_CXX=COMPILER) / "kernels"
    environment = {**os.environ, "TORCHDET_CPU_CAPABILITY": "portable"}
    return subprocess.Popen(
        [str(EMULATOR), str(program)],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


def _words(*words: int) -> bytes:
    return np.array(words, "<i8").tobytes()


def _bytes(x: np.ndarray) -> bytes:
    return _words(x.nbytes) + x.tobytes()


def _tensor(x: np.ndarray) -> bytes:
    # The memory that it lies in goes as it is, gaps and all.
    reach = [(size - 1) * stride for size, stride in zip(x.shape, x.strides, strict=True)]
    before = -sum(r for r in reach if r < 0)
    size = before + sum(r for r in reach if r > 0) + x.itemsize
    memory = ctypes.string_at(x.ctypes.data - before, size)
    strides = [stride // x.itemsize for stride in x.strides]
    return _words(x.ndim, *x.shape, *strides, before, size) + memory


def kept_integers(n: int) -> int:
    """How many integers are kept of a matrix."""
    return n + 1 if n < LEAST_FACTORS else 3 * n + 2


def run(
    operator: str,
    A: np.ndarray,
    other: np.ndarray | None = None,
    kept: tuple[np.ndarray, ...] = (),
    threads: int = 1,
) -> tuple[np.ndarray, ...]:
    """The results of an operator; `other` is grad or Z, `kept` are numbers and integers."""
    batch, n = A.shape[:-2], A.shape[-1]
    results = dict.fromkeys(("matrices", "determinant", "logabsdet", "integers"), _NOTHING)
    if operator in ("det", "slogdet", *KEEPING_OPERATORS):
        results["determinant"] = np.ones(batch, A.dtype)
    if operator in ("slogdet", "slogdet_keep"):
        results["logabsdet"] = np.zeros(batch, A.real.dtype)
    if operator in KEEPING_OPERATORS:
        results["integers"] = np.zeros((*batch, kept_integers(n)), np.int32)
    if operator not in ("det", "slogdet"):
        results["matrices"] = np.empty(A.shape, A.dtype)
    if A.size > 0:
        numbers, integers = kept or (_NOTHING, _NOTHING)
        request = (
            _words(_OPS.index(operator), DTYPES.index(A.dtype.name)),
            _words(n, int(np.prod(batch, dtype=np.int64)), threads),
            _tensor(A),
            _words(0, 0, 0) if other is None else _tensor(other),
            _bytes(numbers),
            _bytes(integers),
            _words(*(x.nbytes for x in results.values())),
        )
        _exchange(b"".join(request), tuple(results.values()))
    order = ("determinant", "logabsdet", "matrices", "integers")
    return tuple(results[name] for name in order if results[name] is not _NOTHING)


def _exchange(request: bytes, results: tuple[np.ndarray, ...]) -> None:
    program = _program()
    assert program.stdin is not None
    assert program.stdout is not None
    limit = threading.Timer(SECONDS, program.kill)
    limit.start()
    try:
        program.stdin.write(request)
        program.stdin.flush()
        for x in results:
            if x.nbytes > 0 and program.stdout.readinto(x.reshape(-1).view(np.uint8)) != x.nbytes:
                raise BrokenPipeError
    except BrokenPipeError:
        _program.cache_clear()
        raise RuntimeError(f"the program for Arm ended with {program.wait()}") from None
    finally:
        limit.cancel()
