"""Algebraic identities of the determinant on matrices that hypothesis draws.

Entries are small integers, so sums and products of matrices are exact and every error is that of
the determinants: within one unit each (units.det_tolerance).
"""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from torch import Tensor

import torchdet
from units import det_tolerance


@st.composite
def integer_matrices(draw: st.DrawFn, count: int = 1, largest: int = 7) -> list[Tensor]:
    """`count` matrices of one order and dtype with entries of -4 .. 4, often singular."""
    n = draw(st.integers(1, largest))
    dtype = draw(st.sampled_from([torch.float32, torch.float64, torch.complex64, torch.complex128]))
    cells = count * n * n * (2 if dtype.is_complex else 1)
    entries = draw(st.lists(st.integers(-4, 4), min_size=cells, max_size=cells))
    values = torch.tensor(entries, dtype=torch.float64)
    if dtype.is_complex:
        values = torch.complex(*values.reshape(2, -1))
    return list(values.to(dtype).reshape(count, n, n))


def det(A: Tensor) -> complex:
    return complex(torchdet.det(A).item())


def near(left: complex, right: complex, tolerance: float, *context: object) -> None:
    assert abs(left - right) <= tolerance, (left, right, tolerance, *context)


@given(integer_matrices(2))
def test_det_of_a_product_is_the_product_of_dets(pair):
    A, B = pair
    eps = torch.finfo(A.dtype).eps
    a, b, ta, tb = det(A), det(B), det_tolerance(A), det_tolerance(B)
    tolerance = det_tolerance(A @ B) + ta * (abs(b) + tb) + tb * abs(a) + eps * abs(a * b)
    near(det(A @ B), a * b, tolerance, A, B)


@given(integer_matrices(), st.data())
def test_swapping_two_rows_or_columns_flips_the_sign(one, data):
    (A,) = one
    n = A.shape[0]
    i, j = data.draw(st.integers(0, n - 1)), data.draw(st.integers(0, n - 1))
    order = torch.arange(n)
    order[[i, j]] = order[[j, i]]
    sign = 1 if i == j else -1
    for B in (A[order], A[:, order]):
        near(det(B), sign * det(A), 2 * det_tolerance(A), A, i, j)


@given(integer_matrices())
def test_transposition_keeps_the_determinant_and_transposes_the_cofactors(one):
    (A,) = one
    near(det(A.mT), det(A), det_tolerance(A) + det_tolerance(A.mT), A)
    C, Ct = torchdet.cofactor(A), torchdet.cofactor(A.mT)
    # A minor is a determinant of a matrix whose rows are no longer than those of A.
    size = float(torch.linalg.norm(A, dim=1).clamp(min=1).prod())
    assert (C.mT - Ct).abs().max() <= 4 * A.shape[0] ** 2 * torch.finfo(A.dtype).eps * size, A


@given(integer_matrices())
def test_a_triangular_matrix_has_the_product_of_its_diagonal(one):
    (A,) = one
    eps = torch.finfo(A.dtype).eps
    for T in (A.triu(), A.tril()):
        product = complex(T.diagonal().to(torch.complex128).prod().item())
        near(det(T), product, det_tolerance(T) + eps * abs(product), T)


@given(st.permutations(range(9)), st.integers(1, 9))
def test_a_permutation_is_exact(order, n):
    order = [k for k in order if k < n]
    P = torch.eye(n, dtype=torch.float64)[order]
    sign = round(float(torch.linalg.det(P)))
    assert det(P) == sign
    assert torch.equal(torchdet.cofactor(P), sign * P)


@given(integer_matrices(2, largest=4))
def test_a_block_triangular_matrix_has_the_product_of_its_blocks(pair):
    A, B = pair
    n = A.shape[0]
    M = torch.zeros(2 * n, 2 * n, dtype=A.dtype)
    M[:n, :n], M[n:, n:], M[:n, n:] = A, B, A - B
    a, b, ta, tb = det(A), det(B), det_tolerance(A), det_tolerance(B)
    tolerance = det_tolerance(M) + ta * (abs(b) + tb) + tb * abs(a)
    near(det(M), a * b, tolerance + torch.finfo(A.dtype).eps * abs(a * b), A, B)


@given(integer_matrices(2), st.integers(-3, 3), st.data())
def test_det_is_linear_in_every_row(pair, factor, data):
    A, B = pair
    i = data.draw(st.integers(0, A.shape[0] - 1))
    other, both = A.clone(), A.clone()
    other[i] = B[i]
    both[i] = A[i] + factor * B[i]
    expected = det(A) + factor * det(other)
    tolerance = det_tolerance(both) + det_tolerance(A) + abs(factor) * det_tolerance(other)
    near(det(both), expected, tolerance + 1e-300, A, B, i, factor)


@given(integer_matrices())
def test_a_matrix_times_its_adjugate_is_its_determinant_times_the_identity(one):
    (A,) = one
    n = A.shape[0]
    adj = torchdet.adjugate(A)
    size = float(torch.linalg.norm(A, dim=1).clamp(min=1).prod())
    # |A| <= 6 n, and each minor is within 2 n^2 eps of the product of the row lengths.
    tolerance = 6 * n * 2 * n**2 * torch.finfo(A.dtype).eps * size
    for product in (A @ adj, adj @ A):
        residual = product - det(A) * torch.eye(n, dtype=A.dtype)
        assert residual.abs().max() <= tolerance, (A, residual)


@given(integer_matrices())
def test_the_cofactors_of_a_matrix_expand_its_determinant_along_every_row(one):
    (A,) = one
    n = A.shape[0]
    expansion = (A * torchdet.cofactor(A)).sum(-1)
    size = float(torch.linalg.norm(A, dim=1).clamp(min=1).prod())
    tolerance = 6 * n * 2 * n**2 * torch.finfo(A.dtype).eps * size
    assert (expansion - det(A)).abs().max() <= tolerance, A


@given(integer_matrices(), st.integers(-3, 3))
def test_adding_a_multiple_of_a_row_to_another_changes_nothing(one, factor):
    (A,) = one
    B = A.clone()
    B[-1] += factor * A[0] if A.shape[0] > 1 else 0
    near(det(B), det(A), det_tolerance(A) + det_tolerance(B), A, factor)


@pytest.mark.parametrize("n", (1, 2, 3, 6, 20, 40))
def test_scaling_a_matrix_scales_its_determinant_n_times(n, dtype, device):
    A = torch.randn(4, n, n, dtype=dtype, device=device) / n**0.5
    # A power of two is exact, so both determinants have the same error of at most one unit.
    big = torchdet.det(4 * A) / 4.0**n if n <= 20 else torchdet.det(2 * A) / 2.0**n
    for a, left, right in zip(A.cpu(), big.cpu(), torchdet.det(A).cpu(), strict=True):
        near(left.item(), right.item(), 2 * det_tolerance(a), a)
