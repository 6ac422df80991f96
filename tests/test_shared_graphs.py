"""What autograd saves stays as it is: several graphs, hooks, threads and transforms may read it.

Matrices are well conditioned, so the inverse of LAPACK is an oracle: with X = A^-T,
d log|det A| = sum(X * dA) and dX = -X dA^T X.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import torch
import torch.autograd.forward_ad as fwAD
from torch import Tensor

import torchdet
from support import logabsdet, on_extension, operators_called

ORDERS = (3, 8, 12, 16, 24, 33, 70, 130)  # every form of what is saved, and nothing


def well_conditioned(n: int, *batch: int) -> Tensor:
    """Singular values between 1 - 1/2 and 1 + 1/2 or so: a condition below 8."""
    E = torch.randn(*batch, n, n, dtype=torch.float64)
    return (torch.eye(n, dtype=torch.float64) + E / (4 * n**0.5)).requires_grad_()


def inverse_transpose(A: Tensor) -> Tensor:
    return torch.linalg.inv(A.detach()).mT


def assert_close(got: Tensor, expected: Tensor) -> None:
    """Relative to the largest entry: a few roundings of n terms, times a condition below 8 for each
    of the three factors X."""
    n, eps = got.shape[-1], torch.finfo(got.dtype).eps
    error = (got - expected).abs().max() / expected.abs().max()
    assert error <= 8**3 * n * eps, error


def second_derivative(f: Callable[[Tensor], Tensor], A: Tensor, V: Tensor) -> Tensor:
    """H[V] for f = log|det| or det, matrix by matrix."""
    X = inverse_transpose(A)
    H = -X @ V.mT @ X
    if f is torchdet.det:
        trace = (X * V).sum((-2, -1), keepdim=True)
        H = torch.linalg.det(A.detach())[..., None, None] * (H + trace * X)
    return H


def gradient(f: Callable[[Tensor], Tensor], A: Tensor) -> Tensor:
    X = inverse_transpose(A)
    return X if f is logabsdet else torch.linalg.det(A.detach())[..., None, None] * X


functions = pytest.mark.parametrize("f", (torchdet.det, logabsdet), ids=("det", "slogdet"))


@pytest.mark.parametrize("n", ORDERS)
@functions
def test_a_second_graph_outlives_the_backward_pass_that_frees_the_first(f, n):
    A = well_conditioned(n, 3)
    V = torch.randn(3, n, n, dtype=A.dtype)
    y = f(A).sum()
    (g,) = torch.autograd.grad(y, A, create_graph=True)
    y.backward()
    (H,) = torch.autograd.grad((g * V).sum(), A)
    assert_close(H, second_derivative(f, A, V))
    assert_close(A.grad, gradient(f, A))


@pytest.mark.parametrize("n", ORDERS)
@functions
def test_what_is_saved_is_the_same_after_the_backward_pass(f, n):
    A = well_conditioned(n, 3)
    y = f(A)
    saved = y.grad_fn.saved_tensors
    before = [x.detach().clone() for x in saved]
    y.sum().mul(3).backward()
    for x, copy in zip(saved, before, strict=True):
        assert torch.equal(x.detach(), copy)


@pytest.mark.parametrize("n", ORDERS)
@functions
def test_a_hook_may_differentiate_the_graph_that_is_running(f, n):
    A = well_conditioned(n, 2)
    y = f(A)
    inner: list[Tensor] = []

    def differentiate(*_: object) -> None:
        if not inner:
            inner.append(A)  # lest the inner pass calls this again
            inner.extend(torch.autograd.grad(y, A, torch.ones_like(y), retain_graph=True))

    y.grad_fn.register_hook(differentiate)
    y.sum().backward()
    for got in (A.grad, inner[1]):
        assert_close(got, gradient(f, A))


@pytest.mark.parametrize("n", ORDERS)
@functions
def test_backward_can_be_tried_again_after_a_hook_has_raised(f, n):
    A = well_conditioned(n, 2)
    y = f(A)
    raised = []

    def once(*_: object) -> None:
        if not raised:
            raised.append(True)
            raise ValueError("the first time")

    y.grad_fn.register_hook(once)
    with pytest.raises(ValueError, match="the first time"):
        y.sum().backward()
    A.grad = None
    y.sum().backward()
    assert_close(A.grad, gradient(f, A))


@pytest.mark.parametrize("n", (3, 16, 40, 130))
@functions
def test_threads_that_share_a_graph_get_the_gradient(f, n):
    """The graph stays: torch 2.13 itself crashes, with any Function written in Python, where one
    thread frees a graph that another one runs through."""
    for _ in range(20):
        A = well_conditioned(n, 2)
        y = f(A).sum()
        start = threading.Barrier(2)
        got: list[Tensor] = []

        def run(y: Tensor, A: Tensor, start: threading.Barrier, got: list[Tensor]) -> None:
            start.wait()
            got.extend(torch.autograd.grad(y, A, retain_graph=True))

        threads = [threading.Thread(target=run, args=(y, A, start, got)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(got) == 2
        for x in got:
            assert_close(x, gradient(f, A))


@pytest.mark.parametrize("n", ORDERS)
@functions
def test_backward_after_a_transform_that_shares_the_value(f, n):
    A = well_conditioned(n)
    V = torch.randn(n, n, dtype=A.dtype)
    value, pullback = torch.func.vjp(f, A)
    value.backward()
    assert_close(pullback(torch.ones((), dtype=A.dtype))[0], gradient(f, A))
    assert_close(A.grad, gradient(f, A))
    A.grad = None
    with fwAD.dual_level():
        value, tangent = fwAD.unpack_dual(f(fwAD.make_dual(A, V)))
        value.backward(retain_graph=True)
        (mixed,) = torch.autograd.grad(tangent, A)
    assert_close(A.grad, gradient(f, A))
    assert_close(mixed, second_derivative(f, A, V))


@pytest.mark.parametrize("n", ORDERS)
@functions
def test_forward_mode_by_two_backward_passes(f, n):
    """The double-vjp trick: the cotangent is a variable, and its derivative is the tangent."""
    A = well_conditioned(n, 3)
    V = torch.randn(3, n, n, dtype=A.dtype)
    y = f(A)
    cotangent = torch.ones_like(y, requires_grad=True)
    (g,) = torch.autograd.grad(y, A, cotangent, create_graph=True)
    y.sum().backward()  # frees the first graph
    (tangent,) = torch.autograd.grad(g, cotangent, V)
    assert_close(tangent[..., None], (gradient(f, A) * V).sum((-2, -1))[..., None])


@pytest.mark.parametrize("n", ORDERS)
@functions
def test_batched_cotangents(f, n):
    A = well_conditioned(n, 4)
    y = f(A)
    rows = torch.eye(4, dtype=A.dtype)
    (jacobian,) = torch.autograd.grad(y, A, rows, is_grads_batched=True, retain_graph=True)
    expected = torch.zeros(4, 4, n, n, dtype=A.dtype)
    expected[range(4), range(4)] = gradient(f, A)
    assert_close(jacobian, expected)
    (freed,) = torch.autograd.grad(y, A, rows, is_grads_batched=True)
    assert torch.equal(freed, jacobian)
    vectorized = torch.autograd.functional.jacobian(f, A.detach(), vectorize=True)
    assert torch.equal(vectorized, jacobian)


@pytest.mark.parametrize("n", (3, 16, 33, 70))
@functions
def test_batched_hessians_of_autograd(f, n):
    A = well_conditioned(n)
    directions = torch.randn(3, n, n, dtype=A.dtype)
    (g,) = torch.autograd.grad(f(A), A, create_graph=True)
    (H,) = torch.autograd.grad(g, A, directions, is_grads_batched=True)
    assert_close(H, second_derivative(f, A, directions))


@pytest.mark.parametrize("n", ORDERS)
@functions
def test_batched_gradients_can_be_differentiated_again(f, n):
    """Gradients of a batch of cotangents are recorded like gradients that are taken one by one."""
    A = well_conditioned(n, 2)
    cotangents = torch.tensor([[0.5, -1.0], [2.0, 0.25]], dtype=A.dtype)
    V = torch.randn(2, 2, n, n, dtype=A.dtype)
    (g,) = torch.autograd.grad(f(A), A, cotangents, is_grads_batched=True, create_graph=True)
    (H,) = torch.autograd.grad((g * V).sum(), A)
    directions = (cotangents[..., None, None] * V).sum(0)
    assert_close(H, second_derivative(f, A, directions))


def squared_det(A: Tensor) -> Tensor:
    return torchdet.det(A).square()


def squared_mantissa(A: Tensor) -> Tensor:
    return torchdet.det_frexp(A)[0].square()


@on_extension
@pytest.mark.parametrize("n", (2, 3, 8, 16, 33, 70))
@pytest.mark.parametrize("f", (squared_det, squared_mantissa))
def test_hessian_vector_products_of_one_graph_share_its_cofactors(f, n):
    """d(2 m g) has a term in dm = sum(C * V): C is computed once, a recorded one anew."""
    A = well_conditioned(n, 3)
    V = torch.randn(3, n, n, dtype=A.dtype)
    (g,) = torch.autograd.grad(f(A).sum(), A, create_graph=True)

    def product(create_graph: bool = False) -> Tensor:
        return torch.autograd.grad(g, A, V, retain_graph=True, create_graph=create_graph)[0]

    called = [operators_called(product) for _ in range(3)]
    assert len(called[0]) > len(called[1]) == len(called[2])
    recorded = product(create_graph=True)
    assert recorded.requires_grad
    assert torch.equal(recorded, product())
    (fresh,) = torch.autograd.grad(f(A).sum(), A, create_graph=True)
    assert torch.equal(product(), torch.autograd.grad(fresh, A, V)[0])
