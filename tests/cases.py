"""Named families of matrices, the same on every run.

`matrices(family, n, dtype)` is a (batch, n, n) tensor on the CPU. Families that promise an exact
rank are made of small integers and powers of two, which every dtype holds exactly, so rounding
cannot change the rank.
"""

from __future__ import annotations

import importlib.util
import os
import zlib
from collections.abc import Callable, Iterable
from functools import cache

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from units import frame_exponents

# Whether the CPU tests run on emulated kernels: those for CUDA, compiled for the host
# (cuda_emulation/), or those of the CPU, compiled for Arm (arm/).
EMULATION = os.environ.get("TORCHDET_TEST_EMULATION")  # None, "cuda" or "arm"
# Whether they run on the compiled CPU kernels.
EXTENSION = (
    os.environ.get("TORCHDET_EXTENSION") != "0"
    and importlib.util.find_spec("torchdet._C") is not None
)
DTYPES = (torch.float32, torch.float64, torch.complex64, torch.complex128)
REAL_DTYPES = (torch.float32, torch.float64)


class Draw:
    """Random ingredients of one (family, n, dtype)."""

    def __init__(self, family: str, n: int, dtype: torch.dtype) -> None:
        self.n, self.dtype = n, dtype
        self.rng = np.random.default_rng(zlib.crc32(f"{family} {n} {dtype.is_complex}".encode()))
        self.single = dtype in (torch.float32, torch.complex64)
        self.tiny, self.huge = (1e-37, 1e30) if self.single else (1e-300, 1e300)

    def normal(self, *shape: int) -> np.ndarray:
        shape = shape or (self.n, self.n)
        real = self.rng.standard_normal(shape)
        if not self.dtype.is_complex:
            return real
        return (real + 1j * self.rng.standard_normal(shape)) / np.sqrt(2)

    def integers(self, rows: int, cols: int) -> np.ndarray:
        out = self.rng.integers(-3, 4, (rows, cols)).astype(float)
        if self.dtype.is_complex:
            out = out + 1j * self.rng.integers(-3, 4, (rows, cols))
        return out

    def of_rank(self, rank: int) -> np.ndarray:
        """Small integers of exactly this rank, as a product of integer factors."""
        while True:
            A = self.integers(self.n, rank) @ self.integers(rank, self.n)
            if rank == 0 or np.linalg.matrix_rank(A) == rank:
                return A

    def unitary(self) -> np.ndarray:
        return np.linalg.qr(self.normal())[0]

    def with_singular_values(self, s: np.ndarray) -> np.ndarray:
        return (self.unitary() * s) @ self.unitary()

    def permutation(self) -> np.ndarray:
        return np.eye(self.n)[self.rng.permutation(self.n)]

    def powers(self, reach: int) -> np.ndarray:
        """n powers of two between 2^-reach and 2^reach in random order."""
        return 2.0 ** self.rng.permutation(np.linspace(-reach, reach, self.n).astype(int))


Builder = Callable[[Draw], list[np.ndarray]]
FAMILIES: dict[str, Builder] = {}
# Entries of very different size make the exact integers long: those families stop at this order.
LARGEST_WILD_ORDER = 8
WILD: set[str] = set()
# The unit lower triangle of the factorisation has condition 2^n there whatever the pivot order;
# Hessian-vector products lose that factor (values and cofactors do not).
ILL_CONDITIONED_L = {"lower_m1"}


def family(name: str, wild: bool = False) -> Callable[[Builder], Builder]:
    def register(builder: Builder) -> Builder:
        FAMILIES[name] = builder
        if wild:
            WILD.add(name)
        return builder

    return register


def _rank_family(name: str, rank: Callable[[int], int]) -> None:
    FAMILIES[name] = lambda d: [d.of_rank(max(rank(d.n), 0)) for _ in range(2)]


family("normal")(lambda d: [d.normal() for _ in range(3)])
family("zeros")(lambda d: [np.zeros((d.n, d.n))])
family("all_equal")(lambda d: [np.full((d.n, d.n), v) for v in (1.0, -3.0)])
family("identity")(lambda d: [np.eye(d.n), -4.0 * np.eye(d.n)])
family("permutation")(lambda d: [d.permutation() for _ in range(2)])
family("orthogonal")(lambda d: [d.unitary() for _ in range(2)])
_rank_family("integer_full_rank", lambda n: n)
_rank_family("integer_rank_n-1", lambda n: n - 1)
_rank_family("integer_rank_n-2", lambda n: n - 2)
_rank_family("integer_rank_n-3", lambda n: n - 3)
_rank_family("integer_rank_half", lambda n: n // 2)
_rank_family("integer_rank_1", lambda n: 1)


@family("near_singular")
def _near_singular(d: Draw) -> list[np.ndarray]:
    levels = (1e-2, 1e-4, 1e-6, 1e-8, 1e-12) if d.n <= 12 else (1e-3, 1e-12)
    return [d.with_singular_values(np.r_[np.ones(d.n - 1), level]) for level in levels]


@family("two_tiny_singular_values")
def _two_tiny(d: Draw) -> list[np.ndarray]:
    s = np.ones((2, d.n))
    s[0, -2:] = 1e-5
    s[1, -2:] = (1e-4, 1e-9)[-min(d.n, 2) :]
    return [d.with_singular_values(row) for row in s]


@family("falling_singular_values")
def _falling(d: Draw) -> list[np.ndarray]:
    """From 1 evenly down, as those of a smooth kernel do, also with the last two far below."""
    s = np.logspace(0, np.array([-3, -6, -3]) * (1 if d.single else 2), d.n, axis=-1)
    s[2, -2:] *= 1e-4
    return [d.with_singular_values(row) for row in s]


def _near_rank(d: Draw, rank: int) -> list[np.ndarray]:
    """Singular values 1, .., 1, e, .., e.

    Minors of order rank + 1 are small, and wrong where they are differences of rounded products.
    """
    levels = (1e-3, 1e-7) if d.single else (1e-3, 1e-7, 1e-15)
    return [
        d.with_singular_values(np.r_[np.ones(rank), np.full(d.n - rank, level)])
        for level in levels
        for _ in range(2)
    ]


family("near_rank_1")(lambda d: _near_rank(d, 1))
family("near_rank_2")(lambda d: _near_rank(d, 2))


@family("tiny_pivot", wild=True)
def _tiny_pivot(d: Draw) -> list[np.ndarray]:
    out = []
    for size, place in ((1e-10, 0), (1e-20, d.n - 1), (d.tiny, d.n // 2), (d.tiny, d.n - 1)):
        U = np.triu(d.integers(d.n, d.n), 1) + np.eye(d.n)
        U[place, place] = size
        out.append(U[d.rng.permutation(d.n)])
    return out


def _grading(d: Draw) -> int:
    return 20 if d.single else 300


@family("graded_rows")
def _graded_rows(d: Draw) -> list[np.ndarray]:
    return [d.powers(_grading(d))[:, None] * d.normal() for _ in range(2)]


@family("graded_columns")
def _graded_columns(d: Draw) -> list[np.ndarray]:
    return [d.normal() * d.powers(_grading(d)) for _ in range(2)]


@family("graded_both")
def _graded_both(d: Draw) -> list[np.ndarray]:
    reach = _grading(d)
    return [d.powers(reach)[:, None] * d.normal() * d.powers(reach) for _ in range(2)]


@family("graded_singular")
def _graded_singular(d: Draw) -> list[np.ndarray]:
    reach = _grading(d)
    return [
        d.powers(reach)[:, None] * d.of_rank(max(d.n - 1 - k, 0)) * d.powers(reach)
        for k in range(2)
    ]


@family("diagonal_huge_and_tiny")
def _diag_huge_tiny(d: Draw) -> list[np.ndarray]:
    values = np.r_[np.full(d.n - d.n // 2, d.huge), np.full(d.n // 2, 1 / d.huge)]
    return [np.diag(values), np.diag(values[::-1])]


@family("diagonal_huge_and_tiny_with_zero")
def _diag_huge_tiny_zero(d: Draw) -> list[np.ndarray]:
    out = []
    for place in (0, d.n // 2, d.n - 1):
        values = d.rng.permutation(
            np.r_[np.full(d.n - d.n // 2, d.huge), np.full(d.n // 2, 1 / d.huge)]
        )
        values[place] = 0
        out.append(np.diag(values))
    return out


@family("denormal")
def _denormal(d: Draw) -> list[np.ndarray]:
    smallest = 2.0**-149 if d.single else 2.0**-1074
    whole = d.rng.integers(-(1 << 12), 1 << 12, (d.n, d.n)).astype(float)
    mixed = d.normal()
    mixed[0] = whole[0] * smallest
    return [whole * smallest, mixed]


@family("huge")
def _huge(d: Draw) -> list[np.ndarray]:
    largest = 2.0**125 if d.single else 2.0**1020
    return [np.clip(d.normal().real, -4, 4) * largest]


@family("hilbert")
def _hilbert(d: Draw) -> list[np.ndarray]:
    return [scipy.linalg.hilbert(d.n)]


@family("vandermonde")
def _vandermonde(d: Draw) -> list[np.ndarray]:
    return [np.vander(np.linspace(-1, 1, d.n)), np.vander(np.cos(np.arange(d.n) + 0.5))]


@family("kahan")
def _kahan(d: Draw) -> list[np.ndarray]:
    c, s = np.cos(1.2), np.sin(1.2)
    U = np.eye(d.n) - c * np.triu(np.ones((d.n, d.n)), 1)
    return [(s ** np.arange(d.n))[:, None] * U]


@family("wilkinson_growth")
def _wilkinson(d: Draw) -> list[np.ndarray]:
    A = np.eye(d.n) - np.tril(np.ones((d.n, d.n)), -1)
    A[:, -1] = 1
    return [A]


@family("lower_m1")
def _lower_m1(d: Draw) -> list[np.ndarray]:
    return [np.eye(d.n) - np.tril(np.ones((d.n, d.n)), -1)]


@family("shift")
def _shift(d: Draw) -> list[np.ndarray]:
    return [np.eye(d.n, k=1), np.eye(d.n, k=-1), np.eye(d.n, k=2)]


@family("dependent_leading_columns")
def _dependent(d: Draw) -> list[np.ndarray]:
    equal, zero, combined, rows = (d.normal() for _ in range(4))
    equal[:, : min(2, d.n)] = equal[:, :1]
    zero[:, 0] = 0
    combined[:, : (d.n + 1) // 2] = combined[:, :1] * 2.0 ** np.arange((d.n + 1) // 2)
    rows[: min(2, d.n)] = rows[:1]
    return [equal, zero, combined, rows] if d.n <= 16 else [equal, zero]


@family("triangular_with_zeros")
def _triangular(d: Draw) -> list[np.ndarray]:
    out = []
    for zeros in range(3):
        for corner in (np.triu, np.tril):
            A = corner(d.normal())
            places = d.rng.permutation(d.n)[:zeros]
            A[places, places] = 0
            out.append(A)
    return out if d.n <= 12 else out[1::2]


@family("large_singular")
def _large_singular(d: Draw) -> list[np.ndarray]:
    """Six pivots of this size overflow in single precision, though nothing asks for scaling; then
    comes a zero pivot, early, in the middle or last."""
    out = []
    for place in sorted({min(1, d.n - 1), d.n // 2, d.n - 1}):
        A = np.eye(d.n)
        A[[place - 1, place]] = A[place - 1] + A[place]
        numbers = d.integers(d.n, d.n)
        numbers[place - 1] = numbers[place]
        out += [A, A.T, numbers / 4] if d.n > 1 else [0 * A]
    return [2.0**22 * A for A in out]


@family("fermi_like_envelope")
def _fermi(d: Draw) -> list[np.ndarray]:
    """Orbitals with exponential envelopes at electrons near and far from the nucleus."""
    r = np.abs(d.rng.standard_normal(d.n)) * 6
    decay = np.linspace(0.5, 3, d.n)
    return [np.exp(-np.outer(r, decay)) * d.normal() for _ in range(2)]


@family("arrow", wild=True)
def _arrow(d: Draw) -> list[np.ndarray]:
    reach = 17 if d.single else 145
    A = np.diag(10.0 ** d.rng.uniform(-reach, reach, d.n))
    A[0] += d.rng.standard_normal(d.n)
    A[:, 0] += d.rng.standard_normal(d.n)
    return [A, A[::-1].copy()]


@family("sparse_wild_exponents", wild=True)
def _sparse_wild(d: Draw) -> list[np.ndarray]:
    reach = 30 if d.single else 290
    out = []
    for _ in range(3):
        A = d.rng.standard_normal((d.n, d.n)) * 10.0 ** d.rng.uniform(-reach, reach, (d.n, d.n))
        out.append(A * (d.rng.random((d.n, d.n)) < 0.6))
    return out


@cache
def matrices(family: str, n: int, dtype: torch.dtype) -> Tensor:
    """The family at order n: a (batch, n, n) tensor on the CPU; callers must not write to it."""
    batch = np.stack(FAMILIES[family](Draw(family, n, dtype)))
    if not dtype.is_complex:
        batch = batch.real
    return torch.from_numpy(np.ascontiguousarray(batch)).to(dtype)


def exists(family: str, n: int) -> bool:
    """Whether the family has a member of order n: its rank is defined, its integers not long."""
    if family in WILD:
        return n <= LARGEST_WILD_ORDER
    least = {"integer_rank_n-2": 2, "integer_rank_n-3": 3, "two_tiny_singular_values": 2,
             "near_rank_1": 3, "near_rank_2": 4}  # fmt: skip
    most = {"near_rank_1": 5, "near_rank_2": 5}  # minors serve up to n = 4
    return least.get(family, 1) <= n <= most.get(family, n)


def directions(A: Tensor, seed: int) -> Tensor:
    """A random matrix for each of the batch, with the row and column scales of that one."""
    gen = torch.Generator().manual_seed(seed)
    Z = torch.randn(A.shape, generator=gen, dtype=A.dtype)
    out = torch.empty_like(Z)
    for k in range(A.shape[0]):
        rows, cols = frame_exponents(A[k])
        limit = 120 if A.dtype in (torch.float32, torch.complex64) else 1000
        exponent = np.clip(rows[:, None] + cols[None, :], -limit, limit)
        out[k] = (Z[k] * torch.from_numpy(2.0**exponent)).to(A.dtype)
    return out


def skip_complex_reference(dtype: torch.dtype, reference: bool | None = None) -> None:
    """Leave out a comparison bit for bit that torch's own complex products do not allow.

    torch rounds a complex product in the vector loop otherwise than in the scalar rest of the loop,
    so the plain PyTorch implementation depends on the place in memory by a rounding, on a GPU, too.
    The kernels do not. reference: whether it is what is compared, if not for want of kernels.
    """
    if dtype.is_complex and (not (EXTENSION or EMULATION) if reference is None else reference):
        pytest.skip("plain PyTorch rounds complex products by their place in memory")


def name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def grid(orders: dict[torch.dtype, tuple[int, ...]], families: Iterable[str] | None = None) -> list:
    """Parameters (family, n, dtype) with an id for each member that exists."""
    return [
        pytest.param(family, n, dtype, id=f"{family}-n{n}-{name(dtype)}")
        for family in (FAMILIES if families is None else families)
        for dtype, ns in orders.items()
        for n in ns
        if exists(family, n)
    ]


@cache
def cycle_laplacian(n: int, dtype: torch.dtype, cycles: int = 1) -> tuple[Tensor, int]:
    """The Laplacian of `cycles` disjoint cycles, n nodes in all, with shuffled rows and columns,
    and the sign of the shuffle.

    Rank n - cycles exactly. By the matrix-tree theorem every cofactor of one cycle's Laplacian is
    its number of spanning trees, n; with more cycles every cofactor is 0.
    """
    size = n // cycles
    parts = [size] * (cycles - 1) + [n - size * (cycles - 1)]
    blocks = [
        2 * np.eye(m) - np.roll(np.eye(m), 1, axis=1) - np.roll(np.eye(m), -1, axis=1)
        for m in parts
    ]
    rng = np.random.default_rng(n + cycles)
    P, Q = (np.eye(n)[rng.permutation(n)] for _ in range(2))
    sign = round(np.linalg.det(P) * np.linalg.det(Q))
    return torch.from_numpy(P @ scipy.linalg.block_diag(*blocks) @ Q).to(dtype), sign
