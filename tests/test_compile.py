"""torch.compile, torch.export, opcheck, fake tensors and autocast."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.library import opcheck

import cases
import torchdet
from support import OPS

pytestmark = pytest.mark.usefixtures("fresh_compiler")
FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "det": torchdet.det,
    "slogdet": lambda A: torch.stack([x.real for x in torchdet.slogdet(A)]),
    "logdet": lambda A: torchdet.logdet(A @ A.mH + torch.eye(A.shape[-1], device=A.device)).real,
    "cofactor": torchdet.cofactor,
    "adjugate": torchdet.adjugate,
}


def value_and_gradient(f: Callable[[Tensor], Tensor], A: Tensor) -> tuple[Tensor, Tensor]:
    leaf = A.clone().requires_grad_()
    out = f(leaf)
    weight = torch.linspace(0.5, 1.5, out.numel(), device=A.device).reshape(out.shape)
    return out.detach(), torch.autograd.grad((out * weight).real.sum(), leaf)[0]


def assert_same(got: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor]) -> None:
    for g, e in zip(got, expected, strict=True):
        eps = torch.finfo(e.dtype).eps
        assert g.shape == e.shape
        assert g.dtype == e.dtype
        assert torch.allclose(g, e, rtol=64 * eps, atol=64 * eps * float(e.abs().max()))


@pytest.mark.parametrize("n", (4, 12))
@pytest.mark.parametrize("name", FUNCTIONS)
def test_compiled_forward_and_backward_agree_with_eager(name, n, wide_dtype, device):
    A = torch.randn(5, n, n, dtype=wide_dtype, device=device)
    f = FUNCTIONS[name]
    compiled = torch.compile(f, fullgraph=True, backend="aot_eager")
    assert_same(value_and_gradient(compiled, A), value_and_gradient(f, A))


@pytest.mark.parametrize("n", (4, 12))
@pytest.mark.parametrize("name", FUNCTIONS)
def test_one_compilation_serves_every_batch_size(name, n, device):
    f = FUNCTIONS[name]
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(f, fullgraph=True, dynamic=True, backend=counter)
    for batch in (3, 5, 17):
        A = torch.randn(batch, n, n, dtype=torch.float64, device=device)
        assert_same(value_and_gradient(compiled, A), value_and_gradient(f, A))
    assert counter.frame_count == 1


def test_compiled_code_is_right_at_singular_matrices(device):
    A = cases.matrices("integer_rank_n-1", 4, torch.float64).to(device)
    compiled = torch.compile(torchdet.det, fullgraph=True, backend="aot_eager")
    _, gradient = value_and_gradient(compiled, A)
    _, expected = value_and_gradient(torchdet.det, A)
    assert torch.allclose(gradient, expected, rtol=1e-13, atol=1e-13)
    assert gradient.abs().amax((-2, -1)).min() >= 0.5


def test_inductor_compiles_forward_and_backward(device):
    def loss(A: Tensor) -> Tensor:
        return (torchdet.det(A.sin()) ** 2 + torchdet.slogdet(A.cos()).logabsdet).exp()

    A = torch.randn(6, 3, 3, dtype=torch.float64, device=device)
    compiled = torch.compile(loss, fullgraph=True)
    assert_same(value_and_gradient(compiled, A), value_and_gradient(loss, A))


def test_a_compiled_function_may_take_the_gradient_itself(device):
    def step(A: Tensor) -> Tensor:
        return torch.func.grad(lambda X: torchdet.det(X).sum())(A)

    A = torch.randn(5, 4, 4, dtype=torch.float64, device=device)
    compiled = torch.compile(step, backend="aot_eager")
    assert torch.allclose(compiled(A), torchdet.cofactor(A), rtol=1e-13, atol=1e-13)


def test_a_compiled_vmap_agrees_with_the_batch(device):
    A = torch.randn(5, 4, 4, dtype=torch.float64, device=device)
    compiled = torch.compile(torch.func.vmap(torchdet.det), fullgraph=True, backend="aot_eager")
    assert torch.allclose(compiled(A), torchdet.det(A), rtol=1e-14, atol=0)


def test_second_derivatives_of_operators_reach_their_registered_gradients(device):
    """The operators themselves, as compiled code calls them, are twice differentiable."""
    A = torch.randn(3, 4, 4, dtype=torch.float64, device=device, requires_grad=True)
    Z = torch.randn(3, 4, 4, dtype=torch.float64, device=device)
    (g,) = torch.autograd.grad(OPS.det(A).sum(), A, create_graph=True)
    (h,) = torch.autograd.grad(g, A, Z)
    assert torch.allclose(h, OPS.det_hvp(A.detach(), Z), rtol=1e-12, atol=1e-13)


# ---- export


class Volume(torch.nn.Module):
    def forward(self, A: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return (torchdet.det(A), torchdet.slogdet(A).logabsdet, torchdet.adjugate(A))


@pytest.mark.parametrize("dynamic", (False, True), ids=("static", "dynamic"))
def test_an_exported_program_contains_the_operators_and_runs(dynamic):
    A = torch.randn(4, 3, 3)
    shapes = ({0: torch.export.Dim("batch", min=2)},) if dynamic else None
    program = torch.export.export(Volume(), (A,), dynamic_shapes=shapes)
    targets = {str(node.target) for node in program.graph.nodes}
    assert {"torchdet.det.default", "torchdet.slogdet.default"} <= targets
    B = torch.randn(7 if dynamic else 4, 3, 3)
    for got, expected in zip(program.module()(B), Volume()(B), strict=True):
        assert torch.allclose(got, expected, rtol=1e-6, atol=1e-6)


# ---- the contract of the operators with torch


def operator_arguments(
    dtype: torch.dtype, device: str, n: int = 3
) -> dict[str, tuple[Tensor, ...]]:
    A = torch.randn(2, n, n, dtype=dtype, device=device, requires_grad=True)
    grad = torch.randn(2, dtype=dtype, device=device, requires_grad=True)
    Z = torch.randn(2, n, n, dtype=dtype, device=device, requires_grad=True)
    return {
        "det": (A,),
        "slogdet": (A,),
        "cofactor": (A,),
        "det_backward": (grad, A),
        "slogdet_backward": (grad, A),
        "det_hvp": (A, Z),
        "slogdet_hvp": (A, Z),
        "_slogdet_hvp_kept": (A, Z),
        "_slogdet_hvp_scaled": (grad, A, Z),
        "_slogdet_backward_inverse": (grad, A),
        "_det_keep": (A,),
        "_slogdet_keep": (A,),
        "_det_backward_kept": (grad, A, *OPS._det_keep(A.detach())[1:]),
        "_slogdet_backward_kept": (grad, A, *OPS._slogdet_keep(A.detach())[2:]),
        "_slogdet_backward_inverse_kept": (grad, A, *OPS._slogdet_keep(A.detach())[2:]),
    }


@pytest.mark.parametrize("layout", ("contiguous", "transposed"))
@pytest.mark.parametrize("op", operator_arguments(torch.float64, "cpu"))
def test_opcheck_passes(op, layout, wide_dtype, device):
    arguments = operator_arguments(wide_dtype, device)[op]
    if layout == "transposed":
        arguments = tuple(x.detach().mT.requires_grad_() if x.dim() == 3 else x for x in arguments)
    opcheck(getattr(OPS, op).default, arguments)


@pytest.mark.parametrize("n", (0, 1, 5, 40, 70))
@pytest.mark.parametrize("op", operator_arguments(torch.float64, "cpu"))
def test_fake_tensors_have_the_shapes_dtypes_and_strides_of_real_ones(op, n, dtype):
    arguments = [x.detach() for x in operator_arguments(dtype, "cpu", n)[op]]
    real = getattr(OPS, op)(*arguments)
    with FakeTensorMode() as mode:
        fake = getattr(OPS, op)(*[mode.from_tensor(x) for x in arguments])
    real, fake = ((x,) if isinstance(x, Tensor) else x for x in (real, fake))
    for r, f in zip(real, fake, strict=True):
        assert (r.shape, r.dtype, r.stride()) == (f.shape, f.dtype, f.stride())


def test_fake_tensors_are_checked_like_real_ones():
    with FakeTensorMode(), pytest.raises(RuntimeError, match=r"det: expected A of shape"):
        OPS.det(torch.empty(3, 4, 5))


def test_meta_tensors_give_meta_results():
    out = torchdet.det(torch.empty(7, 3, 3, device="meta"))
    assert out.device.type == "meta"
    assert out.shape == (7,)


# ---- autocast


@pytest.mark.parametrize("low", (torch.float16, torch.bfloat16), ids=cases.name)
def test_autocast_computes_in_float32(low, device):
    A = torch.randn(4, 6, 6, device=device)
    with torch.autocast(device, dtype=low):
        product = A @ A  # autocast makes this one low precision
        assert product.dtype == low
        for name, f in FUNCTIONS.items():
            if name != "logdet":  # its matrix product is itself subject to autocast
                assert f(A).dtype == torch.float32
                assert torch.equal(f(A), f_outside(f, A, device))
                assert f(product).dtype == torch.float32
        assert torch.equal(torchdet.det(product), f_outside(torchdet.det, product.float(), device))


def f_outside(f: Callable[[Tensor], Tensor], A: Tensor, device: str) -> Tensor:
    with torch.autocast(device, enabled=False):
        return f(A)


def test_autocast_gradients_come_back_in_the_dtype_of_the_leaf(device):
    weight = torch.randn(5, 5, device=device, requires_grad=True)
    with torch.autocast(device, dtype=torch.bfloat16):
        loss = torchdet.slogdet(weight @ weight).logabsdet
    loss.backward()
    assert weight.grad.dtype == torch.float32
    assert weight.grad.isfinite().all()


def test_autocast_under_compile_computes_in_float32(device):
    def f(A: Tensor) -> Tensor:
        with torch.autocast(device, dtype=torch.bfloat16):
            return torchdet.det(A @ A)

    A = torch.randn(4, 3, 3, device=device)
    compiled = torch.compile(f, fullgraph=True, backend="aot_eager")(A)
    assert compiled.dtype == torch.float32
    assert torch.allclose(compiled, f(A), rtol=1e-5)
