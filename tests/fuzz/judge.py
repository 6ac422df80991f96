"""Whether the answer of one operator for one matrix is right, by exact arithmetic.

The tolerance is BUDGET units of error (tests/units.py derives the unit). The fuzzer looks for
faults and not for digits: how many units an operator needs at worst is the business of other tests.
"""

from __future__ import annotations

import cmath
import math
from collections.abc import Sequence

import mpmath
import numpy as np
import torch
from torch import Tensor

import oracles
from oracles import Exact, Gauss, dyadic, parts
from units import condition, frame_error, frame_exponents, unit

BUDGET = 40.0


class Wrong(AssertionError):
    """An answer that is not right; the text says what was expected and what came."""


def shown(x: object) -> str:
    text = str(x.tolist() if isinstance(x, Tensor) else x)
    return text if len(text) < 400 else text[:400] + " .."


def _exponents(A: Tensor) -> tuple[np.ndarray, np.ndarray, int]:
    rows, cols = frame_exponents(A)
    return rows, cols, int(rows.sum() + cols.sum())


def _spread(A: Tensor) -> int:
    # How many bits the integers of the exact frame have, about.
    frame = oracles.IntegerFrame(A)
    bits = (max(abs(re), abs(im)).bit_length() for re, im in map(parts, frame.N.ravel()))
    return max(bits, default=0)


def feasible(A: Tensor, real: int, complex_: int) -> bool:
    n = A.shape[-1]
    if n > (complex_ if A.is_complex() else real):
        return False
    return n <= 6 or _spread(A) <= 300


def _within(
    what: str,
    result: Tensor,
    exact: Exact,
    A: Tensor,
    order: int,
    directions: Sequence[Tensor] = (),
    factor: float = 1.0,
) -> None:
    rows, cols, total = _exponents(A)
    frame = total - rows[:, None] - cols[None, :] if order else np.array(total)
    allowed = BUDGET * unit(A, order, directions) * factor
    if directions and not math.isfinite(allowed):
        return  # in the frame of a tiny A a direction may be beyond float64
    error = frame_error(result, exact, frame, allowed)
    if not (error == 0 or error <= allowed):
        ratio = error / allowed * BUDGET if allowed else math.inf
        expected = shown(exact.tensor(A.dtype)) if A.shape[-1] <= 8 else "(large)"
        raise Wrong(f"{what}: {ratio:.3g} units off; expected {expected}, got {shown(result)}")


def _times(exact: Exact, factor: complex) -> Exact:
    # factor * conj(exact)
    m, e = dyadic(factor)
    values = np.empty(exact.values.shape, dtype=object)
    for index in np.ndindex(*values.shape):
        v = exact.values[index]
        values[index] = m * (Gauss(v.re, -v.im) if isinstance(v, Gauss) else v)
    return Exact(values, exact.exponents + e)


def _number(x: Tensor) -> complex | float:
    # numpy's types, which `dyadic` tells real from complex by.
    wide = x.detach().to(torch.complex128 if x.is_complex() else torch.float64)
    return wide.resolve_conj().resolve_neg().numpy()[()]


def det(A: Tensor, result: Tensor) -> None:
    """Det(A) of a finite matrix."""
    if feasible(A, 24, 12):
        _within("det", result, oracles.det(A), A, 0)
    elif (known := _extended(A)) is not None:
        sign, log, rho = known
        got = complex(result)
        if abs(log) < 80 and rho < 0.25:
            error = abs(got / (sign * math.exp(log)) - 1)
            if not error <= rho + 8 * torch.finfo(A.dtype).eps:
                raise Wrong(f"det: relative error {error:.3g}, allowed {rho:.3g}")


def _extended(A: Tensor) -> tuple[complex, float, float] | None:
    # Sign, logarithm and the allowed relative error of a well conditioned matrix.
    if condition(A) > 1e6:
        return None
    if A.shape[-1] <= 64:
        sign, log, _ = oracles.extended(A)
    else:  # torch is right at well conditioned matrices
        wide = A.detach().to(torch.complex128 if A.is_complex() else torch.float64)
        sign, log = (x.item() for x in torch.linalg.slogdet(wide))
        if not math.isfinite(log):
            return None  # but not at the ends of the range
    _, _, total = _exponents(A)
    size = log - total * math.log(2)
    allowed = BUDGET * unit(A, 0)
    rho = math.exp(min(math.log(allowed) - float(size), 700.0)) if allowed else 0.0
    return sign, float(log), rho


def slogdet(A: Tensor, sign: Tensor, logabsdet: Tensor) -> None:
    """Sign and log|det A| of a finite matrix."""
    s, log = complex(sign), float(logabsdet)
    eps = torch.finfo(A.dtype).eps
    wrong = f"slogdet: got ({shown(sign)}, {log!r})"
    if math.isnan(log) or cmath.isnan(s) or log == math.inf:
        raise Wrong(f"{wrong}, expected numbers")
    if (s == 0) != (log == -math.inf) or not (s == 0 or abs(abs(s) - 1) <= 8 * eps):
        raise Wrong(f"{wrong}, which do not go together")
    bounds = _log_bounds(A)
    if bounds is None:
        return
    true_sign, true_log, noise, rho = bounds
    if true_log == noise == -math.inf:
        if log != -math.inf:
            raise Wrong(f"{wrong}, expected (0, -inf)")
    elif rho < 0.25:
        allowed = 2 * rho + 8 * eps * max(1.0, abs(true_log))
        if not abs(log - true_log) <= allowed or not abs(s - true_sign) <= 4 * rho + 8 * eps:
            raise Wrong(f"{wrong}, expected ({true_sign}, {true_log!r}) to {allowed:.3g}")
    elif not log <= noise + 8 * eps * max(1.0, abs(noise)):
        raise Wrong(f"{wrong}, expected log|det| of at most {noise!r} (exactly {true_log!r})")


def _log_bounds(A: Tensor) -> tuple[complex, float, float, float] | None:
    # Sign, log|det|, the largest log that noise may leave, and the relative error that it makes.
    if not feasible(A, 24, 12):
        if (known := _extended(A)) is None:
            return None
        sign, log, rho = known
        return sign, log, log + math.log1p(rho), rho
    sign, log = oracles.slogdet(A)
    _, _, total = _exponents(A)
    allowed = BUDGET * unit(A, 0)
    if allowed == 0:
        return sign, float(log), float(log), 0.0
    log_allowed = mpmath.log(allowed) + total * mpmath.log(2)
    if log == -mpmath.inf:
        return sign, -math.inf, float(log_allowed), math.inf
    rho = mpmath.exp(min(log_allowed - log, mpmath.mpf(700)))
    return sign, float(log), float(log + mpmath.log1p(rho)), float(rho)


def det_frexp(A: Tensor, mantissa: Tensor, exponent: Tensor) -> None:
    """Mantissa and exponent of det A of a finite matrix."""
    m, e = complex(mantissa), float(exponent)
    size = max(abs(m.real), abs(m.imag))
    if not (m == 0 or 0.5 <= size <= 1) or e != math.floor(e):
        raise Wrong(f"det_frexp: got {m!r} and {e!r}")
    if not feasible(A, 24, 12):
        return
    total = _exponents(A)[2]
    re, im = (mpmath.mpf(x.numerator) / x.denominator for x in oracles.det(A).fraction())
    two = mpmath.mpf(2)
    true = mpmath.mpc(re, im) * two**-total  # in the frame of the unit
    error = abs(m * two ** (int(e) - total) - true)
    if not error <= BUDGET * unit(A, 0) + 2 * torch.finfo(A.dtype).eps * abs(true):
        raise Wrong(f"det_frexp: {shown((m, e))} is off by {float(error):.3g} of {complex(true)}")


def logdet(A: Tensor, result: Tensor) -> None:
    """The logarithm of det(A) of a finite matrix."""
    value = complex(result)
    if A.is_complex():
        log = torch.tensor(value.real, dtype=torch.float64)
        sign = 0.0 if value.real == -math.inf else cmath.exp(1j * value.imag)
        slogdet(A, torch.tensor(sign, dtype=torch.complex128), log)
        return
    bounds = _log_bounds(A)
    if bounds is None:
        return
    sign, _, _, rho = bounds
    if rho < 0.25 and complex(sign).real < 0:
        if not math.isnan(value.real):
            raise Wrong(f"logdet: expected NaN of a negative determinant, got {value.real!r}")
    elif not (math.isnan(value.real) and rho >= 0.25):
        sign = 0.0 if value.real == -math.inf else 1.0
        slogdet(A, torch.tensor(sign), result)


def cofactor(A: Tensor, result: Tensor) -> None:
    """C(A) of a finite matrix."""
    if feasible(A, 16, 8):
        _within("cofactor", result, oracles.cofactor(A), A, 1)


def det_backward(A: Tensor, result: Tensor, grad: Tensor) -> None:
    """Grad conj(C(A)) of a finite matrix."""
    g = _number(grad)
    if cmath.isfinite(g) and abs(g) < 1e290 and feasible(A, 16, 8):  # the tolerance is a float64
        exact = _times(oracles.cofactor(A), g)
        _within("det_backward", result, exact, A, 1, (), abs(g))


def det_hvp(A: Tensor, result: Tensor, Z: Tensor) -> None:
    """H(A)[Z] of finite matrices."""
    if not bool(Z.isfinite().all()) or not feasible(A, 12, 6):
        return
    if bool((Z != 0).any()) and unit(A, 2, (Z,)) == 0:
        return  # in the frame of A the direction is below the range of float64
    if A.shape[-1] <= 6 or _spread(Z) < 300:
        _within("det_hvp", result, oracles.hvp(A, Z), A, 2, (Z,))


def cofactor_derivative(A: Tensor, result: Tensor, Z: Tensor) -> None:
    """D^m C(A)[Z_1 .. Z_m] of finite matrices, m = Z.shape[0]."""
    if A.shape[-1] <= 4 and len(Z) <= 3 and bool(Z.isfinite().all()):
        exact = oracles.derivative(A, *Z)
        _within("_cofactor_derivative", result, exact, A, 1 + len(Z), tuple(Z))


def slogdet_backward(A: Tensor, result: Tensor, grad: Tensor) -> None:
    """Grad conj(A^-T) of a finite, well conditioned matrix; nothing finite where a row is zero."""
    g = _number(grad)
    n, eps = A.shape[-1], torch.finfo(A.dtype).eps
    if n == 0 or not cmath.isfinite(g) or g == 0:
        return
    if bool((A == 0).all(-1).any() | (A == 0).all(-2).any()):
        if bool(result.isfinite().all()):
            raise Wrong(f"slogdet_backward: a zero row, but finite numbers {shown(result)}")
        return
    cond = condition(A)
    if not n * eps * cond < 1e-3 or not feasible(A, 16, 8):
        return
    rows, cols, _ = _exponents(A)
    scale = rows[:, None] + cols[None, :]
    info = torch.finfo(A.dtype)
    inverse = oracles.inverse_transpose(A)
    got = result.detach().to(torch.complex128).numpy()
    error = size = granule = mpmath.mpf(0)
    for index in np.ndindex(n, n):
        power = mpmath.ldexp(1, int(scale[index]))
        true = mpmath.mpc(g) * mpmath.conj(inverse[index])
        largest = max(abs(true.real), abs(true.imag))
        if largest > info.max / 2 or abs(inverse[index]) > info.max / 2:
            return  # overflow in range of the truth, or of grad's partner
        size += abs(inverse[index] * power) ** 2
        z = complex(got[index])
        if not cmath.isfinite(z):
            raise Wrong(f"slogdet_backward: not finite at {index}, expected {complex(true)}")
        error += abs((mpmath.mpc(z) - true) * power) ** 2
        granule += (power * info.smallest_normal * info.eps) ** 2
    allowed = BUDGET * n * eps * cond * mpmath.sqrt(size) * abs(g) + 4 * mpmath.sqrt(granule)
    if not mpmath.sqrt(error) <= allowed:
        ratio = float(mpmath.sqrt(error) / allowed * BUDGET)
        raise Wrong(f"slogdet_backward: {ratio:.3g} units off, got {shown(result)}")


def slogdet_backward_inverse(A: Tensor, gradient: Tensor, inverse: Tensor, grad: Tensor) -> None:
    """The same, and conj(A^-T)."""
    slogdet_backward(A, gradient, grad)
    slogdet_backward(A, inverse, torch.ones_like(grad))


def solve(A: Tensor, X: Tensor, B: Tensor) -> None:
    """X = A^-1 B of finite matrices, by the residual in the frame of A, in long double."""
    n, info = A.shape[-1], torch.finfo(A.dtype)
    if n == 0 or n > 24 or not bool(B.isfinite().all()):
        return
    rows, columns, _ = _exponents(A)
    r, c = (np.ldexp(np.longdouble(1), -e).reshape(-1, 1) for e in (rows, columns))
    a, b, x = (y.detach().resolve_conj().numpy() for y in (A, B, X))
    b = b.astype(np.clongdouble)
    cond = condition(A)
    if not bool(X.isfinite().all()):
        largest = np.abs(b * r).max() * cond * c.max()
        if n * info.eps * cond < 1e-3 and largest < info.max / 4:
            raise Wrong(f"solve: not finite, for a condition of {cond:.3g}")
        return
    size = np.abs(a * r * c.T).max() * np.abs(x / c).max(0) + np.abs(b * r).max(0)
    # What is lost where a number is subnormal, of X and of B in the frame.
    granule = np.longdouble(info.smallest_normal) * info.eps
    lost = granule * (n * np.abs(a * r).max() + r.max())
    error = np.abs((b - a.astype(np.clongdouble) @ x) * r) - lost
    if not (error <= BUDGET * n * info.eps * size).all():
        units_off = float((error / (n * info.eps * size)).max())
        raise Wrong(f"solve: a residual of {units_off:.3g} units, got {shown(X)}")


def solve_adjoint(A: Tensor, X: Tensor, B: Tensor) -> None:
    """X = A^-H B."""
    solve(A.mH.contiguous(), X, B)


def slogdet_hvp(A: Tensor, result: Tensor, Z: Tensor) -> None:
    """-X Z^T X with X = A^-T, of finite, well conditioned matrices."""
    inverse_derivative(A, result, Z.unsqueeze(0))


def inverse_derivative(A: Tensor, result: Tensor, Z: Tensor) -> None:
    """D^m X[Z_1 .. Z_m], m = Z.shape[0]: m + 1 inverses, each with an error of n eps cond."""
    n, m, info = A.shape[-1], len(Z), torch.finfo(A.dtype)
    if n == 0 or m > 2 or not bool(Z.isfinite().all()) or not feasible(A, 16, 8):
        return
    wide = torch.complex128 if A.is_complex() else torch.float64
    cond = float(torch.linalg.cond(A.to(wide)))
    if not n * info.eps * cond < 1e-3 or not bool((A == 0).logical_or(A.abs() > 1e-6).all()):
        return
    exact = torch.from_numpy(oracles.inverse_transpose(A).astype(complex))
    X, Z = (exact if A.is_complex() else exact.real).to(wide), Z.to(wide)
    true = -X @ Z[0].mT @ X
    if m == 2:
        true = X @ Z[0].mT @ X @ Z[1].mT @ X + X @ Z[1].mT @ X @ Z[0].mT @ X
    size = float(X.norm()) ** (m + 1) * math.prod(map(float, Z.norm(dim=(-2, -1))))
    if not info.smallest_normal / info.eps < size < info.max * info.eps:
        return
    error = float((result.to(wide) - true).norm())
    # In units of the type and, for the true value, of float64.
    allowed = BUDGET * (m + 1) * n * (info.eps * cond + 2.3e-16) * size
    if not error <= allowed:
        raise Wrong(f"inverse_derivative: {error / allowed * BUDGET:.3g} units off")
