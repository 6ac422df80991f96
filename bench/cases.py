"""One operation at one size: its inputs, the least traffic and the arithmetic that it takes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

OPS = ("det forward", "det forward+backward", "slogdet forward", "slogdet forward+backward")
FORWARD = OPS[::2]
RECORDED = "det forward, recorded"  # of an A that requires a gradient, which nobody asks for
HVP = "det hvp"  # the derivative of det's gradient in a direction Z
HVPS = (HVP, "slogdet hvp")
JVP = "det jvp"  # the derivative of det in a direction Z, in forward mode
PER_SAMPLE = "det vmap(grad)"
COMPILED = "det compiled forward+backward"
TRANSFORMS = (JVP, PER_SAMPLE, COMPILED)
# First and second derivatives as they are written with torch.func, and a graph that is used again.
_FIRST = ("grad", "vmap(grad)", "vmap(jacrev)")
_SECOND = ("jvp(grad)", "vmap(hessian)", "three hvp")
FUNC = tuple(f"{name} {way}" for name in ("det", "slogdet") for way in (*_FIRST, "jvp", *_SECOND))

LAYOUTS = ("contiguous", "transposed", "strided")


@dataclass(frozen=True)
class Case:
    """One operation at one size; without ``batch``, on a single matrix."""

    suite: str
    op: str
    n: int
    dtype: torch.dtype
    batch: int | None
    layout: str = LAYOUTS[0]
    singular: bool = False  # two columns are equal

    @property
    def dtype_name(self) -> str:
        """As in 'float32'."""
        return str(self.dtype).removeprefix("torch.")

    @property
    def transform(self) -> str:
        """What is done with the function."""
        return self.op.split(" ", 1)[1]

    @property
    def backward(self) -> bool:
        """Whether the gradient is part of what is timed."""
        return self.op.endswith("backward") or self.transform in _FIRST

    @property
    def hvp(self) -> bool:
        """Whether Hessian-vector products are timed, or all of them."""
        return self.op in HVPS or self.transform in _SECOND

    @property
    def directional(self) -> bool:
        """Whether there is a direction Z."""
        return self.hvp or self.transform == "jvp"

    @property
    def slogdet(self) -> bool:
        """Whether the logarithm of the determinant is timed, not the determinant."""
        return self.op.startswith("slogdet")

    @property
    def input_bytes(self) -> int:
        """Of A, and of Z where there is one."""
        numbers = (self.batch or 1) * self.n**2
        return (2 if self.directional else 1) * numbers * self.dtype.itemsize

    @property
    def bytes_moved(self) -> int:
        """Least traffic: A read, the result written; backward, A read and its gradient written."""
        matrices = self.batch or 1
        entries = matrices * self.n**2
        if self.hvp:
            numbers = 3 * entries
        elif self.backward:
            numbers = 3 * entries + 2 * matrices
        else:
            numbers = (2 if self.directional else 1) * entries + matrices
        return numbers * self.dtype.itemsize

    @property
    def flops(self) -> float:
        """Leading term of the real operations: LU, with the inverse, with two products more."""
        cubes = 6 if self.hvp else 2 if self.backward or self.directional else 2 / 3
        return (4 if self.dtype.is_complex else 1) * cubes * (self.batch or 1) * self.n**3

    def inputs(self, device: torch.device, copies: int) -> list[tuple[Tensor, Tensor | None]]:
        """(A, Z), and copies of them in other places of the memory; Z may be None.

        Random normal entries, those of A scaled for a mean of det^2 of 1: no size leaves the range.
        """
        generator = torch.Generator(device).manual_seed(self.n)
        shape = (self.n, self.n) if self.batch is None else (self.batch, self.n, self.n)

        def normal() -> Tensor:
            return torch.randn(shape, dtype=self.dtype, device=device, generator=generator)

        scale = math.exp(-math.lgamma(self.n + 1) / (2 * self.n))
        A, Z = normal().mul_(scale), normal() if self.directional else None
        if self.singular:
            A[..., -1] = A[..., 0] if self.n > 1 else 0
        return [
            (self._laid_out(A), None if Z is None else self._laid_out(Z)) for _ in range(copies)
        ]

    def _laid_out(self, X: Tensor) -> Tensor:
        """A copy, with the strides of this case."""
        if self.layout == "transposed":
            return X.mT.clone(memory_format=torch.contiguous_format).mT
        if self.layout == "strided":  # every other column
            return torch.stack((X, X), -1).flatten(-2)[..., ::2]
        return X.clone()
