"""The CUDA kernels on the host: ctypes binding to the emulation, on numpy arrays.

Nothing here needs torch, so that it also runs in a process with sanitizers.
"""

from __future__ import annotations

import ctypes
import functools
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import building
import numpy as np
import scipy.linalg

FOLDER = Path(__file__).parent
OPERATORS = ("det", "slogdet", "cofactor", "det_backward", "slogdet_backward", "det_hvp")
# slogdet_hvp: A is conj(A^-T), other the direction. It has no kernel in the class "large".
FURTHER_OPERATORS = ("slogdet_hvp",)
# As csrc/problem.h counts them.
_OPS = {operator: k for k, operator in enumerate(OPERATORS)} | {"slogdet_hvp": 9}
DTYPES = ("float32", "float64", "complex64", "complex128")
# NaN as a GPU's arithmetic writes it in float32, all bits but the sign; the host's is 0x7FC00000.
GPU_NAN = 0x7FFFFFFF
ORDERS = ("forward", "reverse", "random")
# What a block of an H200 may have; smaller ones send more orders to the class "large".
SHARED_BYTES = 227 * 1024
LARGE_BLOCKS = 2
CLUSTER_SIZES = (2, 4, 8)
_NATIVE, _PREPARE, _FINISH, _CLUSTER = range(4)


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("dims", ctypes.c_int),
        ("sizes", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
    )

    def __init__(self, x: np.ndarray) -> None:
        shape = ctypes.c_int64 * max(x.ndim, 1)
        strides = [s // x.itemsize for s in x.strides]
        super().__init__(x.ctypes.data, x.ndim, shape(*x.shape), shape(*strides))


def missing() -> str | None:
    """What the emulation cannot be built without, if it is not there."""
    found = shutil.which("make") and shutil.which(os.environ.get("CXX", "g++"))
    return None if found else "the emulation is built with make and a C++ compiler"


def build(sanitize: str = "") -> Path:
    """The library, made where it is out of date. sanitize: as in -fsanitize."""
    name = "cuda_emulation" + (f"_{sanitize.replace(',', '_')}" if sanitize else "")
    return building.make(FOLDER, name, SANITIZE=sanitize) / "libemulation.so"


@functools.cache
def library() -> ctypes.CDLL:
    """The emulation, built on first use; TORCHDET_EMULATION names another library."""
    lib = ctypes.CDLL(os.environ.get("TORCHDET_EMULATION") or str(build()))
    lib.emulated_run.restype = ctypes.c_char_p
    lib.emulated_fault.restype = ctypes.c_char_p
    lib.emulated_access.restype = ctypes.c_char_p
    lib.emulated_block_bytes.restype = ctypes.c_size_t
    return lib


def schedule(order: str = "forward", seed: int = 0, fill: int = 0xFFFFFFFF) -> None:
    """How the next launches run: order of threads, its seed, the words that fill shared memory."""
    order_index = ORDERS.index(order)
    library().emulated_schedule(order_index, ctypes.c_uint64(seed), ctypes.c_uint32(fill))


def _block_bytes(operator: str, dtype: str, n: int, stage: int) -> int:
    op, d = _OPS[operator], DTYPES.index(dtype)
    return library().emulated_block_bytes(op, d, ctypes.c_int64(n), stage)


def fits(operator: str, dtype: str, n: int) -> bool:
    """Whether a block of an H200 has the shared memory that the operator needs."""
    return n == 0 or _block_bytes(operator, dtype, n, _NATIVE) <= SHARED_BYTES


def cluster_of(operator: str, dtype: str, n: int) -> int:
    """The blocks of the smallest cluster of an H200 that holds the matrix; 0 where none does."""
    if operator not in ("det", "slogdet"):
        return 0
    stages = enumerate(CLUSTER_SIZES, _CLUSTER)
    sizes = (s for k, s in stages if _block_bytes(operator, dtype, n, k) <= SHARED_BYTES)
    return next(sizes, 0)


def run(
    operator: str,
    A: np.ndarray,
    other: np.ndarray | None = None,
    large: bool = False,
    cluster: int = 0,
) -> tuple[np.ndarray, ...]:
    """The results of an operator; `other` is grad or Z.

    large, cluster: the class "large", or a cluster of so many blocks, at any order.
    """
    lib, n = library(), A.shape[-1]
    op, dtype = _OPS[operator], DTYPES.index(A.dtype.name)
    if op >= _OPS["cofactor"]:
        results: tuple[np.ndarray, ...] = (np.empty(A.shape, A.dtype),)
    else:
        results = (np.ones(A.shape[:-2], A.dtype),)
        if operator == "slogdet":
            results += (np.zeros(A.shape[:-2], A.real.dtype),)
    batch = int(np.prod(A.shape[:-2], dtype=np.int64))
    if n == 0 or batch == 0:
        return results

    def block_bytes(stage: int) -> int:
        return _block_bytes(operator, A.dtype.name, n, stage)

    def launch(stage: int, buffers: _LargeBuffers | None = None) -> None:
        message = lib.emulated_run(
            op,
            dtype,
            ctypes.c_int64(n),
            ctypes.c_int64(batch),
            ctypes.byref(_Tensor(A)),
            None if other is None else ctypes.byref(_Tensor(other)),
            *(ctypes.c_void_p(x.ctypes.data) for x in results),
            *((None,) * (2 - len(results))),
            stage,
            None if buffers is None else ctypes.byref(buffers),
        )
        if message is not None:
            raise RuntimeError(message.decode())

    is_native = not cluster and fits(operator, A.dtype.name, n)
    if not large and not is_native:
        cluster = cluster or cluster_of(operator, A.dtype.name, n)
    if cluster:
        launch(_CLUSTER + CLUSTER_SIZES.index(cluster))
    elif not large and is_native:
        launch(_NATIVE)
    elif operator in FURTHER_OPERATORS:
        raise ValueError(f"{operator} has no kernel of its own for {A.dtype} at n = {n}")
    elif operator == "det_hvp":
        launch(_FINISH, _LargeBuffers(_unset(LARGE_BLOCKS * block_bytes(_FINISH)), LARGE_BLOCKS))
    else:
        buffers = _LargeBuffers(_unset(batch * block_bytes(_PREPARE)), batch)
        buffers.hold(scaled=_unset(A.size * A.itemsize), inverse=_unset(A.size * A.itemsize))
        launch(_PREPARE, buffers)
        buffers.factor(A.dtype, n, needs_inverse=len(results[0].shape) == A.ndim)
        launch(_FINISH, buffers)
    return results


def _unset(size: int) -> np.ndarray:
    return np.full(size, 0xFF, np.uint8)


class _LargeBuffers(ctypes.Structure):
    """LargeBuffers of csrc/problem.h, and the part that torch has in the class "large"."""

    _fields_ = (
        ("workspace", ctypes.c_void_p),
        ("workspace_stride", ctypes.c_int64),
        ("workspace_blocks", ctypes.c_int64),
        ("scaled", ctypes.c_void_p),
        ("lu", ctypes.c_void_p),
        ("pivots", ctypes.c_void_p),
        ("inverse", ctypes.c_void_p),
    )

    def __init__(self, workspace: np.ndarray, blocks: int) -> None:
        super().__init__()
        self.arrays: dict[str, np.ndarray] = {}
        self.hold(workspace=workspace)
        self.workspace_stride = workspace.size // blocks
        self.workspace_blocks = blocks

    def hold(self, **arrays: np.ndarray) -> None:
        self.arrays |= arrays
        for name, x in arrays.items():
            setattr(self, name, x.ctypes.data)

    def factor(self, dtype: np.dtype, n: int, needs_inverse: bool) -> None:
        """LU with partial pivoting of what is prepared, and its inverse, by LAPACK."""
        B = self.arrays["scaled"].view(dtype).reshape(-1, n, n)
        getrf, getrs = scipy.linalg.get_lapack_funcs(("getrf", "getrs"), (B,))
        factors = [getrf(matrix)[:2] for matrix in B]
        self.hold(
            lu=np.stack([lu.T for lu, _ in factors]),
            pivots=np.stack([pivots + 1 for _, pivots in factors]).astype(np.int32),
        )
        if needs_inverse:
            identity = self.arrays["inverse"].view(dtype).reshape(-1, n, n)
            solved = zip(factors, identity, strict=True)
            self.hold(inverse=np.stack([getrs(*factor, I)[0].T for factor, I in solved]))


class Accesses(NamedTuple):
    """Of shared memory by load_shared and store_shared, as banks.h counts them."""

    accesses: int  # instructions of warps
    wavefronts: int  # that they take
    least: int  # that they would take without conflicts
    worst: int  # of the lanes that are served together, at the most


def _accesses_of(work: Callable[[], object]) -> Accesses:
    numbers = (ctypes.c_int64 * 4)()
    library().emulated_count(1, numbers)
    try:
        work()
    finally:
        library().emulated_count(0, numbers)
    return Accesses(*numbers)


def shared_accesses(operator: str, *arguments: np.ndarray) -> Accesses:
    """Those of an operator."""
    return _accesses_of(lambda: run(operator, *arguments))


def accesses_at(size: int, offsets: Sequence[int], shared_bytes: int = 1 << 14) -> Accesses:
    """Those of a warp that loads and stores 4, 8 or 16 bytes a lane at 32 offsets; -1: none."""

    def work() -> None:
        message = library().emulated_access(size, (ctypes.c_int * 32)(*offsets), shared_bytes)
        if message is not None:
            raise RuntimeError(message.decode())

    return _accesses_of(work)


def fault(name: str) -> np.ndarray:
    """What a kernel of faults.cpp writes."""
    out = np.zeros(64, np.float32)
    message = library().emulated_fault(name.encode(), ctypes.c_void_p(out.ctypes.data))
    if message is not None:
        raise RuntimeError(message.decode())
    return out
