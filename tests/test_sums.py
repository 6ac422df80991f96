"""Sums of determinants as logarithms, against exact arithmetic."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.func import grad, hessian, jacfwd, jvp, vmap

import torchdet
from sum_oracles import FAMILIES, SCALES, K, Truth, allowed_error, assert_blocks, case_of, scaled


def logabs(*matrices: Tensor, weights: Tensor | None = None) -> Tensor:
    return torchdet.slogsumdet(*matrices, weights=weights).logabsdet


families = pytest.mark.parametrize("family", FAMILIES)
scales = pytest.mark.parametrize("scale", SCALES)


@families
@scales
def test_values(family, scale, wide_dtype, device):
    truth, matrices, w = case_of(family, scale, wide_dtype, device)
    sign, log = torchdet.slogsumdet(*matrices, weights=w)
    allowed = allowed_error(truth, 0)
    exact = mpmath.log(abs(truth.psi))
    assert abs(float(log) - exact) <= allowed + 4 * torch.finfo(wide_dtype).eps * abs(exact)
    assert abs(mpmath.mpc(complex(sign)) - truth.psi / abs(truth.psi)) <= 2 * allowed


@families
@scales
def test_first_derivatives(family, scale, wide_dtype, device):
    truth, matrices, w = case_of(family, scale, wide_dtype, device)
    exact, exact_w = truth.gradient()
    allowed = allowed_error(truth, 1)
    leaves = [x.clone().requires_grad_() for x in (*matrices, w)]
    reverse = torch.autograd.grad(logabs(*leaves[:-1], weights=leaves[-1]), leaves)
    for A, blocks in zip(reverse[:-1], exact, strict=True):
        assert_blocks(A.conj(), blocks, allowed, "reverse")
    assert_blocks(reverse[-1].conj(), [np.array(exact_w)], allowed, "weights")
    if not wide_dtype.is_complex:
        for s in range(2):
            forward = jacfwd(lambda *x: logabs(*x, weights=w), s)(*matrices)
            assert_blocks(forward, exact[s], allowed, "forward")


@families
@scales
def test_second_derivatives(family, scale, wide_dtype, device):
    truth, matrices, w = case_of(family, scale, wide_dtype, device)
    generator = torch.Generator().manual_seed(1)
    Zs = [
        scaled(torch.randn(A.shape, generator=generator, dtype=wide_dtype), scale) for A in matrices
    ]
    dw = torch.linspace(-1, 1, K).to(wide_dtype)
    exact = truth.hessian_product(Zs, dw)
    allowed = 4 * allowed_error(truth, 2)  # a sum of S + 2 terms
    leaves = [x.clone().requires_grad_() for x in (*matrices, w)]
    gradients = torch.autograd.grad(
        logabs(*leaves[:-1], weights=leaves[-1]), leaves, create_graph=True
    )
    directions = [x.to(device) for x in (*Zs, dw)]
    reverse = torch.autograd.grad(gradients, leaves[:-1], directions)
    for A, blocks in zip(reverse, exact, strict=True):
        assert_blocks(A.conj(), blocks, allowed, "reverse over reverse")
    if not wide_dtype.is_complex:
        over = jvp(
            lambda *x: grad(lambda *y: logabs(*y[:-1], weights=y[-1]), (0, 1))(*x),
            (*matrices, w),
            (*(Z.to(device) for Z in Zs), dw.to(device)),
        )[1]
        for A, blocks in zip(over, exact, strict=True):
            assert_blocks(A, blocks, allowed, "forward over reverse")


def test_a_product_of_many_determinants_stays_in_range(wide_dtype, device):
    """Of order 1, each 0.51, so that 2^-1022 would come with 1053 mantissas and 2^-126 with 130."""
    A = torch.full((2, 1, 1), 0.51, dtype=wide_dtype, device=device)
    S = 1200
    x = float(A[0].real)  # 0.51, rounded
    sign, log = torchdet.slogsumdet(*[A] * S)
    true = S * math.log(x) + math.log(2)
    # Every product is rounded once, and the logarithm.
    eps = torch.finfo(wide_dtype).eps
    assert abs(float(log) - true) <= S * eps + 4 * eps * abs(true)
    assert complex(sign) == 1
    G = grad(lambda a: logabs(*[a] * S))(A)
    # d log(a_1^S + a_2^S) = S / (2 a)
    expected = torch.full_like(A, S / (2 * x))
    torch.testing.assert_close(G, expected, rtol=4 * S * eps, atol=0)


# ---- shapes, weights for several sums, transforms


def test_weights_of_every_shape(device):
    torch.manual_seed(0)
    up = torch.randn(5, K, 3, 3, device=device).double() + 2 * torch.eye(3, device=device)
    down = torch.randn(5, K, 2, 2, device=device).double() + 2 * torch.eye(2, device=device)
    shared, own = torch.randn(K).double(), torch.randn(5, K).double()
    columns = torch.randn(K, 7).double()
    for weights, each in (
        (None, torch.ones(5, 1, K).double()),
        (shared, shared.expand(5, 1, K)),
        (own, own.unsqueeze(1)),
        (columns, columns.mT.expand(5, 7, K)),
    ):
        given = None if weights is None else weights.to(device)
        results = torchdet.slogsumdet(up, down, weights=given)
        assert all(x.shape == ((5, 7) if weights is columns else (5,)) for x in results)
        sign, log = (x.cpu().view(5, -1) for x in results)
        for b, c in np.ndindex(*each.shape[:2]):
            truth = Truth([up[b].cpu(), down[b].cpu()], each[b, c])
            exact = mpmath.log(abs(truth.psi))
            allowed = allowed_error(truth, 0) + 4 * torch.finfo(torch.float64).eps * abs(exact)
            assert abs(float(log[b, c]) - exact) <= allowed
            assert float(sign[b, c]) == mpmath.sign(truth.psi.real)
    # One set of matrices for all, and one for each.
    assert logabs(up, down[0]).shape == (5,)
    with pytest.raises(RuntimeError, match=r"may be \(\*, K\) or \(K, m\)"):
        torchdet.slogsumdet(up[:K], weights=torch.ones(K, K, device=device).double())


@pytest.mark.parametrize("K", (0, 1))
def test_sums_of_no_and_of_one_term(K, dtype, device):
    A = (2 * torch.eye(3)).to(dtype).to(device).expand(2, K, 3, 3)
    sign, log = torchdet.slogsumdet(A)
    assert sign.dtype == dtype and log.dtype == torch.zeros(1, dtype=dtype).real.dtype
    assert sign.tolist() == [K, K]
    expected = math.log(8) if K else -math.inf
    assert torch.allclose(log.double(), torch.full_like(log, expected).double(), rtol=1e-2)


def test_a_sum_of_zero_has_a_logarithm_and_no_gradient(wide_dtype, device):
    A = torch.stack([torch.eye(3), -torch.eye(3), torch.zeros(3, 3)]).to(wide_dtype).to(device)
    A = A.requires_grad_()
    sign, log = torchdet.slogsumdet(A)
    assert sign.item() == 0
    assert log.item() == -math.inf
    (g,) = torch.autograd.grad(log, A)
    assert not torch.isfinite(g).all()


def test_nan_and_inf_stay_in_their_sum(wide_dtype, device):
    A = torch.randn(5, K, 3, 3, device=device).to(wide_dtype)
    clean = torchdet.slogsumdet(A)
    A[1, 2, 0, 0] = math.nan
    A[3, 0, 1, 1] = math.inf
    spoiled = torchdet.slogsumdet(A)
    for x, y in zip(spoiled, clean, strict=True):
        assert x[[1, 3]].isnan().all()
        assert torch.equal(x[[0, 2, 4]], y[[0, 2, 4]])


def test_transforms(device):
    torch.manual_seed(0)
    A = torch.randn(6, K, 3, 3, device=device).double() + 2 * torch.eye(3, device=device)
    A[2, 1, 0] = A[2, 1, 1]  # singular
    B = torch.randn(6, K, 2, 2, device=device).double()
    w = torch.randn(K, device=device).double()

    def f(a: Tensor, b: Tensor) -> Tensor:
        return logabs(a, b, weights=w)

    Z = torch.randn(6, K, 3, 3, device=device).double()
    assert torch.equal(vmap(f)(A, B), f(A, B))
    reverse, forward = vmap(grad(f))(A, B), vmap(jacfwd(f))(A, B)
    second = torch.einsum("bkijlmn,blmn->bkij", vmap(hessian(f))(A, B), Z)
    compiled = torch.compile(f, fullgraph=True, backend="aot_eager")
    leaves = [x.clone().requires_grad_() for x in (A, B)]
    of_compiled = torch.autograd.grad(compiled(*leaves).sum(), leaves)
    for b in range(6):
        truth = Truth([A[b].cpu(), B[b].cpu()], w.cpu())
        exact, allowed = truth.gradient()[0], allowed_error(truth, 1)
        for got, blocks in (
            (reverse[b], exact[0]),
            (forward[b], exact[0]),
            (of_compiled[0][b], exact[0]),
            (of_compiled[1][b], exact[1]),
        ):
            assert_blocks(got, blocks, allowed, f"first derivative, sum {b}")
        directions = [Z[b].cpu(), torch.zeros_like(B[b]).cpu()]
        exact = truth.hessian_product(directions, torch.zeros(K).double())
        # As test_second_derivatives; the product with Z is one more sum.
        assert_blocks(second[b], exact[0], 4 * allowed_error(truth, 2), f"Hessian, sum {b}")


def test_autocast_and_half_types(device):
    A = (2 * torch.eye(3)).expand(2, 3, 3).to(device)
    with torch.autocast(device, torch.bfloat16):
        assert logabs(A.bfloat16()).dtype == torch.float32
    for dtype in (torch.float16, torch.bfloat16):
        leaf = A.to(dtype).requires_grad_()
        weights = torch.ones(2, dtype=dtype, device=device)
        log = logabs(leaf * 2**9, weights=weights)  # the determinant is beyond float16
        assert log.dtype == dtype
        (g,) = torch.autograd.grad(log, leaf)
        assert torch.allclose(g.float(), 0.25 * torch.eye(3, device=device).expand(2, 3, 3))


def test_errors(device):
    A = torch.randn(2, K, 3, 3, device=device)
    with pytest.raises(TypeError, match="at least one Tensor"):
        torchdet.slogsumdet()
    with pytest.raises(TypeError, match="expected A to be a Tensor, got list"):
        torchdet.slogsumdet(A.tolist())
    for bad, text in (
        ((A[..., 0],), r"expected A of shape \(\*, n, n\)"),
        ((A[0, 0],), r"expected A of shape \(\*, K, n, n\), got \(3, 3\)"),
        ((A, A.double()), "expected A of the dtype of A, float32, got float64"),
        ((A, A[:, :2]), r"shapes \(\*, K\) broadcast, got \(2, 4\), \(2, 2\)"),
    ):
        with pytest.raises(RuntimeError, match=text):
            torchdet.slogsumdet(*bad)
    for w, text in (
        (torch.ones(3), r"expected weights of shape \(K,\), \(\*, K\) or \(K, m\)"),
        (torch.ones(K).double(), "expected weights of the dtype of A, float32, or real"),
        (torch.ones(()), "expected weights of shape"),
    ):
        with pytest.raises(RuntimeError, match=text):
            torchdet.slogsumdet(A, weights=w.to(device))
