"""The plain PyTorch implementation: its fallbacks to complete pivoting, matrix by matrix."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import cases
import oracles
import units
from support import same_bits
from torchdet import _higher_order, _reference, _reference_lu

N = 17


def special(kind: str, dtype: torch.dtype) -> Tensor:
    """Integers, so that pivots that should be 0 are."""
    A = torch.tril(torch.randint(1, 4, (N, N)), -1) + torch.eye(N)
    A = A.to(dtype)
    if kind.startswith("zero pivot"):
        places = {"first": [0], "in the middle": [8], "last": [N - 1], "twice": [3, 11]}
        for place in places[kind.removeprefix("zero pivot ")]:
            A[place, place:] = A[place:, place] = 0
    elif kind == "equal rows":
        A = torch.randint(-6000, 6000, (N, N)).to(dtype)
        A[11] = A[5]
    elif kind == "growth":
        A = torch.eye(N) - torch.ones(N, N).tril(-1)
        A[:, -1] = 1
        A = A.to(dtype)
    else:
        A[0] *= 2.0**-100  # of the last cofactors, many are beyond float32
        A[:, 0] *= 2.0**-20
    return A


KINDS = (
    "zero pivot first", "zero pivot in the middle", "zero pivot last", "zero pivot twice",
    "equal rows", "growth", "scales",
)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_what_partial_pivoting_does_not_serve_is_exact_and_leaves_the_others_alone(kind, dtype):
    A = torch.randn(9, N, N, dtype=dtype)
    A[4] = special(kind, dtype)
    Z = cases.directions(A, seed=1)
    det, C, H = _reference.det(A), _reference.cofactor(A), _reference.det_hvp(A, Z)
    a = A[4:5]
    units.assert_within(det[4:5], [oracles.det(A[4])], a, 0, what="det")
    units.assert_within(C[4:5], [oracles.cofactor(A[4])], a, 1, what="cofactor")
    for k in range(9):
        assert same_bits(det[k], _reference.det(A[k])), k
        assert same_bits(C[k], _reference.cofactor(A[k])), k
        assert same_bits(H[k], _reference.det_hvp(A[k], Z[k])), k
    units.assert_within(
        H[4:5], [oracles.hvp(A[4], Z[4])], a, 2, directions=[Z[4:5]], what="Hessian-vector product"
    )


@pytest.mark.parametrize("rows", ((18, 19), (0, 1), (3, 12)))
def test_equal_rows_of_large_integers_give_zero_and_minus_infinity(rows, dtype):
    A = 128 * torch.eye(20, dtype=dtype)
    A[rows[0], rows[1]] = A[rows[1], rows[0]] = 128
    batch = torch.randint(-6000, 6000, (50, 20, 20)).to(dtype)
    batch[:, rows[0]] = batch[:, rows[1]]
    for X in (A, batch):
        sign, logabsdet = _reference.slogdet(X)
        assert (_reference.det(X) == 0).all()
        assert (sign == 0).all()
        assert (logabsdet == -math.inf).all()


def test_a_pivot_may_be_so_small_that_its_square_is_zero(dtype):
    t = 2.0 ** (math.frexp(torch.finfo(dtype).tiny)[1] * 7 // 10)
    pivot = t * (2 + 2j if dtype.is_complex else 2)
    A = torch.tensor([[1, 1, 0], [0, pivot, 1], [0, t, 1]], dtype=dtype)
    assert _reference.det(A) == pivot - t
    assert _reference.cofactor(A)[0, 0] == pivot - t


def test_columns_of_the_smallest_numbers_beside_the_largest(dtype):
    f = torch.finfo(dtype)
    large, small = 2.0 ** (math.frexp(f.max)[1] - 1), f.tiny * f.eps  # the least number above 0
    A = torch.tensor([[large, 3 * small], [large, small]], dtype=dtype)
    assert _reference.det(A) == -2 * (large * small)
    assert _reference.cofactor(A)[1, 1] == large


def test_a_zero_pivot_counts_but_not_what_comes_after_it(dtype):
    A = torch.randn(4, N, N, dtype=dtype)
    A[1, :, 3] = 0
    det, (sign, logabsdet) = _reference.det(A), _reference.slogdet(A)
    assert (det != 0).tolist() == (sign != 0).tolist() == [True, False, True, True]
    assert logabsdet[1] == -math.inf


def test_the_fast_ways_serve_random_matrices_and_the_exact_ones_the_others(monkeypatch):
    """Else the tests above would test one way twice."""
    served = []
    complete = _reference_lu._eliminate_completely

    def spy(B: Tensor) -> tuple[Tensor, ...]:
        served.append(len(B))
        return complete(B)

    monkeypatch.setattr(_reference_lu, "_eliminate_completely", spy)
    A = torch.randn(9, N, N, dtype=torch.float64)
    _reference.det(A)
    _reference.cofactor(A)
    assert served == []
    A[4] = special("zero pivot in the middle", A.dtype)
    _reference.cofactor(A)
    assert served == [1]
    A[5] = special("growth", A.dtype)
    _reference.det(A)
    assert served == [1, 1]


@pytest.mark.parametrize("m", (2, 3))
@pytest.mark.parametrize("n", (3, 7))
def test_higher_derivatives_do_not_depend_on_place_or_strides(n, m, dtype):
    A = torch.randn(11, n, n, dtype=dtype)
    Zs = [torch.randn(11, n, n, dtype=dtype) for _ in range(m)]
    whole = _higher_order.cofactor_derivative(A, Zs)
    for k in range(11):
        assert same_bits(_higher_order.cofactor_derivative(A[k], [Z[k] for Z in Zs]), whole[k]), k
    turned = [X.mT.contiguous().mT for X in (A, *Zs)]
    assert same_bits(_higher_order.cofactor_derivative(turned[0], turned[1:]), whole)
