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
# In the class "large" alone: a determinant, and numbers and integers for the backward pass.
KEEPING_OPERATORS = ("det_keep", "slogdet_keep")
# As csrc/problem.h counts them; to the kernels those that keep are determinants with integers.
_OPS = {operator: k for k, operator in enumerate(OPERATORS)}
_OPS |= {"det_keep": _OPS["det"], "slogdet_keep": _OPS["slogdet"], "slogdet_hvp": 9}
DTYPES = ("float32", "float64", "complex64", "complex128")
# NaN as a GPU's arithmetic writes it in float32, all bits but the sign; the host's is 0x7FC00000.
GPU_NAN = 0x7FFFFFFF
ORDERS = ("forward", "reverse", "random")
# What a block of an H200 may have; smaller ones send more orders to the class "large".
SHARED_BYTES = 227 * 1024
LDU_BLOCKS = 2
CLUSTER_SIZES = (2, 4, 8)
_NATIVE, _COPY, _SCALE, _IDENTITY, _PIVOTS, _DIRECTION, _FINISH, _BY_LDU, _CLUSTER = range(9)


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
    lib.emulated_lu.restype = ctypes.c_char_p
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


def largest_block(operator: str, dtype: str) -> int:
    """The last order that csrc/cuda/select.h gives to the class "block"."""
    return library().emulated_largest_block(_OPS[operator], DTYPES.index(dtype))


def cluster_of(operator: str, dtype: str, n: int) -> int:
    """The blocks of the smallest cluster of an H200 that holds the matrix; 0 where none does."""
    if operator not in ("det", "slogdet"):
        return 0
    stages = enumerate(CLUSTER_SIZES, _CLUSTER)
    sizes = (s for k, s in stages if _block_bytes(operator, dtype, n, k) <= SHARED_BYTES)
    return next(sizes, 0)


def least_kept(dtype: str) -> int:
    """From this order on the emulated operators keep something: any from 3 on would do."""
    return 33


def kept_integers(n: int) -> int:
    """How many integers are kept of a matrix from 33 or from 65 on, as csrc/select.h has it."""
    return 3 * n + 2


def lu_cluster(n: int, batch: int, multiprocessors: int) -> int:
    """The blocks of the cluster that select.h takes for an LU in "large"; 0 for torch's."""
    i = library().emulated_lu_cluster(ctypes.c_int64(n), ctypes.c_int64(batch), multiprocessors)
    return CLUSTER_SIZES[i] if i >= 0 else 0


def factor(columns: np.ndarray, cluster: int) -> np.ndarray:
    """LU of the transposes, in place, by clusters of so many blocks: LAPACK's pivots, from 1 on."""
    assert columns.flags.c_contiguous
    n, batch = columns.shape[-1], columns.size // columns.shape[-1] ** 2
    pivots = np.full((batch, n), -1, np.int32)
    message = library().emulated_lu(
        DTYPES.index(columns.dtype.name), ctypes.c_int64(n), ctypes.c_int64(batch),
        ctypes.c_void_p(columns.ctypes.data), ctypes.c_void_p(pivots.ctypes.data),
        CLUSTER_SIZES.index(cluster),
    )  # fmt: skip
    if message is not None:
        raise RuntimeError(message.decode())
    return pivots


def run(
    operator: str,
    A: np.ndarray,
    other: np.ndarray | None = None,
    kept: tuple[np.ndarray, ...] = (),
    large: bool = False,
    by_ldu: bool = True,
    cluster: int = 0,
    lu: int = 0,
) -> tuple[np.ndarray, ...]:
    """The results of an operator; `other` is grad or Z, `kept` are numbers and integers.

    large, cluster: the class "large", or a cluster of so many blocks, at any order.
    by_ldu: in "large", whether what the inverse does not serve for is done again.
    lu: in "large", the blocks of the clusters that factor, in the place of torch's LU.
    """
    lib, n = library(), A.shape[-1]
    op, dtype = _OPS[operator], DTYPES.index(A.dtype.name)
    keeps = operator in KEEPING_OPERATORS
    large = large or keeps or bool(kept)
    kept = tuple(map(np.ascontiguousarray, kept))
    if op >= _OPS["cofactor"]:
        results: tuple[np.ndarray, ...] = (np.empty(A.shape, A.dtype),)
    else:
        results = (np.ones(A.shape[:-2], A.dtype),)
        if op == _OPS["slogdet"]:
            results += (np.zeros(A.shape[:-2], A.real.dtype),)
    if keeps:
        kept = (np.empty(A.shape, A.dtype), np.empty((*A.shape[:-2], kept_integers(n)), np.int32))
        for x in kept:
            x.view(np.uint8).fill(0xFF)
    batch = int(np.prod(A.shape[:-2], dtype=np.int64))
    if n == 0 or batch == 0:
        return results + kept if keeps else results

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
            None,  # a stream
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
    else:  # as csrc/cuda/ops_cuda.cpp
        needs_inverse = results[0].ndim == A.ndim
        buffers = _LargeBuffers(A, block_bytes(_COPY), needs_inverse, kept)
        if kept and not keeps:
            launch(_IDENTITY, buffers)
        else:
            launch(_COPY, buffers)
            launch(_SCALE, buffers)
            buffers.factor(lu)
        if needs_inverse:
            launch(_PIVOTS, buffers)
            buffers.solve()
        if operator == "det_hvp":
            launch(_DIRECTION, buffers)
            buffers.multiply(results[0])
        launch(_FINISH, buffers)
        if needs_inverse and by_ldu:
            launch(_BY_LDU, buffers)
        if keeps:
            launch(_PIVOTS, buffers)
    return results + kept if keeps else results


def _unset(size: int) -> np.ndarray:
    return np.full(size, 0xFF, np.uint8)


class _LargeBuffers(ctypes.Structure):
    """EmulatedLarge of library.cpp, and the part that torch has in the class "large"."""

    _fields_ = (
        ("workspace", ctypes.c_void_p),
        ("workspace_stride", ctypes.c_int64),
        ("ldu_blocks", ctypes.c_int64),
        ("factors", ctypes.c_void_p),
        ("pivots", ctypes.c_void_p),
        ("inverse", ctypes.c_void_p),
        ("integers", ctypes.c_void_p),
        ("kept", ctypes.c_void_p),
        ("kept_integers", ctypes.c_void_p),
    )

    def __init__(
        self, A: np.ndarray, stride: int, needs_inverse: bool, kept: tuple[np.ndarray, ...]
    ) -> None:
        super().__init__()
        self._shape, self._dtype = (-1, *A.shape[-2:]), A.dtype
        batch = A.size // A.shape[-1] ** 2
        self._arrays = {
            "workspace": _unset(batch * stride),
            "factors": _unset(A.size * A.itemsize),
            "pivots": _unset(4 * A.size // A.shape[-1]),
        }
        if needs_inverse:
            self._arrays["inverse"] = _unset(A.size * A.itemsize)
        if kept:
            numbers, self._arrays["integers"] = kept
            self._arrays["factors"] = numbers.reshape(-1).view(np.uint8)
        if kept and needs_inverse:
            self._arrays |= {"kept": numbers, "kept_integers": self._arrays.pop("integers")}
        for name, x in self._arrays.items():
            setattr(self, name, x.ctypes.data)
        self.workspace_stride, self.ldu_blocks = stride, min(batch, LDU_BLOCKS)

    def _matrices(self, name: str) -> np.ndarray:
        return self._arrays[name].view(self._dtype).reshape(self._shape)

    def _pivots(self) -> np.ndarray:
        return self._arrays["pivots"].view(np.int32).reshape(-1, self._shape[-1])

    # Rows of these matrices are columns of what LAPACK has. It works in place, as torch does, on
    # whole columns.
    def factor(self, cluster: int) -> None:
        """LU with partial pivoting of the transposes, by clusters of so many blocks or LAPACK."""
        if cluster:
            self._pivots()[:] = factor(self._matrices("factors"), cluster)
            return
        (getrf,) = scipy.linalg.get_lapack_funcs(("getrf",), dtype=self._dtype)
        for matrix, pivots in zip(self._matrices("factors"), self._pivots(), strict=True):
            lu, exchanges, _ = getrf(matrix.T, overwrite_a=True)
            assert np.shares_memory(lu, matrix)
            pivots[:] = exchanges + 1

    def solve(self) -> None:
        """The solution with the adjoint of what has been factored."""
        (getrs,) = scipy.linalg.get_lapack_funcs(("getrs",), dtype=self._dtype)
        trans = 2 if self._dtype.kind == "c" else 1
        matrices = zip(
            self._matrices("factors"), self._pivots(), self._matrices("inverse"), strict=True
        )
        for lu, pivots, right in matrices:
            x, _ = getrs(lu.T, pivots - 1, right.T, trans=trans, overwrite_b=True)
            assert np.shares_memory(x, right)

    def multiply(self, out: np.ndarray) -> None:
        """The two products of Hessian-vector products."""
        Z, Y = self._matrices("factors"), self._matrices("inverse")
        first = out.reshape(self._shape)
        with np.errstate(all="ignore"):
            np.matmul(Z.swapaxes(1, 2), Y, out=first)
            np.matmul(Y, first, out=Z)


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


def factor_accesses(columns: np.ndarray, cluster: int) -> Accesses:
    """Those of an LU."""
    return _accesses_of(lambda: factor(columns, cluster))


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
