"""accelerate with torch.compile, torch.export and the other tracers."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
import torch
from torch import Tensor
from torch import _higher_order_ops as higher_order
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.checkpoint import checkpoint

import torchdet
from torchdet import accelerate

pytestmark = pytest.mark.usefixtures("fresh_compiler")
det = torch.linalg.det
SINGULAR = torch.tensor([[1.0, 2.0], [2.0, 4.0]], dtype=torch.float64)
COFACTOR = torch.tensor([[4.0, -2.0], [-2.0, 1.0]], dtype=torch.float64)


def leaf() -> Tensor:
    return SINGULAR.clone().requires_grad_()


def gradient(f: Callable[[Tensor], Tensor]) -> Tensor:
    A = leaf()
    f(A).backward()
    return A.grad


class Programs:
    """A backend that notes of each run whether the program has torchdet's determinant."""

    def __init__(self) -> None:
        self.count = 0
        self.served: list[bool] = []

    def __call__(self, program: torch.fx.GraphModule, _: Any) -> Any:
        self.count += 1

        def run(*args: Any) -> Any:
            self.served.append(serves(program))
            return program(*args)

        return run


def serves(program: torch.fx.GraphModule) -> bool:
    names = [str(node.target) for node in program.graph.nodes if "det" in str(node.target)]
    own = {"torchdet" in name for name in names}
    assert len(own) == 1, names  # of one kind, and there are some
    return own.pop()


def compiled(f: Callable[..., Any]) -> Any:
    return torch.compile(f, fullgraph=True, backend="aot_eager")


@accelerate()
def decorated(A: Tensor) -> Tensor:
    return det(A)


def with_block(A: Tensor) -> Tensor:
    with accelerate():
        return det(A)


def with_blocks(A: Tensor) -> Tensor:
    with accelerate(enable=False), accelerate(), accelerate():
        return A.det() + 0


@pytest.mark.parametrize("f", (decorated, with_block, with_blocks))
def test_a_compiled_function_may_hold_the_context(f):
    assert torch.equal(gradient(compiled(f)), COFACTOR)
    programs = Programs()
    torch.compile(f, fullgraph=True, backend=programs)(SINGULAR)
    assert programs.served == [True]
    assert not torch.overrides._get_current_function_mode_stack()


def test_a_compiled_function_may_be_called_inside_or_be_decorated():
    for f in (accelerate()(compiled(det)), compiled(accelerate()(lambda A: A.det()))):
        assert torch.equal(gradient(f), COFACTOR)
    f = compiled(lambda A: det(A))
    with accelerate():
        assert torch.equal(gradient(f), COFACTOR)
        A = leaf()
        output = f(A)
    output.backward()
    assert torch.equal(A.grad, COFACTOR)


# What is enabled, the outermost first.
SCOPES = ((), (True,), (True, False), (True, True), (False,), (False, True))


@pytest.mark.parametrize("order", (SCOPES, SCOPES[::-1]), ids=("outside first", "inside first"))
def test_a_program_runs_in_the_scope_that_it_was_compiled_for(order):
    """Compiled outside and called inside, and the other way round; a second time none is made."""
    programs = Programs()
    f = torch.compile(lambda A: det(A), fullgraph=True, backend=programs)
    for _ in range(2):
        for scope in order:
            with ExitStack() as stack:
                for enable in scope:
                    stack.enter_context(accelerate(enable=enable))
                f(SINGULAR)
    assert programs.served == 2 * [bool(scope) and scope[-1] for scope in order]
    assert programs.count <= len(order)


def test_a_call_that_is_switched_off_in_a_program():
    def f(A: Tensor) -> Tensor:
        with accelerate(), accelerate(enable=False):
            return det(A)

    for scope in (f, accelerate()(f)):
        programs = Programs()
        torch.compile(scope, fullgraph=True, backend=programs)(SINGULAR)
        assert programs.served == [False]


def test_a_graph_break_inside():
    def f(A: Tensor) -> Tensor:
        with accelerate():
            first = det(A)
            torch._dynamo.graph_break()
            return first + A.det()

    assert torch.equal(gradient(torch.compile(f, backend="aot_eager")), 2 * COFACTOR)


def test_names_tuples_parameters_and_out():
    def f(A: Tensor, out: Tensor) -> Any:
        both = torch.slogdet(input=A), torch.linalg.slogdet(A=A), A.slogdet()
        return *both, torch.linalg.det(A, out=out), torch.logdet(input=A)

    A, out = torch.nn.Parameter(torch.eye(3) * 2, requires_grad=False), torch.empty(())
    with accelerate():
        *both, written, _ = compiled(f)(A, out)
    tuples = torch.return_types
    assert [type(x) for x in both] == [tuples.slogdet, tuples.linalg_slogdet, tuples.slogdet]
    assert written is out and out == 8


def test_transforms_and_gradients_in_a_program():
    A = torch.stack([SINGULAR, SINGULAR + 1, SINGULAR * 0])
    maps = torch.func.vmap(torch.func.grad(lambda X: det(X)))
    with accelerate():
        assert torch.equal(compiled(maps)(A), torchdet.cofactor(A))
    assert torch.equal(compiled(accelerate()(maps))(A), torchdet.cofactor(A))

    def step(A: Tensor) -> Tensor:
        return torch.autograd.grad(det(A), A)[0]

    with accelerate():
        assert torch.equal(torch.compile(step, backend="aot_eager")(leaf()), COFACTOR)


CONTROL: dict[str, Callable[[Tensor], Tensor]] = {
    "cond": lambda A: torch.cond(A.sum() > 0, lambda X: det(X), lambda X: X.det() * 2, (A,)),
    "map": lambda A: higher_order.map(lambda X: det(X), A[None])[0],
    "while_loop": lambda A: higher_order.while_loop(
        lambda i, X: i < 1, lambda i, X: (i + 1, det(X) + 0 * X), (torch.tensor(0), A.clone())
    )[1][0, 0],
    "checkpoint": lambda A: checkpoint(lambda X: det(X), A.clone(), use_reentrant=False),
}


@pytest.mark.parametrize("name", CONTROL)
def test_functions_that_torch_traces_as_a_whole_are_served(name):
    f = CONTROL[name]
    with accelerate():
        assert torch.equal(gradient(compiled(f)), COFACTOR)
        with accelerate(enable=False):
            assert not torch.equal(gradient(compiled(f)), COFACTOR)
    if name == "checkpoint":  # the others are traced in eager code, too
        f = compiled(f)
    assert torch.equal(gradient(accelerate()(f)), COFACTOR)
    assert not torch.overrides._get_current_function_mode_stack()


# ---- export and other tracers


class Volume(torch.nn.Module):
    def forward(self, A: Tensor) -> Tensor:
        return det(A)


class Decorated(torch.nn.Module):
    @accelerate()
    def forward(self, A: Tensor) -> Tensor:
        return det(A)


@pytest.mark.parametrize("strict", (False, True))
def test_an_exported_program_has_what_was_served_when_it_was_made(strict):
    def export(model: torch.nn.Module) -> Any:
        return torch.export.export(model, (SINGULAR,), strict=strict)

    with accelerate():
        inside = export(Volume())
    outside = export(Volume())
    for program, expected in (inside, True), (outside, False), (export(Decorated()), True):
        assert serves(program.graph_module) is expected
    assert torch.equal(gradient(inside.module()), COFACTOR)
    with accelerate():
        assert "Linalg" in outside.module()(leaf()).grad_fn.__class__.__name__


def test_make_fx_and_jit_trace_record_what_is_served():
    with accelerate():
        assert serves(make_fx(det)(SINGULAR))
        traced = torch.jit.trace(lambda A: det(A), SINGULAR)
    assert not serves(make_fx(det)(SINGULAR))
    assert serves(make_fx(accelerate()(det))(SINGULAR))
    assert "torchdet::det" in str(traced.graph)
    assert torch.equal(gradient(traced), COFACTOR)


def test_symbolic_trace_records_the_functions_of_torch():
    """Its program calls them anew, and is served where it runs."""
    with accelerate():
        program = torch.fx.symbolic_trace(Volume())
    assert not serves(program)
    with accelerate():
        assert torch.equal(gradient(program), COFACTOR)
