"""Orders whose elimination goes panel by panel, against closed forms: exactly singular matrices
whose zero pivot lies anywhere, inverses beyond the range, second derivatives where partial pivoting
is enough and where it is not, several threads on one matrix."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

import cases
import oracles
import torchdet
import units
from support import OPS, all_outputs, assert_same_bits

# The reference is one algorithm at every order, and takes a step in Python for each column.
ORDERS = (66, 112, 128, 129, 200) if cases.EXTENSION else (66,)
ZEROS = (0, 7, 8, 15, 16, 17, 34, 64, -2, -1) if cases.EXTENSION else (0, 33, -1)


def triangle(n: int, zeros: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Upper triangular, 1 or -1 on the diagonal but for the zeros, entries of 1 / n above it."""
    generator = torch.Generator().manual_seed(n)
    U = torch.randint(-1, 2, (n, n), generator=generator).to(torch.float64).triu(1) / n
    if dtype.is_complex:
        U = U * torch.tensor([1, 1j, -1j])[torch.randint(3, (n, n), generator=generator)]
    U = U.to(dtype)
    diagonal = torch.randint(0, 2, (n,), generator=generator) * 2.0 - 1
    diagonal[list(zeros)] = 0
    return U + torch.diag(diagonal).to(dtype)


def triangle_cofactors(U: Tensor, j: int) -> Tensor:
    """C(U) where only u_jj = 0: the product of the other u_kk times u v^T.

    v spans the null space of U and u that of U^T, both with component j equal to 1: C(U) is then a
    multiple of u v^T, and entry (j, j), the minor without row and column j, is that product.
    """
    U = U.to(torch.complex128 if U.is_complex() else torch.float64)
    n = U.shape[0]
    u, v = torch.zeros(n, 1, dtype=U.dtype), torch.zeros(n, 1, dtype=U.dtype)
    u[j] = v[j] = 1
    if j > 0:
        v[:j] = torch.linalg.solve_triangular(U[:j, :j], -U[:j, j : j + 1], upper=True)
    if j < n - 1:
        rest = U[j + 1 :, j + 1 :].T.contiguous()
        u[j + 1 :] = torch.linalg.solve_triangular(rest, -U[j, j + 1 :, None], upper=False)
    others = torch.diagonal(U).clone()
    others[j] = 1
    return others.prod() * u @ v.T


@pytest.mark.parametrize("n", ORDERS)
@pytest.mark.parametrize("where", ZEROS)
def test_a_zero_pivot_anywhere_leaves_the_cofactors_exact(n, where, dtype, device):
    """With columns shuffled it comes up in any column; U is within 1 of a diagonal of signs.

    Products of n numbers within n^-1 |U| of those signs: n eps times a small constant bounds the
    relative error of every step, the condition numbers being below 4.
    """
    j = where % n
    U = triangle(n, (j,), dtype)
    expected = triangle_cofactors(U, j)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(where % n))
    sign = torch.linalg.det(torch.eye(n, dtype=torch.float64)[:, order]).round()
    for A, C in ((U, expected), (U[:, order], sign * expected[:, order]), (U.T, expected.T)):
        got = torchdet.cofactor(A.to(device)).cpu().to(C.dtype)
        bound = 16 * n * torch.finfo(dtype).eps * torch.linalg.norm(C)
        assert torch.linalg.norm(got - C) <= bound
        assert torchdet.det(A.to(device)).abs().item() <= 4 * n * torch.finfo(dtype).eps


@pytest.mark.parametrize("n", ORDERS)
@pytest.mark.parametrize("zeros", ((0, 1), (3, 50), (15, -1), (16, 17), (-2, -1)))
def test_two_zero_pivots_make_every_cofactor_zero(n, zeros, dtype, device):
    U = triangle(n, tuple(z % n for z in zeros), dtype)
    U[:, zeros[1]] = 0  # rank n - 2, exactly
    U[:, zeros[0]] = 0
    for A in (U, U.T, U.flip(0)):
        assert (torchdet.cofactor(A.to(device)) == 0).all()
        assert torchdet.det(A.to(device)).item() == 0


@pytest.mark.parametrize("n", (135, 150))
def test_gradients_are_right_where_the_inverse_overflows(n, device):
    """B = bidiagonal(1, -2) has det 1 and (B^-1)_ij = 2^(j - i) for j >= i, up to 2^149."""
    B = torch.eye(n, dtype=torch.float32) - 2 * torch.diag(torch.ones(n - 1), 1)
    grad = torch.tensor(2.0**-100)
    got = OPS.det_backward(grad.to(device), B.to(device)).cpu().to(torch.float64)
    powers = torch.arange(n, dtype=torch.float64)
    expected = torch.tril(2.0 ** (powers[:, None] - powers[None, :] - 100))
    bound = 4 * n * torch.finfo(torch.float32).eps * torch.linalg.norm(expected)
    assert torch.linalg.norm(got - expected) <= bound


@pytest.mark.parametrize("n", (47, 48, 100, 200, 257) if cases.EXTENSION else (66,))
@pytest.mark.parametrize("dtype", (torch.float32, torch.complex64), ids=cases.name)
def test_hessian_products_of_random_matrices_are_within_one_unit(n, dtype, device):
    """Against det(A) (tr(G Z) G - G Z G)^T with G = A^-1 in twice the precision.

    There the formula loses some kappa^2 2^-53, less than the unit of n 2^-23 as long as kappa is
    below 10^5: random matrices have a few times n. A is scaled to a determinant near 1.
    """
    generator = torch.Generator().manual_seed(n)
    A, Z = (torch.randn(2, n, n, generator=generator, dtype=dtype) for _ in range(2))
    A = A * (np.e / n) ** 0.5
    exact = []
    for a, z in zip(A, Z, strict=True):
        wide = a.to(torch.complex128 if dtype.is_complex else torch.float64)
        assert torch.linalg.cond(wide) < 1e5
        G, GZ = torch.linalg.inv(wide), torch.linalg.solve(wide, z.to(wide.dtype))
        H = torch.linalg.det(wide) * (GZ.trace() * G - GZ @ G).T
        entries = [oracles.dyadic(x) for x in H.reshape(-1).tolist()]
        values, exponents = (
            np.array(x, dtype=object).reshape(n, n) for x in zip(*entries, strict=True)
        )
        exact.append(oracles.Exact(values, exponents))
    got = OPS.det_hvp(A.to(device), Z.to(device))
    units.assert_within(got, exact, A, 2, 1.0, [Z], "Hessian-vector product")


@pytest.mark.parametrize("n", (48, 170) if cases.EXTENSION else (66,))
def test_hessian_products_are_within_one_unit_where_partial_pivoting_fails(n, device):
    """B = bidiagonal(1, -2) is its own U under partial pivoting, and G = B^-1 has entries 2^(j - i)
    up to 2^(n - 1). As det B = 1, H(B)[Z] = (tr(G Z) G - G Z G)^T, in integers."""
    B = torch.eye(n, dtype=torch.float64) - 2 * torch.diag(torch.ones(n - 1), 1)
    Z = torch.randint(-3, 4, (n, n), generator=torch.Generator().manual_seed(n)).to(B.dtype)
    G = np.array([[2 ** (j - i) if j >= i else 0 for j in range(n)] for i in range(n)], object)
    GZ = G @ np.array([[int(x) for x in row] for row in Z.tolist()], object)
    H = (GZ.trace() * G - GZ @ G).T
    for A, D, values in ((B, Z, H), (B.T, Z.T, H.T)):
        exact = oracles.Exact(values, np.zeros((n, n), dtype=int))
        got = OPS.det_hvp(A[None].to(device), D[None].to(device))
        units.assert_within(got, [exact], A[None], 2, 1.0, [D[None]], "Hessian-vector product")


@pytest.mark.skipif(not cases.EXTENSION, reason="torch's own kernels give no such promise")
@pytest.mark.parametrize("batch", (1, 2, 3))
def test_threads_that_share_a_matrix_give_the_same_bits(batch, dtype):
    A = torch.randn(batch, 300, 300, dtype=dtype)
    A[-1, :, 7] = 0
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        expected = all_outputs(A)
        for number in (2, 4):
            torch.set_num_threads(number)
            assert_same_bits(all_outputs(A), expected, dtype, number)
    finally:
        torch.set_num_threads(threads)
