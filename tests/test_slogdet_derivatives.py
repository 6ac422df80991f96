"""Derivatives of slogdet and logdet at nonsingular matrices, by every composition.

With X = A^-T:  D log|det A| [Z] = Re sum(X * Z),  D X [Z] = -X Z^T X,
D^2 X [Z, V] = X Z^T X V^T X + X V^T X Z^T X.
The matrices are well conditioned, so an error of n eps cond(A) per product is the only one allowed.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.autograd.forward_ad as fwAD
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

import oracles
import torchdet
import units
from support import OPS, logabsdet


def inverse_transpose(A: Tensor) -> Tensor:
    """The exact A^-T of every matrix of the batch, rounded once."""
    exact = np.stack([oracles.inverse_transpose(a).astype(complex) for a in A])
    X = torch.from_numpy(exact)
    return X if A.dtype.is_complex else X.real.clone()


def first(X: Tensor, Z: Tensor) -> Tensor:
    return -X @ Z.mT @ X


def second(X: Tensor, Z: Tensor, V: Tensor) -> Tensor:
    return X @ Z.mT @ X @ V.mT @ X + X @ V.mT @ X @ Z.mT @ X


def samples(n: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Random, identity, repeated singular values, of both signs of the determinant."""
    Q = torch.linalg.qr(torch.randn(n, n, dtype=dtype)).Q
    normal = torch.randn(3, n, n, dtype=dtype) + 2 * torch.eye(n)
    negative = normal[:1].clone()
    negative[:, 0] *= -1
    return torch.cat([normal, negative, torch.eye(n, dtype=dtype)[None], 1.5 * Q[None]])


def assert_close(got: Tensor, expected: Tensor, A: Tensor, products: int, what: str) -> None:
    """`products` factors A^-1 with a relative error of n eps cond each, three roundings allowed."""
    n, eps = A.shape[-1], torch.finfo(A.dtype).eps
    for k, (g, e, a) in enumerate(zip(got.cpu(), expected, A, strict=True)):
        s = torch.linalg.svdvals(a)
        size = (e.abs().max() + s[-1] ** -products).item()
        allowed = 3 * products * n * eps * (s[0] / s[-1]).item() * size * n
        error = (g - e).abs().max().item()
        assert error <= allowed, (what, k, error, allowed, a)


COMPOSITIONS: dict[str, Callable[[Callable, Tensor, Tensor], Tensor]] = {
    "grad of grad": lambda f, A, Z: grad(lambda X: (grad(f)(X) * Z).sum())(A),
    "jvp of grad": lambda f, A, Z: jvp(grad(f), (A,), (Z,))[1],
    "grad of jvp": lambda f, A, Z: grad(lambda X: jvp(f, (X,), (Z,))[1])(A),
    "jvp of jvp": lambda f, A, Z: jacfwd(lambda X: jvp(f, (X,), (Z,))[1])(A),
    "hessian": lambda f, A, Z: torch.einsum("ijkl,kl->ij", hessian(f)(A), Z),
    "jacfwd of jacfwd": lambda f, A, Z: torch.einsum("ijkl,kl->ij", jacfwd(jacfwd(f))(A), Z),
    "jacrev of jacrev": lambda f, A, Z: torch.einsum("ijkl,kl->ij", jacrev(jacrev(f))(A), Z),
    "jacrev of jacfwd": lambda f, A, Z: torch.einsum("ijkl,kl->ij", jacrev(jacfwd(f))(A), Z),
}
FUNCTIONS = {"logabsdet": logabsdet, "logdet": torchdet.logdet}


@pytest.mark.parametrize("n", (1, 2, 3, 5, 8, 11))
def test_first_derivatives_are_the_inverse_transpose(n, device):
    A = samples(n)
    X = inverse_transpose(A)
    D = A.to(device)
    assert_close(vmap(grad(logabsdet))(D), X, A, 1, "grad")
    assert_close(vmap(jacfwd(logabsdet))(D), X, A, 1, "jacfwd")
    assert_close(vmap(jacrev(logabsdet))(D), X, A, 1, "jacrev")
    leaf = D.clone().requires_grad_()
    (g,) = torch.autograd.grad(logabsdet(leaf).sum(), leaf)
    assert_close(g, X, A, 1, "autograd.grad")


@pytest.mark.parametrize("n", (1, 2, 3, 5, 11))
@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("composition", COMPOSITIONS)
def test_second_derivatives_are_right_by_every_composition(composition, name, n, device):
    A = samples(n)
    if name == "logdet":
        A = A[torch.linalg.det(A) > 0]
    Z = torch.randn(A.shape, dtype=A.dtype)
    expected = first(inverse_transpose(A), Z)
    f, compose = FUNCTIONS[name], COMPOSITIONS[composition]
    one = torch.stack([compose(f, a, z) for a, z in zip(A.to(device), Z.to(device), strict=True)])
    assert_close(one, expected, A, 2, composition)
    mapped = vmap(lambda a, z: compose(f, a, z))(A.to(device), Z.to(device))
    assert_close(mapped, expected, A, 2, f"vmap of {composition}")


def test_dual_numbers_over_autograd_give_the_hessian_product(device):
    A = samples(4)
    Z = torch.randn(A.shape, dtype=A.dtype)
    with fwAD.dual_level():
        X = fwAD.make_dual(A.to(device).requires_grad_(), Z.to(device))
        (g,) = torch.autograd.grad(logabsdet(X).sum(), X, create_graph=True)
        tangent = fwAD.unpack_dual(g).tangent
    assert_close(tangent, first(inverse_transpose(A), Z), A, 2, "dual numbers")


@pytest.mark.parametrize("n", (1, 2, 4))
def test_third_derivatives_are_right_forward_and_reverse(n, device):
    A = samples(n)
    Z, V = torch.randn(A.shape, dtype=A.dtype), torch.randn(A.shape, dtype=A.dtype)
    expected = second(inverse_transpose(A), Z, V)
    D, DZ, DV = A.to(device), Z.to(device), V.to(device)

    def along(f: Callable, W: Tensor) -> Callable:
        return lambda X: jvp(f, (X,), (W,))[1]

    def reverse(f: Callable, W: Tensor) -> Callable:
        return lambda X: (grad(f)(X) * W).sum()

    def total(X: Tensor) -> Tensor:
        return logabsdet(X).sum()

    assert_close(grad(reverse(reverse(total, DZ), DV))(D), expected, A, 3, "reverse")
    assert_close(grad(along(along(total, DZ), DV))(D), expected, A, 3, "grad of jvp of jvp")
    assert_close(jvp(grad(along(total, DZ)), (D,), (DV,))[1], expected, A, 3, "mixed")


@pytest.mark.parametrize("n", (1, 2, 4))
def test_complex_derivatives_of_sign_and_log_are_right(n, device):
    """t = sum(X * Z): D log|det| [Z] = Re t, D sign [Z] = i sign Im t."""
    A = samples(n, torch.complex128)
    Z = torch.randn(A.shape, dtype=A.dtype)
    X = inverse_transpose(A)
    t = (X * Z).sum((-2, -1))
    primal, tangent = jvp(torchdet.slogdet, (A.to(device),), (Z.to(device),))
    s = primal[0].cpu()
    scale = 100 * n * 2.3e-16 * (X.abs().amax((-2, -1)) * Z.abs().amax((-2, -1)) * n * n + 1)
    scale = scale * torch.tensor([units.condition(a) for a in A])
    assert ((tangent[1].cpu() - t.real).abs() <= scale).all()
    assert ((tangent[0].cpu() - 1j * s * t.imag).abs() <= scale).all()
    # Reverse, in torch's convention: dL = Re sum(conj(grad) dA). L = log|det| gives conj(X).
    pull = vjp(lambda X: tuple(torchdet.slogdet(X)), A.to(device))[1]
    zero = torch.zeros_like(primal[0])
    (g,) = pull((zero, torch.ones_like(primal[1])))
    assert_close(g, X.conj(), A, 1, "gradient of log|det|")
    c = torch.randn(len(A), dtype=A.dtype)
    (g,) = pull((c.to(device), torch.zeros_like(primal[1])))
    # L = Re(conj(c) sign): dL = Re(conj(c) i s Im t) = -Im(conj(c) s) Im t = Re(i Im(conj(c) s) t).
    weight = 1j * (c.conj() * s).imag
    assert_close(g, (weight[:, None, None] * X).conj(), A, 1, "gradient of the phase")


def test_complex_hessian_products_follow_from_the_inverse(device):
    """The gradient of Re sum(conj(grad log|det|) Z) = Re sum(X Z) is conj(-X Z^T X)."""
    A = samples(3, torch.complex128)
    Z = torch.randn(A.shape, dtype=A.dtype)
    leaf = A.to(device).requires_grad_()
    (g,) = torch.autograd.grad(logabsdet(leaf).sum(), leaf, create_graph=True)
    (h,) = torch.autograd.grad((g.conj() * Z.to(device)).real.sum(), leaf)
    assert_close(h, first(inverse_transpose(A), Z).conj(), A, 2, "complex grad of grad")


@pytest.mark.parametrize("name", ("slogdet", "logdet"))
@pytest.mark.parametrize("n", (1, 2, 3))
def test_gradcheck_holds_with_forward_mode_and_batched_gradients(name, n, wide_dtype):
    A = samples(n, wide_dtype)[: 4 - n]
    if name == "logdet" and not wide_dtype.is_complex:
        A = A @ A.mT + torch.eye(n)
    A = A.requires_grad_()

    def f(X: Tensor) -> object:
        if name == "logdet":
            value = torchdet.logdet(X)
            # The branch of the complex logarithm does not matter to its derivative.
            return value if not value.is_complex() else (value.real, value.imag.cos())
        sign, log = torchdet.slogdet(X)
        return (sign, log) if sign.is_complex() else log

    assert gradcheck(f, (A,), check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(f, (A,), check_fwd_over_rev=True, check_batched_grad=True)


@pytest.mark.parametrize("n", (1, 2, 3, 8, 40))
def test_the_gradient_of_a_log_at_a_singular_matrix_is_never_finite(n, dtype, device):
    A = torch.randn(2, n, n, dtype=dtype, device=device)
    A[0, :, 0] = 0
    X = A.clone().requires_grad_()
    (g,) = torch.autograd.grad(logabsdet(X).sum(), X)
    assert not g[0].isfinite().any()
    assert g[1].isfinite().all()


def test_the_gradient_of_logdet_stays_in_range_where_the_determinant_does_not(device):
    A = (torch.eye(20, device=device) * 1e-30).requires_grad_()
    (g,) = torch.autograd.grad(torchdet.logdet(A), A)
    expected = torch.eye(20, device=device) * (1 / torch.tensor(1e-30, device=device))
    assert torch.allclose(g, expected, rtol=4e-7, atol=0)
    assert math.isclose(torchdet.logdet(A).item(), -600 * math.log(10), rel_tol=1e-6)


# ---- the operators of the second derivative


def hvp_arguments(n: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Well conditioned matrices, as many as make ragged tiles, and directions."""
    A = torch.randn(19, n, n, dtype=dtype) / max(n, 1) ** 0.5 + 3 * torch.eye(n, dtype=dtype)
    return A, torch.randn(19, n, n, dtype=dtype)


@pytest.mark.parametrize("n", (1, 2, 3, 4, 5, 7, 8, 9, 10, 12, 13, 16, 17, 22, 23, 31))
def test_the_second_derivative_of_every_class_is_right(n, dtype, device):
    A, Z = hvp_arguments(n, dtype)
    A, Z = A[-2:], Z[-2:]
    X = inverse_transpose(A)
    wide = A.to(X.dtype)
    expected = first(X, Z.to(X.dtype))
    # Two inverses with an error of n eps cond, and a product; one more rounding in half types.
    eps = torch.finfo(dtype).eps
    sizes = X.norm(dim=(-2, -1)) ** 2 * Z.to(X.dtype).norm(dim=(-2, -1))
    allowed = (2 * n * torch.linalg.cond(wide) + n) * eps * sizes
    for got in (
        OPS.slogdet_hvp(A.to(device), Z.to(device)),
        OPS._slogdet_hvp_kept(X.conj().to(dtype).to(device), Z.to(device)),
    ):
        assert got.dtype == dtype and got.is_contiguous()
        assert ((got.cpu().to(X.dtype) - expected).norm(dim=(-2, -1)) <= allowed).all()


@pytest.mark.parametrize("n", (1, 2, 3, 8, 9, 13, 33, 64, 65, 130))
def test_the_second_derivative_at_permutations_is_exact(n, dtype, device):
    """X is the permutation, too, with reciprocal powers of two; Z holds integers."""
    order = torch.randperm(n)
    powers = 2.0 ** (torch.arange(n) % 3)
    A = torch.zeros(n, n)
    A[torch.arange(n), order] = powers
    X = torch.zeros(n, n)
    X[torch.arange(n), order] = 1 / powers
    Z = torch.randint(-8, 9, (5, n, n)).float()
    expected = (-X @ Z.mT @ X).to(dtype)
    A, Z = A.to(dtype).to(device).expand(5, n, n), Z.to(dtype).to(device)
    assert torch.equal(OPS.slogdet_hvp(A, Z).cpu(), expected)
    assert torch.equal(OPS.slogdet_hvp(A.clone(), Z.mT.contiguous().mT).cpu(), expected)
    assert torch.equal(OPS._slogdet_hvp_kept(X.to(A).expand(5, n, n), Z).cpu(), expected)


@pytest.mark.parametrize("n", (3, 12, 33, 70))
def test_directions_that_share_a_matrix_have_the_bits_of_those_that_do_not(n, wide_dtype, device):
    A, Z = (X.to(device) for X in hvp_arguments(n, wide_dtype))
    A, Z = A[:6].view(2, 3, n, n), Z[:18].view(2, 3, 3, n, n)
    shared = A[:, None].expand(2, 3, 3, n, n)
    assert torch.equal(OPS.slogdet_hvp(shared, Z), OPS.slogdet_hvp(shared.contiguous(), Z))


def test_any_number_of_directions_through_one_graph(wide_dtype, device):
    """An inverse that the node keeps changes no result, and no rule of autograd."""
    for n in (2, 8, 20, 40):
        A, Z = (X.to(device) for X in hvp_arguments(n, wide_dtype))
        A.requires_grad_()
        (g,) = torch.autograd.grad(logabsdet(A).square().sum(), A, create_graph=True)
        results = [torch.autograd.grad(g, A, Z, retain_graph=True)[0] for _ in range(3)]
        # The same as a part of another graph, where nothing is kept.
        (recorded,) = torch.autograd.grad(g, A, Z, create_graph=True)
        results += [torch.autograd.grad(g, A, Z, retain_graph=True)[0], recorded.detach()]
        for result in results[1:-1]:
            assert torch.equal(result, results[0])
        scale = results[0].abs().max()
        eps = torch.finfo(wide_dtype).eps
        assert (results[-1] - results[0]).abs().max() <= 64 * n * eps * scale
        with torch.no_grad():
            A *= 2
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            torch.autograd.grad(g, A, Z)
