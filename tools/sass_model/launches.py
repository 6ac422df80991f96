"""Which kernel serves an operator, and how it is launched: asked of the sources themselves.

They are compiled for the host, with a launch that notes what it is given (host/emulation.h). So the
model has no table of kernels of its own that could be out of date.
"""

from __future__ import annotations

import ctypes
import fcntl
import functools
import os
import shlex
import subprocess
from pathlib import Path
from typing import NamedTuple

from tools.cuda_objects import ROOT

from .disassembly import SassError

FOLDER = Path(__file__).parent
BUILD = ROOT / "build/sass_model"
# As csrc/problem.h counts them.
OPERATORS = {"det": 0, "det_backward": 3, "det_hvp": 5, "slogdet_hvp": 9}
LU = "lu"  # no operator, but what the class "large" begins with: kLu of host/launches.cpp
NUMBERS = {**OPERATORS, LU: -1}
DTYPES = ("float32", "float64", "complex64", "complex128")
# Far more than one wave of blocks.
BATCH = 1 << 20


class _NotedLaunch(ctypes.Structure):
    _fields_ = (
        ("kernel", ctypes.c_char_p),
        ("threads", ctypes.c_int64),
        ("blocks", ctypes.c_int64),
        ("shared_bytes", ctypes.c_int64),
        ("matrices_per_block", ctypes.c_int64),
        ("cluster_size", ctypes.c_int64),
    )


class Launch(NamedTuple):
    """How a kernel is started."""

    kernel: str  # as in the source: WarpDeterminants<float, 8>
    threads: int  # of a block
    blocks: int
    shared_bytes: int  # of a block, asked for at the launch
    matrices_per_block: int
    cluster_size: int  # blocks that share a matrix
    parameter: bytes  # the Problem


def compile_library(name: str, source: Path, *flags: str) -> ctypes.CDLL:
    """A C++ source as a library, compiled where it, or anything that it includes, has changed."""
    BUILD.mkdir(parents=True, exist_ok=True)
    library, dependencies = BUILD / f"{name}.so", BUILD / f"{name}.d"
    with (BUILD / "lock").open("w") as lock:  # several processes may want it at once
        fcntl.flock(lock, fcntl.LOCK_EX)
        files = (
            dependencies.read_text().replace("\\\n", " ").split()[1:] if library.exists() else ()
        )
        newest = max((os.path.getmtime(file) for file in files if os.path.exists(file)), default=0)
        if not files or newest >= library.stat().st_mtime:
            compiler = shlex.split(os.environ.get("CXX", "c++"))
            subprocess.run(
                [*compiler, "-std=c++20", "-shared", "-fPIC", "-Wall", "-Wextra", *flags, "-MMD",
                 "-MF", str(dependencies), "-o", str(library), str(source)],
                check=True,
            )  # fmt: skip
    return ctypes.CDLL(str(library))


@functools.cache
def _library() -> ctypes.CDLL:
    host = FOLDER / "host"
    library = compile_library("launches", host / "launches.cpp", "-O0", f"-I{host}",
                              f"-I{ROOT / 'csrc/cuda'}")  # fmt: skip
    library.largest_order.restype = library.problem_bytes.restype = ctypes.c_int64
    library.problem.restype = ctypes.c_void_p
    library.note_launch.restype = ctypes.c_char_p
    return library


def largest_order(op: str, dtype: str) -> int:
    """The last order that the classes "thread", "warp", "block" and "cluster" serve."""
    return _library().largest_order(OPERATORS[op], DTYPES.index(dtype))


@functools.cache
def readable_type(name: str) -> str:
    """As tools/cuda_objects.py prints kernels."""
    text = subprocess.run(["c++filt", "-t", name], capture_output=True, text=True, check=True)
    return text.stdout.strip().replace("torchdet::emulated::", "").replace("torchdet::", "")


def launch(op: str, dtype: str, n: int, matrices: int = 0, others: int = 0,
           results: int = 0) -> Launch:  # fmt: skip
    """Of a batch at these addresses.

    Raises:
        SassError: There is no such kernel.
    """
    library, noted = _library(), _NotedLaunch()
    integers = [ctypes.c_int64(x) for x in (n, BATCH, matrices, others, results)]
    wrong = library.note_launch(NUMBERS[op], DTYPES.index(dtype), *integers, ctypes.byref(noted))
    if wrong:
        raise SassError(f"{op} {dtype} n={n}: {wrong.decode()}")
    return Launch(
        readable_type(noted.kernel.decode()), noted.threads, noted.blocks, noted.shared_bytes,
        noted.matrices_per_block, noted.cluster_size,
        ctypes.string_at(library.problem(), library.problem_bytes()),
    )  # fmt: skip
