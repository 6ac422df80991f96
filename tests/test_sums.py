"""Sums of determinants as logarithms, against exact arithmetic.

The terms of psi are T_k = w_k prod_s det A_sk. The first two derivatives of log psi are made of
psi, determinants, cofactors C and their derivatives H[Z]. The oracle takes those from rational
numbers and combines them in arithmetic of 60 digits with exponents of any size.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import mpmath
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.func import grad, hessian, jacfwd, jvp, vmap

import oracles
import torchdet

mpmath.mp.dps = 60
K = 4


def _mp(exact: oracles.Exact) -> np.ndarray:
    """The numbers as mpmath's."""
    out = np.empty(exact.values.shape, dtype=object)
    for index in np.ndindex(*out.shape):
        re, im = oracles.parts(exact.values[index])
        e = int(np.asarray(exact.exponents)[index])
        out[index] = mpmath.mpc(mpmath.ldexp(re, e), mpmath.ldexp(im, e))
    return out


def _numbers(x: Tensor) -> np.ndarray:
    return np.vectorize(mpmath.mpc, otypes=[object])(x.detach().resolve_conj().cpu().numpy())


class Truth:
    """Psi, and the derivatives of log psi, of one sum; and what rounding of each term may do."""

    def __init__(self, matrices: list[Tensor], w: Tensor) -> None:
        self.matrices, self.w = matrices, _numbers(w)
        self.S, self.K = len(matrices), len(w)
        self.det = [[_mp(oracles.det(a))[()] for a in A] for A in matrices]
        self.C = [[_mp(oracles.cofactor(a)) for a in A] for A in matrices]
        self.psi = sum(self.term(k) for k in range(self.K))

    def others(self, k: int, *left_out: int) -> mpmath.mpc:
        return mpmath.fprod(self.det[s][k] for s in range(self.S) if s not in left_out)

    def term(self, k: int) -> mpmath.mpc:
        return self.w[k] * self.others(k)

    def gradient(self) -> tuple[list[list[np.ndarray]], list[mpmath.mpc]]:
        """D log psi with respect to the matrices and to w; holomorphic, no conjugate."""
        matrices = [
            [self.w[k] * self.others(k, s) / self.psi * self.C[s][k] for k in range(self.K)]
            for s in range(self.S)
        ]
        return matrices, [self.others(k) / self.psi for k in range(self.K)]

    def hessian_product(self, Zs: list[Tensor], dw: Tensor) -> list[list[np.ndarray]]:
        """The derivative of the gradient with respect to the matrices in direction (Z, dw)."""
        dw_ = _numbers(dw)
        along = [
            [(C * _numbers(z)).sum() for C, z in zip(self.C[s], Zs[s], strict=True)]
            for s in range(self.S)
        ]
        d_psi = mpmath.mpc(0)
        for k in range(self.K):
            d_psi += dw_[k] * self.others(k)
            for s in range(self.S):
                d_psi += self.w[k] * self.others(k, s) * along[s][k]
        result = []
        for s in range(self.S):
            row = []
            for k in range(self.K):
                A, Z, rest = self.matrices[s][k], Zs[s][k], self.others(k, s)
                X = self.w[k] * rest * _mp(oracles.hvp(A, Z)) + dw_[k] * rest * self.C[s][k]
                for t in range(self.S):
                    if t != s:
                        X = X + self.w[k] * self.others(k, s, t) * along[t][k] * self.C[s][k]
                gradient = self.w[k] * rest * self.C[s][k]
                row.append(X / self.psi - gradient * d_psi / self.psi**2)
            result.append(row)
        return result


def _family(name: str, n: int, dtype: torch.dtype, seed: int) -> Tensor:
    """K integer matrices of order n, some of them singular."""
    generator = torch.Generator().manual_seed(seed)

    def of_rank(rank: int) -> Tensor:
        left = torch.randint(-2, 3, (n, rank), generator=generator).double()
        right = torch.randint(-2, 3, (rank, n), generator=generator).double()
        return left @ right + (3 * torch.eye(n) if rank == n else 0)

    def whole() -> Tensor:
        while True:
            A = of_rank(n)
            if abs(float(torch.linalg.det(A))) > 0.5:
                return A

    kinds: dict[str, Callable[[], list[Tensor]]] = {
        "regular": lambda: [whole() for _ in range(K)],
        "one singular": lambda: [whole(), of_rank(n - 1), whole(), whole()],
        "all but one": lambda: [of_rank(n - 1), of_rank(n - 1), whole(), of_rank(n - 1)],
        "rank n-2": lambda: [whole(), of_rank(n - 2), of_rank(n - 2), whole()],
        "a zero matrix": lambda: [whole(), torch.zeros(n, n).double(), whole(), whole()],
    }
    A = torch.stack(kinds[name]())
    if dtype.is_complex:  # a phase for each row, exact
        phase = torch.tensor([1, 1j, -1, -1j])[torch.arange(n) % 4].to(torch.complex128)
        A = A * phase[:, None] * (1 + 0.5j)
    return A.to(dtype)


FAMILIES = ("regular", "one singular", "all but one", "rank n-2", "a zero matrix")
SCALES = (0, 500, -500)  # of powers of two; in float32 a tenth of it


def _scaled(A: Tensor, scale: int) -> Tensor:
    exponent = scale if A.dtype in (torch.float64, torch.complex128) else scale // 10
    return A * 2.0**exponent


def _assert_blocks(got: Tensor, expected: list[np.ndarray], allowed: float, what: str) -> None:
    """Entries of all K blocks together, relative to the largest of them."""
    exact = np.stack(expected)
    largest = max(abs(x) for x in exact.ravel())
    difference = _numbers(got) - exact
    error = max(abs(x) for x in difference.ravel())
    assert error <= allowed * largest, (what, float(error / largest), allowed)


def _allowed(truth: Truth, derivatives: int) -> float:
    """A relative error for the largest block.

    Each factor of a term, that is det, C or H, has a relative error of n eps cond, with cond the
    quotient of the largest and the smallest singular value that is not zero; a term has at most one
    for each matrix and derivative. A quotient by psi adds the error of psi, larger by what cancels.
    """
    eps, most = torch.finfo(truth.matrices[0].dtype).eps, 1.0
    for A in truth.matrices:
        for a in A:
            s = torch.linalg.svdvals(a.to(torch.complex128))
            s = s[s > 1e-9 * s[0]] if float(s[0]) > 0 else torch.ones(1)
            most = max(most, float(s[0] / s[-1]))
    n = max(A.shape[-1] for A in truth.matrices)
    cancel = float(sum(abs(truth.term(k)) for k in range(truth.K)) / abs(truth.psi))
    factors = len(truth.matrices) + derivatives + 1
    return factors * n * eps * most * cancel ** (1 + derivatives)


def _case(family: str, scale: int, dtype: torch.dtype, device: str):
    matrices = [_scaled(_family(family, n, dtype, 7 * n), scale) for n in (3, 4)]
    w = torch.tensor([0.5, -1.25, 2.0, 0.75]).to(dtype)
    if dtype.is_complex:
        w = w * (1 - 0.5j)
    truth = Truth(matrices, w)
    return truth, [A.to(device) for A in matrices], w.to(device)


def logabs(*matrices: Tensor, weights: Tensor | None = None) -> Tensor:
    return torchdet.slogsumdet(*matrices, weights=weights).logabsdet


families = pytest.mark.parametrize("family", FAMILIES)
scales = pytest.mark.parametrize("scale", SCALES)


@families
@scales
def test_values(family, scale, wide_dtype, device):
    truth, matrices, w = _case(family, scale, wide_dtype, device)
    sign, log = torchdet.slogsumdet(*matrices, weights=w)
    allowed = _allowed(truth, 0)
    exact = mpmath.log(abs(truth.psi))
    assert abs(float(log) - exact) <= allowed + 4 * torch.finfo(wide_dtype).eps * abs(exact)
    assert abs(mpmath.mpc(complex(sign)) - truth.psi / abs(truth.psi)) <= 2 * allowed


@families
@scales
def test_first_derivatives(family, scale, wide_dtype, device):
    truth, matrices, w = _case(family, scale, wide_dtype, device)
    exact, exact_w = truth.gradient()
    allowed = _allowed(truth, 1)
    leaves = [x.clone().requires_grad_() for x in (*matrices, w)]
    reverse = torch.autograd.grad(logabs(*leaves[:-1], weights=leaves[-1]), leaves)
    for A, blocks in zip(reverse[:-1], exact, strict=True):
        _assert_blocks(A.conj(), blocks, allowed, "reverse")
    _assert_blocks(reverse[-1].conj(), [np.array(exact_w)], allowed, "weights")
    if not wide_dtype.is_complex:
        for s in range(2):
            forward = jacfwd(lambda *x: logabs(*x, weights=w), s)(*matrices)
            _assert_blocks(forward, exact[s], allowed, "forward")


@families
@scales
def test_second_derivatives(family, scale, wide_dtype, device):
    truth, matrices, w = _case(family, scale, wide_dtype, device)
    generator = torch.Generator().manual_seed(1)
    Zs = [
        _scaled(torch.randn(A.shape, generator=generator, dtype=wide_dtype), scale)
        for A in matrices
    ]
    dw = torch.linspace(-1, 1, K).to(wide_dtype)
    exact = truth.hessian_product(Zs, dw)
    allowed = 4 * _allowed(truth, 2)  # a sum of S + 2 terms
    leaves = [x.clone().requires_grad_() for x in (*matrices, w)]
    gradients = torch.autograd.grad(
        logabs(*leaves[:-1], weights=leaves[-1]), leaves, create_graph=True
    )
    directions = [x.to(device) for x in (*Zs, dw)]
    reverse = torch.autograd.grad(gradients, leaves[:-1], directions)
    for A, blocks in zip(reverse, exact, strict=True):
        _assert_blocks(A.conj(), blocks, allowed, "reverse over reverse")
    if not wide_dtype.is_complex:
        over = jvp(
            lambda *x: grad(lambda *y: logabs(*y[:-1], weights=y[-1]), (0, 1))(*x),
            (*matrices, w),
            (*(Z.to(device) for Z in Zs), dw.to(device)),
        )[1]
        for A, blocks in zip(over, exact, strict=True):
            _assert_blocks(A, blocks, allowed, "forward over reverse")


# ---- shapes, weights for several sums, transforms


def test_weights_of_every_shape(device):
    torch.manual_seed(0)
    up = torch.randn(5, K, 3, 3, device=device).double() + 2 * torch.eye(3, device=device)
    down = torch.randn(5, K, 2, 2, device=device).double() + 2 * torch.eye(2, device=device)
    terms = torch.linalg.det(up) * torch.linalg.det(down)
    shared, own = torch.randn(K).double(), torch.randn(5, K).double()
    columns = torch.randn(K, 7).double()
    for weights, psi in (
        (None, terms.sum(-1)),
        (shared, terms @ shared.to(device)),
        (own, (terms * own.to(device)).sum(-1)),
        (columns, terms @ columns.to(device)),
    ):
        given = None if weights is None else weights.to(device)
        sign, log = torchdet.slogsumdet(up, down, weights=given)
        assert sign.shape == log.shape == psi.shape
        assert torch.allclose(sign * log.exp(), psi, rtol=1e-12, atol=1e-13)
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

    def by_hand(a: Tensor, b: Tensor) -> Tensor:
        return ((torchdet.det(a) * torchdet.det(b)) @ w).abs().log()

    for over in (lambda g: g, lambda g: grad(g), lambda g: jacfwd(g), lambda g: hessian(g)):
        got, expected = vmap(over(f))(A, B), vmap(over(by_hand))(A, B)
        assert torch.allclose(got, expected, rtol=1e-9, atol=1e-9)
    compiled = torch.compile(f, fullgraph=True, backend="aot_eager")
    leaves = [x.clone().requires_grad_() for x in (A, B)]
    gradients = torch.autograd.grad(compiled(*leaves).sum(), leaves)
    expected = torch.autograd.grad(by_hand(*leaves).sum(), leaves)
    for x, y in zip(gradients, expected, strict=True):
        assert torch.allclose(x, y, rtol=1e-9, atol=1e-9)


def test_autocast_and_half_types(device):
    A = (2 * torch.eye(3)).expand(2, 3, 3).to(device)
    with torch.autocast(device, torch.bfloat16):
        assert logabs(A.bfloat16()).dtype == torch.float32
    for dtype in (torch.float16, torch.bfloat16):
        leaf = A.to(dtype).requires_grad_()
        log = logabs(leaf * 2**9)  # the determinant is beyond float16
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
