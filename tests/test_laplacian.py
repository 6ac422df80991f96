"""Laplacians of sums of determinants, against exact arithmetic."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.func import jacfwd, vmap

import torchdet
from sum_oracles import (
    DERIVATIVES,
    FAMILIES,
    SCALES,
    K,
    allowed_error,
    assert_gradients,
    case_of,
    directions,
)


@pytest.mark.parametrize("rows", (False, True))
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("scale", SCALES)
def test_values(family, scale, rows, wide_dtype, device):
    truth, matrices, w = case_of(family, scale, wide_dtype, device)
    Js, full, Ls = directions(truth.matrices, scale, rows)
    exact, exact_lap, size, size_lap = truth.along(full, Ls)
    got = torchdet.slogsumdet_laplacian(
        matrices, [J.to(device) for J in Js], [L.to(device) for L in Ls], w, rows=rows
    )
    sign, log = torchdet.slogsumdet(*matrices, weights=w)
    assert torch.equal(got.sign, sign)
    assert torch.equal(got.logabsdet, log)
    assert got.derivatives.shape == ((7, 2) if rows else (DERIVATIVES,))
    # A ratio has the errors of both of its numbers, a sum of S (d + 1) terms and S - 1 products of
    # two those of each.
    allowed = allowed_error(truth, 1)
    for x, y in zip(got.derivatives.flatten().tolist(), exact, strict=True):
        assert abs(x - y) <= allowed * size
    assert abs(float(got.laplacian) - exact_lap) <= 4 * allowed_error(truth, 2) * size_lap


@pytest.mark.parametrize("family", FAMILIES[:4])
def test_gradients(family, device):
    """Along random directions, against differences of arithmetic with a hundred digits."""
    truth, matrices, w = case_of(family, 0, torch.float64, device)
    Js, _, Ls = directions(matrices, 0, rows=False)
    # As allowed_error derives it for three derivatives.
    args = tuple(X.to(device) for X in (*matrices, *Js, *Ls, w))
    assert_gradients(torchdet.slogsumdet_laplacian, args, allowed_error(truth, 3))


@pytest.mark.parametrize("rows", (False, True))
@pytest.mark.parametrize("dtype", (torch.float64, torch.complex128))
def test_gradcheck(rows, dtype, device):
    torch.manual_seed(0)
    n, d = 3, 2
    A = torch.randn(2, 2, n, n, dtype=dtype, device=device)
    A[0, 1, 0] = A[0, 1, 2]  # singular
    J = torch.randn(2, 2, *((n, d) if rows else (d, n)), n, dtype=dtype, device=device)
    w = torch.randn(2, 3, dtype=dtype, device=device)
    args = [x.requires_grad_() for x in (A, J, torch.randn_like(A), w)]

    def f(A: Tensor, J: Tensor, L: Tensor, w: Tensor) -> tuple[Tensor, ...]:
        return torchdet.slogsumdet_laplacian([A], [J], [L], w, rows=rows)[1:]

    assert torch.autograd.gradcheck(f, args, check_forward_ad=True, atol=1e-4, rtol=1e-4)
    if not rows:
        assert torch.autograd.gradgradcheck(lambda A, J: f(A, J, *args[2:])[2], args[:2],
                                            atol=1e-3, rtol=1e-3)  # fmt: skip


def test_shapes_and_transforms(device):
    torch.manual_seed(0)
    A = torch.randn(5, K, 3, 3, device=device).double()
    B = torch.randn(K, 2, 2, device=device).double()  # one for all
    J, JB = torch.randn(5, K, 6, 3, 3).to(A), torch.randn(K, 6, 2, 2).to(A)
    L, LB = torch.randn_like(A), torch.randn_like(B)
    w = torch.randn(K, 7).to(A)

    def f(A: Tensor, J: Tensor, L: Tensor) -> tuple[Tensor, ...]:
        return tuple(torchdet.slogsumdet_laplacian([A, B, A], [J, JB, J], [L, LB, L], w))

    whole = f(A, J, L)
    assert [tuple(x.shape) for x in whole] == [(5, 7), (5, 7), (5, 7, 6), (5, 7)]
    for x, y in zip(vmap(f)(A, J, L), whole, strict=True):
        assert torch.equal(x, y)
    for x, y in zip(vmap(f, (-1, 1, 0))(A.movedim(0, -1), J.movedim(0, 1), L), whole, strict=True):
        assert torch.equal(x, y)
    single = torchdet.slogsumdet_laplacian([B], [JB], [LB], w[:, 0])
    assert [tuple(x.shape) for x in single] == [(), (), (6,), ()]
    none = torchdet.slogsumdet_laplacian([A, B], [J, JB], [L, LB], w[:, :0])
    assert [tuple(x.shape) for x in none] == [(5, 0), (5, 0), (5, 0, 6), (5, 0)]
    compiled = torch.compile(f, fullgraph=True, backend="aot_eager")
    for x, y in zip(compiled(A, J, L), whole, strict=True):
        assert torch.allclose(x, y, rtol=1e-12)
    got = jacfwd(lambda a: f(a, J[0], L[0])[3])(A[0])
    leaf = A[0].clone().requires_grad_()
    rows = [torch.autograd.grad(f(leaf, J[0], L[0])[3][m], leaf)[0] for m in range(7)]
    assert torch.allclose(got, torch.stack(rows), rtol=1e-10, atol=1e-10)


def test_rows_are_coordinates_of_one_row(device):
    """Six free particles: the Laplacian of their wave function has a closed form."""
    torch.manual_seed(0)
    k = torch.tensor([0.3, -0.7, 1.1, 1.9, -2.3, 0.4], device=device).double()
    x = torch.randn(32, 6, device=device).double()
    A = torch.exp(k * x[..., None]).unsqueeze(1)  # rows: particles, columns: orbitals
    J, L = (A * k).unsqueeze(-2), A * k * k
    out = torchdet.slogsumdet_laplacian([A], [J], [L], rows=True)
    # lap psi = sum(k^2) psi, and the sum of all derivatives is sum(k) psi.
    kinetic = out.laplacian + out.derivatives.square().sum((-2, -1))
    size = out.derivatives.square().sum((-2, -1)) + 1
    error = (kinetic - k.square().sum()).abs() / size
    cond = torch.linalg.cond(A.squeeze(1))
    assert (error <= 6 * torch.finfo(torch.float64).eps * cond).all()
    total = out.derivatives.sum((-2, -1))
    assert ((total - k.sum()).abs() <= 6 * torch.finfo(torch.float64).eps * cond * size).all()


def test_nan_stays_in_its_sum_and_zero_sums_have_no_laplacian(wide_dtype, device):
    torch.manual_seed(0)
    A = torch.randn(5, K, 3, 3, device=device).to(wide_dtype)
    J, L = torch.randn(5, K, 2, 3, 3, device=device).to(A), torch.randn_like(A)
    clean = torchdet.slogsumdet_laplacian([A], [J], [L])
    A[1, 2, 0, 0], J[2, 0, 0, 0, 0], L[3, 1, 0, 0] = math.nan, math.inf, math.nan
    A[4] = 0
    out = torchdet.slogsumdet_laplacian([A], [J], [L])
    for x, y in zip(out, clean, strict=True):
        assert torch.equal(x[0], y[0])
    assert out.laplacian[1:].isnan().all()
    assert out.derivatives[1].isnan().all()
    assert torch.equal(out.logabsdet[2:4], clean.logabsdet[2:4])
    assert not torch.isfinite(out.derivatives[2]).all()
    assert (out.sign[4] == 0).all()
    assert out.logabsdet[4] == -math.inf


def test_half_types(device):
    A = (2 * torch.eye(3)).expand(2, 3, 3).to(device)
    J, L = torch.ones(2, 4, 3, 3, device=device), torch.zeros(2, 3, 3, device=device)
    for dtype in (torch.float16, torch.bfloat16):
        out = torchdet.slogsumdet_laplacian([A.to(dtype)], [J.to(dtype)], [L.to(dtype)])
        wide = torchdet.slogsumdet_laplacian([A], [J], [L])
        for x, y in zip(out, wide, strict=True):
            assert x.dtype == dtype
            assert torch.equal(x, y.to(dtype))


def test_errors(device):
    A = torch.randn(2, K, 3, 3, device=device)
    J, L = torch.randn(2, K, 5, 3, 3, device=device), torch.randn_like(A)
    f = torchdet.slogsumdet_laplacian
    with pytest.raises(TypeError, match=r"expected matrices to be a sequence .* got Tensor"):
        f(A, [J], [L])
    with pytest.raises(TypeError, match=r"expected jacobians to be a sequence .* got none"):
        f([A], [], [L])
    with pytest.raises(TypeError, match="expected A to be a Tensor, got list"):
        f([A], [[1.0]], [L])
    with pytest.raises(RuntimeError, match="as many laplacians as matrices, 1, got 2"):
        f([A], [J], [L, L])
    with pytest.raises(RuntimeError, match=r"expected jacobians\[0\] of shape \(\*, d, n, n\) for"):
        f([A], [L], [L])
    with pytest.raises(RuntimeError, match=r"jacobians\[0\] of shape \(\*, n, d, n\) .* rows=True"):
        f([A], [J], [L], rows=True)
    with pytest.raises(RuntimeError, match=r"laplacians\[0\] of shape \(2, 4, 3, 3\), got \(2, 4,"):
        f([A], [J], [J])
    with pytest.raises(RuntimeError, match=r"jacobians\[0\] of the dtype of A, float32, got float"):
        f([A], [J.double()], [L])
    with pytest.raises(RuntimeError, match="the same number of coordinates, got 5 and 4"):
        f([A, A], [J, J[:, :, 1:]], [L, L])
    with pytest.raises(RuntimeError, match="expected weights of shape"):
        f([A], [J], [L], torch.ones(3, device=device))


def test_an_exponent_of_any_size(device):
    """The Laplacian of log psi has no scale: matrices times 2^s leave it as it is."""
    torch.manual_seed(0)
    A, J = torch.randn(1, 9, 9, device=device), torch.randn(1, 3, 9, 9, device=device)
    one = torchdet.slogsumdet_laplacian([A], [J], [A])
    two = torchdet.slogsumdet_laplacian([A * 2.0**60], [J * 2.0**60], [A * 2.0**60])
    # (3) is made of products of two terms, each with a relative error of n eps cond.
    X = torch.linalg.inv(A)
    size = torch.linalg.norm(X) * torch.linalg.norm(J)
    error = 9 * torch.finfo(A.dtype).eps * float(torch.linalg.cond(A))
    assert (one.derivatives - two.derivatives).abs().max() <= error * size
    assert (one.laplacian - two.laplacian).abs() <= 4 * error * (size**2 + 9)
    assert float(two.logabsdet) == pytest.approx(float(one.logabsdet) + 540 * math.log(2))
