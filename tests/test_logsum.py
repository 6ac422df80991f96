"""Sums of numbers with exponents, the last step of sums of determinants."""

from __future__ import annotations

import math
from fractions import Fraction

import mpmath
import pytest
import torch
from torch import Tensor
from torch.func import grad, jacfwd, vmap

from support import OPS

mpmath.mp.dps = 50


def _draw(dtype: torch.dtype, sums: int, K: int, reach: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    terms = torch.randn(sums, K, generator=generator, dtype=dtype)
    terms[torch.rand(sums, K, generator=generator) < 0.2] = 0
    exponent = torch.randint(-reach, reach + 1, (sums, K), generator=generator)
    return terms, exponent.to(torch.zeros(1, dtype=dtype).real.dtype)


@pytest.mark.parametrize("reach", (0, 3, 60, 100_000))
@pytest.mark.parametrize("K", (1, 2, 7, 40))
def test_values_and_ratios(K, reach, wide_dtype, device):
    terms, exponent = _draw(wide_dtype, 12, K, reach)
    terms[0] = 0
    terms[1] *= 1e30
    sign, log = OPS._logsum(terms.to(device), exponent.to(device))
    ratios = OPS._logsum_ratios(terms.to(device), exponent.to(device))
    # Of one factor that is not zero: the exponent less that of psi, up to 0; of one that is free
    # of limits, all.
    free = torch.full_like(terms.real[..., None], 2)
    shares, shares_of_free = (
        OPS._logsum_shares(terms.to(device), exponent.to(device), x.to(device))[..., 0]
        for x in (torch.zeros_like(free), free)
    )
    least = torch.finfo(wide_dtype).smallest_normal
    assert shares[0].tolist() == shares_of_free[0].tolist() == [math.log2(least)] * K
    assert torch.equal(shares, shares_of_free.clamp(math.log2(least), 0))
    excess = shares_of_free.tolist()
    eps = torch.finfo(wide_dtype).eps
    assert sign.dtype == ratios.dtype == wide_dtype
    assert (sign[0], log[0]) == (0, -math.inf)
    for b in range(1, 12):
        numbers = [
            mpmath.mpc(complex(t)) * mpmath.mpf(2) ** int(e)
            for t, e in zip(terms[b], exponent[b], strict=True)
        ]
        psi = mpmath.fsum(numbers)
        if psi == 0:
            continue
        # Each addition rounds; what cancels makes the error larger.
        error = 4 * K * eps * mpmath.fsum(abs(x) for x in numbers) / abs(psi)
        exact = mpmath.log(abs(psi))
        assert abs(float(log[b]) - exact) <= error + 4 * eps * abs(exact)
        assert abs(mpmath.mpc(complex(sign[b])) - psi / abs(psi)) <= 2 * error + 4 * eps
        # |psi|, or its larger part, is in [1/2, 1) 2^e.
        part = max(abs(psi.real), abs(psi.imag))
        quarter = math.log2(torch.finfo(wide_dtype).max) // 4
        for x, power in zip(excess[b], exponent[b].tolist(), strict=True):
            size = part / mpmath.mpf(2) ** int(power)
            if x == 0:
                assert abs(mpmath.log(size, 2)) <= quarter + 1 + error
            else:
                assert abs(x) > quarter
                assert 0.5 - error <= size * mpmath.mpf(2) ** x <= 1 + error
        largest = torch.finfo(wide_dtype).max
        for k, r in enumerate(ratios[b]):
            true = mpmath.mpf(2) ** int(exponent[b, k]) / psi
            if terms[b, k] != 0 and abs(true) < largest:
                smallest = torch.finfo(wide_dtype).smallest_normal * eps
                assert abs(mpmath.mpc(complex(r)) - true) <= 2 * error * abs(true) + 2 * smallest


def test_numbers_at_the_ends_of_the_range(wide_dtype, device):
    info = torch.finfo(wide_dtype)
    tiny = info.smallest_normal * info.eps
    numbers = [[tiny, 0.0], [info.max, info.max], [tiny, info.max]]
    terms = torch.tensor(numbers, dtype=torch.float64, device=device).to(wide_dtype)
    exponent = torch.zeros_like(terms.real)
    _, log = OPS._logsum(terms, exponent)
    expected = [math.log(tiny), math.log(info.max) + math.log(2), math.log(info.max)]
    for x, y in zip(log.tolist(), expected, strict=True):
        assert x == pytest.approx(y, rel=4 * info.eps)


def test_ratios_of_tiny_terms(dtype, device):
    """2^E / psi is large where all terms are tiny, as with weights near the end of the range."""
    tiny = torch.finfo(dtype).smallest_normal
    numbers = torch.tensor([2 * tiny, -tiny, 0.0], dtype=torch.float64, device=device)
    terms = numbers.to(dtype)
    exponent = torch.tensor([5.0, 5.0, 4.0], device=device).to(terms.real.dtype)
    ratios = OPS._logsum_ratios(terms, exponent)
    assert ratios.real.tolist() == [1 / tiny, 1 / tiny, 0.5 / tiny]


def test_any_argument_is_survived(wide_dtype, device):
    terms = torch.ones(6, 2, dtype=wide_dtype, device=device)
    wild = torch.tensor([0.0, math.nan, math.inf, -math.inf, 1e30, -1e30], device=device)
    exponent = torch.stack([wild, torch.zeros_like(wild)], -1).to(terms.real.dtype)
    sign, log = OPS._logsum(terms, exponent)
    assert (sign == 1).all()
    assert torch.isfinite(log).all()
    assert not OPS._logsum_ratios(terms, exponent).isnan().any()
    for freedom in (0, 1, 2):
        given = torch.full_like(exponent[..., None], freedom)
        assert torch.isfinite(OPS._logsum_shares(terms, exponent, given)).all()
    assert OPS._logsum_shares(terms, exponent, exponent[..., None]).shape == (6, 2, 1)
    terms[1, 0], terms[3, 1] = math.nan, math.inf
    spoiled = OPS._logsum(terms, exponent)
    assert spoiled[0][1].isnan()
    assert torch.equal(spoiled[0][[0, 2, 4, 5]], sign[[0, 2, 4, 5]])
    assert torch.equal(spoiled[1][[0, 2, 4, 5]], log[[0, 2, 4, 5]])
    for shape in ((0,), (3, 0), (0, 3), (2, 0, 3)):
        nothing = torch.ones(shape, dtype=wide_dtype, device=device)
        sign, log = OPS._logsum(nothing, nothing.real)
        assert sign.shape == log.shape == shape[:-1]
        assert (sign == 0).all()
        assert OPS._logsum_ratios(nothing, nothing.real).shape == shape
        share = OPS._logsum_shares(nothing, nothing.real, nothing.real[..., None])
        assert share.shape == (*shape, 1)


def test_strides_do_not_matter(wide_dtype, device):
    terms, exponent = (X.to(device) for X in _draw(wide_dtype, 6, 5, 9))
    expected = OPS._logsum(terms, exponent)
    other = torch.stack([terms, terms], -1)[..., 0], exponent.mT.contiguous().mT
    for x, y in zip(OPS._logsum(*other), expected, strict=True):
        assert torch.equal(x, y)
    assert torch.equal(OPS._logsum_ratios(*other), OPS._logsum_ratios(terms, exponent))
    freedom = torch.stack([terms == 0, terms.flip(-1) == 0], -1).to(exponent.dtype)
    share = OPS._logsum_shares(*other, freedom.movedim(-1, 0).contiguous().movedim(0, -1))
    assert torch.equal(share, OPS._logsum_shares(terms, exponent, freedom))


def test_shares(wide_dtype, device):
    """Of terms that are tiny or zero beside psi = 1/2 2^1, with three factors, some of them 0."""
    most = 126 if torch.finfo(wide_dtype).bits == 32 else 1022
    least = -(most // 3)
    cases = (  # x, freedom of the factors, their shares
        (0, (0, 0, 0), (0, 0, 0)),
        (-most, (0, 0, 0), (least, least, least)),
        (-10 * most, (0, 0, 0), (least, least, least)),
        (10 * most, (0, 0, 0), (0, 0, 0)),
        (-most, (1, 0, 0), (-most - 2 * least, least, least)),
        (-10 * most, (0, 1, 1), (least, *[math.floor((-10 * most - least) / 2)] * 2)),
        (7, (1, 1, 1), (0, 0, 0)),  # near enough
        (most // 2 - 5, (1, 0, 0), (most // 2 - 5, 0, 0)),
        (most, (1, 0, 0), (most // 2, 0, 0)),
        (most, (0, 1, 1), (0, most // 3, most // 3)),
        (10 * most, (0, 1, 1), (0, *[math.floor((10 - 0.75) * most / 2)] * 2)),
        (10 * most, (2, 1, 0), (10 * most, 0, 0)),
        (10 * most, (2, 2, 1), (5 * most, 5 * most, 0)),
        (-10 * most, (2, 1, 0), (-10 * most, 0, least)),
    )
    exponent = torch.tensor([1.0, *(1.0 + x for x, *_ in cases)], device=device)
    exponent = exponent.to(torch.zeros(1, dtype=wide_dtype).real.dtype)
    freedom = torch.tensor([[0, 0, 0], *(free for _, free, _ in cases)], device=device)
    terms = torch.zeros(exponent.shape, dtype=wide_dtype, device=device)
    terms[0] = 0.5
    share = OPS._logsum_shares(terms, exponent, freedom.to(exponent.dtype))
    assert share.tolist() == [[0, 0, 0], *(list(expected) for *_, expected in cases)]


def test_freedom(dtype, device):
    """Of a determinant that is not zero, one that is, and those of matrices of zeros."""
    for n in (1, 2, 3, 20):
        A = torch.eye(n, dtype=dtype, device=device).expand(3, n, n).contiguous()
        A[1:, -1] = 0
        A[2] = 0
        freedom = OPS._det_freedom(A.mT, OPS.det_frexp(A)[0])
        assert freedom.dtype == dtype.to_real()
        assert freedom.tolist() == [0, 1, 2 if n > 2 else 1]
        assert OPS._det_freedom(A, torch.ones_like(A[:, 0, 0])).tolist() == [0, 0, 0]
        assert OPS._det_freedom(A[:0], A[:0, 0, 0]).shape == (0,)


def test_a_share_of_an_exponent_moves_into_the_mantissa(dtype, device):
    A = torch.eye(2, dtype=dtype, device=device).expand(3, 2, 2)
    m, e = OPS.det_frexp(A)
    m[2] = 0
    share = torch.tensor([-3.0, 0.0, 40.0], device=device).to(e.dtype)
    relative, own = OPS._det_relative(A, m, e, share)
    assert torch.equal(relative, m * torch.exp2(share.clamp(max=0)).to(m.dtype))
    assert torch.equal(own, e - share)


@pytest.mark.parametrize("dtype", (torch.float64, torch.complex128))
def test_derivatives(dtype, device):
    terms, exponent = (X.to(device) for X in _draw(dtype, 3, 4, 2))
    terms[0, 1], terms[2] = 0, terms[2] + 1
    leaf = terms.requires_grad_()

    def f(t: Tensor) -> tuple[Tensor, ...]:
        sign, log = OPS._logsum(t, exponent)
        return (sign, log) if dtype.is_complex else (log,)

    assert torch.autograd.gradcheck(f, leaf, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(f, leaf, check_fwd_over_rev=True)


def test_transforms(device):
    terms, exponent = (X.to(device) for X in _draw(torch.float64, 6, 4, 3))

    def log(t: Tensor, e: Tensor) -> Tensor:
        return OPS._logsum(t, e)[1]

    first, second, sums = (
        vmap(over(log))(terms, exponent)
        for over in (
            grad,
            lambda g: jacfwd(grad(g)),
            lambda g: grad(lambda t, e: grad(g)(t, e).sum()),
        )
    )
    K, eps = terms.shape[-1], torch.finfo(torch.float64).eps
    for b in range(len(terms)):
        powers = [Fraction(2) ** int(e) for e in exponent[b]]
        numbers = [Fraction(float(t)) * p for t, p in zip(terms[b], powers, strict=True)]
        psi = sum(numbers)
        # K additions round; what cancels makes their error larger, relative to psi.
        error = K * eps * sum(map(abs, numbers)) / abs(psi)
        for k, p in enumerate(powers):
            # A quotient: the error of psi, to first order, and its own rounding.
            assert abs(Fraction(float(first[b, k])) - p / psi) <= 2 * (error + eps) * abs(p / psi)
            row = [-p * q / psi**2 for q in powers]
            for x, exact in zip(second[b, k].tolist(), row, strict=True):
                assert abs(Fraction(x) - exact) <= 4 * (error + eps) * abs(exact)
            allowed = (4 * (error + eps) + K * eps) * sum(map(abs, row))
            assert abs(Fraction(float(sums[b, k])) - sum(row)) <= allowed


def test_errors(device):
    t = torch.zeros(2, 3, device=device)
    for name in ("logsum", "logsum_ratios"):
        f = getattr(OPS, f"_{name}")
        for arguments, text in (
            ((t[0, 0], t[0, 0]), r"expected terms of shape \(\*, K\), got \(\)"),
            ((t.half(), t), "expected terms of dtype float32, .* or complex128, got float16"),
            ((t, t[0]), r"expected exponent of shape \(2, 3\), got \(3,\)"),
            ((t, t.double()), "expected exponent of dtype float32, got float64"),
        ):
            with pytest.raises(RuntimeError, match=f"^{name}: {text}$"):
                f(*arguments)
    for freedom, text in (
        (t, r"expected freedom of shape \(\*, K, S\) with S >= 1 for terms of shape \(2, 3\), got"),
        (t[..., None][..., :0], r"expected freedom of shape .*, got \(2, 3, 0\)"),
        (t[..., None].double(), "expected freedom of the dtype .*, float32 on .*, got float64 on"),
    ):
        with pytest.raises(RuntimeError, match=f"^logsum_shares: {text}"):
            OPS._logsum_shares(t, t, freedom)
