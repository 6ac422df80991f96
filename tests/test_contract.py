"""Promises for any input: shapes, strides, dtypes, out=, errors, NaN in one matrix."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import cases
import torchdet
from support import OPS, all_outputs, logabsdet, same_bits

UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "det": torchdet.det,
    "logabsdet": logabsdet,
    "sign": lambda A: torchdet.slogdet(A).sign,
    "logdet": torchdet.logdet,
    "cofactor": torchdet.cofactor,
    "adjugate": torchdet.adjugate,
}
PUBLIC = ("det", "slogdet", "logdet", "cofactor", "adjugate")


@pytest.mark.parametrize("n", (0, 1, 3, 6, 33))
@pytest.mark.parametrize("batch", ((), (1,), (4,), (2, 3), (0,), (2, 0, 3)), ids=str)
def test_outputs_have_the_batch_shape_and_are_contiguous(batch, n, dtype, device):
    A = torch.randn(*batch, n, n, dtype=dtype, device=device)
    scalar, matrix = torch.Size(batch), torch.Size((*batch, n, n))
    real = dtype.to_real()
    shapes = [(scalar, dtype), (scalar, dtype), (scalar, real), *[(matrix, dtype)] * 4]
    for out, (shape, expected) in zip(all_outputs(A), shapes, strict=True):
        assert out.shape == shape
        assert out.dtype == expected
        assert out.device == A.device
        assert out.is_contiguous()


@pytest.mark.parametrize("name", UNARY)
def test_the_empty_matrix_has_determinant_one(name, dtype, device):
    A = torch.empty(3, 0, 0, dtype=dtype, device=device, requires_grad=True)
    out = UNARY[name](A)
    expected = {"det": 1, "sign": 1, "logabsdet": 0, "logdet": 0}
    if name in expected:
        assert out.shape == (3,)
        assert (out == expected[name]).all()
    else:
        assert out.shape == (3, 0, 0)
    if name != "sign" or dtype.is_complex:  # the sign of a real determinant is locally constant
        (grad,) = torch.autograd.grad(out.abs().sum(), A)
        assert grad.shape == A.shape


@pytest.mark.parametrize("n", (1, 2, 3, 4, 7, 12, 20, 40, 70))
def test_strides_do_not_change_a_bit(n, dtype, device):
    A = torch.randn(6, n, n, dtype=dtype, device=device)
    expected = all_outputs(A)
    padded = torch.randn(6, n + 3, 2 * n + 1, dtype=dtype, device=device)
    views = {
        "transposed storage": A.mT.contiguous().mT,
        "slice of a larger matrix": padded[:, 1 : n + 1, : 2 * n : 2],
        "batch last": A.permute(1, 2, 0).contiguous().permute(2, 0, 1),
        "every other of a batch": torch.empty(12, n, n, dtype=dtype, device=device)[::2],
        "two batch dimensions": A.reshape(2, 3, n, n).transpose(0, 1).contiguous().transpose(0, 1),
    }
    for label, view in views.items():
        assert view.stride() != A.stride() or label.startswith("two") or n == 1
        shaped = A.reshape(view.shape)
        view.copy_(shaped)
        for got, want in zip(all_outputs(view), expected, strict=True):
            assert same_bits(got.reshape(want.shape), want), label


@pytest.mark.parametrize("n", (1, 3, 8, 40))
def test_expanded_batches_repeat_the_result(n, dtype, device):
    cases.skip_complex_reference(dtype)
    A = torch.randn(n, n, dtype=dtype, device=device)
    expanded = A.expand(5, 2, n, n)
    for got, want in zip(all_outputs(expanded), all_outputs(A), strict=True):
        assert same_bits(got, want.expand(got.shape))


@pytest.mark.parametrize("n", (1, 3, 8, 40))
def test_an_expanded_row_is_a_matrix_of_equal_rows(n, dtype, device):
    A = torch.randn(4, 1, n, dtype=dtype, device=device).expand(4, n, n)
    for got, want in zip(all_outputs(A), all_outputs(A.contiguous()), strict=True):
        assert same_bits(got, want)


@pytest.mark.parametrize("n", (2, 5, 20))
def test_conjugate_and_negative_views_are_read_as_what_they_show(n, wide_dtype, device):
    A = torch.randn(3, n, n, dtype=torch.complex128, device=device)
    view = A.conj() if wide_dtype.is_complex else A.conj().imag
    assert view.is_conj() or view.is_neg()
    plain = view.resolve_conj().resolve_neg().clone()
    for got, want in zip(all_outputs(view), all_outputs(plain), strict=True):
        assert same_bits(got, want)


@pytest.mark.parametrize("n", (1, 2, 3, 4, 5, 8, 16, 32, 33, 70) if cases.EXTENSION else (1, 3, 33))
@pytest.mark.parametrize("bad", (math.nan, math.inf, -math.inf))
def test_a_matrix_with_nan_or_infinity_spoils_only_itself(bad, n, dtype, device):
    A = torch.randn(19, n, n, dtype=dtype, device=device)
    clean = all_outputs(A)
    spoiled = A.clone()
    rows = {0: (0, 0), 7: (n - 1, 0), 18: (n // 2, n - 1)}
    for index, (i, j) in rows.items():
        spoiled[index, i, j] = complex(0, bad) if dtype.is_complex and index == 7 else bad
    others = [k for k in range(19) if k not in rows]
    for got, want in zip(all_outputs(spoiled), clean, strict=True):
        assert same_bits(got[others], want[others])
        assert got[list(rows)].isnan().all(), got[list(rows)]


def test_nan_in_one_matrix_leaves_the_gradients_of_the_others_alone(device, dtype):
    A = torch.randn(9, 5, 5, dtype=dtype, device=device)
    spoiled = A.clone()
    spoiled[4, 2, 2] = math.nan
    others = [0, 1, 2, 3, 5, 6, 7, 8]
    for f in (torchdet.det, logabsdet):
        grads = []
        for X in (A, spoiled):
            X = X.clone().requires_grad_()
            grads.append(torch.autograd.grad(f(X).real.sum(), X)[0])
        assert same_bits(grads[1][others], grads[0][others])
        assert grads[1][4].isnan().all()


@pytest.mark.parametrize("half", (torch.float16, torch.bfloat16), ids=cases.name)
@pytest.mark.parametrize("n", (0, 1, 5, 40))
def test_half_precision_comes_back_in_its_own_dtype(half, n, device):
    A = (torch.randn(3, n, n, device=device) / max(1, n) ** 0.5).to(half)
    for out in all_outputs(A):
        assert out.dtype == half
    X = A.clone().requires_grad_()
    (grad,) = torch.autograd.grad(torchdet.det(X).sum(), X)
    wide = torch.ops.torchdet.det_backward(torch.ones(3, device=device), A.float())
    assert grad.dtype == half
    assert torch.equal(grad, wide.to(half))


# ---- out=


def test_det_writes_into_out(dtype, device):
    A = torch.randn(4, 3, 3, dtype=dtype, device=device)
    out = torch.empty(4, dtype=dtype, device=device)
    address = out.data_ptr()
    assert torchdet.det(A, out=out) is out
    assert out.data_ptr() == address
    assert torch.equal(out, torchdet.det(A))


def test_slogdet_writes_into_out(dtype, device):
    A = torch.randn(4, 3, 3, dtype=dtype, device=device)
    sign = torch.empty(4, dtype=dtype, device=device)
    logabs = torch.empty(4, dtype=dtype.to_real(), device=device)
    result = torchdet.slogdet(A, out=(sign, logabs))
    assert result.sign.data_ptr() == sign.data_ptr()
    assert result.logabsdet.data_ptr() == logabs.data_ptr()
    expected = torchdet.slogdet(A)
    assert torch.equal(sign, expected.sign)
    assert torch.equal(logabs, expected.logabsdet)


def test_out_of_another_dtype_or_with_gradient_is_refused():
    A = torch.randn(4, 3, 3, dtype=torch.float64)
    with pytest.raises(RuntimeError, match=r"det.*float64.*int64"):
        torchdet.det(A, out=torch.empty(4, dtype=torch.int64))
    with pytest.raises(RuntimeError, match="out"):
        torchdet.det(A.requires_grad_(), out=torch.empty(4, dtype=torch.float64))


def outs_that_do_not_fit() -> dict[str, Tensor | list]:
    leaf = torch.empty(4, requires_grad=True)
    with torch.inference_mode():
        inference = torch.empty(4)
    return {
        "dtype": torch.empty(4, dtype=torch.int64),
        "shape": torch.empty(5),
        "device": torch.empty(4, device="meta"),
        "gradient": leaf,
        "expanded": torch.empty(1).expand(4),
        "layout": torch.zeros(4).to_sparse(),
        "storage": torch.from_numpy(torch.empty(0).numpy()),
        "inference": inference,
        "no Tensor": [0.0] * 4,
    }


@pytest.mark.parametrize("place", (0, 1))
@pytest.mark.parametrize("why", outs_that_do_not_fit())
def test_slogdet_writes_nothing_where_a_part_of_out_does_not_fit(why, place):
    A = torch.randn(4, 3, 3)
    good, bad = torch.full((4,), 7.0), outs_that_do_not_fit()[why]
    out = (bad, good) if place == 0 else (good, bad)
    with pytest.raises((RuntimeError, TypeError), match=rf"^slogdet: .*out\[{place}\]"):
        torchdet.slogdet(A, out=out)
    assert (good == 7).all()
    empty = torch.empty(0)
    with pytest.raises((RuntimeError, TypeError)):
        torchdet.slogdet(A, out=(bad, empty) if place == 0 else (empty, bad))
    assert empty.shape == (0,), "resized"


def test_out_on_another_device_is_refused():
    A = torch.randn(4, 3, 3)
    with pytest.raises(RuntimeError, match=r"det.*(device|cpu).*meta"):
        torchdet.det(A, out=torch.empty(4, device="meta"))


def test_slogdet_is_a_named_tuple():
    result = torchdet.slogdet(torch.eye(3) * -2)
    sign, logabs = result
    assert result.sign is sign
    assert result.logabsdet is logabs
    assert sign.item() == -1
    assert math.isclose(logabs.item(), 3 * math.log(2), rel_tol=1e-6)


# ---- errors

SHAPES = ((3, 4, 5), (4, 5), (3,), ())


@pytest.mark.parametrize("name", PUBLIC)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_matrix_that_is_not_square_is_refused_with_its_shape(name, shape, device):
    with pytest.raises(RuntimeError) as info:
        getattr(torchdet, name)(torch.zeros(shape, device=device))
    text = str(info.value)
    assert "expected A of shape (*, n, n)" in text
    assert f"got {tuple(shape)}" in text
    assert text.startswith(f"{name}: "), text


@pytest.mark.parametrize("name", PUBLIC)
@pytest.mark.parametrize("bad", (torch.int64, torch.int32, torch.bool, torch.uint8), ids=cases.name)
def test_an_integer_matrix_is_refused_with_the_remedy(name, bad, device):
    with pytest.raises(RuntimeError) as info:
        getattr(torchdet, name)(torch.ones(2, 2, dtype=bad, device=device))
    text = str(info.value)
    for part in ("float16, bfloat16, float32, float64, complex64 or complex128", cases.name(bad),
                 "A.to(torch.float64)", f"{name}: "):  # fmt: skip
        assert part in text, text


@pytest.mark.parametrize("name", PUBLIC)
def test_sparse_and_quantized_matrices_are_refused(name):
    sparse = torch.eye(3).to_sparse()
    with pytest.raises(RuntimeError, match=f"^{name}: "):
        getattr(torchdet, name)(sparse)
    quantized = torch.quantize_per_tensor(torch.eye(3), 0.1, 0, torch.quint8)
    with pytest.raises(RuntimeError, match=f"^{name}: "):
        getattr(torchdet, name)(quantized)


@pytest.mark.parametrize("op", ("det_backward", "slogdet_backward"))
def test_a_grad_that_does_not_fit_is_refused(op):
    A = torch.randn(4, 3, 3)
    for grad, part in (
        (torch.ones(3), "(3,)"),
        (torch.ones(4, dtype=torch.float64), "float64"),
        (torch.ones(4, 1), "(4, 1)"),
    ):
        with pytest.raises(RuntimeError) as info:
            getattr(OPS, op)(grad, A)
        assert str(info.value).startswith(op + ": expected grad"), info.value
        assert part in str(info.value), info.value


def test_a_direction_that_does_not_fit_is_refused():
    A = torch.randn(4, 3, 3)
    for Z, part in ((torch.ones(3, 3), "(3, 3)"), (torch.ones(4, 3, 3).double(), "float64")):
        with pytest.raises(RuntimeError) as info:
            OPS.det_hvp(A, Z)
        assert str(info.value).startswith("det_hvp: expected Z"), info.value
        assert part in str(info.value), info.value


def test_a_list_is_refused_as_torch_refuses_it():
    with pytest.raises(TypeError):
        torchdet.det([[1.0, 2.0], [3.0, 4.0]])


# ---- the names of torch's arguments


@pytest.mark.parametrize("name", ("det", "slogdet", "logdet"))
def test_the_matrix_may_be_named_as_torch_names_it(name):
    A = torch.tensor([[2.0, 1.0], [3.0, 4.5]])
    names = {getattr(torch, name): "input"}
    if name != "logdet":
        names[getattr(torch.linalg, name)] = "A"
    for theirs, keyword in names.items():
        of_torch = theirs(**{keyword: A})
        got, want = getattr(torchdet, name)(**{keyword: A}), getattr(torchdet, name)(A)
        pairs = (
            zip(got, want, of_torch, strict=True) if name == "slogdet" else [(got, want, of_torch)]
        )
        for x, y, z in pairs:
            assert same_bits(x, y)
            assert torch.allclose(x, z)


@pytest.mark.parametrize("name", ("det", "slogdet", "logdet"))
def test_no_matrix_or_two_of_them_are_refused(name):
    f = getattr(torchdet, name)
    A = torch.eye(2)
    with pytest.raises(TypeError, match=f"^{name}: expected A to be a Tensor, got None; pass A"):
        f()
    with pytest.raises(TypeError, match=f"^{name}: expected one matrix, got both A and input"):
        f(A, input=A)
    with pytest.raises(TypeError, match=f"^{name}: expected A to be a Tensor, got list"):
        f(input=[[1.0]])


def test_a_keyword_reaches_subclasses_that_override_functions():
    class Named(Tensor):
        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None):
            return func.__name__

    A = torch.eye(2).as_subclass(Named)
    assert torchdet.det(input=A) == "det"
    assert torchdet.slogdet(input=A) == "slogdet"
    assert torchdet.logdet(input=A) == "logdet"


@pytest.mark.parametrize("name", ("det_frexp", "slogdet_solve", "slogsumdet_laplacian", "slogdet"))
def test_named_tuples_hold_the_subclass_that_was_given(name):
    class Plain(Tensor):
        """One of the kind that torch.Tensor's own __torch_function__ serves."""

    functions = {
        "det_frexp": torchdet.det_frexp,
        "slogdet_solve": lambda A: torchdet.slogdet_solve(A, A),
        "slogsumdet_laplacian": lambda A: torchdet.slogsumdet_laplacian([A], [A[:, None]], [A]),
        "slogdet": torchdet.slogdet,
    }
    f, A = functions[name], 2 * torch.eye(3).expand(2, 3, 3)
    plain, result = f(A), f(A.as_subclass(Plain))
    assert type(result) is type(plain)
    for x, y in zip(result, plain, strict=True):
        assert type(x) is Plain
        assert torch.equal(x.as_subclass(Tensor), y)
    assert type(pickle.loads(pickle.dumps(plain))) is type(plain)
