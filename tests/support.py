"""What several test files use: outputs to compare, matrices to compare them on, processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import cases
import oracles
import torchdet

OPS = torch.ops.torchdet

on_extension = pytest.mark.skipif(
    not cases.EXTENSION, reason="without the extension nothing is kept unasked"
)

# ---- outputs

OUTPUTS = ("det", "sign", "logabsdet", "cofactor", "det_backward", "slogdet_backward", "det_hvp")


def logabsdet(A: Tensor) -> Tensor:
    return torchdet.slogdet(A).logabsdet


def all_outputs(A: Tensor) -> list[Tensor]:
    """The OUTPUTS of the six operators at A, with a fixed grad and direction."""
    grad = torch.full(A.shape[:-2], 1.5, dtype=A.dtype, device=A.device)
    Z = torch.linspace(-1, 1, A.shape[-1] ** 2, dtype=A.dtype.to_real(), device=A.device)
    Z = Z.to(A.dtype).reshape(A.shape[-2:]).expand(A.shape)
    return [
        OPS.det(A),
        *OPS.slogdet(A),
        OPS.cofactor(A),
        OPS.det_backward(grad, A),
        OPS.slogdet_backward(grad, A),
        OPS.det_hvp(A, Z),
    ]


def same_bits(left: Tensor, right: Tensor) -> bool:
    """Equal bit for bit, the bits of NaN included."""
    if left.is_complex():
        left, right = (torch.view_as_real(x.resolve_conj()) for x in (left, right))
    integer = {2: torch.int16, 4: torch.int32, 8: torch.int64}[left.element_size()]
    left, right = (x.contiguous().view(integer) for x in (left, right))
    return torch.equal(left, right)


def assert_same_bits(got: list[Tensor], expected: list[Tensor], *context: object) -> None:
    for name, g, e in zip(OUTPUTS, got, expected, strict=True):
        assert same_bits(g, e), (name, *context)


def of_class_large(n: int, dtype: torch.dtype) -> set[str]:
    """The OUTPUTS that the class "large" serves on this CUDA device: an LU chosen by the batch."""
    if not cases.EXTENSION:
        return set()
    from torchdet import _C

    operators = ("det", "slogdet", "slogdet", *OUTPUTS[3:])
    # A device may have less shared memory than the table's; second derivatives need two matrices.
    free = torch.cuda.get_device_properties().shared_memory_per_block_optin - (16 << 10)
    matrix = n * (n + 1) * dtype.itemsize
    return {
        output
        for output, operator in zip(OUTPUTS, operators, strict=True)
        if (2 * matrix if output == "det_hvp" else matrix) > free
        or _C.select(operator, cases.name(dtype), n, "cuda")["size_class"] == "large"
    }


# ---- matrices


def draw(batch: int, n: int, dtype: torch.dtype, device: str = "cpu") -> Tensor:
    """Normal matrices, every eleventh multiplied by 2^60.

    From n = 4 on two of seven are singular, and every thirteenth has two tiny pivots: its inverse
    is beyond the range of the dtype.
    """
    A = torch.randn(batch, n, n, dtype=dtype, device=device)
    if n > 3:
        diagonal = torch.ones(n, dtype=torch.float64)
        diagonal[1:3] = 2.0**-100 if dtype in (torch.float32, torch.complex64) else 2.0**-800
        A[5::13] = (torch.diag(diagonal) + torch.ones(n - 1).diag(-1)).to(A)
    A[::7, :, 0] = A[::7, :, -1]
    A[4::7, 0] = A[4::7, -1]
    A[::11] *= 2.0**60
    return A


# Where torch's gradient of a determinant is 0, and torchdet's right.
SINGULAR = torch.tensor([[1.0, 2.0], [2.0, 4.0]], dtype=torch.float64)
COFACTOR = torch.tensor([[4.0, -2.0], [-2.0, 1.0]], dtype=torch.float64)


def singular_leaf() -> Tensor:
    return SINGULAR.clone().requires_grad_()


def gradient_at_singular(f: Callable[[Tensor], Tensor]) -> Tensor:
    A = singular_leaf()
    f(A).backward()
    return A.grad


# ---- orders where one kernel hands over to the next

# Exact arithmetic takes longer the larger they are.
_LARGEST_EXACT = 33
# Packs hold 2 to 16 numbers, and another one is needed every so many columns; CUDA has its own
# classes.
_AT_PACKS: dict[str, dict[torch.dtype, tuple[int, ...]]] = {
    "det": {
        torch.float32: (9, 15, 17, 32, 48, 49, 64, 65),
        torch.float64: (9, 15, 24, 33, 48),
        torch.complex64: (17,),
        torch.complex128: (),
    },
    "cofactor": {
        torch.float32: (9, 16, 17, 31, 32, 33),
        torch.float64: (9, 24, 32, 33),
        torch.complex64: (17,),
        torch.complex128: (),
    },
    "det_backward": {
        torch.float32: (16, 17, 32, 33),
        torch.float64: (16, 24),
    },
    "det_hvp": {
        torch.float32: (16, 31, 32, 33, 47, 48),
        torch.float64: (9, 16, 17, 24),
        torch.complex64: (16,),
        torch.complex128: (),
    },
    "_det_frexp_jet": {
        torch.float32: (20, 23, 33),
        torch.float64: (16, 21, 24),
        torch.complex64: (17,),
        torch.complex128: (),
    },
}


def largest_orders(operator: str, dtype: torch.dtype, target: str) -> list[int]:
    """Up to which order each size class serves an operator, but the last; csrc/select.h says it.

    Empty without the compiled kernels: the reference is one algorithm at every order.
    """
    if not cases.EXTENSION:
        return []
    from torchdet import _C

    largest, n = [], 1
    while (end := _C.select(operator, cases.name(dtype), n, target)["largest_n"]) < 1 << 62:
        largest.append(end)
        n = end + 1
    return largest


def _at_edges(operator: str, dtype: torch.dtype) -> set[int]:
    ends = {x for target in TARGETS for x in largest_orders(operator, dtype, target)}
    return {n for end in ends for n in (end, end + 1)}


TARGETS = ("avx512", "avx2", "portable")
AT_EDGES = {
    operator: {
        dtype: tuple(
            sorted({*packs, *(n for n in _at_edges(operator, dtype) if n <= _LARGEST_EXACT)})
        )
        for dtype, packs in orders.items()
    }
    for operator, orders in _AT_PACKS.items()
}
# Where more is saved for backward, and other things: integers and the ends of words.
AT_EDGES["kept"] = {torch.float32: (32, 33, 64, 65, 129), torch.complex128: (33,)}


def edges() -> set[int]:
    """All orders at the edges of the size classes of the CPU, for closed forms."""
    if not cases.EXTENSION:
        return set()
    from torchdet import _C

    build = _C.build_info()
    saved = [build[f"least_{x}"] for x in ("kept", "kept_complex", "factors")]
    at_classes = (_at_edges(x, dtype) for x in _AT_PACKS for dtype in cases.DTYPES)
    return {*(n - 1 for n in saved), *saved}.union(*at_classes)


# ---- the truth of named matrices: several files ask for the same


@cache
def exact_dets(family: str, n: int, dtype: torch.dtype) -> list[oracles.Exact]:
    return [oracles.det(A) for A in cases.matrices(family, n, dtype)]


@cache
def exact_cofactors(family: str, n: int, dtype: torch.dtype) -> list[oracles.Exact]:
    return [oracles.cofactor(A) for A in cases.matrices(family, n, dtype)]


@cache
def exact_hvps(family: str, n: int, dtype: torch.dtype, seed: int) -> list[oracles.Exact]:
    """In the directions of that seed."""
    A = cases.matrices(family, n, dtype)
    return [oracles.hvp(a, z) for a, z in zip(A, cases.directions(A, seed), strict=True)]


# ---- calls


def calls_of_python(f: Callable[[Tensor], object], A: Tensor) -> list[str]:
    """The names of the functions written in Python that f(A) calls, itself included."""
    names: list[str] = []

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            names.append(frame.f_code.co_name)

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        f(A)
    finally:
        sys.setprofile(before)
    return names


class _Called(TorchDispatchMode):
    """The torchdet operators that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "torchdet":
            self.names.append(func._schema.name.removeprefix("torchdet::"))
        return func(*args, **kwargs or {})


def operators_called(f: Callable[..., object], *args: object) -> list[str]:
    """The names of the operators of torchdet that f(*args) calls."""
    with _Called() as mode:
        f(*args)
    return mode.names


# ---- processes

LIMIT = 120
# The package under test and these helpers also where the working directory is another one.
FOLDERS = (Path(torchdet.__file__).parents[1], Path(__file__).parent)
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, FOLDERS))}


def python(
    *arguments: str, limit: float = LIMIT, **settings: Any
) -> subprocess.CompletedProcess[str]:
    """Python in a process of its own, ended or failed; `settings` are those of subprocess.run."""
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True, text=True, timeout=limit, check=False, **settings,
    )  # fmt: skip


def run_script(script: str, limit: float = LIMIT) -> str:
    """The output of a Python script in a process of its own; a hang fails after `limit` seconds."""
    return run_python("-c", script, limit=limit)


def run_python(*arguments: str, limit: float = LIMIT) -> str:
    done = python(*arguments, limit=limit, env=ENVIRONMENT)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# The head of a script that reads its memory in MB, with what earlier calls have freed returned to
# the system.
MEMORY = """
import ctypes, gc, threading, torch, torchdet

def status(key):
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key + ":")) / 1024
"""
