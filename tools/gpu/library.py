"""The CUDA kernels behind their C interface (tests/cuda_emulation/library.cpp), on torch's tensors.

The library of the kernels runs them on a GPU, that of the emulation on the host: which of the two,
the tensors' device says.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

import torch
from torch import Tensor

OPERATORS = ("det", "slogdet", "cofactor", "det_backward", "slogdet_backward", "det_hvp")
# As csrc/problem.h counts them. slogdet_hvp is given conj(A^-T) for A.
_OPS = {operator: k for k, operator in enumerate(OPERATORS)} | {"slogdet_hvp": 9}
ALL_OPERATORS = tuple(_OPS)
DTYPES = (torch.float32, torch.float64, torch.complex64, torch.complex128)
_SHARED_BYTES_OF_H200 = 227 * 1024  # for the emulation
LAST_CLASS = "large"


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("dims", ctypes.c_int),
        ("sizes", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
    )

    def __init__(self, x: Tensor) -> None:
        shape = ctypes.c_int64 * max(x.dim(), 1)
        super().__init__(x.data_ptr(), x.dim(), shape(*x.shape), shape(*x.stride()))


def shared_bytes(device: torch.device) -> int:
    """What a block may have."""
    if device.type != "cuda":
        return _SHARED_BYTES_OF_H200
    return torch.cuda.get_device_properties(device).shared_memory_per_block_optin


class KernelLibrary:
    """A shared library with kernels."""

    def __init__(self, path: Path, device: str | torch.device) -> None:
        self.path, self.device = path, torch.device(device)
        self._library = ctypes.CDLL(str(path))
        self._library.emulated_run.restype = ctypes.c_char_p
        self._library.emulated_class.restype = ctypes.c_char_p
        self._library.emulated_block_bytes.restype = ctypes.c_size_t
        self.shared_bytes = shared_bytes(self.device)

    @staticmethod
    def _key(operator: str, dtype: torch.dtype, n: int) -> tuple[int, int, ctypes.c_int64]:
        return _OPS[operator], DTYPES.index(dtype), ctypes.c_int64(n)

    def size_class(self, operator: str, dtype: torch.dtype, n: int) -> tuple[str, int]:
        """Its name, and the last order that it serves: csrc/cuda/select.h says it."""
        largest = ctypes.c_int64()
        key = self._key(operator, dtype, n)
        return self._library.emulated_class(*key, ctypes.byref(largest)).decode(), largest.value

    def _stage(self, operator: str, dtype: torch.dtype, n: int) -> int:
        key = self._key(operator, dtype, n)
        return self._library.emulated_stage(*key, ctypes.c_size_t(self.shared_bytes))

    def block_bytes(self, operator: str, dtype: torch.dtype, n: int) -> int:
        """Of shared memory, for the kernel that serves the order n."""
        stage = self._stage(operator, dtype, n)
        return self._library.emulated_block_bytes(*self._key(operator, dtype, n), stage)

    def serves(self, operator: str, dtype: torch.dtype, n: int) -> bool:
        """Whether the library has a kernel that does it alone.

        That is not so in the class "large", where torch has its part, and where the library is
        built of some of the sources.
        """
        return self._stage(operator, dtype, n) >= 0

    def ends(self, operator: str, dtype: torch.dtype) -> list[int]:
        """The last order of each class, but "large": it begins where shared memory ends.

        The last class before it goes to what the device has, whatever its table says.
        """
        ends, n = [0], 1
        while (of := self.size_class(operator, dtype, n))[0] != LAST_CLASS:
            ends.append(of[1])
            n = of[1] + 1
        last = ends.pop()
        while last > ends[-1] and not self.serves(operator, dtype, last):
            last -= 1
        while self.serves(operator, dtype, last + 1):
            last += 1
        return [end for end in (*ends, last) if end > 0 and self.serves(operator, dtype, end)]

    def served_by(self, operator: str, dtype: torch.dtype, n: int) -> str:
        """The name of the class whose kernel runs."""
        while (name := self.size_class(operator, dtype, n)[0]) == LAST_CLASS and n > 1:
            n -= 1
        return name

    def results(self, operator: str, A: Tensor) -> tuple[Tensor, ...]:
        """Where results go, every byte 0xff: a NaN, so that what is not written is not right."""
        batch = A.shape[:-2]
        matrices = _OPS[operator] >= _OPS["cofactor"]
        out = (torch.empty(A.shape if matrices else batch, dtype=A.dtype, device=A.device),)
        if operator == "slogdet":
            out += (torch.empty(batch, dtype=A.dtype.to_real(), device=A.device),)
        for x in out:
            x.view(torch.uint8).fill_(0xFF)
        return out

    def launch(
        self, operator: str, A: Tensor, other: Tensor | None, out: tuple[Tensor, ...]
    ) -> None:
        """Starts the kernel on the current stream.

        Raises:
            RuntimeError: The kernel cannot be started.
        """
        stream = None
        if A.is_cuda:
            stream = ctypes.c_void_p(torch.cuda.current_stream(A.device).cuda_stream)
        message = self._library.emulated_run(
            *self._key(operator, A.dtype, A.shape[-1]),
            ctypes.c_int64(A.shape[:-2].numel()),
            ctypes.byref(_Tensor(A)),
            None if other is None else ctypes.byref(_Tensor(other)),
            *(ctypes.c_void_p(x.data_ptr()) for x in out),
            *((None,) * (2 - len(out))),
            self._stage(operator, A.dtype, A.shape[-1]),
            None,
            stream,
        )
        if message is not None:
            raise RuntimeError(f"{operator}, n = {A.shape[-1]}, {A.dtype}: {message.decode()}")

    def run(self, operator: str, A: Tensor, other: Tensor | None = None) -> tuple[Tensor, ...]:
        """The results; `other` is grad or Z."""
        out = self.results(operator, A)
        self.launch(operator, A, other, out)
        return out
