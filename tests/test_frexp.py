"""Determinants as mantissa and exponent, and the derivatives of the mantissa."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.func import jvp

import torchdet
from support import OPS
from torchdet import _frexp


@pytest.mark.parametrize("n", (0, 1, 2, 3, 5, 9, 17, 24, 33, 66, 130))
def test_mantissa_and_exponent_are_those_of_the_determinant(n, dtype, device):
    torch.manual_seed(n)
    A = (torch.randn(11, n, n, dtype=dtype if dtype.is_complex else torch.float64)).to(dtype)
    if n > 1:
        A[1, 0] = 0
        A[2] = 0
    m, e = torchdet.det_frexp(A.to(device))
    assert m.dtype == dtype and e.dtype == torch.int32 and m.shape == e.shape == (11,)
    largest = torch.view_as_real(m).abs().amax(-1) if m.is_complex() else m.abs()
    zero = m == 0
    assert ((largest >= 0.5) & (largest < 1) | zero).all()
    sign, log = torchdet.slogdet(A.to(device))
    assert torch.equal(zero, sign == 0)
    expected = m.abs().double().log() + e.double() * math.log(2)
    tolerance = 16 * torch.finfo(dtype).eps * log.double().abs().clamp(min=1)
    assert ((expected - log.double()).abs()[~zero] <= tolerance[~zero]).all()
    if n > 1:
        assert zero.tolist() == [False, True, True] + [False] * 8
        scale = torch.frexp(A.abs().double() if not A.is_complex() else torch.view_as_real(A).abs())
        top = scale.exponent.flatten(1).amax(1)
        assert e.tolist()[1:3] == [n * int(top[1]), 0]


def test_the_mantissa_has_derivatives_beyond_the_range_of_the_determinant(wide_dtype, device):
    """Against det of the same matrix at another scale: m(2^s A) = m(A)."""
    power = 20 if wide_dtype in (torch.float32, torch.complex64) else 200
    torch.manual_seed(0)
    A = torch.randn(4, 12, 12, dtype=wide_dtype, device=device)
    A[1, 0] = A[1, 1]  # singular
    A[2, 0] = A[2, 1] = A[2, 3]  # of rank n - 2
    Z = torch.randn_like(A)

    def derivatives(scale: float) -> list[Tensor]:
        leaf = (A * scale).requires_grad_()
        m = torchdet.det_frexp(leaf).mantissa
        (g,) = torch.autograd.grad(m, leaf, torch.ones_like(m), create_graph=True)
        (h,) = torch.autograd.grad(g, leaf, Z * scale)
        tangent = jvp(lambda x: torchdet.det_frexp(x)[0], (leaf.detach(),), (Z * scale,))[1]
        return [m.detach(), g.detach() * scale, h * scale, tangent]

    for got, expected in zip(derivatives(2.0**power), derivatives(1.0), strict=True):
        assert torch.isfinite(got).all()
        size = expected.abs().max()
        assert (got - expected).abs().max() <= 64 * 12 * torch.finfo(wide_dtype).eps * size
    e = torchdet.det_frexp(A * 2.0**power).exponent - torchdet.det_frexp(A).exponent
    assert set(e.tolist()) == {12 * power}


@pytest.mark.parametrize("n", (1, 2, 3, 4, 6, 9, 13, 24, 40, 70, 130))
def test_derivatives_of_the_mantissa_are_those_of_det_times_a_power_of_two(n, dtype, device):
    """Of every kernel, bit for bit where nothing leaves the range; of `_frexp` to rounding."""
    torch.manual_seed(n)
    half = dtype in (torch.float16, torch.bfloat16)
    A = torch.randn(11, n, n, dtype=torch.float32 if half else dtype) * (math.e / n) ** 0.5
    A[1, 0] = A[1, -1]
    A[2, 0] = 0
    A, Z = (X.to(dtype).to(device) for X in (A, torch.randn(A.shape).to(A.dtype)))
    g = torch.randn(11).to(dtype).to(device)
    e = torch.arange(-3.0, 8.0, device=device).to(torch.zeros(1, dtype=A.dtype).real.dtype)
    e = e.float() if half else e
    power = (2.0**-e)[:, None, None].to(dtype)
    for got, expected in (
        (OPS._det_frexp_backward(g, A, e), OPS.det_backward(g, A) * power),
        (OPS._det_frexp_hvp(A, Z, e), OPS.det_hvp(A, Z) * power),
    ):
        assert got.dtype == dtype and got.is_contiguous()
        if half:  # rounded once, and not before the power of two as well
            assert torch.allclose(got, expected, rtol=2 * torch.finfo(dtype).eps, atol=1e-5)
        else:
            assert torch.equal(got, expected)
    eps = torch.finfo(dtype).eps
    for plain, expected in (
        (_frexp.backward(g, A, e), OPS._det_frexp_backward(g, A, e)),
        (_frexp.hvp(A, Z, e), OPS._det_frexp_hvp(A, Z, e)),
    ):
        scale = expected.abs().amax((-2, -1), keepdim=True)
        assert ((plain - expected).abs() <= 64 * n * eps * (scale + 1)).all()


def test_any_exponent_is_survived(wide_dtype, device):
    A = torch.randn(6, 5, 5, dtype=wide_dtype, device=device)
    e = torch.tensor([0.0, math.nan, math.inf, -math.inf, 1e30, -1e30], device=device)
    e = e.to(A.real.dtype)
    for result in (OPS._det_frexp_backward(A[:, 0, 0], A, e), OPS._det_frexp_hvp(A, A, e)):
        assert torch.isfinite(result[0]).all()


def test_errors_of_the_exponent(device):
    A = torch.zeros(4, 3, 3, device=device)
    for op, other in (("det_frexp_backward", A[:, 0, 0]), ("det_frexp_hvp", A)):
        kernel = getattr(OPS, f"_{op}")
        order = (other, A) if op.endswith("backward") else (A, other)
        with pytest.raises(RuntimeError, match=rf"{op}: expected exponent of shape \(4,\), got"):
            kernel(*order, torch.zeros(3, device=device))
        with pytest.raises(RuntimeError, match=f"{op}: expected exponent of dtype float32, got f"):
            kernel(*order, torch.zeros(4, device=device).double())


@pytest.mark.parametrize("n", (1, 2, 3, 4, 6, 9, 13, 24, 40, 70, 130))
def test_both_terms_of_a_tangent_are_added_in_one_pass(n, wide_dtype, device):
    """Also where one of them is zero, or larger by more than the format holds."""
    torch.manual_seed(n)
    eps = torch.finfo(wide_dtype).eps
    A = torch.randn(10, n, n, dtype=wide_dtype)
    if n > 1:
        A[1, 0] = A[1, -1]  # singular
        A[2] = 0
    Z = torch.randn_like(A)
    g, dg = torch.randn(2, 10).to(wide_dtype)
    g[3], dg[4], Z[5] = 0, 0, 0
    g[6] *= 1e20
    dg[7] *= 1e20
    Z[8] *= 1e-20
    A[9] *= 2.0**10
    A, Z, g, dg = (X.to(device) for X in (A, Z, g, dg))
    e = torch.ops.torchdet.det_frexp(A)[1]
    got = OPS._det_frexp_backward_jvp(g, A, e, dg, Z)
    of_C = OPS._det_frexp_backward(dg, A, e)
    of_H = g[:, None, None] * OPS._det_frexp_hvp(A, Z, e).conj()
    # Each has an error of one unit (tests/units.py), n eps times the products of singular values.
    size = (of_C.abs() + of_H.abs()).amax((-2, -1), keepdim=True)
    s = torch.linalg.svdvals(A).double()
    unit_1, unit_2 = (torch.exp2(s[:, : max(n - k, 0)].log2().sum(-1) - e) for k in (1, 2))
    unit = dg.abs() * unit_1 + g.abs() * unit_2 * torch.linalg.matrix_norm(Z)
    allowed = 8 * n * n * eps * (size + unit[:, None, None])
    assert ((got - of_C - of_H).abs() <= allowed).all()
    plain = _frexp.backward_jvp(g, A, e, dg, Z)
    assert ((plain - got).abs() <= allowed).all()


@pytest.mark.parametrize("dtype", (torch.float64, torch.complex128))
def test_derivatives_of_the_operators(dtype, device):
    torch.manual_seed(0)
    A = torch.randn(2, 3, 3, dtype=dtype, device=device)
    A[1, 0] = A[1, 2]  # singular
    Z, J = torch.randn_like(A), torch.randn(2, 2, 3, 3, dtype=dtype, device=device)
    g, dg = torch.randn(2, 2, dtype=dtype, device=device)
    e = torch.tensor([1.0, -1.0], device=device).double()
    for f, arguments in (
        (lambda g, A, dg, Z: OPS._det_frexp_backward_jvp(g, A, e, dg, Z), (g, A, dg, Z)),
        (lambda A, J: OPS._det_frexp_jet(A, J, e), (A, J)),
    ):
        leaves = tuple(X.clone().requires_grad_() for X in arguments)
        assert torch.autograd.gradcheck(f, leaves, check_forward_ad=True)
        assert torch.autograd.gradgradcheck(f, leaves, fast_mode=True)


@pytest.mark.parametrize("n", (1, 2, 5, 12, 30))
def test_what_serves_devices_without_such_kernels(n, wide_dtype, device):
    """`_frexp` makes mantissas and jets of the operators of det and slogdet."""
    torch.manual_seed(n)
    eps = torch.finfo(wide_dtype).eps
    A = torch.randn(6, n, n, dtype=wide_dtype, device=device)
    A[1], A[2], A[3, 0] = 0, A[2] * 2.0**100, A[3, 0] * 2.0**-100
    A[4, 0, 0] = math.nan
    m, e = _frexp.det_frexp(A)
    expected, exponent = OPS.det_frexp(A)
    assert (m.dtype, e.dtype) == (expected.dtype, exponent.dtype)
    assert m[4].isnan()
    assert (e[4], m[1]) == (0, 0)
    assert e[1] == exponent[1]
    regular = [0, 2, 3, 5]
    cond = torch.linalg.cond(A[[0, 5]]).max()
    error = (m * torch.exp2(e - exponent) - expected)[regular].abs()
    assert (error[[0, 3]] <= 16 * n * eps * cond).all()
    J = torch.randn(6, 3, n, n, dtype=wide_dtype, device=device)
    for got, want in zip(
        _frexp.jet(A, J, exponent), OPS._det_frexp_jet(A, J, exponent), strict=True
    ):
        assert got[4].isnan().all()
        size = want[[0, 5]].abs().max()
        assert ((got - want)[[0, 5]].abs() <= 64 * n * n * eps * cond * (size + 1)).all()
