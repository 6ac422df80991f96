"""Hessian-vector products and higher derivatives of det at every rank, by every composition."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.autograd.forward_ad as fwAD
from torch import Tensor
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

import cases
import oracles
import torchdet
import units
from cases import grid
from support import AT_EDGES, exact_hvps

det, cofactor = torchdet.det, torchdet.cofactor
ORDERS = {
    torch.float32: (1, 2, 3, 4, 5, 8, 12),
    torch.float64: (1, 2, 3, 4, 5, 7, 12),
    torch.complex64: (2, 3, 5),
    torch.complex128: (1, 4, 8),
}
EDGE_FAMILIES = ("normal", "integer_rank_n-1", "integer_rank_n-2", "graded_both", "kahan", "shift",
                 "wilkinson_growth", "near_singular", "two_tiny_singular_values",
                 "falling_singular_values")  # fmt: skip


def budget(family: str) -> float:
    """One unit; where L has condition 2^n the product loses part of it: 2.5 up to n = 16."""
    return 2.5 if family in cases.ILL_CONDITIONED_L else 1.0


def check_hvp(family: str, n: int, dtype: torch.dtype, device: str) -> None:
    A = cases.matrices(family, n, dtype)
    Z = cases.directions(A, seed=n)
    exact = exact_hvps(family, n, dtype, n)
    got = torch.ops.torchdet.det_hvp(A.to(device), Z.to(device))
    units.assert_within(got, exact, A, 2, budget(family), [Z], "Hessian-vector product")


@pytest.mark.parametrize(("family", "n", "dtype"), grid(ORDERS))
def test_hessian_vector_products_are_within_one_unit(family, n, dtype, device):
    check_hvp(family, n, dtype, device)


@pytest.mark.parametrize(
    ("family", "n", "dtype"),
    grid(AT_EDGES["det_hvp"], EDGE_FAMILIES),
)  # fmt: skip
def test_hessian_vector_products_at_the_size_classes_edges_are_within_one_unit(
    family, n, dtype, device
):
    check_hvp(family, n, dtype, device)


@pytest.mark.parametrize("n", (48, 64, 100, 160, 200))
def test_hessian_products_of_two_large_disjoint_cycles_are_within_one_unit(n, device):
    """A cycle of m = n / 2 nodes has the null vector 1, and its other eigenvalues have product m^2:

        det(L + t Z) = t^2 m^2 det S + O(t^3),   S_ab = sum of Z over rows in a and columns in b,

    and H(L)[Z]_ij = m^2 cof(S)_ab with a, b the components of i and j. Integers, hence exact.
    """
    A, sign = cases.cycle_laplacian(n, torch.float64, cycles=2)
    Z = torch.randint(-3, 4, (n, n)).to(A.dtype)
    left, right = component_indicators(A)
    S = left.T @ Z @ right
    cof = torch.stack([torch.stack([S[1, 1], -S[1, 0]]), torch.stack([-S[0, 1], S[0, 0]])])
    H = sign * (n // 2) ** 2 * left @ cof @ right.T
    values = np.array([[int(x) for x in row] for row in H.tolist()], dtype=object)
    exact = oracles.Exact(values, np.zeros((n, n), dtype=int))
    got = torch.ops.torchdet.det_hvp(A.to(device), Z.to(device))
    units.assert_within(got[None], [exact], A[None], 2, 1.0, [Z[None]], "Hessian-vector product")


def component_indicators(A: Tensor) -> tuple[Tensor, Tensor]:
    """Indicators of the two components over the rows and over the columns, in the same order."""
    reach = torch.zeros(A.shape[0], dtype=torch.bool)
    reach[0] = True
    for _ in range(A.shape[0]):
        columns = (A[reach] != 0).any(0)
        reach = (A[:, columns] != 0).any(1)
    columns = (A[reach] != 0).any(0)
    left = torch.stack([reach, ~reach], 1).to(A.dtype)
    right = torch.stack([columns, ~columns], 1).to(A.dtype)
    return left, right


# ---- every composition of transforms, at every rank


def rev_rev(A: Tensor, Z: Tensor) -> Tensor:
    return grad(lambda X: (grad(det)(X) * Z).sum())(A)


def autograd_twice(A: Tensor, Z: Tensor) -> Tensor:
    X = A.clone().requires_grad_()
    (g,) = torch.autograd.grad(det(X), X, create_graph=True)
    return torch.autograd.grad(g, X, Z)[0]


def dual_over_rev(A: Tensor, Z: Tensor) -> Tensor:
    with fwAD.dual_level():
        X = fwAD.make_dual(A.clone().requires_grad_(), Z)
        (g,) = torch.autograd.grad(det(X), X, create_graph=True)
        return fwAD.unpack_dual(g).tangent.detach()


COMPOSITIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "grad of grad": rev_rev,
    "autograd.grad twice": autograd_twice,
    "jvp of grad": lambda A, Z: jvp(grad(det), (A,), (Z,))[1],
    "dual numbers over autograd.grad": dual_over_rev,
    "grad of jvp": lambda A, Z: grad(lambda X: jvp(det, (X,), (Z,))[1])(A),
    "jvp of jvp": lambda A, Z: jacfwd(lambda X: jvp(det, (X,), (Z,))[1])(A),
    "jvp of cofactor": lambda A, Z: jvp(cofactor, (A,), (Z,))[1],
    "vjp of cofactor": lambda A, Z: vjp(cofactor, A)[1](Z)[0],
    "hessian": lambda A, Z: torch.einsum("ijkl,kl->ij", hessian(det)(A), Z),
    "jacfwd of jacfwd": lambda A, Z: torch.einsum("ijkl,kl->ij", jacfwd(jacfwd(det))(A), Z),
    "jacrev of jacrev": lambda A, Z: torch.einsum("ijkl,kl->ij", jacrev(jacrev(det))(A), Z),
    "jacrev of jacfwd": lambda A, Z: torch.einsum("ijkl,kl->ij", jacrev(jacfwd(det))(A), Z),
    "jacfwd of jacrev": lambda A, Z: torch.einsum("ijkl,kl->ij", jacfwd(jacrev(det))(A), Z),
    "jacrev of cofactor": lambda A, Z: torch.einsum("ijkl,kl->ij", jacrev(cofactor)(A), Z),
    "autograd.functional.hvp": lambda A, Z: torch.autograd.functional.hvp(det, A, Z)[1],
    "autograd.functional.hessian": lambda A, Z: torch.einsum(
        "ijkl,kl->ij", torch.autograd.functional.hessian(det, A), Z
    ),
}
NOT_UNDER_VMAP = ("autograd", "dual numbers")


def representatives(n: int) -> Tensor:
    """Every rank from n to 0 in small integers, the identity, and repeated singular values."""
    gen = torch.Generator().manual_seed(n)

    def integers(*shape: int) -> Tensor:
        return torch.randint(-3, 4, shape, generator=gen).double()

    out = [integers(n, rank) @ integers(rank, n) for rank in range(n, -1, -1)]
    Q = torch.linalg.qr(integers(n, n) + 0.5 * torch.eye(n)).Q
    nilpotent = torch.diag(torch.ones(n - 1), 1).double()
    return torch.stack([*out, torch.eye(n).double(), 2 * Q, nilpotent])


def exact_products(A: Tensor, Z: Tensor) -> list[oracles.Exact]:
    return [oracles.hvp(a, z) for a, z in zip(A, Z, strict=True)]


@pytest.mark.parametrize("n", (1, 2, 3, 4, 5, 11))
@pytest.mark.parametrize("composition", COMPOSITIONS)
def test_every_composition_gives_the_exact_hessian_product_at_every_rank(composition, n, device):
    A = representatives(n)
    Z = torch.randn(A.shape, dtype=A.dtype)
    f = COMPOSITIONS[composition]
    got = torch.stack([f(a, z) for a, z in zip(A.to(device), Z.to(device), strict=True)])
    # Sums over up to n^2 entries of the Hessian add as many roundings of one unit each.
    allowed = float(n) if "hess" in composition or "jac" in composition else 1.0
    units.assert_within(got, exact_products(A, Z), A, 2, allowed, [Z], composition)


@pytest.mark.parametrize("n", (2, 3, 5, 11))
@pytest.mark.parametrize(
    "composition", [name for name in COMPOSITIONS if not name.startswith(NOT_UNDER_VMAP)]
)
def test_every_composition_is_right_for_every_item_under_vmap(composition, n, device):
    A = representatives(n)
    Z = torch.randn(A.shape, dtype=A.dtype)
    got = vmap(COMPOSITIONS[composition])(A.to(device), Z.to(device))
    allowed = float(n) if "hess" in composition or "jac" in composition else 1.0
    units.assert_within(got, exact_products(A, Z), A, 2, allowed, [Z], f"vmap of {composition}")


@pytest.mark.parametrize("n", (2, 3, 4, 11))
def test_complex_second_derivatives_follow_the_conventions_of_torch(n, device):
    """With grad = conj(C) for L = Re det: the gradient of Re sum(C Z) is conj(H[Z])."""
    A = representatives(n).to(torch.complex128)
    A = torch.cat([A, A * (0.5 - 2j), torch.randn(2, n, n, dtype=A.dtype)])
    Z = torch.randn(A.shape, dtype=A.dtype)
    exact = exact_products(A, Z)
    X = A.to(device).requires_grad_()
    (g,) = torch.autograd.grad(det(X).real.sum(), X, create_graph=True)
    (back,) = torch.autograd.grad((g.conj() * Z.to(device)).real.sum(), X)
    units.assert_within(back.conj(), exact, A, 2, 1.0, [Z], "grad of grad")
    forward = jvp(cofactor, (A.to(device),), (Z.to(device),))[1]
    units.assert_within(forward, exact, A, 2, 1.0, [Z], "jvp of cofactor")
    pulled = vjp(cofactor, A.to(device))[1](Z.to(device).conj())[0]
    units.assert_within(pulled.conj(), exact, A, 2, 1.0, [Z], "vjp of cofactor")


# ---- third and fourth order


def nested_grads(A: Tensor, *Zs: Tensor) -> Tensor:
    """D^m C(A)[Z1 .. Zm] by m + 1 reverse passes."""
    X = A.clone().requires_grad_()
    (g,) = torch.autograd.grad(det(X).sum(), X, create_graph=True)
    for Z in Zs:
        (g,) = torch.autograd.grad((g * Z).sum(), X, create_graph=True, materialize_grads=True)
    return g.detach()


def along(f: Callable[[Tensor], Tensor], Z: Tensor) -> Callable[[Tensor], Tensor]:
    """The derivative of f in direction Z, as a function."""
    return lambda X: jvp(f, (X,), (Z,))[1]


def nested_jvps(A: Tensor, *Zs: Tensor) -> Tensor:
    f = cofactor
    for Z in Zs:
        f = along(f, Z)
    return f(A)


def total_det(A: Tensor) -> Tensor:
    return det(A).sum()


def grad_of_jvps(A: Tensor, *Zs: Tensor) -> Tensor:
    f = total_det
    for Z in Zs:
        f = along(f, Z)
    return grad(f)(A)


HIGHER = {"nested grad": nested_grads, "nested jvp": nested_jvps, "grad of jvps": grad_of_jvps}
# Measured errors of the algorithms (C, H, third, fourth): 0.09, 0.42, 0.29, 7.1 units; 10 is good.
HIGHER_BUDGET = {2: 2.0, 3: 10.0}


@pytest.mark.parametrize("m", (2, 3), ids=("third", "fourth"))
@pytest.mark.parametrize("n", (1, 2, 3, 4, 5))
@pytest.mark.parametrize("composition", HIGHER)
def test_higher_derivatives_are_exact_at_every_rank(composition, n, m, device):
    A = representatives(n)
    Zs = [torch.randn(A.shape, dtype=A.dtype) for _ in range(m)]
    exact = [oracles.derivative(a, *zs) for a, *zs in zip(A, *Zs, strict=True)]
    got = HIGHER[composition](A.to(device), *[Z.to(device) for Z in Zs])
    units.assert_within(got, exact, A, m + 1, HIGHER_BUDGET[m], Zs, composition)


@pytest.mark.parametrize("composition", ("nested grad", "grad of jvps"))
def test_third_derivatives_of_complex_matrices_are_exact(composition, device):
    """Each reverse pass through a real part gives the conjugate of the derivative."""
    A = torch.cat([representatives(3) * (1 + 0j), torch.randn(2, 3, 3, dtype=torch.complex128)])
    Z, V = (torch.randn(A.shape, dtype=A.dtype) for _ in range(2))
    exact = [oracles.derivative(a, z, v) for a, z, v in zip(A, Z, V, strict=True)]
    if composition == "nested grad":
        X = A.to(device).requires_grad_()
        (g,) = torch.autograd.grad(det(X).real.sum(), X, create_graph=True)
        for W in (Z, V):
            loss = (g.conj() * W.to(device)).real.sum()
            (g,) = torch.autograd.grad(loss, X, create_graph=True, materialize_grads=True)
        got = g.detach().conj()
    else:
        got = nested_jvps(A.to(device), Z.to(device), V.to(device))
    units.assert_within(got, exact, A, 3, HIGHER_BUDGET[2], [Z, V], composition)


def test_the_hessian_at_the_identity_is_exact(device):
    """det(I + X) = 1 + tr X + (tr^2 X - tr X^2) / 2 + ..: H_ijkl = d_ij d_kl - d_il d_jk."""
    n = 4
    I = torch.eye(n, dtype=torch.float64, device=device)
    expected = torch.einsum("ij,kl->ijkl", I, I) - torch.einsum("il,jk->ijkl", I, I)
    for H in (hessian(det), jacfwd(jacfwd(det)), jacrev(jacrev(det)), jacrev(jacfwd(det))):
        assert torch.equal(H(I) if callable(H) else H, expected)
