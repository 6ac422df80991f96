"""Sums of determinants whose terms, weights or derivatives differ by more than the range."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.func import grad, jvp

import torchdet
from sum_oracles import Truth, allowed_error, assert_blocks, family_of


def _far(dtype: torch.dtype) -> int:
    """A whole t: 2^(2 t) is in range, and 2^(3 t) beyond it."""
    return 400 if dtype in (torch.float64, torch.complex128) else 48


def _logabs(*args: Tensor) -> Tensor:
    return torchdet.slogsumdet(*args[:-1], weights=args[-1]).logabsdet


def _check_derivatives(truth: Truth, plain: list[Tensor], args: list[Tensor], order: int) -> None:
    """Value, gradients and, for order 2, Hessian-vector products; `plain` as for allowed_error."""
    *matrices, w = args
    allowed = [allowed_error(truth, derivatives, plain) for derivatives in range(3)]
    sign, log = torchdet.slogsumdet(*matrices, weights=w)
    exact = mpmath.log(abs(truth.psi))
    eps = torch.finfo(w.dtype).eps
    assert abs(float(log) - exact) <= allowed[0] + 4 * eps * abs(exact)
    assert abs(mpmath.mpc(complex(sign)) - truth.psi / abs(truth.psi)) <= 2 * allowed[0]
    leaves = [x.clone().requires_grad_() for x in args]
    gradients = torch.autograd.grad(_logabs(*leaves), leaves, create_graph=True)
    blocks, of_weights = truth.gradient()
    for got, exact_blocks in zip(gradients[:-1], blocks, strict=True):
        assert_blocks(got.conj(), exact_blocks, allowed[1], "reverse")
    assert_blocks(gradients[-1].conj(), [np.array(of_weights)], allowed[1], "weights")
    if order < 2:
        return
    Zs, dw = [A.roll(1, -1) for A in matrices], w / 2  # of the scale of the matrices
    exact_hvp = truth.hessian_product([Z.cpu() for Z in Zs], dw.cpu())
    got_hvp = [torch.autograd.grad(gradients, leaves[:-1], [*Zs, dw])]
    if not w.is_complex():
        gradient = grad(_logabs, tuple(range(len(matrices))))
        got_hvp.append(jvp(gradient, tuple(args), (*Zs, dw))[1])
    for got in got_hvp:
        for X, exact_blocks in zip(got, exact_hvp, strict=True):
            assert_blocks(X.conj(), exact_blocks, 4 * allowed[2], "Hessian")


@pytest.mark.parametrize("rank", (0, 1, 2))
@pytest.mark.parametrize("sign", (1, -1))
def test_a_singular_member_at_another_scale(rank, sign, dtype, device):
    """Its determinant is 0 at every scale; its cofactors are not, and may be far above psi."""
    plain = [family_of("regular", n, dtype, 7 * n) for n in (3, 4)]
    plain[0][1, :, rank:] = 0
    matrices = [A.clone() for A in plain]
    matrices[0][1] *= 2.0 ** (sign * _far(dtype))
    w = torch.tensor([0.5, -1.25, 2.0, 0.75]).to(dtype)
    truth = Truth(matrices, w)
    # The second derivatives of one that is far above psi are beyond the range.
    order = 1 if sign > 0 else 2
    _check_derivatives(truth, plain, [x.to(device) for x in (*matrices, w)], order)


@pytest.mark.parametrize("matrices", (1, 2))
def test_a_singular_member_with_rows_of_different_scales(matrices, dtype, device):
    """Its cofactors are moderate, and the power of its largest entry is beyond the range."""
    t = 2.0 ** _far(dtype)
    singular = torch.tensor([[t, t, 0], [1, 1, 0], [0, 0, 1 / t]], dtype=torch.float64)
    A = torch.stack([torch.eye(3).double(), singular]).to(dtype).to(device)
    one = torch.ones(2, 1, 1, dtype=dtype, device=device)
    others = [one] * (matrices - 1)
    gradient = grad(lambda a: torchdet.slogsumdet(a, *others).logabsdet)(A)
    cofactors = [[1 / t, -1 / t, 0], [-1, 1, 0], [0, 0, 0]]
    assert gradient[1].tolist() == cofactors
    J = torch.ones(2, 1, 3, 3, dtype=dtype, device=device)
    J[1, 0, 0] = 0
    J[1, 0, 1, 1] = 2
    flat = [torch.zeros(2, 1, 1, 1, dtype=dtype, device=device)] * (matrices - 1)
    out = torchdet.slogsumdet_laplacian(
        [A, *others], [J, *flat], [torch.zeros_like(A), *(X[:, 0] for X in flat)]
    )
    assert out.derivatives.tolist() == [4]  # 3 of the identity, and 2 - 1


def test_a_member_that_is_nearly_of_rank_n_minus_2(dtype, device):
    """Its second derivatives are those of a member of rank n-2, where its determinant is tiny."""
    for t in (0.0, 2.0 ** -(2 * _far(dtype))):
        small = torch.diag(torch.tensor([1.0, t, t], dtype=torch.float64))
        A = torch.stack([torch.eye(3).double(), small]).to(dtype).to(device)
        hessian = torch.func.hessian(lambda a: torchdet.slogsumdet(a).logabsdet, 0)
        if not dtype.is_complex:
            assert hessian(A)[1, 1, 1, 1, 2, 2] == 1
        A.requires_grad_()
        (g,) = torch.autograd.grad(torchdet.slogsumdet(A).logabsdet, A, create_graph=True)
        (H,) = torch.autograd.grad(g[1, 1, 1].real, A)
        assert H[1, 2, 2] == 1


@pytest.mark.parametrize("pattern", ("smallest", "largest", "both"))
def test_weights_at_the_ends_of_the_range(pattern, dtype, device):
    """As many digits as other weights have; the determinants make up for it, or do not."""
    matrices = [family_of("one singular", n, dtype, 7 * n) for n in (3, 4)]
    info = torch.finfo(dtype)
    tiny, huge = 8 * info.smallest_normal * info.eps, info.max / 8
    w = torch.tensor([1.0, -3.0, 5.0, 7.0], dtype=torch.float64)
    w *= {"smallest": tiny, "largest": huge, "both": torch.tensor([tiny, 1, 1, tiny])}[pattern]
    w = w.to(dtype)
    truth = Truth(matrices, w)
    sign, log = torchdet.slogsumdet(*(A.to(device) for A in matrices), weights=w.to(device))
    exact, allowed = mpmath.log(abs(truth.psi)), allowed_error(truth, 0)
    assert abs(float(log) - exact) <= allowed + 4 * info.eps * abs(exact)
    assert abs(mpmath.mpc(complex(sign)) - truth.psi / abs(truth.psi)) <= 2 * allowed
    leaves = [A.to(device).requires_grad_() for A in matrices]
    result = torchdet.slogsumdet(*leaves, weights=w.to(device)).logabsdet
    for got, blocks in zip(torch.autograd.grad(result, leaves), truth.gradient()[0], strict=True):
        assert_blocks(got.conj(), blocks, allowed_error(truth, 1), "reverse")
