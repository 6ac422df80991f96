"""The operators, and the errors of their results in units: of batches, quickly, and exactly.

The units are those of units.py; of a logarithm and of an inverse, which that module does not
define, they are in `inverse_size` and `log_unit` below.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import mpmath
import numpy as np
import torch
from numpy import ndarray
from torch import Tensor

import oracles
import torchdet
import units
from accuracy import truth
from sum_oracles import numbers, of_exact

# A determinant or an inverse without a correct digit has no logarithm or inverse to speak of.
LARGEST_RELATIVE = 0.25
# Products of n singular values, of which a unit is made, may leave the range of float64.
LEAST_UNIT = 1e-280


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
    # Or "number", in the frame of B already; "logarithm"; "inverse"; "solution"; "minors".
    kind: str = "polynomial"

    def run(self, batch: Batch) -> ndarray:
        return self.call(*batch.tensors()).resolve_conj().numpy()


def _slogdet_backward(A: Tensor) -> Tensor:
    grad = torch.ones(A.shape[0], dtype=A.dtype)
    return torch.ops.torchdet.slogdet_backward(grad, A).conj()


def _in_frame(A: Tensor, mantissa: Tensor, exponent: Tensor) -> Tensor:
    """What det(A) and its derivatives along directions are at B: numbers in range."""
    total = sum(x.sum(1) for x in frame(A.numpy()))
    e = exponent.numpy().astype(np.int64) - total
    return torch.from_numpy(scaled(mantissa.resolve_conj().numpy(), e, A.numpy().dtype))


def _det_frexp(A: Tensor) -> Tensor:
    return _in_frame(A, *_ops.det_frexp(A))


def _second(A: Tensor, Z: Tensor) -> Tensor:
    """D^2 det(A)[Z, Z], of all directions at once with that of -Z."""
    # Of a matrix of determinant 0 det_frexp has an exponent far above those of its derivatives.
    exponent = torch.from_numpy(sum(x.sum(1) for x in frame(A.numpy()))).to(A.real.dtype)
    second = _ops._det_frexp_jet(A, torch.stack([Z, -Z], -3), exponent)[1][:, 0]
    return _in_frame(A, second, exponent)


def _slogdet_hvp(A: Tensor, Z: Tensor) -> Tensor:
    return _ops.slogdet_hvp(A, Z)


def _slogsumdet(A: Tensor, Z: Tensor) -> Tensor:
    return torchdet.slogsumdet(torch.stack([A, Z], -3)).logabsdet


def _log_of_factors(A: Tensor) -> Tensor:
    """The logarithm that slogdet_solve returns."""
    return _ops._slogdet_factor(A)[1]


def _solution(A: Tensor, Z: Tensor) -> Tensor:
    return torchdet.slogdet_solve(A, Z).X


def sets_of(n: int) -> tuple[range, ...]:
    """Whose principal minors are taken: all rows, and fewer, which are filled up to n."""
    return range(n), range(n - 1), range(n // 2, n)


def _principal_minors(A: Tensor) -> Tensor:
    n = A.shape[-1]
    index = torch.tensor([[*rows, *[-1] * (n - len(rows))] for rows in sets_of(n)])
    return torchdet.principal_minors(A, index)


_ops = torch.ops.torchdet
OPERATORS = {
    op.name: op
    for op in (
        Operator("det", 0, 0, lambda A: _ops.det(A), truth.value),
        Operator("det_frexp", 0, 0, _det_frexp, truth.value, "number"),
        Operator("principal_minors", 0, 0, _principal_minors, truth.value, "minors"),
        Operator("slogdet", 0, 0, lambda A: _ops.slogdet(A)[1], truth.value, "logarithm"),
        Operator("_slogdet_factor", 0, 0, _log_of_factors, truth.value, "logarithm"),
        Operator("slogsumdet", 0, 1, _slogsumdet, truth.sum_of_values, "logarithm"),
        Operator("cofactor", 1, 0, lambda A: _ops.cofactor(A), truth.cofactor),
        Operator("slogdet_backward", 1, 0, _slogdet_backward, truth.inverse_transpose, "inverse"),
        Operator("slogdet_solve", 1, 1, _solution, truth.solution, "solution"),
        Operator("slogdet_hvp", 2, 1, _slogdet_hvp, truth.derivative_of_inverse, "inverse"),
        Operator("det_hvp", 2, 1, lambda A, Z: _ops.det_hvp(A, Z), truth.derivative),
        Operator("_det_frexp_jet", 2, 1, _second, truth.second, "number"),
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


def _units(k: int, B: ndarray, Zs: list[ndarray], eps: float, s: ndarray) -> ndarray:
    n = B.shape[-1]
    d = n * eps * s[:, 0]
    plain, moved, change = np.ones(len(B)), np.ones(len(B)), np.zeros(len(B))
    for i in range(max(n - k, 0)):
        change = change * (s[:, i] + d) + plain * d
        plain, moved = plain * s[:, i], moved * (s[:, i] + d)
    unit = (change + n * eps * moved) * (n >= k)
    for Z in Zs:
        unit = unit * np.sqrt((np.abs(Z) ** 2).sum((1, 2)))
    return unit


def _own_units(X: ndarray, eps: float, total: ndarray) -> ndarray:
    """unit_0 of matrices in their own frames, times 2^-total."""
    rows, cols = frame(X)
    double = np.dtype("c16" if np.iscomplexobj(X) else "f8")
    B = scaled(X, -(rows[:, :, None] + cols[:, None, :]), double)
    s = np.linalg.svd(B, compute_uv=False)
    return np.ldexp(_units(0, B, [], eps, s), rows.sum(1) + cols.sum(1) - total)


def inverse_size(X: ndarray, true: ndarray, Zs: list[ndarray]) -> ndarray:
    """What the error of X = B^-T, or of its derivative -X Z^T X, is relative to."""

    def norm(M: ndarray) -> ndarray:
        return np.sqrt((np.abs(M) ** 2).sum((1, 2))).astype(float)

    # Of the derivative, twice: each X has a relative error.
    return norm(true) if not Zs else 2 * norm(X) ** 2 * norm(Zs[0])


def errors(op: Operator, batch: Batch) -> tuple[ndarray, ndarray]:
    """Error of every matrix in units, and its condition; -1 where the unit says nothing.

    Of principal minors the worst one counts, with the condition of its submatrix.
    """
    got = op.run(batch)
    if op.kind != "minors":
        return _errors(op, batch, got)
    of_sets = [_errors(OPERATORS["det"], x, y) for x, y in _submatrices(batch.A, got)]
    error, condition = (np.stack(x) for x in zip(*of_sets, strict=True))
    worst = error.argmax(0)[None]
    return tuple(np.take_along_axis(x, worst, 0)[0] for x in (error, condition))


def _submatrices(A: ndarray, minors: ndarray) -> Iterator[tuple[Batch, ndarray]]:
    for k, rows in enumerate(sets_of(A.shape[-1])):
        yield Batch(A[:, rows][:, :, rows]), minors[:, k]


def _errors(op: Operator, batch: Batch, got: ndarray) -> tuple[ndarray, ndarray]:
    A = batch.A
    wide, n = truth.WIDER[A.dtype], A.shape[-1]
    double = np.dtype("c16" if np.iscomplexobj(A) else "f8")
    info = np.finfo(A.dtype)
    eps = float(info.eps)
    rows, cols = frame(A)
    e = rows[:, :, None] + cols[:, None, :]
    B, Zs = scaled(A, -e, wide), [scaled(Z, -e, wide) for Z in batch.Zs]
    s = np.linalg.svd(B.astype(double), compute_uv=False)
    f = truth.diagonalise(B)
    true = op.true(f, *Zs)
    with np.errstate(all="ignore"):
        condition = s[:, 0] / s[:, -1]
        total = rows.sum(1) + cols.sum(1)
        if op.kind == "logarithm":
            det = np.abs(true)
            log = np.log(det) + total * np.log(det.dtype.type(2))
            unit = _units(op.derivative, B, [], eps, s)
            for Z in batch.Zs:  # another term, whose unit is that of its own frame
                unit = unit + _own_units(Z, eps, total)
            relative = np.where(unit < LEAST_UNIT, np.inf, (unit / det).astype(float))
            error = np.abs(got - log).astype(float)
            unit = log_unit(relative, np.abs(log).astype(float), eps)
        else:
            if op.kind == "inverse":
                exponent, relative = -e, n * eps * (condition + 1)
                unit = relative * inverse_size(truth.inverse_transpose(f), true, Zs)
            elif op.kind == "solution":
                exponent = cols[:, None, :] - cols[:, :, None]
                relative = n * eps * (condition + 1)
                unit = relative * inverse_size(true, true, [])
            else:
                exponent = total[:, None, None] - e if op.derivative else total
                relative = np.zeros(len(A))
                twice = Zs * 2 if op.kind == "number" else Zs  # D^2 det[Z, Z]
                unit = _units(op.derivative, B, twice, eps, s).astype(float)
                relative = np.where(unit < LEAST_UNIT, np.inf, relative)
            if op.kind == "number":
                exponent = np.zeros(len(A), int)
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
    got = op.run(case)
    if op.kind != "minors":
        return _exact_error(op, case, torch.from_numpy(got)[0])
    det = OPERATORS["det"]
    parts = _submatrices(case.A, got)
    return max(_exact_error(det, x, torch.from_numpy(y)[0]) for x, y in parts)


def _exact_error(op: Operator, case: Batch, got: Tensor) -> float:
    A, *Zs = (X[0] for X in case.tensors())
    if op.kind == "logarithm":
        return _exact_log_error([A, *Zs], got)
    if op.kind in ("inverse", "solution"):
        return _exact_inverse_error(op, A, Zs, got)
    rows, cols = units.frame_exponents(A)
    total = int(rows.sum() + cols.sum())
    if op.kind == "number":
        return _exact_number_error(A, Zs, got, total)
    exact = {0: oracles.det, 1: oracles.cofactor, 2: oracles.hvp, 3: oracles.derivative}
    frame = total - rows[:, None] - cols[None, :] if op.derivative else np.array(total)
    unit = units.unit(A, op.derivative, Zs)
    if unit < LEAST_UNIT:
        return -1.0
    error = units.frame_error(got, exact[op.derivative](A, *Zs), frame, unit)
    return 0.0 if error == 0 else error / unit


def _exact_number_error(A: Tensor, Zs: list[Tensor], got: Tensor, total: int) -> float:
    """Of det(A), or of its second derivative along a direction."""
    with mpmath.workdps(60):
        if Zs:
            true = (of_exact(oracles.hvp(A, Zs[0])) * numbers(Zs[0])).sum()
        else:
            true = of_exact(oracles.det(A))[()]
        error = abs(mpmath.mpmathify(got.item()) - mpmath.ldexp(1, -total) * true)
        unit = units.unit(A, 2 * len(Zs), Zs * 2)
        return 0.0 if error == 0 else float(error / unit)


def _exact_log_error(matrices: list[Tensor], got: Tensor) -> float:
    eps = torch.finfo(matrices[0].dtype).eps
    with mpmath.workdps(60):
        psi = unit = mpmath.mpf(0)
        for A in matrices:
            rows, cols = units.frame_exponents(A)
            psi += of_exact(oracles.det(A))[()]
            own = units.unit(A, 0)
            if own < LEAST_UNIT:
                return -1.0
            unit += mpmath.ldexp(own, int(rows.sum() + cols.sum()))
        if abs(psi) * LARGEST_RELATIVE < unit or psi == 0:
            return -1.0
        log = mpmath.log(abs(psi))
        error = float(abs(mpmath.mpf(got.item()) - log))
        relative = np.array(float(unit / abs(psi)))
    return error / float(log_unit(relative, np.array(abs(float(log))), eps))


def _exact_inverse_error(op: Operator, A: Tensor, Zs: list[Tensor], got: Tensor) -> float:
    n, eps = A.shape[-1], torch.finfo(A.dtype).eps
    relative = n * eps * (units.condition(A) + 1)
    if relative > LARGEST_RELATIVE:
        return -1.0
    rows, cols = units.frame_exponents(A)
    granule = torch.finfo(A.dtype).smallest_normal * eps
    with mpmath.workdps(60):
        power = np.frompyfunc(lambda e: mpmath.ldexp(1, int(e)), 1, 1)
        scale = power(rows[:, None] + cols[None, :])
        X = true = oracles.inverse_transpose(A)
        if op.kind == "solution":
            scale = power(cols[:, None] - cols[None, :])
            true = X.T @ numbers(Zs[0])
            size = norm(true * scale)
        elif Zs:
            Z = numbers(Zs[0])
            true = -(X @ Z.T @ X)
            size = 2 * norm(X * scale) ** 2 * norm(Z / scale)
        else:
            size = norm(X * scale)
        difference = abs(numbers(got) - true) - granule
        error = norm(np.maximum(difference, 0) * scale)
        return float(error / size) / relative


def norm(X: ndarray) -> mpmath.mpf:
    return mpmath.sqrt((abs(X) ** 2).sum())
