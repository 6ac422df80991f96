"""Derivatives along directions, of the operator beneath Laplacians, at every rank."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

import cases
import oracles
import units
from cases import grid
from support import AT_EDGES, exact_cofactors, exact_hvps

jet = torch.ops.torchdet._det_frexp_jet
ORDERS = {
    torch.float32: (1, 2, 3, 4, 5, 8, 12),
    torch.float64: (1, 2, 3, 4, 5, 7, 12),
    torch.complex64: (2, 3, 5),
    torch.complex128: (1, 4, 8),
}
EDGE_FAMILIES = ("normal", "integer_rank_n-1", "integer_rank_n-2", "graded_both", "kahan",
                 "near_singular", "two_tiny_singular_values")  # fmt: skip


def exact_sum(X: oracles.Exact, Z: Tensor) -> oracles.Exact:
    """The sum of the products of the entries."""
    terms = []
    for index in np.ndindex(*X.values.shape):
        m, e = oracles.dyadic(Z.numpy()[index])
        terms.append((X.values[index] * m, int(X.exponents[index]) + e))
    common = min((e for m, e in terms if m), default=0)
    total = sum((m * 2 ** (e - common) for m, e in terms if m), 0)
    return oracles.Exact(np.array(total, dtype=object), np.array(common))


def check(family: str, n: int, dtype: torch.dtype, device: str) -> None:
    A = cases.matrices(family, n, dtype)
    seeds = (n, n + 1)
    J = torch.stack([cases.directions(A, seed) for seed in seeds], 1)
    C = exact_cofactors(family, n, dtype)
    H = [exact_hvps(family, n, dtype, seed) for seed in seeds]
    zero = torch.zeros(len(A), dtype=A.real.dtype if dtype.is_complex else dtype)
    results = jet(A.to(device), J.to(device), zero.to(device))
    # As for Hessian-vector products; an error of the second enters with each of its directions.
    budget = 2.5 if family in cases.ILL_CONDITIONED_L else 1.0
    for b, a in enumerate(A):
        rows, cols = units.frame_exponents(a)
        frame = np.array(int(rows.sum() + cols.sum()))
        for i, z in enumerate(J[b]):
            wide = z.to(torch.complex128 if dtype.is_complex else torch.float64)
            exact = exact_sum(C[b], wide), exact_sum(H[i][b], wide)
            for k, (result, truth) in enumerate(zip(results, exact, strict=True), start=1):
                allowed = units.unit(a, k, [z] * k)
                error = units.frame_error(result[b, i], truth, frame, k * budget * allowed)
                assert error <= k * budget * allowed, (k, b, i, error / max(allowed, 1e-300))


@pytest.mark.parametrize(("family", "n", "dtype"), grid(ORDERS))
def test_derivatives_are_within_units(family, n, dtype, device):
    check(family, n, dtype, device)


@pytest.mark.parametrize(
    ("family", "n", "dtype"),
    grid(AT_EDGES["_det_frexp_jet"], EDGE_FAMILIES),
)  # fmt: skip
def test_derivatives_at_the_size_classes_edges_are_within_units(family, n, dtype, device):
    check(family, n, dtype, device)


@pytest.mark.parametrize("n", (1, 2, 5, 9, 19, 40, 70, 140))
def test_first_and_second_derivatives_agree_with_cofactors_and_their_derivatives(n, dtype, device):
    torch.manual_seed(n)
    half = dtype in (torch.float16, torch.bfloat16)
    A = (torch.randn(7, n, n, dtype=torch.float32 if half else dtype) * (math.e / n) ** 0.5).to(
        dtype
    )
    A[1, 0] = A[1, -1]
    J = torch.randn(7, 3, n, n, dtype=A.dtype if not half else torch.float32).to(dtype)
    A, J = A.to(device), J.to(device)
    e = torch.arange(-3.0, 4.0, device=device).to(torch.zeros(1, dtype=dtype).real.dtype)
    e = e.float() if half else e
    first, second = jet(A, J, e)
    assert first.dtype == second.dtype == dtype
    assert first.shape == second.shape == (7, 3)
    C = torch.ops.torchdet.cofactor(A.unsqueeze(1).expand_as(J))
    H = torch.ops.torchdet.det_hvp(A.unsqueeze(1).expand_as(J), J)
    wide = torch.complex128 if dtype.is_complex else torch.float64
    power = 2.0 ** -e.double().unsqueeze(-1)
    eps = torch.finfo(dtype).eps
    for k, (got, X) in enumerate(((first, C), (second, H)), start=1):
        products = X.to(wide) * J.to(wide)
        expected = products.sum((-2, -1)) * power
        # Each derivative has one unit, and so has each of the n^2 entries of what is compared with.
        allowed = torch.tensor(
            [[units.unit(a, k, [z] * k) for z in Z] for a, Z in zip(A.cpu(), J.cpu(), strict=True)],
            dtype=torch.float64, device=device,
        )  # fmt: skip
        rows = [sum(x.sum() for x in units.frame_exponents(a)) for a in A.cpu()]
        frame = torch.tensor([2.0 ** int(r) for r in rows], device=device).double().unsqueeze(-1)
        # Half types round what is given and what is returned.
        rounding = (4 * eps if half else 0) * (products.abs().sum((-2, -1)) + 1e-4) * power
        error = (got.to(wide) - expected).abs()
        assert (error <= 2 * k * allowed * frame * power + rounding).all()


def _layouts(J: Tensor) -> dict[str, Tensor]:
    """The same numbers, in other places of memory."""
    stepped = torch.zeros(*J.shape[:-1], 2 * J.shape[-1], dtype=J.dtype, device=J.device)
    stepped[..., ::2] = J
    return {
        "transposed": J.mT.contiguous().mT,
        "directions first": J.transpose(0, 1).contiguous().transpose(0, 1),
        "stepped": stepped[..., ::2],
    }


@pytest.mark.parametrize("n", (1, 3, 6, 12, 18, 25, 40))
def test_bits_do_not_depend_on_batch_or_place(n, wide_dtype, device):
    torch.manual_seed(n)
    A = torch.randn(21, n, n, dtype=wide_dtype, device=device)
    A[4, 0] = A[4, -1] * 2
    A[5] *= 2.0 ** torch.arange(n, device=device)[:, None]
    J = torch.randn(21, 3, n, n, dtype=wide_dtype, device=device)
    J[3, 1] = 0
    e = torch.ops.torchdet.det_frexp(A)[1]
    whole = jet(A, J, e)
    cases.skip_complex_reference(wide_dtype)
    for X in _layouts(J).values():
        for x, y in zip(jet(A, X, e), whole, strict=True):
            assert torch.equal(x, y)
    for i in (0, 4, 5, 20):
        for x, y in zip(jet(A[i], J[i], e[i]), whole, strict=True):
            assert torch.equal(x, y[i])
    for x, y in zip(jet(A, J[:, 1:2], e), whole, strict=True):
        assert torch.equal(x, y[:, 1:2])
    shared = J[:1].expand_as(J)
    for x, y in zip(jet(A, shared, e), jet(A, shared.contiguous(), e), strict=True):
        assert torch.equal(x, y)
    assert (whole[0][3, 1], whole[1][3, 1]) == (0, 0)


@pytest.mark.parametrize("n", (3, 12, 25))
def test_nan_stays_in_its_direction(n, wide_dtype, device):
    torch.manual_seed(0)
    A = torch.randn(5, n, n, dtype=wide_dtype, device=device)
    J = torch.randn(5, 4, n, n, dtype=wide_dtype, device=device)
    e = A.new_zeros(5).real
    clean = jet(A, J, e)
    A[1, 0, 0], J[2, 3, 1, 1], J[4, 0, 0, 1] = math.nan, math.nan, math.inf
    for x, y in zip(jet(A, J, e), clean, strict=True):
        wrong = ~torch.isfinite(x)
        expected = torch.zeros(5, 4, dtype=torch.bool, device=device)
        expected[1], expected[2, 3], expected[4, 0] = True, True, True
        assert torch.equal(wrong, expected)
        assert torch.equal(x[~wrong], y[~wrong])


def test_nothing_of_nothing(dtype, device):
    for shape in ((0, 2, 3, 3), (4, 0, 3, 3), (4, 2, 0, 0)):
        J = torch.ones(shape, dtype=dtype, device=device)
        A = torch.ones(shape[0], *shape[2:], dtype=dtype, device=device)
        e = torch.ops.torchdet.det_frexp(A)[1]
        for x in jet(A, J, e):
            assert x.shape == shape[:2]
            assert (x == 0).all()


def test_errors(device):
    A, e = torch.zeros(4, 3, 3, device=device), torch.zeros(4, device=device)
    for J, text in (
        (A, r"det_frexp_jet: expected J of shape \(\*, d, n, n\) for A of shape \(4, 3, 3\), got"),
        (A.new_zeros(5, 2, 3, 3), r"expected J of shape .* got \(5, 2, 3, 3\)"),
        (A.new_zeros(4, 2, 3, 3).double(), "expected J of the dtype of A, float32, got float64"),
    ):
        with pytest.raises(RuntimeError, match=text):
            jet(A, J, e)
    with pytest.raises(RuntimeError, match=r"expected exponent of shape \(4,\), got \(3,\)"):
        jet(A, A.unsqueeze(1), e[1:])


@pytest.mark.parametrize("n", (2, 6, 21))
def test_any_exponent_is_survived(n, wide_dtype, device):
    A = torch.randn(6, n, n, dtype=wide_dtype, device=device)
    e = torch.tensor([0.0, math.nan, math.inf, -math.inf, 1e30, -1e30], device=device)
    for result in jet(A, A.unsqueeze(1), e.to(A.real.dtype)):
        assert torch.isfinite(result[:2]).all()
