"""torch.func over the public functions and over the operators: any in_dims, nested."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product

import pytest
import torch
from torch import Tensor
from torch.func import (
    functional_call,
    grad,
    grad_and_value,
    jacfwd,
    jacrev,
    jvp,
    linearize,
    vjp,
    vmap,
)
from torch.fx.experimental.proxy_tensor import make_fx

import torchdet
from support import OPS
from torchdet._function import Operator

FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "det": torchdet.det,
    "slogdet": lambda A: torch.stack([x.real for x in torchdet.slogdet(A)]),
    "logdet": lambda A: torchdet.logdet(A).real,
    "cofactor": torchdet.cofactor,
    "adjugate": torchdet.adjugate,
}


def close(left: Tensor, right: Tensor, factor: float = 64) -> None:
    """Equal to some roundings of the largest entry."""
    assert left.shape == right.shape
    eps = torch.finfo(left.dtype).eps
    scale = float(right.abs().nan_to_num().max())
    assert torch.allclose(left, right, rtol=factor * eps, atol=factor * eps * scale, equal_nan=True)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("in_dim", (0, 1, 2, -1))
def test_vmap_over_any_dimension_is_a_loop(name, in_dim, dtype, device):
    A = torch.randn(4, 3, 3, dtype=dtype, device=device) + 2 * torch.eye(3, device=device)
    f = FUNCTIONS[name]
    expected = torch.stack([f(a) for a in A])
    close(vmap(f, in_dims=in_dim)(A.movedim(0, in_dim)), expected)


@pytest.mark.parametrize("depth", (1, 2))
@pytest.mark.parametrize("name", (*FUNCTIONS, "det_frexp", "operator", "det_hvp", "accelerate"))
def test_vectors_that_are_mapped_over_are_no_matrix(name, depth, device):
    functions = FUNCTIONS | {
        "det_frexp": torchdet.det_frexp,
        "operator": torch.ops.torchdet.cofactor,
        "det_hvp": lambda A: torch.ops.torchdet.det_hvp(A, A),
        "accelerate": torchdet.accelerate()(torch.linalg.det),
    }
    f = functions[name]
    for _ in range(depth):
        f = vmap(f)
    refused = (
        "at least 2 dimensions" if name == "accelerate" else r"of shape \(\*, n, n\), got \(3,\)"
    )
    with pytest.raises(RuntimeError, match=refused):
        f(torch.ones((3,) * (depth + 1), device=device))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_nested_vmap_is_a_nested_loop(name, device):
    A = torch.randn(2, 4, 3, 5, 5, device=device).double() + 3 * torch.eye(5, device=device)
    f = FUNCTIONS[name]
    expected = torch.stack(
        [torch.stack([torch.stack([f(a) for a in row]) for row in block]) for block in A]
    )
    close(vmap(vmap(vmap(f), in_dims=1), out_dims=0)(A), expected.transpose(1, 2))
    close(vmap(vmap(vmap(f)))(A), expected)
    close(vmap(vmap(vmap(f)), chunk_size=1)(A), expected)


@pytest.mark.parametrize("in_dims", ((0, 0), (None, 0), (0, None), (1, 2), (2, None)), ids=str)
def test_vmap_of_the_hessian_product_broadcasts_what_is_not_mapped(in_dims, wide_dtype, device):
    A = torch.randn(3, 4, 4, dtype=wide_dtype, device=device)
    Z = torch.randn(3, 4, 4, dtype=wide_dtype, device=device)
    dims_A, dims_Z = in_dims
    As = A if dims_A is not None else A[:1].expand(3, 4, 4)
    Zs = Z if dims_Z is not None else Z[:1].expand(3, 4, 4)
    expected = torch.stack([OPS.det_hvp(a, z) for a, z in zip(As, Zs, strict=True)])
    left = A.movedim(0, dims_A) if dims_A is not None else A[0]
    right = Z.movedim(0, dims_Z) if dims_Z is not None else Z[0]
    close(vmap(OPS.det_hvp, in_dims=in_dims)(left, right), expected)


@pytest.mark.parametrize("op", ("det_backward", "slogdet_backward"))
@pytest.mark.parametrize("in_dims", ((0, 0), (None, 0), (0, None)), ids=str)
def test_vmap_of_a_backward_operator_broadcasts_what_is_not_mapped(op, in_dims, device):
    A = torch.randn(3, 2, 4, 4, dtype=torch.float64, device=device)
    g = torch.randn(3, 2, dtype=torch.float64, device=device)
    f = getattr(OPS, op)
    gs = g if in_dims[0] == 0 else g[:1].expand(3, 2)
    As = A if in_dims[1] == 0 else A[:1].expand(3, 2, 4, 4)
    expected = torch.stack([f(x, a) for x, a in zip(gs, As, strict=True)])
    got = vmap(f, in_dims=in_dims)(g if in_dims[0] == 0 else g[0], A if in_dims[1] == 0 else A[0])
    close(got, expected)


@pytest.mark.parametrize("n", (4, 11))
@pytest.mark.parametrize("name", ("det", "logdet"))
def test_per_sample_gradients_agree_by_every_route(name, n, wide_dtype, device):
    A = torch.randn(5, n, n, dtype=wide_dtype, device=device)
    A = A @ A.mH + torch.eye(n, device=device)  # a positive determinant: logdet is defined

    def f(X: Tensor) -> Tensor:
        return FUNCTIONS[name](X).real

    leaf = A.clone().requires_grad_()
    (expected,) = torch.autograd.grad(f(leaf).sum(), leaf)
    close(vmap(grad(f))(A), expected)
    close(grad(lambda X: vmap(f)(X).sum())(A), expected)
    gradients, values = vmap(grad_and_value(f))(A)
    close(gradients, expected)
    close(values, f(A))
    if not wide_dtype.is_complex:
        close(vmap(jacrev(f))(A), expected)
        close(vmap(jacfwd(f))(A), expected)
        full = jacrev(f)(A)
        close(full[range(5), range(5)], expected)
        total = expected.sum().item()
        assert full.sum().item() == pytest.approx(total, rel=1e-12), "blocks off diagonal"


@pytest.mark.parametrize("n", (4, 11))
def test_a_jvp_and_its_linearisation_agree(n, wide_dtype, device):
    A = torch.randn(3, n, n, dtype=wide_dtype, device=device)
    Z = torch.randn(3, n, n, dtype=wide_dtype, device=device)
    value, tangent = jvp(torchdet.det, (A,), (Z,))
    close(value, torchdet.det(A))
    close(tangent, (torchdet.cofactor(A) * Z).sum((-2, -1)))
    output, push = linearize(torchdet.det, A)
    close(output, value)
    close(push(Z), tangent)


def test_a_directional_derivative_of_a_batch_with_one_shared_direction(device):
    A = torch.randn(6, 3, 3, dtype=torch.float64, device=device)
    Z = torch.randn(3, 3, dtype=torch.float64, device=device)
    got = vmap(lambda a, z: jvp(torchdet.det, (a,), (z,))[1], in_dims=(0, None))(A, Z)
    close(got, (torchdet.cofactor(A) * Z).sum((-2, -1)))
    got = vmap(lambda a, z: jvp(torchdet.det, (a,), (z,))[1], in_dims=(None, 0))(Z, A)
    close(got, (torchdet.cofactor(Z) * A).sum((-2, -1)))


def test_a_module_is_differentiated_in_its_parameters(device):
    class Volume(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.randn(3, 3, dtype=torch.float64))

        def forward(self, x: Tensor) -> Tensor:
            return torchdet.det(self.weight * x)

    module = Volume().to(device)
    parameters = {k: v.detach() for k, v in module.named_parameters()}
    x = torch.randn(4, dtype=torch.float64, device=device)
    per_sample = vmap(grad(lambda p, t: functional_call(module, p, (t,))), in_dims=(None, 0))
    got = per_sample(parameters, x)["weight"]
    close(got, x[:, None, None] ** 3 * torchdet.cofactor(parameters["weight"]))


def test_jacobians_of_an_unbatched_matrix_factor_it_for_many_directions(device):
    """jacrev and jacfwd of C at one matrix are the same fourth-order tensor, the Hessian of det."""
    A = torch.randn(5, 5, dtype=torch.float64, device=device)
    rev, fwd = jacrev(torchdet.cofactor)(A), jacfwd(torchdet.cofactor)(A)
    close(rev, fwd)
    close(rev, rev.permute(2, 3, 0, 1))
    # C_00 does not depend on row 0 or column 0 (to rounding).
    own = torch.cat([rev[0, 0, 0], rev[0, 0, :, 0]]).abs().max()
    assert own <= 64 * torch.finfo(A.dtype).eps * rev.abs().max()


@pytest.mark.parametrize("n", (1, 4, 16))
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_tensor_that_has_left_its_transform_still_leads_to_its_leaf(name, n, device):
    leaf = torch.randn(n, n, dtype=torch.float64, device=device, requires_grad=True)
    left: list[Tensor] = []

    def keep(X: Tensor) -> Tensor:
        left.append(X)
        return X.sum()

    grad(keep)(leaf)
    gradients = [torch.autograd.grad(FUNCTIONS[name](X).sum(), leaf)[0] for X in (left[0], leaf)]
    assert torch.equal(*gradients)


@pytest.mark.parametrize("n", (1, 4, 16))
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_graph_is_recorded_through_vmap(name, n, device):
    A = torch.randn(3, n, n, dtype=torch.float64, device=device, requires_grad=True)
    f = FUNCTIONS[name]
    weights = torch.randn_like(f(A[0]).detach())
    (got,) = torch.autograd.grad((vmap(f)(A) * weights).sum(), A)
    expected = torch.autograd.grad(sum((f(a) * weights).sum() for a in A), A)[0]
    close(got, expected)


# ---- order 1: the determinant is the entry, and a constant of the transforms is looked at


def test_a_determinant_of_order_1_is_no_view_of_its_matrix(dtype, device):
    A = torch.tensor([[[2.0]], [[-0.0]]], dtype=dtype, device=device)
    got = vmap(torchdet.det)(A)
    A.zero_()
    assert got[0] == 2
    assert torch.signbit(got.real).tolist() == [False, True]


@pytest.mark.parametrize("number", (math.inf, math.nan))
def test_a_matrix_of_order_1_that_is_not_finite_gives_nan_for_it_alone(number, dtype, device):
    A = torch.tensor([[[2.0]], [[number]]], dtype=dtype, device=device)
    det = torchdet.det
    for value in (vmap(det)(A), jvp(det, (A,), (A,))[0], jvp(det, (A,), (A,))[1], det(A)):
        assert value[0] == 2
        assert value[1].isnan()
    gradient = vmap(grad(lambda a: det(a).real))(A).flatten()
    assert gradient[0] == 1
    assert gradient[1].isnan()


def test_matrices_of_order_1_are_refused_as_others_are(device):
    for A in (torch.ones(2, 1, 1, dtype=torch.int64), torch.ones(2, 1, 1, dtype=torch.complex32)):
        with pytest.raises(RuntimeError, match="det: expected A of dtype"):
            vmap(torchdet.det)(A.to(device))


def test_who_traces_or_differentiates_a_determinant_of_order_1_otherwise_finds_the_operator(device):
    A = torch.full((2, 1, 1), 3.0, device=device)
    traced = make_fx(lambda A: vmap(torchdet.det)(A))(A)
    assert torch.equal(traced(2 * A), 2 * A.flatten())
    A.requires_grad_()
    (first,) = torch.autograd.grad(vmap(torchdet.det)(A).sum(), A, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), A)
    assert torch.equal(second, torch.zeros_like(A))


# ---- every nesting, against torch's own route for custom Functions


def _matrices(n: int, rank: int) -> Tensor:
    # Integers, so that a rank is exact; another matrix for each n and rank.
    generator = torch.Generator().manual_seed(10 * n + rank)
    left = torch.randint(-3, 4, (n, rank), generator=generator, dtype=torch.float64)
    right = torch.randint(-3, 4, (rank, n), generator=generator, dtype=torch.float64)
    return left @ right + (torch.eye(n, dtype=torch.float64) if rank == n else 0)


def _direction(n: int) -> Tensor:
    return torch.arange(1.0, n * n + 1, dtype=torch.float64).reshape(n, n).sin()


NESTED: dict[str, Callable[[Callable[[Tensor], Tensor]], Callable[[Tensor], Tensor]]] = {
    "vjp": lambda f: lambda A: vjp(f, A)[1](torch.full_like(f(A), 0.75))[0],
    "jvp": lambda f: lambda A: jvp(f, (A,), (_direction(A.shape[-1]),))[1],
    "vmap": lambda f: lambda A: vmap(f, 1)(torch.stack([A, 2 * A, A.mT], 1)).sum(0),
    "jacrev": lambda f: jacrev(f),
    "jacfwd": lambda f: jacfwd(f),
}


TWICE, THRICE = (tuple(product(NESTED, repeat=depth)) for depth in (2, 3))


@pytest.mark.parametrize(
    ("name", "names"),
    (*product(("det", "log|det|", "cofactor"), TWICE), *product(("det", "log|det|"), THRICE)),
    ids=lambda x: x if isinstance(x, str) else "-".join(x),
)
def test_every_nesting_has_the_bits_of_torch_s_own_route(name, names, monkeypatch):
    f = FUNCTIONS[name] if name in FUNCTIONS else lambda A: torchdet.slogdet(A)[1]
    for transform in reversed(names):
        f = NESTED[transform](f)
    for n, rank in ((3, 3), (3, 1), (1, 1), (1, 0)) if name in FUNCTIONS else ((3, 3),):
        A = _matrices(n, rank)
        value = f(A)
        with monkeypatch.context() as patch:
            patch.setattr(Operator, "call", classmethod(lambda cls, *args: cls.apply(*args)))
            expected = f(A)
        assert torch.equal(value, expected)


def along(f: Callable[[Tensor], Tensor], Z: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda A: jvp(f, (A,), (Z,))[1]


def gradient(f: Callable[[Tensor], Tensor], _: Tensor) -> Callable[[Tensor], Tensor]:
    def parts(A: Tensor) -> Tensor:
        out = f(A)
        return out.real.sum() + out.imag.sum() if out.is_complex() else out.sum()

    return grad(parts)


@pytest.mark.parametrize("name", ("det", "sign", "logabsdet", "cofactor", "sum", "sign of sum"))
@pytest.mark.parametrize("dtype", (torch.float32, torch.complex64))
def test_nested_derivatives_of_one_matrix_stay_in_its_precision(name, dtype, device):
    """Where a result is one number, torch may take it, times a number of Python, for float64."""
    wide = torch.complex128 if dtype.is_complex else torch.float64
    A, *Z = (torch.randn(2, 2, dtype=wide, device=device) for _ in range(4))
    A = A / 4 + torch.eye(2, device=device)
    f = {
        "det": torchdet.det,
        "cofactor": torchdet.cofactor,
        "sign": lambda X: torchdet.slogdet(X).sign,
        "logabsdet": lambda X: torchdet.slogdet(X).logabsdet,
        "sum": lambda X: torchdet.slogsumdet(X[None]).logabsdet,
        "sign of sum": lambda X: torchdet.slogsumdet(X[None]).sign,
    }[name]
    for chain in product((along, gradient), repeat=3):
        results = []
        for kind in (dtype, wide):
            g = f
            for transform, z in zip(chain, Z, strict=True):
                g = transform(g, z.to(kind))
            results.append(g(A.to(kind)))
        got, expected = results
        assert got.dtype == (dtype if expected.is_complex() else dtype.to_real())
        # Singular values of A are within a factor of 4 or so of 1: cond^4 roundings.
        close(got, expected.to(got.dtype), 4**4)
