"""The operators, and the errors of their results in units: of batches, quickly, and exactly.

The units are those of units.py; of a logarithm and of an inverse, which that module does not
define, they are in `relative_unit` and `LogUnit` below.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import mpmath
import numpy as np
import torch
from numpy import ndarray
from torch import Tensor

import oracles
import torchdet  # noqa: F401  registers the operators
import units
from accuracy import truth

# A determinant or an inverse without a correct digit has no logarithm or inverse to speak of.
LARGEST_RELATIVE = 0.25


@dataclass(frozen=True)
class Batch:
    """Matrices, and the directions of derivatives."""

    A: ndarray
    Zs: tuple[ndarray, ...] = ()

    def __len__(self) -> int:
        return len(self.A)

    def __getitem__(self, index: ndarray | slice) -> Batch:
        return Batch(self.A[index], tuple(Z[index] for Z in self.Zs))

    def tensors(self) -> tuple[Tensor, ...]:
        return tuple(torch.from_numpy(np.ascontiguousarray(X)) for X in (self.A, *self.Zs))


def join(*batches: Batch) -> Batch:
    Zs = zip(*(b.Zs for b in batches), strict=True)
    return Batch(np.concatenate([b.A for b in batches]), tuple(np.concatenate(z) for z in Zs))


@dataclass(frozen=True)
class Operator:
    """One operator: how it is called, how its error is measured."""

    name: str
    derivative: int  # of det, k of units.py
    directions: int
    call: Callable[..., Tensor]
    true: Callable[..., ndarray]  # the same of a truth.Diagonal and directions

    def run(self, batch: Batch) -> ndarray:
        return self.call(*batch.tensors()).resolve_conj().numpy()


def _slogdet_backward(A: Tensor) -> Tensor:
    grad = torch.ones(A.shape[0], dtype=A.dtype)
    return torch.ops.torchdet.slogdet_backward(grad, A).conj()


_ops = torch.ops.torchdet
OPERATORS = {
    op.name: op
    for op in (
        Operator("det", 0, 0, lambda A: _ops.det(A), truth.value),
        Operator("slogdet", 0, 0, lambda A: _ops.slogdet(A)[1], truth.value),
        Operator("cofactor", 1, 0, lambda A: _ops.cofactor(A), truth.cofactor),
        Operator("slogdet_backward", 1, 0, _slogdet_backward, truth.inverse_transpose),
        Operator("det_hvp", 2, 1, lambda A, Z: _ops.det_hvp(A, Z), truth.derivative),
        Operator(
            "_cofactor_derivative",
            3,
            2,
            lambda A, *Zs: _ops._cofactor_derivative(A, torch.stack(Zs, -3)),
            truth.derivative,
        ),
    )
}


# ---- batches


def _abs(x: ndarray) -> ndarray:
    return np.maximum(np.abs(x.real), np.abs(x.imag)) if np.iscomplexobj(x) else np.abs(x)


def frame(A: ndarray) -> tuple[ndarray, ndarray]:
    """units.frame_exponents of a batch."""
    size, none = _abs(A), -(1 << 20)
    e = np.where(size > 0, np.frexp(size)[1], none)
    rows = e.max(2)
    rows = np.where(rows == none, 0, rows)
    columns = np.where(size > 0, e - rows[:, :, None], none).max(1)
    return rows, np.where(columns == none, 0, columns)


def scaled(X: ndarray, exponent: ndarray, dtype: np.dtype) -> ndarray:
    """X 2^exponent in dtype."""
    if np.iscomplexobj(X):
        real = np.zeros(0, dtype).real.dtype
        out = np.empty(X.shape, dtype)
        out.real = np.ldexp(X.real.astype(real), exponent)
        out.imag = np.ldexp(X.imag.astype(real), exponent)
        return out
    return np.ldexp(X.astype(dtype), exponent)


def _units(op: Operator, B: ndarray, Zs: list[ndarray], eps: float, s: ndarray) -> ndarray:
    n = B.shape[-1]
    d = n * eps * s[:, 0]
    plain, moved, change = np.ones(len(B)), np.ones(len(B)), np.zeros(len(B))
    for i in range(max(n - op.derivative, 0)):
        change = change * (s[:, i] + d) + plain * d
        plain, moved = plain * s[:, i], moved * (s[:, i] + d)
    unit = (change + n * eps * moved) * (n >= op.derivative)
    for Z in Zs:
        unit = unit * np.sqrt((np.abs(Z) ** 2).sum((1, 2)))
    return unit


def errors(op: Operator, batch: Batch) -> tuple[ndarray, ndarray]:
    """Error of every matrix in units, and its condition; -1 where the unit says nothing."""
    A = batch.A
    wide, n = truth.WIDER[A.dtype], A.shape[-1]
    double = np.dtype("c16" if np.iscomplexobj(A) else "f8")
    info = np.finfo(A.dtype)
    eps = float(info.eps)
    rows, cols = frame(A)
    e = rows[:, :, None] + cols[:, None, :]
    B, Zs = scaled(A, -e, wide), [scaled(Z, -e, wide) for Z in batch.Zs]
    s = np.linalg.svd(B.astype(double), compute_uv=False)
    got, true = op.run(batch), op.true(truth.diagonalise(B), *Zs)
    with np.errstate(all="ignore"):
        condition = s[:, 0] / s[:, -1]
        total = rows.sum(1) + cols.sum(1)
        if op.name == "slogdet":
            det = np.abs(true)
            log = np.log(det) + total * np.log(det.dtype.type(2))
            relative = (_units(op, B, [], eps, s) / det).astype(float)
            error = np.abs(got - log).astype(float)
            unit = log_unit(relative, np.abs(log).astype(float), eps)
        else:
            if op.name == "slogdet_backward":
                exponent, relative = -e, n * eps * (condition + 1)
                unit = relative * np.sqrt((np.abs(true) ** 2).sum((1, 2))).astype(float)
            else:
                exponent = total[:, None, None] - e if op.derivative else total
                relative = np.zeros(len(A))
                unit = _units(op, B, Zs, eps, s).astype(float)
            granule = np.ldexp(
                np.ones((), B.real.dtype) * float(info.smallest_subnormal), -exponent
            )
            difference = scaled(got, -exponent, wide) - true
            parts = [difference.real, difference.imag] if np.iscomplexobj(A) else [difference]
            square = sum(np.maximum(np.abs(p) - granule, 0) ** 2 for p in parts)
            error = np.sqrt(square.reshape(len(A), -1).sum(1)).astype(float)
            largest = np.ldexp(_abs(true), np.minimum(exponent, 1 << 14))
            fits = (largest < info.max / 4).reshape(len(A), -1).all(1)
            error = np.where(fits & np.isnan(error), np.inf, error)
            relative = np.where(fits, relative, np.inf)
        ratio = np.where(error == 0, 0, error / unit)
    usable = (relative <= LARGEST_RELATIVE) & ~np.isnan(ratio)
    return np.where(usable, ratio, -1), condition


def log_unit(relative: ndarray, log: ndarray, eps: float) -> ndarray:
    """What one unit of the determinant does to its logarithm, and two roundings of that."""
    return -np.log1p(-np.minimum(relative, 0.9)) + 2 * eps * np.maximum(1, log)


# ---- one matrix, exactly


def exact_error(op: Operator, case: Batch) -> float:
    """The error of the only matrix of the batch, in units, in rational arithmetic."""
    A, *Zs = (X[0] for X in case.tensors())
    got = torch.from_numpy(op.run(case))[0]
    if op.name == "slogdet":
        return _exact_log_error(A, got)
    if op.name == "slogdet_backward":
        return _exact_inverse_error(A, got)
    exact = {0: oracles.det, 1: oracles.cofactor, 2: oracles.hvp, 3: oracles.derivative}
    rows, cols = units.frame_exponents(A)
    total = int(rows.sum() + cols.sum())
    frame = total - rows[:, None] - cols[None, :] if op.derivative else np.array(total)
    unit = units.unit(A, op.derivative, Zs)
    error = units.frame_error(got, exact[op.derivative](A, *Zs), frame, unit)
    return 0.0 if error == 0 else error / unit


def _exact_log_error(A: Tensor, got: Tensor) -> float:
    log = oracles.slogdet(A)[1]
    rows, cols = units.frame_exponents(A)
    eps = torch.finfo(A.dtype).eps
    with mpmath.workdps(60):
        det = mpmath.exp(log - int(rows.sum() + cols.sum()) * mpmath.log(2))
        relative = float(units.unit(A, 0) / det) if det else math.inf
        error = float(abs(mpmath.mpf(got.item()) - log))
    if relative > LARGEST_RELATIVE:
        return -1.0
    return error / float(log_unit(np.array(relative), np.array(abs(float(log))), eps))


def _exact_inverse_error(A: Tensor, got: Tensor) -> float:
    n, eps = A.shape[-1], torch.finfo(A.dtype).eps
    relative = n * eps * (units.condition(A) + 1)
    if relative > LARGEST_RELATIVE:
        return -1.0
    rows, cols = units.frame_exponents(A)
    X = oracles.inverse_transpose(A)
    error = size = mpmath.mpf(0)
    with mpmath.workdps(60):
        for i, j in np.ndindex(n, n):
            scale = mpmath.ldexp(1, int(rows[i] + cols[j]))
            number = got[i, j].item()
            difference = abs(mpmath.mpmathify(number) - X[i, j])
            granule = torch.finfo(A.dtype).smallest_normal * eps
            error += (scale * max(difference - granule, 0)) ** 2
            size += (scale * abs(X[i, j])) ** 2
        return float(mpmath.sqrt(error / size)) / relative
