"""What the forward pass keeps, half an elimination or factors: backward from it has the bits of
backward from A, at every matrix and grad; and only where a backward pass may come.

Here of the CPU. CUDA keeps something of matrices of the class "large" alone (test_cuda_kept.py), of
others nothing, and the reference never does; no function of torchdet calls these operators there
unless it was traced for a CPU.
"""

from __future__ import annotations

import importlib
import itertools
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

import cases
import torchdet
import units
from cases import grid
from support import (
    AT_EDGES,
    OPS,
    draw,
    exact_cofactors,
    exact_dets,
    logabsdet,
    on_extension,
    operators_called,
    same_bits,
)
from torchdet import _kept, _reference

NOT_KEPT = torch.iinfo(torch.int32).min
KERNELS = cases.EXTENSION or cases.EMULATION == "arm"
INTEGER_FAMILIES = ("integer_rank_n-1", "integer_rank_n-2", "shift", "wilkinson_growth")
# The reference is one algorithm, and slower.
BATCH_ORDERS = (20, 21, 32, 33, 48, 64, 65, 100, 130) if KERNELS else (33,)

on_kernels = pytest.mark.skipif(not KERNELS, reason="the reference keeps nothing")


def keeping(*orders: int) -> list[Any]:
    """The orders with the dtypes of which something is kept there (csrc/select.h)."""
    return [
        pytest.param(n, dtype, id=f"{n}-{cases.name(dtype)}")
        for n, dtype in itertools.product(orders, cases.DTYPES)
        if n >= (21 if dtype.is_complex else 33)
    ]


def has_kernels(device: str) -> bool:
    return KERNELS and device == "cpu"


def from_A(operator: str, device: str) -> Callable[..., Tensor]:
    """The operator that keeps nothing, by the implementation whose operators keep something."""
    if cases.EMULATION == "cuda":  # which keeps matrices of any order, by the class "large"
        large = partial(importlib.import_module("emulated").run, operator, large=True)
        return lambda grad, A: torch.from_numpy(large(A.numpy(), grad.numpy())[0])
    is_compiled = has_kernels(device) or _kept.kept_integers(torch.empty(1, 1, device=device)) > 1
    return getattr(OPS if is_compiled else _reference, operator)


def kept(A: Tensor) -> tuple[Tensor, Tensor]:
    return OPS._det_keep(A)[1:]


@pytest.mark.parametrize(
    ("family", "n", "dtype"),
    grid(AT_EDGES["kept"], INTEGER_FAMILIES),
)
def test_what_is_kept_at_the_size_classes_edges_gives_gradients_within_one_unit(
    family, n, dtype, device
):
    check_gradient(family, n, dtype, device)


def check_gradient(family: str, n: int, dtype: torch.dtype, device: str) -> None:
    A = cases.matrices(family, n, dtype)
    det, *kept = OPS._det_keep(A.to(device))
    units.assert_within(det, exact_dets(family, n, dtype), A, 0, what="det")
    ones = torch.ones(len(A), dtype=dtype, device=device)
    C = OPS._det_backward_kept(ones, A.to(device), *kept).conj()
    units.assert_within(C, exact_cofactors(family, n, dtype), A, 1, what="gradient")


def assert_bits_of_backward_from_A(A: Tensor, is_kept: bool | None = None) -> None:
    for name in ("det", "slogdet"):
        *_, numbers, integers = getattr(OPS, f"_{name}_keep")(A)
        assert is_kept is None or ((integers[..., 0] != NOT_KEPT) == is_kept).all()
        for size in (1.5, 2.0**-100, 2.0**100):
            grad = torch.full(A.shape[:1], size, dtype=A.dtype)
            got = getattr(OPS, f"_{name}_backward_kept")(grad, A, numbers, integers)
            assert same_bits(got, getattr(OPS, f"{name}_backward")(grad, A)), (name, size)
            if name == "slogdet":
                assert_bits_of_gradient_and_inverse(grad, A, numbers, integers)


def assert_bits_of_gradient_and_inverse(
    grad: Tensor, A: Tensor, numbers: Tensor, integers: Tensor
) -> None:
    results = OPS._slogdet_backward_inverse_kept(grad, A, numbers, integers)
    for result, g in zip(results, (grad, torch.ones_like(grad)), strict=True):
        assert same_bits(result, OPS._slogdet_backward_kept(g, A, numbers, integers))


@on_kernels
@pytest.mark.parametrize(
    ("n", "dtype"),
    keeping(21, 22, 24, 25, 31, 32, 33, 34, 35, 36, 49, 64, 65, 66, 67, 80, 96, 127, 128, 129, 160),
)
@pytest.mark.parametrize(
    "family",
    ("normal", "graded_both", "denormal", "diagonal_huge_and_tiny", "near_singular",
     "integer_rank_n-1", "wilkinson_growth"),
)  # fmt: skip
def test_backward_from_what_is_kept_has_the_bits_of_backward_from_A(family, n, dtype):
    assert_bits_of_backward_from_A(cases.matrices(family, n, dtype), is_kept=True)


@on_kernels
@pytest.mark.parametrize(("n", "dtype"), keeping(21, 32, 33, 40, 64, 80, 128))
@pytest.mark.parametrize("row", (0, 1, 17, -2, -1))
def test_half_an_elimination_is_not_kept_where_a_pivot_before_the_last_is_zero(n, row, dtype):
    """Rank n - 1, but backward from A has to exchange rows. Factors are kept all the same."""
    A = torch.randn(5, n, n, dtype=dtype)
    A[:, row] = 0
    assert_bits_of_backward_from_A(A, is_kept=None if n > 64 else row == -1)


@on_kernels
def test_exponents_that_have_no_room_are_not_kept():
    """The last column is 2^-2074 of the other entries of its rows."""
    A = torch.eye(40, dtype=torch.float64).repeat(5, 1, 1) * 2.0**1000
    A[:, :, -1], A[:, -1, 0] = 2.0**-1074, 2.0**1000
    assert_bits_of_backward_from_A(A, is_kept=False)


@pytest.mark.parametrize("n", (1, 12, *BATCH_ORDERS))
def test_gradient_and_inverse_together_have_the_bits_of_each_alone(n, dtype, device):
    """Where the inverse is in range, or beyond it, or NaN, or does not exist, and at any grad; and
    from integers that no forward pass has written."""
    cases.skip_complex_reference(dtype, not has_kernels(device))
    A = draw(29, n, dtype, device)
    if n > 3:
        A[9, :, :2] = A[9, :, 2:3]  # of rank n - 2
        A[10, 1, 2], A[17, 2, 0] = math.nan, math.inf
        A[11, 3] *= torch.finfo(dtype).tiny / 2**10
        A[12] = 0
    tiny, huge = torch.finfo(dtype).tiny, torch.finfo(dtype).max
    sizes = (0.7, -0.0, tiny / 2**10, huge, math.inf, math.nan, -tiny)
    grad = torch.tensor(sizes, dtype=dtype, device=device).repeat(5)[:29]
    if dtype.is_complex:
        grad = grad * torch.tensor(0.6 - 0.8j, dtype=dtype, device=device)
    *_, numbers, integers = OPS._slogdet_keep(A)
    for written in (integers, torch.full_like(integers, -1)):
        assert_bits_of_gradient_and_inverse(grad, A, numbers, written)
        assert_bits_of_gradient_and_inverse(grad[3].expand(29), A.mT, numbers.mT, written)


@on_kernels
@pytest.mark.parametrize("index", (-1, 130, 2**30 + 200))
@pytest.mark.parametrize("n", (40, 130))
def test_indices_that_lead_out_of_the_matrix_are_not_followed(n, index):
    A = cases.matrices("normal", n, torch.float64)
    numbers, integers = kept(A)
    grad = torch.ones(len(A), dtype=A.dtype)
    for place in (1, 2, n):  # of a column, or of the exchanged column and rows
        wrong = integers.clone()
        wrong[..., place] = index
        got = OPS._det_backward_kept(grad, A, numbers, wrong)
        assert same_bits(got, OPS.det_backward(grad, A))


@on_kernels
@pytest.mark.parametrize(("n", "dtype"), keeping(21, 33, 40, 70, 130))
def test_integers_that_no_forward_pass_writes_lead_to_backward_from_A(n, dtype):
    """The gradient is right whatever the integers are: they are looked at before they are used."""
    A = cases.matrices("normal", n, dtype)
    numbers, integers = kept(A)
    grad = torch.ones(len(A), dtype=A.dtype)
    expected = OPS.det_backward(grad, A)
    twice = integers.clone()
    twice[:, 3:5] = twice[:, 5:6]  # a column or a row twice
    generator = torch.Generator().manual_seed(n)
    whole = torch.iinfo(torch.int32)
    for wrong in (
        twice,
        torch.zeros_like(integers),
        torch.full_like(integers, whole.max),
        torch.full_like(integers, whole.min),
        torch.full_like(integers, -1),
        *(torch.randint(low, high, integers.shape, dtype=torch.int32, generator=generator)
          for low, high in ((whole.min, whole.max), (-2, 3), (0, n), (-n, n))),
    ):  # fmt: skip
        assert same_bits(OPS._det_backward_kept(grad, A, numbers, wrong), expected)
        assert same_bits(OPS._det_backward_kept(grad, A, torch.full_like(numbers, math.nan), wrong),
                         expected)  # fmt: skip


@on_kernels
@pytest.mark.parametrize(("n", "dtype"), keeping(21, 33, 40, 130))
def test_of_a_rank_below_n_minus_1_nothing_is_kept_and_the_gradient_is_zero(n, dtype):
    A = cases.matrices("normal", n, dtype).clone()
    A[..., 3] = A[..., n - 1] = 0
    numbers, integers = kept(A)
    assert (integers[..., 0] == NOT_KEPT).all()
    grad = torch.ones(len(A), dtype=dtype)
    assert (OPS._det_backward_kept(grad, A, numbers, integers) == 0).all()


@pytest.mark.parametrize("n", (20, 40, 130))
def test_cofactors_at_both_ends_of_the_range(n, device):
    """Cofactors 2^-140, which has lost bits in float32 unless it is a power of two, and 2^126."""
    A = torch.eye(n, device=device)
    A[0, 0], A[1, 1] = 2.0**126, 2.0**-140
    for power in (-5, 0, 1):
        got = OPS._det_backward_kept(torch.tensor(2.0**power, device=device), A, *kept(A))
        expected = torch.full((n,), 2.0 ** (power - 14))
        expected[0], expected[1] = 2.0 ** (power - 140), 2.0 ** (power + 126)
        assert torch.equal(got.cpu(), torch.diag(expected))


@pytest.mark.parametrize("n", (12, 40, 64, 130))
def test_a_grad_brings_cofactors_back_that_are_beyond_the_range(n, device):
    """C = 2^(20 (n-1)) I is beyond float32, but not so its product with 2^-120 where n = 12."""
    A = torch.eye(n, device=device) * 2.0**20
    got = OPS._det_backward_kept(torch.tensor(2.0**-120, device=device), A, *kept(A))
    true = 20 * (n - 1) - 120
    expected = math.inf if true >= 128 else math.ldexp(1.0, true)
    assert (got.diagonal().cpu() == expected).all()
    assert (got.fill_diagonal_(0) == 0).all()


@pytest.mark.parametrize("n", BATCH_ORDERS)
def test_what_is_kept_does_not_depend_on_place_batch_size_or_threads(n, dtype, device):
    cases.skip_complex_reference(dtype, not has_kernels(device))
    A = draw(23, n, dtype, device)
    grad = torch.full((23,), 0.7, dtype=dtype, device=device)

    def outputs(select: slice | Tensor) -> list[Tensor]:
        out = [*OPS._det_keep(A[select]), *OPS._slogdet_keep(A[select])]
        out.append(OPS._det_backward_kept(grad[select], A[select], *out[1:3]))
        out.append(OPS._slogdet_backward_kept(grad[select], A[select], *out[-3:-1]))
        return out

    torch.set_num_threads(1)
    whole = outputs(slice(None))
    torch.set_num_threads(2)
    order = torch.randperm(23, device=device)
    for select in (slice(None), slice(1), slice(5), slice(22, 23), order):
        for got, expected in zip(outputs(select), whole, strict=True):
            assert same_bits(got, expected[select])


@pytest.mark.parametrize("n", BATCH_ORDERS)
def test_matrices_that_are_not_kept_and_wild_gradients_leave_their_neighbours_alone(
    n, dtype, device
):
    cases.skip_complex_reference(dtype, not has_kernels(device))
    A = draw(70, n, dtype, device)
    special = torch.tensor([3, 40, 69], device=device)
    A[special, 1] *= torch.finfo(dtype).tiny / 2**10  # its cofactors are beyond the largest number
    grad = torch.full((70,), 0.7, dtype=dtype, device=device)
    grad[20], grad[21], grad[60] = torch.finfo(dtype).tiny, torch.finfo(dtype).max / 2, 0
    keep = OPS._det_keep(A)[1:]
    together = OPS._det_backward_kept(grad, A, *keep)
    for i in range(70):
        alone = OPS._det_backward_kept(*(x[i : i + 1] for x in (grad, A, *keep)))
        assert same_bits(together[i : i + 1], alone)


# ---- the way through autograd


@pytest.mark.parametrize("f", (torchdet.det, logabsdet), ids=("det", "slogdet"))
@pytest.mark.parametrize("n", (3, 20, 21, 32, 33, 70, 130))
def test_a_graph_that_is_retained_gives_the_same_gradient_twice(f, n, dtype, device):
    A = draw(5, n, dtype, device).requires_grad_()
    out = f(A)
    weights = [torch.full_like(out, x) for x in (0.3, 0.7)]
    first = [torch.autograd.grad(out, A, w, retain_graph=True)[0] for w in weights]
    last = [torch.autograd.grad(f(A), A, w)[0] for w in weights]
    for x, y in zip(first, last, strict=True):
        assert same_bits(x, y)


@pytest.mark.parametrize("f", (torchdet.det, logabsdet), ids=("det", "slogdet"))
def test_gradients_of_a_sum_of_uses_add_up(f, device):
    A = torch.randn(3, 40, 40, dtype=torch.float64, device=device, requires_grad=True)
    (both,) = torch.autograd.grad((f(A) * 2 + f(A) * 3).sum(), A)
    (one,) = torch.autograd.grad(f(A).sum(), A)
    # Two products and their sum on the left, one product on the right: eps / 2 each.
    rtol = 2 * torch.finfo(A.dtype).eps
    assert torch.allclose(both, 5 * one, rtol=rtol, atol=0)
    for _ in range(2):
        f(A).sum().backward()
    assert torch.equal(A.grad, 2 * one)


def test_what_the_operator_has_returned_is_not_overwritten(device):
    A = torch.randn(3, 40, 40, dtype=torch.float64, device=device, requires_grad=True)
    det, numbers, integers = OPS._det_keep(A)
    before = numbers.clone(), integers.clone()
    det.sum().mul(3).backward()
    assert torch.equal(numbers, before[0])
    assert torch.equal(integers, before[1])
    grad = torch.full((3,), 3.0, dtype=A.dtype, device=device)
    assert torch.equal(A.grad, from_A("det_backward", device)(grad, A.detach()))


def test_checkpointing_gives_the_same_gradient(device):
    A = torch.randn(3, 40, 40, dtype=torch.float64, device=device, requires_grad=True)
    (expected,) = torch.autograd.grad(torchdet.det(A).sum(), A)
    d = torch.utils.checkpoint.checkpoint(torchdet.det, A, use_reentrant=False)
    assert torch.equal(torch.autograd.grad(d.sum(), A)[0], expected)


@on_extension
def test_something_is_kept_where_a_backward_pass_may_come_and_only_there():
    A = torch.randn(2, 33, 33)
    leaf = A.clone().requires_grad_()
    assert operators_called(torchdet.det, A) == ["det"]
    assert operators_called(torchdet.slogdet, A) == ["slogdet"]
    with torch.no_grad():
        assert operators_called(torchdet.det, leaf) == ["det"]
    assert operators_called(torchdet.det, leaf[:, :32, :32]) == ["det"]  # below the least order
    assert operators_called(torchdet.det, leaf[:, :32, :32].cfloat()) == ["_det_keep"]
    assert operators_called(torchdet.det, leaf[:, :20, :20].cfloat()) == ["det"]
    assert operators_called(torchdet.det, leaf.half()) == ["det"]
    assert operators_called(torchdet.det, leaf) == ["_det_keep"]
    assert operators_called(torchdet.slogdet, leaf) == ["_slogdet_keep"]
    out = torchdet.det(leaf).sum()
    assert operators_called(out.backward) == ["_det_backward_kept"]


@pytest.mark.parametrize("n", (12, 70, 130))
def test_nothing_is_kept_unasked_where_no_kernel_does(n, device):
    if device == "cpu" and cases.EXTENSION:
        pytest.skip("the CPU's kernels keep something")
    leaf = torch.randn(2, n, n, device=device, requires_grad=True)
    for f, name in ((torchdet.det, "det"), (logabsdet, "slogdet")):
        assert operators_called(f, leaf) == [name]
        assert operators_called(f(leaf).sum().backward) == [f"{name}_backward"]


@pytest.mark.parametrize("n", (33, 70, 130))
def test_arguments_that_do_not_fit_are_named(n):
    A = torch.randn(2, n, n)
    numbers, integers = kept(A)
    grad = torch.ones(2)
    for arguments, message in (
        ((grad, A, numbers[:1], integers), "kept"),
        ((grad, A, numbers.double(), integers), "kept"),
        ((grad, A, numbers, integers[:1]), "integers"),
        ((grad, A, numbers, integers[:, :0]), "integers"),
        ((grad, A, numbers, integers.long()), "integers"),
        ((grad[:1], A, numbers, integers), "grad"),
    ):
        with pytest.raises(RuntimeError, match=f"det_backward: expected {message}"):
            OPS._det_backward_kept(*arguments)
    with pytest.raises(RuntimeError, match=r"det: expected A of shape"):
        OPS._det_keep(torch.ones(3, 4))
    with pytest.raises(RuntimeError, match=r"slogdet: expected A of shape"):
        OPS._slogdet_keep(torch.ones(3, 4))
