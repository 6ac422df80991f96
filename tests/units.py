"""The error unit: how far a result may be from the truth before the algorithm is to blame.

Scale A to B = 2^-r A 2^-c, with r_i the exponent of the largest entry of row i and c_j that of the
largest entry of column j afterwards. A backward stable method returns the exact value at B + E with
|E| <= d = n eps s_1, where s_1 >= .. >= s_n are the singular values of B. The k-th derivative of
det at a matrix with singular values s is at most prod_{i <= n-k} s_i times the directions, and E
moves it by at most

    unit_k = [ prod (s_i + d) - prod s_i  +  n eps prod (s_i + d) ] * prod |Z'|,   i <= n - k,

the last term being the rounding of the result. The error of a result, in units, is its Frobenius
error in the frame of B divided by unit_k. This stays meaningful where the true answer is zero.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from oracles import Exact, dyadic, parts


def frame_exponents(A: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Row and column exponents of the frame (see the module text); 0 for zero rows and columns."""
    wide = A.detach().resolve_conj().cpu().to(torch.complex128).numpy()
    size = np.maximum(np.abs(wide.real), np.abs(wide.imag))
    none = -(1 << 40)
    exponents = np.where(size > 0, np.frexp(size)[1].astype(np.int64), none)
    rows = exponents.max(axis=1, initial=none)
    rows[rows == none] = 0
    shifted = np.where(size > 0, exponents - rows[:, None], none)
    cols = shifted.max(axis=0, initial=none)
    cols[cols == none] = 0
    return rows, cols


def in_frame(X: Tensor, rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
    """2^-r X 2^-c as complex128."""
    wide = X.detach().resolve_conj().cpu().to(torch.complex128).numpy()
    exponent = -(rows[:, None] + cols[None, :])
    # ldexp in two halves: a single power of two may leave the range although the product does not.
    half = exponent // 2
    re, im = (np.ldexp(np.ldexp(p, half), exponent - half) for p in (wide.real, wide.imag))
    return re + 1j * im


def unit(A: Tensor, k: int, directions: Sequence[Tensor] = ()) -> float:
    """unit_k of the module text for one matrix, in the frame of B."""
    n, eps = A.shape[-1], torch.finfo(A.dtype).eps
    rows, cols = frame_exponents(A)
    s = np.linalg.svd(in_frame(A, rows, cols), compute_uv=False)
    d = n * eps * (s[0] if n else 0.0)
    plain, moved, change = 1.0, 1.0, 0.0
    for value in s[: max(n - k, 0)]:
        # prod(s + d) - prod(s) by adding positive terms: no cancellation.
        change = change * (value + d) + plain * d
        plain, moved = plain * value, moved * (value + d)
    bound = change + n * eps * moved if n >= k else 0.0
    for Z in directions:
        bound *= float(np.linalg.norm(in_frame(Z, rows, cols)))
    return bound


def condition(A: Tensor) -> float:
    """The 2-norm condition number of B."""
    rows, cols = frame_exponents(A)
    s = np.linalg.svd(in_frame(A, rows, cols), compute_uv=False)
    return float(s[0] / s[-1]) if s[-1] > 0 else math.inf


def to_float(numerator: int, exponent: int) -> float:
    """numerator * 2^exponent to 60 bits, inf when too large."""
    shift = max(numerator.bit_length() - 60, 0)
    try:
        return math.ldexp(numerator >> shift, shift + exponent)
    except OverflowError:
        return math.inf if numerator > 0 else -math.inf


def _entry_error(
    got: complex, value: object, exponent: int, frame: int, info: torch.finfo, noise: float
) -> float:
    """|got - value 2^exponent| 2^-frame for one part of an entry, also at the ends of the range."""
    true = to_float(value, exponent - frame)
    if math.isnan(got):
        return math.inf
    if math.isinf(got):
        # Right when the truth overflows, or when the rounding alone of the result is out of range.
        reach = math.log2(info.max) - frame
        allowed = max(abs(true) * (1 + 4 * info.eps), noise)
        beyond = allowed > 0 and math.log2(allowed) >= reach
        signs_agree = true * got >= 0 or noise >= abs(true)
        return 0.0 if beyond and signs_agree else math.inf
    m, e = dyadic(float(got))
    common = min(e, exponent)
    difference = (m << (e - common)) - (value << (exponent - common))
    error = abs(to_float(difference, common - frame))
    # A result below the normal range is a multiple of the smallest denormal.
    granule = to_float(1, round(math.log2(info.smallest_normal * info.eps)) - frame)
    return max(error - granule, 0.0)


def frame_error(result: Tensor, exact: Exact, frame: np.ndarray, noise: float) -> float:
    """Frobenius error of one result in its frame: entry (i, j) is measured in units of 2^frame_ij.

    noise is the error that the budget allows; an entry may be infinite where that is out of range.
    """
    info = torch.finfo(result.dtype)
    got = result.detach().resolve_conj().cpu().to(torch.complex128).numpy()
    total = 0.0
    for index in np.ndindex(*exact.values.shape):
        for g, v in zip(
            (got[index].real, got[index].imag), parts(exact.values[index]), strict=True
        ):
            if g or v:
                e = _entry_error(
                    float(g), v, int(exact.exponents[index]), int(frame[index]), info, noise
                )
                total += e * e if e < 1e150 else math.inf
    return math.sqrt(total)


def assert_within(
    results: Tensor,
    exacts: Sequence[Exact],
    matrices: Tensor,
    order: int,
    budget: float = 1.0,
    directions: Sequence[Tensor] = (),
    what: str = "result",
) -> None:
    """Every result (batch first) is within `budget` units of its exact value; names the worst one.

    order = 0: results are determinants (batch); order = 1 + m: D^m C in m directions.
    """
    worst, where = -1.0, -1
    for index, (result, exact, A) in enumerate(zip(results, exacts, matrices, strict=True)):
        rows, cols = frame_exponents(A)
        total = int(rows.sum() + cols.sum())
        Zs = [Z[index] for Z in directions]
        allowed = unit(A, order, Zs)
        frame = total - rows[:, None] - cols[None, :] if order else np.array(total)
        error = frame_error(result, exact, frame, budget * allowed)
        ratio = 0.0 if error == 0 else error / allowed if allowed else math.inf
        if ratio > worst:
            worst, where = ratio, index
    if worst > budget:
        A, exact = matrices[where], exacts[where]
        raise AssertionError(
            f"{what}: matrix {where} of the batch is {worst:.3g} units off (budget {budget:g}).\n"
            f"A = {A.tolist() if A.shape[-1] <= 8 else tuple(A.shape)}\n"
            f"got {results[where].tolist() if A.shape[-1] <= 8 else '(large)'}\n"
            f"exact {exact.tensor(A.dtype).tolist() if A.shape[-1] <= 8 else '(large)'}"
        )


def det_tolerance(A: Tensor) -> float:
    """One unit of det(A), back in the scale of A (for matrices of moderate entries)."""
    rows, cols = frame_exponents(A)
    return math.ldexp(unit(A, 0), int(rows.sum() + cols.sum()))
