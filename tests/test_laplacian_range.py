"""Laplacians of sums in which the derivatives of a determinant are beyond the range beside it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.func import vmap

import torchdet
from sum_oracles import (
    DERIVATIVES,
    FAMILIES,
    K,
    Truth,
    allowed_error,
    assert_gradients,
    directions,
    family_of,
    scaled,
)

ORDERS = (3, 4)
# By matrix and member, which power of two its rows have: in units of `small`, as long as a list,
# and in units of `scale` for all rows. Rows times 2^-t make a determinant tiny, but not all of its
# cofactors: with one such row its first derivatives are 2^t times as large as itself, and with two,
# its second ones 2^(2 t) times.
PATTERNS: dict[str, dict[tuple[int, int], list[int] | int]] = {
    "two determinants": {(0, 1): [0, 0, -1], (1, 1): [0, 0, 0, -1]},
    "almost rank n-2": {(0, 1): [0, -1, -1], (1, 3): [-1, 0, 0, -1]},
    "several": {(0, 1): [-1, 0, 0], (1, 1): [0, -1, 0, 0], (0, 3): [0, -1, -1]},
    "matrices down": {(0, 1): -1, (1, 1): -1, (0, 3): -1},
    "a matrix up": {(1, 2): 1},
    "one row": {(0, 1): [-1, 0, 0], (1, 3): [0, -1, 0, 0]},
    "one column": {(0, 1): [-1, 0, 0], (1, 3): [0, -1, 0, 0]},
}
# A singular matrix times 2^scale has derivatives beyond the range.
CASES = [
    (rows, family, pattern)
    for rows in (False, True)
    for family in FAMILIES
    for pattern in PATTERNS
    if (family, pattern) != ("rank n-2", "a matrix up")
]


def _powers(dtype: torch.dtype) -> tuple[int, int]:
    """small and scale: 2^(2 small) is beyond the range, and so is the determinant of 2^scale A."""
    return (600, 500) if dtype in (torch.float64, torch.complex128) else (80, 60)


def _members(
    family: str, pattern: str, dtype: torch.dtype, orders: tuple[int, int] = ORDERS
) -> tuple[list[Tensor], list[Tensor]]:
    """Matrices with and without the powers of two."""
    plain = [family_of(family, n, dtype, 7 * n) for n in orders]
    matrices = [A.clone() for A in plain]
    small, scale = _powers(dtype)
    for (s, k), of_rows in PATTERNS[pattern].items():
        n = orders[s]
        powers = (
            [x * small for x in of_rows[-n:]] if isinstance(of_rows, list) else [of_rows * scale]
        )
        factors = 2.0 ** torch.tensor(powers, dtype=torch.float64).to(dtype)
        matrices[s][k] *= factors if pattern == "one column" else factors[:, None]
    return matrices, plain


def _weights(dtype: torch.dtype) -> Tensor:
    return torch.tensor([0.5, -1.25, 2.0, 0.75]).to(dtype)


@pytest.mark.parametrize(("rows", "family", "pattern"), CASES)
def test_values(rows, family, pattern, dtype, device):
    matrices, plain = _members(family, pattern, dtype)
    w = _weights(dtype)
    truth = Truth(matrices, w)
    Js, full, Ls = directions(matrices, 0, rows)
    exact, exact_lap, size, size_lap = truth.along(full, Ls)
    args = ([X.to(device) for X in Xs] for Xs in (matrices, Js, Ls))
    got = torchdet.slogsumdet_laplacian(*args, w.to(device), rows=rows)
    smallest = torch.finfo(dtype).smallest_normal
    # As in test_laplacian.py.
    allowed = allowed_error(truth, 1, plain) * size + smallest
    for x, y in zip(got.derivatives.flatten().tolist(), exact, strict=True):
        assert abs(x - y) <= allowed
    allowed = 4 * allowed_error(truth, 2, plain) * size_lap + smallest
    assert abs(float(got.laplacian) - exact_lap) <= allowed


@pytest.mark.parametrize("pattern", ("two determinants", "almost rank n-2", "several"))
@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
def test_gradients(pattern, dtype, device):
    """Of diagonal members of order 3, whose second and third derivatives do not round."""
    matrices, plain = _members("regular", pattern, dtype, (3, 3))
    for s, k in PATTERNS[pattern]:
        plain[s][k] = torch.eye(3)
        matrices[s][k] = torch.diag(matrices[s][k].abs().amax(-1).log2().floor().exp2())
    w = _weights(dtype)
    Js, _, Ls = directions(matrices, 0, rows=False)
    args = tuple(X.to(device) for X in (*matrices, *Js, *Ls, w))
    relative = allowed_error(Truth(matrices, w), 3, plain)
    assert_gradients(torchdet.slogsumdet_laplacian, args, relative)


@pytest.mark.parametrize("rows", (False, True))
@pytest.mark.parametrize("family", FAMILIES)
def test_huge_matrices_with_huge_weights(family, rows, dtype, device):
    """It is the weighted term, not the product of determinants, that psi is to be compared with."""
    power = 333 if dtype in (torch.float64, torch.complex128) else 40
    plain = [family_of(family, n, dtype, 7 * n) for n in ORDERS]
    matrices = [plain[0] * 2.0**power, plain[1]]
    Js, full, Ls = directions(plain, 0, rows)
    for Xs in (Js, full, Ls) if rows else (Js, Ls):
        Xs[0] = Xs[0] * 2.0**power
    w = _weights(dtype) * 2.0 ** (3 * power)
    truth = Truth(matrices, w)
    exact, exact_lap, size, size_lap = truth.along(full, Ls)
    args = ([X.to(device) for X in Xs] for Xs in (matrices, Js, Ls))
    got = torchdet.slogsumdet_laplacian(*args, w.to(device), rows=rows)
    for x, y in zip(got.derivatives.flatten().tolist(), exact, strict=True):
        assert abs(x - y) <= allowed_error(truth, 1, plain) * size
    allowed = 4 * allowed_error(truth, 2, plain) * size_lap
    assert abs(float(got.laplacian) - exact_lap) <= allowed


def _zeros_beside_tiny_numbers(
    case: str, dtype: torch.dtype, rows: bool
) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]]:
    """Matrices, Jacobians as given and of all coordinates, and Laplacians.

    "one": psi is near the smallest number, and a term has a 1 x 1 member of 0, which is constant.
    Beside psi the term has any derivative times 2^most. "two": all numbers are tiny. A term has a
    matrix of 0, whose exponent is arbitrary, and a singular one, whose exponent is not.
    """
    if case == "one":
        tiny = torch.finfo(dtype).smallest_normal
        matrices = [family_of("regular", n, dtype, 7 * n) for n in (3, 1)]
        Js, full, Ls = directions(matrices, 0, rows)
        matrices[1] *= tiny
        for Xs in (Js, full, Ls) if rows else (Js, Ls):
            Xs[1] = Xs[1].sgn() * tiny
            Xs[1][2] = 0
        matrices[1][2] = 0
        return matrices, Js, full, Ls
    matrices = [family_of("regular", n, dtype, 7 * n) for n in (4, 2)]
    matrices[0][2], matrices[1][2] = 0, torch.tensor([[1, 2], [2, 4]])
    scale = -500
    return [scaled(A, scale) for A in matrices], *directions(matrices, scale, rows)


@pytest.mark.parametrize("rows", (False, True))
@pytest.mark.parametrize("case", ("one", "two"))
def test_a_zero_times_a_derivative_that_is_large_beside_psi(case, rows, dtype, device):
    matrices, Js, full, Ls = _zeros_beside_tiny_numbers(case, dtype, rows)
    w = _weights(dtype)
    truth = Truth(matrices, w)
    exact, exact_lap, size, size_lap = truth.along(full, Ls)
    args = ([X.to(device) for X in Xs] for Xs in (matrices, Js, Ls))
    got = torchdet.slogsumdet_laplacian(*args, w.to(device), rows=rows)
    for x, y in zip(got.derivatives.flatten().tolist(), exact, strict=True):
        assert abs(x - y) <= allowed_error(truth, 1) * size
    assert abs(float(got.laplacian) - exact_lap) <= 4 * allowed_error(truth, 2) * size_lap


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
def test_gradients_where_all_numbers_are_tiny(dtype, device):
    matrices, Js, _, Ls = _zeros_beside_tiny_numbers("two", dtype, rows=False)
    w = _weights(dtype)
    args = tuple(X.to(device) for X in (*matrices, *Js, *Ls, w))
    gradients = torch.func.grad(
        lambda *X: torchdet.slogsumdet_laplacian(X[:2], X[2:4], X[4:6], X[6]).laplacian,
        tuple(range(len(args))),
    )(*args)
    for x in gradients:
        assert x.isfinite().all()


@pytest.mark.parametrize("rows", (False, True))
def test_a_matrix_for_several_terms_and_sums(rows, wide_dtype, device):
    """It is factored once; the numbers are those of a copy for each."""
    matrices, _ = _members("regular", "two determinants", wide_dtype)
    Js, _, Ls = directions(matrices, 0, rows)
    up, down = ([X[s].to(device) for X in (matrices, Js, Ls)] for s in (0, 1))
    several = [torch.stack([X, X.flip(0)]) for X in down]
    shared = [X[:1] for X in up]
    for terms in (K, 1):
        several = [X[:, :terms] for X in several]
        copies = [X.expand(2, terms, *X.shape[1:]).contiguous() for X in shared]
        for x, y in zip(
            torchdet.slogsumdet_laplacian(*zip(shared, several, strict=True), rows=rows),
            torchdet.slogsumdet_laplacian(*zip(copies, several, strict=True), rows=rows),
            strict=True,
        ):
            assert torch.equal(x, y)


def test_columns_of_weights_and_transforms(wide_dtype, device):
    matrices, plain = _members("regular", "several", wide_dtype)
    Js, _, Ls = directions(matrices, 0, rows=False)
    args = [[X.to(device) for X in Xs] for Xs in (matrices, Js, Ls)]
    w = torch.stack([_weights(wide_dtype), 1 / _weights(wide_dtype)], -1)
    both = torchdet.slogsumdet_laplacian(*args, w.to(device))
    assert both.derivatives.shape == (2, DERIVATIVES)
    for m in range(2):
        truth = Truth(matrices, w[:, m])
        _, exact_lap, _, size_lap = truth.along(Js, Ls)
        error = abs(float(both.laplacian[m]) - exact_lap)
        assert error <= 4 * allowed_error(truth, 2, plain) * size_lap

    def laplacian(A: Tensor, J: Tensor) -> Tensor:
        given = [A, args[0][1]], [J, args[1][1]], args[2]
        return torchdet.slogsumdet_laplacian(*given, w.to(device)).laplacian

    A, J = (torch.stack([X[0], X[0].flip(0)]) for X in args[:2])
    each = torch.stack([laplacian(*X) for X in zip(A, J, strict=True)])
    assert torch.equal(each[0], both.laplacian)
    assert torch.equal(vmap(laplacian)(A, J), each)
    compiled = torch.compile(laplacian, fullgraph=True, backend="aot_eager")
    size = each.abs().max() * 16 * torch.finfo(wide_dtype).eps
    torch.testing.assert_close(compiled(A[0], J[0]), each[0], rtol=0, atol=float(size))


@pytest.mark.parametrize("matrices", (1, 2))
def test_a_column_leaves_the_others_alone(matrices, wide_dtype, device):
    """One whose psi is 0, NaN or far below the others."""
    A, J, L = (
        torch.randn(3, K, *shape, dtype=wide_dtype, device=device)
        for shape in ((3, 3), (2, 3, 3), (3, 3))
    )
    w = torch.randn(K, 3, dtype=wide_dtype, device=device)
    args = [A] * matrices, [J] * matrices, [L] * matrices
    expected = torchdet.slogsumdet_laplacian(*args, w)
    for factor in (0, math.nan, 2.0**-800):
        changed = w.clone()
        changed[:, 1] *= factor
        for x, y in zip(torchdet.slogsumdet_laplacian(*args, changed), expected, strict=True):
            assert torch.equal(x[:, [0, 2]], y[:, [0, 2]])
    # The last: log|psi| is less, its derivatives are what they were.
    assert torch.equal(x, y)


@pytest.mark.parametrize("count", (2, 3, 4))
@pytest.mark.parametrize("rows", (False, True))
def test_a_zero_beside_a_huge_term_has_its_tiny_derivatives(rows, count, dtype, device):
    """psi = 2^p + x with a term x that is det(ones + x e_1 e_1^T) = x times determinants of 1.

    So d psi / d x = 1, beside psi 2^-p; all numbers are powers of two. Both the determinant of 0
    and the others take shares of the difference.
    """
    p = 1000 if dtype in (torch.float64, torch.complex128) else 120
    matrices = [torch.eye(2, dtype=dtype, device=device).repeat(2, 1, 1) for _ in range(count)]
    matrices[0][1] = 1
    matrices[0][0, 0, 0] = 2.0**p
    Js = [torch.zeros(2, *((2, 1) if rows else (1, 2)), 2).to(A) for A in matrices]
    Js[0][1, 0, 0, 0] = 1
    Ls = [torch.zeros_like(A) for A in matrices]
    got = torchdet.slogsumdet_laplacian(matrices, Js, Ls, rows=rows)
    assert float(got.derivatives.flatten()[0]) == 2.0**-p
    assert not got.derivatives.flatten()[1:].any()
    tangents = [torch.zeros_like(A) for A in matrices]
    tangents[0][1, 0, 0] = 1
    sums = lambda *X: torchdet.slogsumdet(*X).logabsdet  # noqa: E731
    assert float(torch.func.jvp(sums, tuple(matrices), tuple(tangents))[1]) == 2.0**-p
    mapped = vmap(lambda *X: torchdet.slogsumdet_laplacian(X[:count], X[count:-count],
                                                          X[-count:], rows=rows))  # fmt: skip
    for x, y in zip(mapped(*(X[None] for X in (*matrices, *Js, *Ls))), got, strict=True):
        assert torch.equal(x[0], y)
