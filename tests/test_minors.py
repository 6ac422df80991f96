"""principal_minors: values, derivatives by exact minors, padding and masks, and errors."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor
from torch.func import grad, vmap

import cases
import oracles
import torchdet
from torchdet import principal_minors

SETS = ([0], [2, 0], [1, 3, 4], [0, 1, 2, 3, 4], [], [3, 3])


def padded(sets, k: int = 5) -> Tensor:
    return torch.tensor([[*s, *[-1] * (k - len(s))] for s in sets])


def kernel(dtype: torch.dtype, N: int = 5) -> Tensor:
    """Small integers: every minor is exact."""
    generator = torch.Generator().manual_seed(3)
    real = torch.randint(-3, 4, (N, N), generator=generator)
    return (real + 1j * real.mT).to(dtype) if dtype.is_complex else real.to(dtype)


def exact(L: Tensor, s: list[int]) -> complex:
    if len(set(s)) < len(s):
        return 0
    if not s:
        return 1
    return complex(*map(float, oracles.det(L[s][:, s]).fraction()))


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64, torch.complex128), ids=cases.name)
def test_values_are_the_exact_minors(dtype):
    L = kernel(dtype)
    got = principal_minors(L, padded(SETS))
    expected = torch.tensor([exact(L, s) for s in SETS], dtype=torch.complex128)
    # The sums of products of at most five numbers below 5 are below 1e5; n eps of that, twice.
    torch.testing.assert_close(
        got.to(torch.complex128), expected, rtol=0, atol=1e6 * torch.finfo(dtype).eps
    )
    assert got.dtype == dtype


def test_logarithms_are_those_of_logdet():
    L = kernel(torch.float64)
    minors = principal_minors(L, padded(SETS))
    got = principal_minors(L, padded(SETS), log=True)
    torch.testing.assert_close(got, minors.log(), rtol=1e-12, atol=1e-12, equal_nan=True)
    assert (minors < 0).any()
    assert got[-1] == -torch.inf  # a row that is listed twice
    assert got[-2] == 0  # the empty set


def test_a_mask_and_padding_give_the_same():
    L = kernel(torch.float64)
    sets = [s for k in range(6) for s in map(list, itertools.combinations(range(5), k))]
    mask = torch.zeros(len(sets), 5, dtype=torch.bool)
    for i, s in enumerate(sets):
        mask[i, s] = True
    by_mask, by_index = principal_minors(L, mask), principal_minors(L, padded(sets))
    assert torch.equal(by_mask, by_index)
    wide = principal_minors(L, padded(sets, 9))  # more padding than needed, and another negative
    torch.testing.assert_close(wide, by_index, rtol=1e-12, atol=1e-12)
    empty = torch.full((1, 3), -7)
    assert torch.equal(principal_minors(L, empty), by_index[:1])
    # det(L + I) is the sum over all subsets.
    total = torchdet.det(L + torch.eye(5, dtype=torch.float64))
    torch.testing.assert_close(by_mask.sum(), total, rtol=1e-12, atol=1e-9)
    assert principal_minors(L, mask[:0]).shape == (0,)
    assert torch.equal(principal_minors(L, mask[:1]), torch.ones(1, dtype=torch.float64))


def test_gradients_are_cofactors_at_the_places_of_each_set():
    L = kernel(torch.float64).requires_grad_()
    weight = torch.arange(1.0, 1 + len(SETS), dtype=torch.float64)
    (got,) = torch.autograd.grad((weight * principal_minors(L, padded(SETS))).sum(), L)
    expected = torch.zeros(5, 5, dtype=torch.float64)
    for w, s in zip(weight, SETS[:4], strict=False):
        rows, columns = torch.tensor(s)[:, None], torch.tensor(s)
        C = torchdet.cofactor(L.detach()[rows, columns])
        expected.index_put_((rows, columns), w * C, accumulate=True)
    # The repeated row 3: d det [[a, a], [a, a]] = a - a - a + a, entry by entry at one place.
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-9)


def test_derivatives_at_a_singular_kernel_of_rank_one():
    v = torch.tensor([1.0, 2, 3, 4, 5], dtype=torch.float64)
    L = torch.outer(v, v).requires_grad_()
    index = padded(SETS[:5])
    assert torch.autograd.gradcheck(lambda x: principal_minors(x, index), L, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(lambda x: principal_minors(x, index), L)
    M = (L.detach() + torch.eye(5, dtype=torch.float64)).requires_grad_()
    log = lambda x: principal_minors(x, index, log=True)  # noqa: E731
    assert torch.autograd.gradcheck(log, M, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(log, M)


def test_a_kernel_of_order_0_has_the_empty_set():
    L = torch.empty(2, 0, 0, requires_grad=True)
    sets = torch.full((3, 2), -1)
    got = principal_minors(L, sets)
    assert torch.equal(got, torch.ones(2, 3))
    assert torch.equal(principal_minors(L, sets[:, :0]), got)
    with pytest.raises(IndexError, match="row numbers below 0"):
        principal_minors(L, torch.zeros_like(sets))


UNSIGNED = (torch.uint8, torch.uint16, torch.uint32, torch.uint64)


@pytest.mark.parametrize("integer", UNSIGNED, ids=cases.name)
def test_unsigned_row_numbers(integer):
    L = kernel(torch.float64)
    sets = torch.tensor([[0, 2], [4, 1]])
    assert torch.equal(principal_minors(L, sets.to(integer)), principal_minors(L, sets))
    with pytest.raises(IndexError, match="got 5"):
        principal_minors(L, (sets + 1).to(integer))


def test_batches_transforms_and_compile():
    L = torch.stack([kernel(torch.float64), kernel(torch.float64) + 1])
    index = padded(SETS)
    each = torch.stack([principal_minors(x, index) for x in L])
    assert torch.equal(principal_minors(L, index), each)
    assert torch.equal(principal_minors(L, index.expand(2, -1, -1)), each)
    assert torch.equal(principal_minors(L[:1], index.expand(2, -1, -1))[1], each[0])
    assert torch.equal(vmap(principal_minors, (0, None))(L, index), each)
    assert torch.equal(vmap(principal_minors, (None, 0))(L[0], index[:, None]), each[0][:, None])
    loss = lambda x, i: principal_minors(x, i).square().sum()  # noqa: E731
    expected = torch.stack([grad(loss)(x, index) for x in L])
    torch.testing.assert_close(vmap(grad(loss), (0, None))(L, index), expected)
    compiled = torch.compile(principal_minors, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(L, index), each)


def test_errors_say_what_was_expected():
    L, index = torch.eye(3), torch.tensor([[0, 1]])
    mask = torch.ones(2, 4, dtype=torch.bool)
    for args, error, text in (
        ((torch.ones(3, 4), index), RuntimeError, r"expected . of shape \(\*, n, n\)"),
        ((L, index.float()), RuntimeError, "expected index of an integer dtype or bool"),
        ((L, index[0]), RuntimeError, r"expected index of shape \(\*, m, k\), got \(2,\)"),
        ((L, mask), RuntimeError, r"expected a mask of shape \(\*, m, 3\)"),
        ((L, torch.tensor([[0, 3]])), IndexError, "expected row numbers below 3, .* got 3"),
        ((L.expand(2, 3, 3), index.expand(4, 1, 2)), RuntimeError, "expected batch dimensions"),
        ((L, [[0]]), TypeError, "expected index to be a Tensor, got list"),
        (([1.0], index), TypeError, "expected A to be a Tensor"),
        ((L, index.to("meta")), RuntimeError, "expected index on the device of A"),
    ):  # fmt: skip
        with pytest.raises(error, match=f"principal_minors: {text}"):
            principal_minors(*args)
    # Under a transform row 3 of 3 must not be row 1.
    with pytest.raises((IndexError, RuntimeError), match="out of bounds"):
        grad(lambda x: principal_minors(x, torch.tensor([[0, 3]])).sum())(L)
