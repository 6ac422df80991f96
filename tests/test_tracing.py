"""torch.jit.trace, torch.func.functionalize and compiled autograd: whoever looks into a call."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch._dynamo import compiled_autograd
from torch.func import functionalize, grad, hessian, vmap
from torch.fx.experimental.proxy_tensor import make_fx

import torchdet
from support import logabsdet

pytestmark = pytest.mark.usefixtures("fresh_compiler")

FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "det": torchdet.det,
    "logabsdet": logabsdet,
    "adjugate": torchdet.adjugate,
}


def gradient(f: Callable[[Tensor], Tensor], A: Tensor) -> Tensor:
    leaf = A.clone().requires_grad_()
    return torch.autograd.grad(f(leaf).sin().sum(), leaf)[0]


def second(f: Callable[[Tensor], Tensor], A: Tensor) -> Tensor:
    leaf = A.clone().requires_grad_()
    (g,) = torch.autograd.grad(f(leaf).sum(), leaf, create_graph=True)
    return torch.autograd.grad(g.sin().sum(), leaf)[0]


# ---- torch.jit.trace


@pytest.mark.parametrize("n", (4, 16))  # nothing is kept for backward, and something is
@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("leaf", (False, True), ids=("plain", "leaf"))
def test_a_trace_holds_the_operators_and_has_their_derivatives(leaf, name, n):
    f = FUNCTIONS[name]
    A = torch.randn(3, n, n, dtype=torch.float64)
    traced = torch.jit.trace(f, A.clone().requires_grad_(leaf))  # checks its own graph twice
    assert "torchdet::" in str(traced.graph)
    assert "PythonOp" not in str(traced.graph)
    B = torch.randn(5, n, n, dtype=torch.float64)
    assert torch.equal(traced(B), f(B))
    assert torch.equal(gradient(traced, B), gradient(f, B))
    assert torch.equal(second(traced, B), second(f, B))


class Volume(torch.nn.Module):
    def __init__(self, n: int) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.eye(n) + 0.1 * torch.randn(n, n))

    def forward(self, x: Tensor) -> Tensor:
        return torchdet.det(self.weight) * x + torchdet.logdet(self.weight)


@pytest.mark.parametrize("n", (4, 16))
def test_a_traced_module_with_a_parameter_can_be_saved_and_trained(n):
    module, x = Volume(n), torch.randn(3)
    file = io.BytesIO()
    torch.jit.save(torch.jit.trace(module, x), file)
    file.seek(0)
    loaded = torch.jit.load(file)
    y = torch.randn(7)
    assert torch.equal(loaded(y), module(y))
    loaded(y).sum().backward()
    module(y).sum().backward()
    (weight,) = loaded.parameters()
    assert torch.equal(weight.grad, module.weight.grad)


# ---- torch.func.functionalize


@pytest.mark.parametrize("n", (4, 16))
@pytest.mark.parametrize("name", FUNCTIONS)
def test_functionalize_goes_with_every_other_transform(name, n):
    f = FUNCTIONS[name]
    A = torch.randn(3, n, n, dtype=torch.float64)

    def total(X: Tensor) -> Tensor:
        return f(X).sum()

    pairs = {
        "alone": (functionalize(f), f),
        "of grad": (functionalize(grad(total)), grad(total)),
        "grad of": (grad(functionalize(total)), grad(total)),
        "of vmap": (functionalize(vmap(f)), f),
        "vmap of": (vmap(functionalize(f)), f),
        "vmap of grad of": (vmap(grad(functionalize(total))), vmap(grad(total))),
    }
    for label, (got, expected) in pairs.items():
        assert torch.equal(got(A), expected(A)), label
    assert torch.equal(gradient(functionalize(f), A), gradient(f, A)), "a recorded call"


def test_functionalize_keeps_second_derivatives():
    A = torch.randn(4, 4, dtype=torch.float64)
    expected = hessian(torchdet.det)(A)
    assert torch.equal(functionalize(hessian(torchdet.det))(A), expected)


def test_a_functionalized_graph_holds_the_operator():
    graph = make_fx(functionalize(lambda A: torchdet.det(A)))(torch.randn(3, 4, 4))
    assert torch.ops.torchdet.det.default in {node.target for node in graph.graph.nodes}


# ---- compiled autograd


@pytest.mark.parametrize("n", (4, 16))
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_backward_pass_compiles_to_one_graph(name, n):
    f = FUNCTIONS[name]
    A = torch.randn(3, n, n, dtype=torch.float64)
    leaf = A.clone().requires_grad_()
    loss = f(leaf).sin().sum()
    with compiled_autograd._enable(torch.compile(backend="aot_eager", fullgraph=True)):
        loss.backward()
    assert torch.equal(leaf.grad, gradient(f, A))
