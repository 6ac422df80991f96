"""The CPU kernels in a program of their own (program.cpp), which works on numpy arrays."""

from __future__ import annotations

import ctypes
import functools
import re
import subprocess
import tempfile
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

OPERATORS = ("det", "slogdet", "cofactor", "det_backward", "slogdet_backward", "det_hvp")
KEEPING_OPERATORS = ("det_keep", "slogdet_keep")
# det_frexp: mantissa and exponent. slogdet_hvp: A is conj(A^-T), other the direction. det_jet:
# other are d directions. det_backward_jvp: other is the direction, and in place of what is kept
# grad and its tangent. slogdet_hvp_scaled: in place of what is kept the factors of the directions,
# twice. slogdet_backward_inverse: the inverse as well.
FURTHER_OPERATORS = (
    *("det_frexp", "slogdet_hvp", "det_jet", "det_backward_jvp"),
    *("slogdet_hvp_scaled", "slogdet_backward_inverse"),
)
DTYPES = ("float32", "float64", "complex64", "complex128")
_PROBLEM = Path(__file__).parents[2] / "csrc/problem.h"
_ENUMERATION = re.search(r"enum class Op \{(.*?)\};", _PROBLEM.read_text(), re.DOTALL)
# k and the name in camel case, in the order of the numbers that the program takes.
_OPS = re.findall(r"^ *k(\w+),", _ENUMERATION[1], re.MULTILINE)
_FACTS = -1
_NOTHING = np.empty(0, np.uint8)


def _number_of(operator: str) -> int:
    name = operator.removesuffix("_inverse").removesuffix("_scaled")
    return _OPS.index(name.title().replace("_", ""))


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


class KernelProgram:
    """Starts the program when it is first asked, and again after it has ended with an error.

    command: how it is started; environment: in what; seconds: what a request may take at the most.
    """

    def __init__(
        self,
        command: Callable[[], list[str]],
        environment: Callable[[], Mapping[str, str]],
        seconds: int = 100,
    ) -> None:
        self._command, self._environment, self._seconds = command, environment, seconds
        self._process: subprocess.Popen[bytes] | None = None

    @functools.cache  # noqa: B019  there are a few programs, for as long as the process lives
    def _facts(self, n: int, dtype: str = DTYPES[0]) -> np.ndarray:
        facts = np.empty(3, "<i8")
        self._exchange(_words(_FACTS, DTYPES.index(dtype), n), (facts,))
        return facts

    def least_kept(self, dtype: str) -> int:
        """The least order of which the program keeps something."""
        return int(self._facts(0, dtype)[0])

    def least_both_results(self) -> int:
        """The least order of slogdet_backward_inverse."""
        return int(self._facts(0)[2])

    def kept_integers(self, n: int) -> int:
        """How many integers are kept of a matrix."""
        return int(self._facts(n)[1])

    def run(
        self,
        operator: str,
        A: np.ndarray,
        other: np.ndarray | None = None,
        kept: tuple[np.ndarray, ...] = (),
        threads: int = 1,
        callers: int = 1,
    ) -> tuple[np.ndarray, ...]:
        """The results of an operator; `other` is grad or Z, `kept` are numbers and integers.

        threads: how many share the work; callers: how many do the same at once.
        """
        batch, n = A.shape[:-2], A.shape[-1]
        results = dict.fromkeys(
            ("matrices", "determinant", "logabsdet", "integers", "inverse"), _NOTHING
        )
        if operator in ("det", "slogdet", "det_frexp", *KEEPING_OPERATORS):
            results["determinant"] = np.ones(batch, A.dtype)
        if operator in ("slogdet", "slogdet_keep", "det_frexp"):
            results["logabsdet"] = np.zeros(batch, A.real.dtype)
        if operator in KEEPING_OPERATORS:
            results["integers"] = np.zeros((*batch, self.kept_integers(n)), np.int32)
        if operator == "det_jet":
            results |= {x: np.empty(other.shape[:-2], A.dtype) for x in ("determinant", "matrices")}
        elif operator not in ("det", "slogdet", "det_frexp"):
            results["matrices"] = np.empty(A.shape, A.dtype)
        if operator == "slogdet_backward_inverse":
            results["inverse"] = np.empty(A.shape, A.dtype)
        if A.size > 0:
            numbers, integers = kept or (_NOTHING, _NOTHING)
            request = (
                _words(_number_of(operator), DTYPES.index(A.dtype.name)),
                _words(n, int(np.prod(batch, dtype=np.int64)), threads, callers),
                _tensor(A),
                _words(0, 0, 0) if other is None else _tensor(other),
                _bytes(numbers),
                _bytes(integers),
                _words(*(x.nbytes for x in results.values())),
            )
            self._exchange(b"".join(request), tuple(results.values()))
        order = ("determinant", "logabsdet", "matrices", "integers", "inverse")
        return tuple(results[name] for name in order if results[name] is not _NOTHING)

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            self._errors = tempfile.TemporaryFile()  # noqa: SIM115  lives as long as the process
            self._process = subprocess.Popen(
                self._command(),
                env=self._environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
            )
        return self._process

    def _exchange(self, request: bytes, results: tuple[np.ndarray, ...]) -> None:
        program = self._started()
        assert program.stdin is not None
        assert program.stdout is not None
        limit = threading.Timer(self._seconds, program.kill)
        limit.start()
        try:
            program.stdin.write(request)
            program.stdin.flush()
            for x in results:
                if (
                    x.nbytes > 0
                    and program.stdout.readinto(x.reshape(-1).view(np.uint8)) != x.nbytes
                ):
                    raise BrokenPipeError
        except BrokenPipeError:
            self._process = None
            status = program.wait()
            self._errors.seek(0)
            report = self._errors.read().decode(errors="replace")
            raise RuntimeError(
                f"the program of the kernels ended with {status}\n{report}"
            ) from None
        finally:
            limit.cancel()
