"""Every error of the operators, provoked on the compiled kernels and on the plain ones alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import cases
import torchdet
from support import OPS
from torchdet import _ops

UNARY = ("det", "slogdet", "cofactor", "_det_keep", "_slogdet_keep")
WITH_GRAD = ("det_backward", "slogdet_backward", "_slogdet_backward_inverse")
KEPT = ("_det_backward_kept", "_slogdet_backward_kept", "_slogdet_backward_inverse_kept")
ORDERS = (3, 20, 40, 80)  # nothing is kept, a gradient, half an elimination, factors

# torch's stable ABI does not know float8_e8m0fnu and says so before a kernel is asked.
BAD_DTYPES = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64,
              torch.uint16, torch.uint32, torch.uint64, torch.complex32, torch.float8_e5m2,
              torch.float8_e4m3fn, torch.float8_e5m2fnuz, torch.float8_e4m3fnuz)  # fmt: skip


def text_of(call: Callable[..., Any], *args: Tensor) -> str:
    with pytest.raises(RuntimeError) as info:
        call(*args)
    return str(info.value)


def text_of_all(name: str, *args: Tensor) -> str:
    """The text that all kernels of an operator raise: compiled, plain and fake ones."""
    compiled = text_of(getattr(OPS, name), *args)
    plain = text_of(_ops._KERNELS[name], *args)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = text_of(getattr(OPS, name), *(mode.from_tensor(x) for x in args))
    assert compiled == plain == fake
    return compiled


def operator(name: str) -> str:
    """The name in texts: what is kept is no concern of the caller."""
    return (
        name.removeprefix("_").removesuffix("_keep").removesuffix("_kept").removesuffix("_inverse")
    )


def keep_of(name: str) -> Callable[..., Any]:
    """The operator that keeps what this one takes."""
    return getattr(OPS, name.partition("_backward")[0] + "_keep")


@pytest.mark.parametrize("name", UNARY)
@pytest.mark.parametrize("shape", ((3, 4, 5), (4, 5), (3,), (), (0, 2, 1)), ids=str)
def test_shapes(name, shape):
    text = text_of_all(name, torch.zeros(shape))
    assert text == f"{operator(name)}: expected A of shape (*, n, n), got {shape}"


@pytest.mark.parametrize("name", UNARY)
@pytest.mark.parametrize("dtype", BAD_DTYPES, ids=cases.name)
def test_dtypes(name, dtype):
    text = text_of_all(name, torch.empty(2, 2, dtype=dtype))
    remedy = "complex64" if dtype.is_complex else "float64"
    assert text == (
        f"{operator(name)}: expected A of dtype float16, bfloat16, float32, float64, complex64 or "
        f"complex128, got {cases.name(dtype)}; convert it first, e.g. A.to(torch.{remedy})"
    )


@pytest.mark.parametrize("name", WITH_GRAD)
def test_what_does_not_go_with_A(name):
    A, op = torch.zeros(4, 2, 3, 3), operator(name)
    start = f"{op}: expected grad of "
    for shape in ((4,), (2, 4), (4, 2, 1), ()):
        assert text_of_all(name, torch.zeros(shape), A) == (
            f"{start}shape (4, 2), got {shape}; expand or reshape it first"
        )
    assert text_of_all(name, torch.zeros(3), A[0, 0]) == (
        f"{start}shape (), got (3,); expand or reshape it first"
    )
    assert text_of_all(name, torch.zeros(3), A[0]) == (
        f"{start}shape (2,), got (3,); expand or reshape it first"
    )
    assert text_of_all(name, torch.zeros(4, 2, dtype=torch.complex32), A) == (
        f"{start}the dtype of A, float32, got complex32; convert it first, e.g. grad.to(A.dtype)"
    )
    # A is looked at first, the shape before the dtype.
    assert text_of_all(name, torch.zeros(3), A[..., 0]).startswith(f"{op}: expected A of shape")
    assert "shape (4, 2), got (4,)" in text_of_all(name, torch.zeros(4).double(), A)


@pytest.mark.parametrize("name", ("det_hvp", "slogdet_hvp"))
def test_directions(name):
    A = torch.zeros(4, 3, 3)
    for shape in ((3, 3), (4, 3, 4), (1, 4, 3, 3)):
        assert text_of_all(name, A, torch.zeros(shape)) == (
            f"{name}: expected Z of shape (4, 3, 3), got {shape}; expand or reshape it first"
        )
    assert text_of_all(name, A, torch.zeros(4, 3, 3).double()) == (
        f"{name}: expected Z of the dtype of A, float32, got float64; "
        "convert it first, e.g. Z.to(A.dtype)"
    )


def test_what_does_not_go_with_a_direction_and_its_factor():
    name, A, grad = "_slogdet_hvp_scaled", torch.zeros(4, 3, 3), torch.zeros(4)
    for wrong, text in (
        ((grad, A[..., 0], A), "A of shape (*, n, n), got (4, 3)"),
        ((grad[:1], A, A), "grad of shape (4,), got (1,)"),
        ((grad, A, A[0]), "Z of shape (4, 3, 3), got (3, 3)"),
        ((grad.double(), A, A), "grad of the dtype of A, float32, got float64"),
        ((grad, A, A.double()), "Z of the dtype of A, float32, got float64"),
    ):
        assert text_of_all(name, *wrong).startswith(f"slogdet_hvp: expected {text}")


@pytest.mark.parametrize("n", ORDERS if cases.EXTENSION else ORDERS[:1])
@pytest.mark.parametrize("name", KEPT)
def test_what_is_kept(name, n):
    A, op = torch.randn(2, n, n), operator(name)
    *_, numbers, integers = keep_of(name)(A)
    grad, count = torch.ones(2), integers.shape[-1]
    called = getattr(OPS, name)
    called(grad, A, numbers, integers)
    assert text_of(called, grad[:1], A, numbers, integers) == (
        f"{op}: expected grad of shape (2,), got (1,); expand or reshape it first"
    )
    assert text_of(called, grad, A, numbers[0], integers) == (
        f"{op}: expected kept of shape (2, {n}, {n}), got ({n}, {n}); expand or reshape it first"
    )
    assert text_of(called, grad, A, numbers.half(), integers) == (
        f"{op}: expected kept of the dtype of A, float32, got float16; "
        "convert it first, e.g. kept.to(A.dtype)"
    )
    end = "; pass those that the forward pass returned"
    for bad in (integers[0], integers.repeat(1, 2), integers[:, :0]):
        assert text_of(called, grad, A, numbers, bad) == (
            f"{op}: expected integers, {count} for each matrix of A (2, {n}, {n}), "
            f"got {tuple(bad.shape)}{end}"
        )
    assert text_of(called, grad, A, numbers, integers.long()) == (
        f"{op}: expected integers of dtype int32, got int64{end}"
    )


@pytest.mark.parametrize("name", KEPT)
def test_what_is_kept_in_plain_pytorch(name):
    A, grad = torch.randn(2, 3, 3), torch.ones(2)
    *_, numbers, integers = keep_of(name)(A)
    for wrong in (
        (grad[:1], A, numbers, integers),
        (grad, A, numbers[0], integers),
        (grad, A, numbers.half(), integers),
    ):  # not of integers: how many there are differs, since plain PyTorch keeps nothing
        text_of_all(name, *wrong)


def test_higher_derivatives_are_checked_by_fake_tensors_too():
    A, Z = torch.zeros(4, 3, 3), torch.zeros(4, 2, 3, 3)
    name = "_cofactor_derivative"
    for wrong in (
        (torch.zeros(4, 3, 2), Z),
        (A.long(), Z),
        (A, Z[0]),
        (A, Z[..., :2]),
        (A, Z[:3]),
        (A, Z.double()),
        (A, Z[:, :0]),
        (A, A[0]),
        (A, A[0, 0]),
    ):
        text = text_of_all(name, *wrong)
        assert text.startswith("cofactor_derivative: expected "), text


# accelerate takes no matrix, and torch raises the errors (tests/test_accelerate.py).
@pytest.mark.parametrize("name", sorted({*torchdet.__all__} - {"accelerate"}))
def test_public_functions_speak_in_their_own_name(name):
    public = getattr(torchdet, name)

    def f(A: torch.Tensor) -> object:
        if name in ("principal_minors", "slogdet_solve"):
            return public(A, A)
        return public([A], [A], [A]) if name.endswith("laplacian") else public(A)

    assert text_of(f, torch.zeros(2, 3)) == f"{name}: expected A of shape (*, n, n), got (2, 3)"
    assert text_of(f, torch.zeros(2, 2, dtype=torch.complex32)).endswith(
        "got complex32; convert it first, e.g. A.to(torch.complex64)"
    )
    assert text_of(f, torch.eye(3).to_sparse()) == (
        f"{name}: expected a dense (strided) A, got layout torch.sparse_coo; "
        "convert it first, e.g. A.to_dense()"
    )
