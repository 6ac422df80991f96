"""Properties of emulated kernels. `run(operator, A, other)` returns the results as numpy arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from problems import NOT_FINITE, arguments

Run = Callable[..., tuple[np.ndarray, ...]]

LAYOUTS = {
    "columns": lambda x: np.ascontiguousarray(x.swapaxes(-1, -2)).swapaxes(-1, -2),
    "spaced": lambda x: np.repeat(np.repeat(x, 2, -1), 3, -2)[..., ::3, ::2],
    "batch": lambda x: np.repeat(x, 2, 0)[::2],
    "reversed": lambda x: np.ascontiguousarray(x[::-1])[::-1],
}


def assert_same_bits(got: tuple[np.ndarray, ...], expected: tuple[np.ndarray, ...], what: str):
    for g, e in zip(got, expected, strict=True):
        same = g.reshape(-1).view(np.uint8) == e.reshape(-1).view(np.uint8)
        nan = np.isnan(g.reshape(-1)) & np.isnan(e.reshape(-1))  # the bits of a NaN mean nothing
        assert (same.reshape(g.size, -1).all(1) | nan).all(), what


def no_matrix_depends_on_its_neighbours(run: Run, operator: str, n: int, dtype: str, batch: int):
    args = arguments(operator, n, dtype, batch)
    together = run(operator, *args)
    for b in {0, 1, 4, 8, len(args[0]) - 1}:
        alone = run(operator, *(np.ascontiguousarray(x[b : b + 1]) for x in args))
        assert_same_bits(alone, tuple(x[b : b + 1] for x in together), f"matrix {b}")


def nan_and_inf_stay_in_their_own_matrix(run: Run, operator: str, n: int, dtype: str, batch: int):
    results = run(operator, *arguments(operator, n, dtype, batch))
    result = results[0].reshape(batch, -1)
    if not operator.startswith(
        "slogdet_hvp"
    ):  # of products with what was given, where not all entries meet NaN
        assert not np.isfinite(result[list(NOT_FINITE)]).any()
    assert np.isfinite(result[np.r_[0, 8:batch]]).all()


def strides_do_not_change_a_bit(run: Run, operator: str, n: int, dtype: str, batch: int):
    args = arguments(operator, n, dtype, batch)
    expected = run(operator, *args)
    for name, layout in LAYOUTS.items():
        moved = tuple(layout(x) if x.ndim == 3 else x for x in args)
        assert_same_bits(run(operator, *moved), expected, name)


def well_conditioned(n: int, dtype: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A, Z and grad for three matrices, for which LAPACK in double precision is an oracle.

    Exact ones, and matrices of every kind, are the business of test_values.py.
    """
    A, Z = arguments("det_hvp", n, dtype, 3)
    return (A / (2 * n**0.5) + np.eye(n)).astype(dtype), Z, np.array([1, -2, 0.5], dtype)


def tolerance(A: np.ndarray) -> float:
    """Of a result relative to its scale: what det, a product of two inverses for det_hvp and the
    rest in between may be off.
    """
    wide = A.astype(np.complex128)
    return 8 * A.shape[-1] * np.finfo(A.dtype).eps * np.linalg.cond(wide).max() ** 2


class Expected(NamedTuple):
    """Arguments of an operator, what is right, and the largest error of each number of it."""

    arguments: tuple[np.ndarray, ...]
    results: tuple[np.ndarray, ...]
    errors: tuple[np.ndarray, ...]


def expected(n: int, dtype: str) -> dict[str, Expected]:
    """For every operator, on well-conditioned matrices."""
    A, Z, grad = well_conditioned(n, dtype)
    wide = A.astype(np.complex128)
    det, inverse = np.linalg.det(wide), np.linalg.inv(wide)
    C = det[:, None, None] * inverse.swapaxes(1, 2)
    ZX = Z @ inverse
    trace = np.trace(ZX, axis1=1, axis2=2)[:, None, None]
    log = np.log(np.abs(det))
    relative = tolerance(A)

    def within(scale: float, right: np.ndarray, *others: np.ndarray) -> Expected:
        return Expected((A, *others), (right,), (np.full(right.shape, relative * scale),))

    def within_largest(right: np.ndarray, *others: np.ndarray) -> Expected:
        return within(np.abs(right).max(), right, *others)

    # What the terms amount to: for n = 1 those of det_hvp cancel.
    terms = np.abs(C * trace).max() + np.abs(inverse).max() * np.abs(C @ Z).max()
    return {
        "det": within_largest(det),
        "slogdet": Expected(
            (A,),
            (det / np.abs(det), log),
            (np.full(log.shape, relative), relative * (1 + np.abs(log))),
        ),
        "cofactor": within_largest(C),
        "det_backward": within_largest(grad[:, None, None] * C.conj(), grad),
        "slogdet_backward": within_largest(
            grad[:, None, None] * inverse.swapaxes(1, 2).conj(), grad
        ),
        "det_hvp": within(terms, C * trace - (inverse @ ZX).swapaxes(1, 2) * det[:, None, None], Z),
    }


def every_operator_is_right(run: Run, n: int, dtype: str):
    for operator, right in expected(n, dtype).items():
        got = run(operator, *right.arguments)
        for g, r, error in zip(got, right.results, right.errors, strict=True):
            assert (np.abs(g - r) <= error).all(), operator
