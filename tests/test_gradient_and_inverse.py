"""The gradient of log|det| and the inverse from one inversion: the bits of two, at every matrix."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import cases
from support import OPS, draw, logabsdet, on_extension, operators_called, same_bits
from torchdet._kept import keeps

FAMILIES = ("normal", "graded_both", "denormal", "diagonal_huge_and_tiny", "near_singular",
            "integer_rank_n-1", "integer_rank_n-2", "wilkinson_growth")  # fmt: skip


def with_one_nan(X: Tensor) -> Tensor:
    """X with the same NaN for every NaN, whose sign depends on the order of operands."""
    parts = torch.view_as_real(X) if X.is_complex() else X
    return parts.where(~parts.isnan(), float("nan"))


def assert_bits_of_two(grad: Tensor, A: Tensor) -> None:
    results = OPS._slogdet_backward_inverse(grad, A)
    for result, g in zip(results, (grad, torch.ones_like(grad)), strict=True):
        assert result.is_contiguous()
        assert same_bits(with_one_nan(result), with_one_nan(OPS.slogdet_backward(g, A)))


# The ends of lanes, rows and blocks with every instruction set, and groups of matrices. Plain
# PyTorch has one algorithm.
ORDERS = (1, 4, 13)
if cases.EXTENSION:
    ORDERS = (1, 2, 3, 4, 6, *range(8, 18), 24, 32, 33, 64, 65, 97, 129)
WHERE_THEY_EXIST = [(f, n) for f in FAMILIES for n in ORDERS if cases.exists(f, n)]


@pytest.mark.parametrize(("family", "n"), WHERE_THEY_EXIST)
def test_both_results_have_the_bits_of_two_inversions(family, n, dtype, device):
    A = cases.matrices(family, n, dtype).to(device)
    A = torch.cat([A, A[:1] * float("nan")])
    for size in (0.7, 2.0**-100, 2.0**100):
        assert_bits_of_two(torch.full(A.shape[:1], size, dtype=dtype, device=device), A)


@pytest.mark.parametrize("n", (3, 9, 12, 16, 40))
def test_both_results_in_every_layout_and_batch(n, dtype, device):
    A = torch.randn(3, 7, n, n, dtype=dtype, device=device)
    grad = torch.randn(3, 7, dtype=dtype, device=device)
    for X in (A.mT, A[:, ::2], A[:1].expand(3, 7, n, n), A[:0], A[0, 0]):
        batch = X.shape[:-2]
        assert_bits_of_two(grad.flatten()[: batch.numel()].view(batch), X)
        assert_bits_of_two(grad[0, 0].expand(batch), X)


@pytest.mark.parametrize("n", (0, 1, 3, 12, 40))
@pytest.mark.parametrize("half", (torch.float16, torch.bfloat16), ids=cases.name)
def test_both_results_in_half_types(n, half, device):
    A = torch.randn(4, n, n, device=device).to(half)
    assert_bits_of_two(torch.full((4,), 0.7, dtype=half, device=device), A)


@on_extension
@pytest.mark.parametrize("n", (3, 4, 8, 9, 12, 16, 20, 21, 33, 70, 130))
def test_the_gradient_of_a_logarithm_and_its_derivatives_take_one_inversion(n, wide_dtype):
    """Their bits are those of two inversions, and hooks see the inverse that is saved."""
    A = draw(5, n, wide_dtype).requires_grad_()
    weight = torch.full((5,), 0.7, dtype=torch.float64, requires_grad=True)
    y = logabsdet(A)
    g: list[Tensor] = []
    saved: list[Tensor] = []

    def differentiate() -> None:
        g.extend(torch.autograd.grad(y, A, weight, create_graph=True))

    def pack(x: Tensor) -> Tensor:
        saved.append(x.detach().clone())
        return saved[-1]

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        name = "_slogdet_backward_inverse"
        assert operators_called(differentiate) == [f"{name}_kept" if keeps(A) else name]
    ones = torch.ones(5, dtype=wide_dtype)
    conj_X = OPS.slogdet_backward(ones, A.detach())
    assert sum(x.shape == A.shape and same_bits(x, conj_X) for x in saved) == 1
    assert same_bits(g[0], OPS.slogdet_backward(weight.to(wide_dtype), A).detach())

    V = torch.randn_like(A)
    results: list[Tensor] = []

    def differentiate_again() -> None:
        results.extend(torch.autograd.grad(g[0], (weight, A), V, retain_graph=True))

    before = [x.clone() for x in saved]
    for _ in range(2):
        assert operators_called(differentiate_again) == [
            "_slogdet_hvp_kept" if wide_dtype.is_complex else "_slogdet_hvp_scaled"
        ]
    Z = weight.detach()[:, None, None] * V
    for of_weight, of_A in (results[:2], results[2:]):
        assert same_bits(of_weight, (V * conj_X.conj()).sum((-2, -1)).real)
        assert same_bits(of_A, OPS._slogdet_hvp_kept(conj_X, Z).conj())
    assert all(map(same_bits, saved, before))


@pytest.mark.parametrize("n", (3, 12, 40))
@pytest.mark.parametrize("dtype", (torch.float16, torch.float64, torch.complex128), ids=cases.name)
def test_a_recorded_second_derivative_has_the_bits_of_one_that_is_not(n, dtype, device):
    X = torch.randn(4, n, n, dtype=torch.complex128 if dtype.is_complex else torch.float64)
    A = (X / n + torch.eye(n)).to(dtype).to(device).requires_grad_()
    y = logabsdet(A)
    (g,) = torch.autograd.grad(y, A, torch.full_like(y, 0.7), create_graph=True)
    V = torch.randn_like(A)
    plain, recorded = (
        torch.autograd.grad(g, A, V, create_graph=create_graph, retain_graph=True)[0].detach()
        for create_graph in (False, True)
    )
    assert plain.isfinite().all()
    assert same_bits(plain, recorded)
