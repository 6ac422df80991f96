"""First derivatives: the gradient of det is the cofactor matrix at every rank, to one unit."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

import cases
import oracles
import torchdet
import units
from cases import grid
from support import AT_EDGES, exact_cofactors, logabsdet, same_bits

ORDERS = {
    torch.float32: (1, 2, 3, 4, 5, 8, 12),
    torch.float64: (1, 2, 3, 4, 5, 8),
    torch.complex64: (2, 5),
    torch.complex128: (1, 3, 4, 8),
}
EDGE_FAMILIES = ("normal", "integer_rank_n-1", "integer_rank_n-2", "graded_singular", "shift")


def gradient(A: Tensor, create_graph: bool = False) -> Tensor:
    X = A.clone().requires_grad_()
    d = torchdet.det(X)
    return torch.autograd.grad(d, X, torch.ones_like(d), create_graph=create_graph)[0].detach()


@pytest.mark.parametrize(("family", "n", "dtype"), grid(ORDERS))
def test_the_gradient_of_det_is_the_conjugate_cofactor_matrix(family, n, dtype, device):
    check_gradient(family, n, dtype, device)


@pytest.mark.parametrize(
    ("family", "n", "dtype"),
    grid(AT_EDGES["det_backward"], EDGE_FAMILIES),
)
def test_the_gradient_at_the_size_classes_edges_is_the_cofactor_matrix(family, n, dtype, device):
    check_gradient(family, n, dtype, device)


def check_gradient(family: str, n: int, dtype: torch.dtype, device: str) -> None:
    A, exact = cases.matrices(family, n, dtype), exact_cofactors(family, n, dtype)
    grad = gradient(A.to(device))
    units.assert_within(grad.conj(), exact, A, 1, what="gradient")
    assert same_bits(gradient(A.to(device), create_graph=True), grad)


@pytest.mark.parametrize("create_graph", (False, True))
def test_the_gradient_of_a_singular_2x2_matrix_is_exact(create_graph, dtype, device):
    A = torch.tensor([[1, 2], [2, 4]], dtype=dtype, device=device)
    expected = torch.tensor([[4, -2], [-2, 1]], dtype=dtype, device=device)
    assert torch.equal(gradient(A, create_graph), expected)


@pytest.mark.parametrize("place", range(4))
def test_a_zero_on_the_diagonal_gives_the_cofactor_wherever_it_is(place, dtype, device):
    diagonal = torch.tensor([2.0, 3.0, 5.0, 7.0], dtype=dtype, device=device)
    diagonal[place] = 0
    A = torch.diag(diagonal)
    expected = oracles.cofactor(A)
    assert expected.values[place, place]
    units.assert_within(gradient(A)[None], [expected], A[None], 1, what="gradient")


def test_a_float32_backward_under_a_float64_default_stays_float32(device):
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        A = torch.eye(3, dtype=torch.float32, device=device) * 2
        for f in (torchdet.det, torchdet.logdet, logabsdet):
            X = A.clone().requires_grad_()
            f(X).backward()
            assert X.grad.dtype == torch.float32
            assert X.grad.isfinite().all()
    finally:
        torch.set_default_dtype(before)


@pytest.mark.parametrize("n", (3, 5, 20))
def test_a_gradient_is_right_where_only_its_product_with_grad_is_representable(n, device):
    """C_33 = 2^200 is beyond float32 and grad is near its lower end; the product is neither."""
    A = torch.eye(n, device=device) * 2.0**100
    A[1:, 1:] = torch.eye(n - 1, device=device)
    A[1, 1] = 2.0**100
    # C_33 = 2^200, C_11 = C_22 = 2^100.
    got = torch.ops.torchdet.det_backward(torch.tensor(2.0**-120, device=device), A)
    expected = torch.full((n,), 2.0**80)
    expected[:2] = 2.0**-20
    assert torch.equal(got.cpu(), torch.diag(expected))
    got = torch.ops.torchdet.det_backward(torch.tensor(2.0**120, device=device), A / 2.0**100)
    # Now C_11 = 2^(-100 (n-2)): an underflow for n >= 4, unless the product is representable.
    true = [120 - 100 * (n - 2)] * 2 + [120 - 100 * (n - 3)] * (n - 2)
    expected = torch.tensor([math.ldexp(1.0, e) for e in true])
    assert torch.equal(got.cpu().diagonal(), expected)


@pytest.mark.parametrize("n", (1, 2, 4, 6, 33))
def test_each_gradient_of_a_batch_is_its_own_matrix_times_its_own_grad(n, dtype, device):
    A = torch.randn(2, 3, n, n, dtype=dtype, device=device)
    g = torch.randn(3, 2, dtype=dtype, device=device).mT
    X = A.clone().requires_grad_()
    torchdet.det(X).backward(g)
    expected = g[..., None, None] * torchdet.cofactor(A).conj()
    # The same cofactors multiplied once, perhaps from another algorithm of the same accuracy.
    scale = expected.abs().amax((-2, -1), keepdim=True) * n * torch.finfo(dtype).eps
    assert ((X.grad - expected).abs() <= 4 * scale).all()


@pytest.mark.parametrize("name", ("cofactor", "adjugate", "slogdet_backward"))
def test_the_other_functions_are_differentiable_at_a_single_matrix(name):
    A = torch.randn(3, 3, dtype=torch.float64, requires_grad=True)
    f = {
        "cofactor": torchdet.cofactor,
        "adjugate": torchdet.adjugate,
        "slogdet_backward": lambda X: torch.ops.torchdet.slogdet_backward(X[0, 0], X),
    }[name]
    assert gradcheck(f, (A,), check_forward_ad=name != "slogdet_backward")


def test_changing_the_input_before_backward_raises():
    A = torch.randn(3, 4, 4, requires_grad=True)
    X = A.clone()
    loss = torchdet.det(X).sum()
    with torch.no_grad():
        X.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(loss, A)


@pytest.mark.parametrize(
    ("n", "words"), ((3, 0), (8, 0), (20, 0), (40, 40 * 40 + 41), (130, 130 * 130 + 392))
)
def test_at_most_one_matrix_and_some_integers_are_saved_beside_A(n, words):
    A = torch.randn(64, n, n, requires_grad=True)
    saved = {}
    with torch.autograd.graph.saved_tensors_hooks(
        lambda x: saved.setdefault(x.data_ptr(), x.numel() * x.element_size()) and x, lambda x: x
    ):
        torchdet.det(A)
    assert saved.pop(A.data_ptr())
    assert sum(saved.values()) <= 64 * 4 * words, saved


def test_without_a_gradient_no_graph_is_kept():
    A = torch.randn(5, 3, 3, requires_grad=True)
    with torch.no_grad():
        assert torchdet.det(A).grad_fn is None
    assert torchdet.det(A.detach()).grad_fn is None
    assert torchdet.det(A).grad_fn is not None


# ---- gradcheck. Polynomials of moderate entries: the finite differences of torch hold at singular
# matrices as well.


def check_inputs(kind: str, n: int, dtype: torch.dtype) -> Tensor:
    if kind == "identity":
        return torch.eye(n, dtype=dtype)
    if kind == "repeated singular values":
        Q = torch.linalg.qr(torch.randn(n, n, dtype=dtype)).Q
        return 1.5 * Q
    deficiency = {"regular": 0, "rank n-1": 1, "rank n-2": 2, "zero": n}[kind]
    rank = max(n - deficiency, 0)
    return torch.randn(n, rank, dtype=dtype) @ torch.randn(rank, n, dtype=dtype)


KINDS = ("regular", "identity", "repeated singular values", "rank n-1", "rank n-2", "zero")


@pytest.mark.parametrize("n", (1, 2, 3, 4))
@pytest.mark.parametrize("kind", KINDS)
def test_gradcheck_holds_at_every_rank(kind, n, wide_dtype):
    A = check_inputs(kind, n, wide_dtype).requires_grad_()
    assert gradcheck(
        torchdet.det, (A,), check_forward_ad=True, check_batched_grad=True,
        check_batched_forward_grad=True,
    )  # fmt: skip


@pytest.mark.parametrize("n", (1, 2, 3))
@pytest.mark.parametrize("kind", KINDS)
def test_gradgradcheck_holds_at_every_rank(kind, n, wide_dtype):
    A = check_inputs(kind, n, wide_dtype).requires_grad_()
    assert gradgradcheck(
        torchdet.det, (A,), check_fwd_over_rev=True, check_rev_over_rev=True,
        check_batched_grad=True,
    )  # fmt: skip


@pytest.mark.parametrize("kind", ("regular", "rank n-1", "zero"))
def test_gradcheck_holds_for_a_batch_of_views(kind, wide_dtype):
    A = torch.stack([check_inputs(kind, 3, wide_dtype) for _ in range(2)]).requires_grad_()
    f = lambda X: torchdet.det(X.mT[:, None].expand(2, 2, 3, 3))  # noqa: E731
    assert gradcheck(f, (A,), check_forward_ad=True)


# ---- the two examples the library began with


def test_descent_on_the_squared_determinant_reaches_a_singular_matrix_with_the_right_gradient():
    a = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float64, requires_grad=True)
    losses = []
    for _ in range(700):
        loss = torchdet.det(a) ** 2
        losses.append(loss.item())
        (grad,) = torch.autograd.grad(loss, a)
        with torch.no_grad():
            a -= 0.001 * grad
    assert losses[0] == 4
    assert losses[50] < losses[0] / 2
    assert losses[-1] < 1e-25
    (grad,) = torch.autograd.grad(torchdet.det(a), a)
    b = a.detach()
    assert torch.allclose(grad, torch.stack([b.flip(0, 1)[0], b.flip(0, 1)[1]]) * torch.tensor(
        [[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64), rtol=1e-14)  # fmt: skip


def test_the_determinant_of_a_matrix_of_functions_has_the_gradient_of_its_closed_form():
    x = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    y = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    zero = torch.zeros((), dtype=torch.float64)
    for _ in range(100):
        A = torch.stack([torch.stack([x.sin(), zero]), torch.stack([zero, y.cos()])])
        gx, gy = torch.autograd.grad(torchdet.det(A) ** 2, (x, y))
        s, c = math.sin(x.item()), math.cos(y.item())
        assert math.isclose(gx.item(), 2 * s * math.cos(x.item()) * c * c, rel_tol=1e-13)
        assert math.isclose(gy.item(), -2 * c * math.sin(y.item()) * s * s, rel_tol=1e-13)
        with torch.no_grad():
            x -= 0.001 * gx
            y -= 0.001 * gy
