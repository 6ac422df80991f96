"""A matrix's result does not depend, bit for bit, on its place in the batch, on the batch's size or
on the number of threads (but for the largest orders on CUDA); large orders are right with several
threads; offsets are 64-bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

import cases
import torchdet
from support import (
    OUTPUTS,
    all_outputs,
    assert_same_bits,
    draw,
    logabsdet,
    of_class_large,
    run_script,
    same_bits,
)

# The kernels differ from order to order; the reference is one algorithm, and slower.
SMALL_ORDERS = tuple(range(1, 41)) if cases.EXTENSION else (1, 2, 3, 4, 7, 16, 33)
LARGE_ORDERS = (48, 64, 80, 128, 150, 160, 200) if cases.EXTENSION else (64,)
RECORDED_ORDERS = (
    (3, 9, *range(11, 37), 49, 64, 65, 72, 90, 128, 130) if cases.EXTENSION else (3, 11)
)
RECORDED = ("det", "sign", "logabsdet", "det's gradient", "logabsdet's gradient")


@pytest.mark.parametrize("n", SMALL_ORDERS)
def test_a_result_does_not_depend_on_place_or_batch_size(n, dtype, device):
    cases.skip_complex_reference(dtype)
    A = draw(70, n, dtype, device)
    whole = all_outputs(A)
    for size in (1, 2, 5, 8, 33, 69):
        assert_same_bits(all_outputs(A[:size]), [x[:size] for x in whole], "first", size)
    for start in (1, 31, 69):
        assert_same_bits(all_outputs(A[start:]), [x[start:] for x in whole], "from", start)
    order = torch.randperm(70, device=device)
    assert_same_bits(all_outputs(A[order]), [x[order] for x in whole], "shuffled")


@pytest.mark.parametrize("n", (1, 2, 3, 4, 5))
def test_parts_below_the_normal_range_keep_their_bits_beside_a_huge_neighbour(n, device):
    A = torch.randn(9, n, n, dtype=torch.complex128, device=device)
    A.real *= 2.0**15  # a mantissa near 1 would cost the other part bits
    A.imag *= 2.0**-1060
    alone = all_outputs(A)
    for huge in range(9):
        X = A.clone()
        X[huge] *= 1e300
        others = [i for i in range(9) if i != huge]
        expected = [x[others] for x in alone]
        assert_same_bits([x[others] for x in all_outputs(X)], expected, n, huge)


@pytest.mark.parametrize("n", (1, 2, 3, 4, 8, 13, 21, 33))
def test_every_batch_size_to_70_gives_the_same_bits(n, device):
    A = draw(70, n, torch.float32, device)
    whole = all_outputs(A)
    for size in range(1, 70) if cases.EXTENSION else (1, 2, 3, 4, 16, 17, 69):
        assert_same_bits(all_outputs(A[:size]), [x[:size] for x in whole], "first", size)


@pytest.mark.parametrize("n", LARGE_ORDERS)
def test_a_large_result_does_not_depend_on_its_place(n, device):
    for dtype in (torch.float32,) if n >= 200 else (torch.float32, torch.float64):
        A = draw(9, n, dtype, device)
        not_promised = of_class_large(n, dtype) if device == "cuda" else set()
        whole, alone, flipped = (all_outputs(X) for X in (A, A[:1], A.flip(0)))
        for name, x, first, last in zip(OUTPUTS, whole, alone, flipped, strict=True):
            if name not in not_promised:
                assert same_bits(first, x[:1]), (name, dtype, "alone")
                assert same_bits(last, x.flip(0)), (name, dtype, "flipped")


@pytest.mark.parametrize("n", (*SMALL_ORDERS, *LARGE_ORDERS))
def test_a_result_does_not_depend_on_the_number_of_threads(n):
    """A batch large enough to be shared out, where the order is small enough to afford it."""
    batch = 1000 if n <= 8 else 130 if n <= 40 else 4
    dtypes = cases.DTYPES if n in (1, 2, 3, 4, 8, 17, 33) else (torch.float32,)
    if not cases.EXTENSION:
        # Of the complex dtypes see cases.skip_complex_reference.
        batch, dtypes = min(batch, 100), cases.REAL_DTYPES
    for dtype in dtypes:
        A = draw(batch, n, dtype)
        torch.set_num_threads(1)
        expected = all_outputs(A)
        for threads in (2, 4):
            torch.set_num_threads(threads)
            assert_same_bits(all_outputs(A), expected, dtype, threads)


@pytest.mark.parametrize("n", (150, 160, 200) if cases.EXTENSION else (150, 160))
def test_large_batches_are_right_with_several_threads(n):
    """In a process of its own with a time limit: concurrent library LU hangs at these orders."""
    numbers = (2, 3) if cases.EXTENSION else (2,)
    script = f"""
import math, torch
import oracles, torchdet
torch.manual_seed(0)
A = torch.randn(4, {n}, {n}, dtype=torch.float64, requires_grad=True)
truth = [oracles.extended(a) for a in A.detach()]

def check(value, grad, det, k):
    sign, log, inverse = truth[k]
    X = torch.from_numpy(inverse.T.astype(float))
    scale = torch.linalg.norm(X) * torch.linalg.norm(A[k].detach())  # bounds the condition number
    relative = {n} * 2.3e-16 * scale
    assert value.sign[k].item() == sign.real, k
    assert abs(value.logabsdet[k].item() - float(log)) <= relative, k
    assert torch.linalg.norm(grad[k] - X) <= relative * torch.linalg.norm(X), k
    assert det[k].sign() == value.sign[k], k
    expected = float(log) - {n} / 2 * math.log({n})
    assert abs(det[k].abs().log() - expected) <= relative + 1e-12, k

for threads in {numbers}:
    torch.set_num_threads(threads)
    value = torchdet.slogdet(A)
    (grad,) = torch.autograd.grad(value.logabsdet.sum(), A)
    det = torchdet.det(A.detach() / {n} ** 0.5)
    for k in range(4):
        check(value, grad, det, k)
"""
    run_script(script, limit=120)


@pytest.mark.parametrize("n", RECORDED_ORDERS)
def test_what_autograd_records_and_returns_does_not_depend_on_the_batch_size(n, dtype, device):
    """A recorded determinant may come from another kernel than one of which nothing is kept; which
    of the two it is must not depend on the batch, or its last bits would."""
    cases.skip_complex_reference(dtype)

    def recorded(A: Tensor) -> list[Tensor]:
        leaf = A.clone().requires_grad_()
        det, (sign, logabsdet) = torchdet.det(leaf), torchdet.slogdet(leaf)
        out = [det, sign, logabsdet]
        for x in (det, logabsdet):
            out += torch.autograd.grad(x, leaf, torch.full_like(x, 0.7))
        return [x.detach() for x in out]

    A = draw(150 if n <= 40 else 40, n, dtype, device)
    whole = recorded(A)
    for select in (slice(1), slice(5), slice(17), slice(31, None)):
        for name, got, expected in zip(RECORDED, recorded(A[select]), whole, strict=True):
            assert same_bits(got, expected[select]), (name, select)


@pytest.mark.parametrize("n", (1, 2, 3, 4, 5, 8, 16, 33, 64))
def test_a_backward_with_create_graph_gives_the_same_bits(n, dtype, device):
    A = draw(20, n, dtype, device)
    for f in (torchdet.det, logabsdet, torchdet.cofactor):
        gradients = []
        for create_graph in (False, True):
            leaf = A.clone().requires_grad_()
            out = f(leaf)
            weight = torch.linspace(0.5, 2, out.numel(), device=device).reshape(out.shape)
            weight = weight.to(out.dtype)
            (g,) = torch.autograd.grad(out, leaf, weight, create_graph=create_graph)
            gradients.append(g.detach())
        assert same_bits(*gradients)


# ---- offsets beyond 2^31 elements, on a sparse file: only the touched pages take memory


@pytest.fixture
def far_storage(tmp_path: Path) -> Tensor:
    elements = 3 * 2**31 + 4096
    path = tmp_path / "sparse"
    with open(path, "wb") as file:
        file.truncate(4 * elements)
    return torch.from_file(str(path), shared=True, size=elements, dtype=torch.float32)


@pytest.mark.parametrize("n", (2, 3, 5, 16, 40))
def test_strides_beyond_2_to_the_31_are_followed(n, far_storage):
    A = torch.randn(3, n, n)
    expected = all_outputs(A)
    views = {
        "batch": far_storage.as_strided((3, n, n), (2**31 + 11, n, 1)),
        "row": far_storage.as_strided((3, n, n), (n, 3 * 2**31 // n, 1)),
        "column": far_storage.as_strided((3, n, n), (n, 1, 3 * 2**31 // n)),
        "offset": far_storage[3 * 2**31 :][: 3 * n * n].view(3, n, n) if n < 37 else None,
    }
    for label, view in views.items():
        if view is not None:
            view.copy_(A)
            assert_same_bits(all_outputs(view), expected, label)


def test_a_batch_of_more_than_2_to_the_31_entries_is_walked_with_64_bits(far_storage):
    """2^27 + 3 matrices of 4 x 4 in float32: the offset of the last is 2^31 + 32 entries."""
    batch = 2**27 + 3
    A = far_storage[: batch * 16].view(batch, 4, 4)
    A[-3:] = torch.diag(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    d = torchdet.det(A[-3:])
    assert d.tolist() == [24.0] * 3
    blocked = A.view(1, batch * 16)[:, :].as_strided((2, 4, 4), ((batch - 2) * 16, 4, 1))
    assert torchdet.det(blocked).tolist() == [0.0, 24.0]
