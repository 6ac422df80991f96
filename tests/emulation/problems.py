"""Arguments for every operator: regular, singular, unbalanced and not finite matrices."""

from __future__ import annotations

from typing import Any

import numpy as np

NOT_FINITE = (6, 7)  # places of the matrices with a NaN and an infinity


def arguments(operator: str, n: int, dtype: str, batch: int) -> tuple[Any, ...]:
    """A, then what else the operator takes; special matrices where batch > 8."""
    rng = np.random.default_rng(n * 1000 + batch)

    def normal(*shape: int) -> np.ndarray:
        x = rng.standard_normal(shape)
        return (x + 1j * rng.standard_normal(shape) if dtype.startswith("c") else x).astype(dtype)

    # |det| is about (n / e)^(n / 2) without this factor, which leaves float32 at n = 58.
    A = normal(batch, n, n) * np.float32(2.0 ** -round(max(np.log2(n) - 1.44, 0) / 2))
    if batch > 8:
        A[1, n // 2] = 0  # rank n - 1
        A[2, :, :2] = A[2, :, :1]  # rank n - 1, two equal columns
        A[3] = 0
        A[4] *= 2.0 ** rng.integers(-30, 30, (n, 1))
        A[5] *= 2.0 ** rng.integers(-30, 30, n)
        A[NOT_FINITE[0], 0, n - 1] = np.nan
        A[NOT_FINITE[1], n - 1, 0] = np.inf
    if operator.endswith(("_backward", "_inverse")):
        return A, normal(batch)
    if operator == "det_jet":
        return A, normal(batch, 3, n, n)
    if operator == "slogdet_hvp_scaled":
        return A, normal(batch, n, n), (normal(batch),) * 2
    if operator == "det_backward_jvp":
        return A, normal(batch, n, n), (normal(batch), normal(batch))
    return (A, normal(batch, n, n)) if operator in ("det_hvp", "slogdet_hvp") else (A,)
