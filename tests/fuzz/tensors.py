"""Specifications of tensors, in JSON, and the tensors that they specify.

Every tensor lies inside a larger buffer: what surrounds it is NaN, or a pattern where the dtype
has none. A kernel that reads beyond its tensor answers NaN, and one that writes there is caught.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import hypothesis.strategies as st
import numpy as np
import torch
from torch import Tensor

from torchdet import _schemas

Spec = dict[str, Any]

LEGAL = ("float32", "float64", "complex64", "complex128", "float16", "bfloat16")
ILLEGAL = ("int32", "int64", "uint8", "bool", "complex32", "int16", "int8", "float8_e4m3fn")
CONTENTS = (
    "normal",
    "integers",
    "equal_rows",
    "equal_rows",
    "equal_tail",
    "zero_row",
    "zero_column",
    "low_rank",
    "mixed",
    "graded",
    "huge",
    "tiny",
    "identity",
    "zeros",
    "ones",
    "permutation",
    "triangular",
)
PLANTS = ("nan", "inf", "-inf", "-0.0", "denormal", "largest")
LAYOUTS = (
    "contiguous",
    "transposed",
    "reversed",
    "stepped",
    "expanded",
    "equal_rows",
    "hankel",
    "conj",
    "neg",
)
OF_INTEGERS = ("integers", "equal_rows", "equal_tail", "zero_row", "zero_column")
INTEGER_SIZES = (1, 2, 16, 128, 1000, 6000, 2.0**20, 2.0**-60)
SIZES = (1, 2, 3, 128, 6000, 2.0**-20, 2.0**20, 2.0**60, 2.0**-60, 2.0**100, 2.0**-100)


# Many of torch's functions, of which plain PyTorch is made, take at most 64 dimensions.
MOST_BATCH_DIMS = 200 if _schemas.HAS_EXTENSION else 60


@dataclass
class Built:
    """A tensor, the buffer it lies in, and which elements of the buffer are its own."""

    tensor: Tensor
    buffer: Tensor
    own: Tensor
    before: Tensor

    def spoiled(self, may_write: bool) -> bool:
        """Whether the buffer has changed where it must not."""
        same = _bits(self.buffer) == _bits(self.before)
        return not bool((same | self.own if may_write else same).all())


def _bits(x: Tensor) -> Tensor:
    return x.reshape(-1).view(torch.uint8).reshape(x.numel(), x.element_size())


def contents(spec: Spec, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """The values of a floating or complex tensor of matrices, contiguous."""
    *outer, rows, columns = (1, 1, *shape)[-max(len(shape), 2) :]
    batch = [math.prod(outer)]
    rng = np.random.default_rng(spec["seed"])
    size, kind = float(spec.get("size", 1)), spec["content"]

    def draw(low: int, high: int, *sizes: int) -> np.ndarray:
        out = rng.integers(low, high + 1, (*batch, *sizes)).astype(float)
        if dtype.is_complex:
            out = out + 1j * rng.integers(low, high + 1, out.shape)
        return out

    if kind in ("normal", "graded", "huge", "tiny", "triangular"):
        X = rng.standard_normal((*batch, rows, columns))
        if dtype.is_complex:
            X = X + 1j * rng.standard_normal(X.shape)
    elif kind in ("identity", "equal_tail", "permutation"):
        X = np.broadcast_to(np.eye(rows, columns), (*batch, rows, columns)).copy()
    else:
        X = draw(-3, 3, rows, columns)
    info = torch.finfo(dtype)
    if kind in OF_INTEGERS and kind != "equal_tail" and 16 <= size <= 6000:
        X, size = draw(-int(size), int(size), rows, columns), 1.0
    if kind == "equal_rows" and rows >= 2:
        i, j = rng.permutation(rows)[:2]
        X[..., i, :] = X[..., j, :]
    elif kind == "equal_tail" and rows >= 2:
        X[..., -2:, -2:] = 1
    elif kind == "zero_row" and rows:
        X[..., rng.integers(rows), :] = 0
    elif kind == "zero_column" and columns:
        X[..., rng.integers(columns)] = 0
    elif kind == "mixed" and rows:  # some singular, some zero
        singular, zero = (rng.random((*batch, 1)) < share for share in (0.4, 0.15))
        X[..., 0, :] = np.where(singular, X[..., -1, :] * (rows > 1), X[..., 0, :])
        X = X * ~zero[..., None]
    elif kind == "low_rank":
        rank = int(rng.integers(0, max(min(rows, columns), 1)))
        X = draw(-2, 2, rows, rank) @ draw(-2, 2, rank, columns)
    elif kind == "graded":
        reach = 30 if info.bits == 64 else 8
        X = np.ldexp(1.0, rng.integers(-reach, reach + 1, (rows, 1))) * X
        X = X * np.ldexp(1.0, rng.integers(-reach, reach + 1, (1, columns)))
    elif kind == "huge":
        size = info.max / 8
    elif kind == "tiny":
        size = info.smallest_normal * 4
    elif kind == "zeros":
        X = X * 0
    elif kind == "ones":
        X = X * 0 + 1
    elif kind == "permutation":
        X = X[..., rng.permutation(rows), :]
    elif kind == "triangular":
        X = np.tril(X)
    wide = torch.complex128 if dtype.is_complex else torch.float64
    values = (torch.from_numpy(np.asarray(X)).to(wide) * size).to(dtype).reshape(shape).contiguous()
    flat = values.view(-1)
    plants = {
        "nan": math.nan,
        "inf": math.inf,
        "-inf": -math.inf,
        "-0.0": -0.0,
        "denormal": info.smallest_normal / 2,
        "largest": info.max,
    }
    for name, position in spec.get("plants", ()):
        if flat.numel():
            flat[position % flat.numel()] = plants[name]
    return values


def integers(spec: Spec, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Integers (or other values of a dtype without arithmetic) of every size."""
    rng = np.random.default_rng(spec["seed"])
    kind = spec.get("content")
    count = math.prod(shape)
    if count > 1 << 22:
        raise TooLarge
    if dtype.is_floating_point or dtype.is_complex or dtype == torch.bool:
        return torch.from_numpy(rng.integers(0, 2, count)).to(dtype).reshape(shape)
    info = torch.iinfo(dtype)
    if kind in ("zeros", "identity", "ones"):
        flat = np.full(count, kind == "ones", dtype=np.int64)
    elif kind in ("normal", "graded"):
        flat = rng.integers(info.min, info.max, count, dtype=np.int64, endpoint=True)
    elif kind == "integers":
        flat = rng.integers(max(info.min, -3), 80, count)
    else:
        ends = [info.min, info.max, info.max - 1, 0, 1, 2, 255 % info.max, info.max // 2]
        flat = rng.choice(np.array(ends, dtype=np.int64), count)
    return torch.from_numpy(flat).to(dtype).reshape(shape)


def _values(spec: Spec, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    ordinary = dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    if ordinary or dtype in (torch.complex64, torch.complex128):
        return contents(spec, shape, dtype)
    return integers(spec, shape, dtype)


def _strides(layout: str, shape: tuple[int, ...], seed: int) -> list[int]:
    order = list(range(len(shape)))
    step = 1
    if layout == "transposed" and len(order) >= 2:
        order[-1], order[-2] = order[-2], order[-1]
    elif layout == "reversed":
        order.reverse()
    elif layout == "stepped":
        step = 2
    strides, length = [0] * len(shape), step
    for d in reversed(order):
        strides[d] = length
        length *= max(shape[d], 1) + (step > 1 and shape[d] > 1)
    if layout == "expanded" and len(shape) > 2:
        strides[0] = 0
    elif layout == "equal_rows" and len(shape) >= 2:
        strides[-2] = 0
    elif layout == "hankel":
        strides = [1] * len(shape)
    overflows = max(strides, default=0) >= 1 << 62
    if math.prod(shape) == 0 and (layout != "contiguous" or overflows):
        # No element has an address, so any strides will do; they never merge into fewer dimensions.
        strides = [1 + (seed + 5 * d * d) % 7 for d in range(len(shape))]
    return strides


class TooLarge(Exception):
    """torch has no tensor of this shape, or this machine no memory for it."""


def build(spec: Spec, is_written: bool = False) -> Built:
    """The tensor that a specification describes; is_written: the call may write to it."""
    shape, dtype = tuple(spec["shape"]), getattr(torch, spec["dtype"])
    layout, offset = spec.get("layout", "contiguous"), spec.get("offset", 0)
    count = math.prod(shape)
    if count > 1 << 22:
        raise TooLarge
    # A contiguous tensor of this shape may have strides beyond int64 where it is empty.
    values = _values(spec, shape, dtype) if count else torch.empty(0, dtype=dtype)
    strides = _strides(layout, shape, spec["seed"])
    empty = count == 0
    length = 0 if empty else 1 + sum((s - 1) * t for s, t in zip(shape, strides, strict=True))
    if length > 1 << 26:  # gaps beside gaps
        raise TooLarge
    # A kernel that takes 2-byte numbers for 8-byte ones stays inside the margin.
    margin = 64 + 8 * min(count, 1 << 16)
    buffer = torch.zeros(2 * margin + offset + length, dtype=dtype)
    # A kernel that reads NaN and writes NaN in its place would change no bit.
    with_nan = (dtype.is_floating_point or dtype.is_complex) and not is_written
    _bits(buffer).fill_(0xFF if with_nan else 0x5A if dtype != torch.bool else 1)
    start = margin + offset
    try:
        x = buffer.as_strided(shape, strides, start)
        x.numel()
    except RuntimeError as error:  # sizes that overflow before the one that is 0
        raise TooLarge from error
    if not empty:
        distinct = len(shape) < 60 and 0 not in strides and layout != "hankel"
        if distinct:
            x.copy_(values)
        else:
            buffer[start : start + length] = _flat_for(values, length)
    own = torch.zeros(buffer.numel(), 1, dtype=torch.bool)
    if not empty:
        own[start : start + length] = True
    if layout == "conj" and x.is_complex():
        x = x.conj()
    elif layout == "neg" and (x.is_floating_point() or x.is_complex()) and x.element_size() > 1:
        x = torch._neg_view(x)
    return Built(x, buffer, own, buffer.clone())


def _flat_for(values: Tensor, length: int) -> Tensor:
    flat = values.reshape(-1)
    return flat.repeat(1 + length // flat.numel())[:length]


# ---- strategies


@st.composite
def orders(draw: st.DrawFn) -> int:
    """Orders of matrices: mostly small ones, some at the edges of size classes, a few large."""
    return draw(
        st.one_of(
            st.integers(0, 8),
            st.integers(0, 24),
            st.sampled_from((11, 12, 13, 15, 16, 17, 20, 24, 31, 32, 33, 40, 63, 64, 65, 70)),
            st.integers(0, 70),
            st.sampled_from((1, 2, 3, 5, 96, 128, 129, 200, 256, 300)),
        )
    )


@st.composite
def batches(draw: st.DrawFn, n: int) -> list[int]:
    """Batch shapes: none, one to three dimensions, zeros, and up to 70 dimensions."""
    kind = draw(st.sampled_from(("none", "few", "few", "few", "zero", "many")))
    most = 9 if n <= 20 else 3
    if kind == "none":
        return []
    if kind == "few":
        shape = draw(st.lists(st.integers(1, most), min_size=1, max_size=3))
        while math.prod(shape) > (40 if n <= 20 else 4):
            shape.pop()
        return shape or [2]
    if kind == "zero":
        shape = draw(st.lists(st.integers(1, 4), min_size=0, max_size=3))
    else:
        dims = draw(st.one_of(st.integers(4, 70), st.integers(62, 70), st.integers(70, 200)))
        dims = min(dims, MOST_BATCH_DIMS)
        shape = [1 + (d % 3 == 0) * draw(st.integers(0, 1)) for d in range(min(dims, 12))]
        shape += [1] * (dims - len(shape))
        if draw(st.booleans()):
            return shape if math.prod(shape) <= 40 else [1] * dims
        # Powers of 4 wrap around to strides of 0, which torch takes; others become negative.
        return [0, *[draw(st.sampled_from((2, 4, 4, 16)))] * dims]
    shape.insert(draw(st.integers(0, len(shape))), 0)
    return shape


@st.composite
def specs(draw: st.DrawFn, shape: list[int], dtype: str) -> Spec:
    """A specification of a tensor of this shape and dtype."""
    spec: Spec = {
        "shape": shape,
        "dtype": dtype,
        "content": draw(st.sampled_from(CONTENTS)),
        "seed": draw(st.integers(0, 1000)),
        "layout": draw(st.sampled_from(LAYOUTS)),
    }
    sizes = INTEGER_SIZES if spec["content"] in OF_INTEGERS else SIZES
    if (size := draw(st.sampled_from(sizes))) != 1:
        spec["size"] = size
    if offset := draw(st.sampled_from((0, 0, 1, 3))):
        spec["offset"] = offset
    if draw(st.integers(0, 3)) == 3:
        plant = st.tuples(st.sampled_from(PLANTS), st.integers(0, 100)).map(list)
        spec["plants"] = draw(st.lists(plant, min_size=1, max_size=3))
    return spec
