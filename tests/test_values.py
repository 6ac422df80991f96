"""det, slogdet, logdet, cofactor and adjugate against exact arithmetic, in units (units.py)."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
import torch

import cases
import oracles
import torchdet
import units
from cases import grid
from support import AT_EDGES, edges, exact_cofactors, exact_dets

SMALL = (1, 2, 3, 4, 5, 7, 8, 12)
DET_ORDERS = {
    torch.float32: (*SMALL, 16, 24, 33),
    torch.float64: (*SMALL, 17, 32),
    torch.complex64: (*SMALL, 16),
    torch.complex128: (*SMALL, 17),
}
SLOGDET_ORDERS = {
    torch.float32: (1, 2, 3, 4, 5, 8, 12, 33),
    torch.float64: (1, 2, 3, 4, 5, 8, 17),
    torch.complex64: (1, 2, 3, 5, 8),
    torch.complex128: (1, 2, 4, 7, 12),
}
COFACTOR_ORDERS = {
    torch.float32: (*SMALL, 16),
    torch.float64: (*SMALL, 17),
    torch.complex64: SMALL,
    torch.complex128: (1, 2, 3, 4, 5, 8),
}
# At larger orders on fewer families: the integers take longer there.
EDGE_FAMILIES = ("normal", "integer_rank_n-1", "graded_both", "lower_m1", "shift",
                 "near_singular", "dependent_leading_columns")  # fmt: skip
INTEGER_FAMILIES = ("integer_rank_n-1", "integer_rank_n-2", "shift", "lower_m1", "wilkinson_growth")
BLOCK_ORDERS = sorted({48, 64, 65, 97, 128, 130, 200} | edges())


@pytest.mark.parametrize(("family", "n", "dtype"), grid(DET_ORDERS))
def test_det_is_within_one_unit(family, n, dtype, device):
    A = cases.matrices(family, n, dtype)
    got = torchdet.det(A.to(device))
    units.assert_within(got, exact_dets(family, n, dtype), A, 0, what="det")


@pytest.mark.parametrize(
    ("family", "n", "dtype"),
    grid(AT_EDGES["det"], EDGE_FAMILIES),
)  # fmt: skip
def test_det_at_the_size_classes_edges_is_within_one_unit(family, n, dtype, device):
    test_det_is_within_one_unit(family, n, dtype, device)


@pytest.mark.parametrize(
    ("family", "n", "dtype"),
    grid({torch.float32: (48, 64, 65), torch.float64: (48,)}, INTEGER_FAMILIES),
)
def test_det_of_large_integer_matrices_is_within_one_unit(family, n, dtype, device):
    test_det_is_within_one_unit(family, n, dtype, device)


@pytest.mark.parametrize(("family", "n", "dtype"), grid(COFACTOR_ORDERS))
def test_cofactors_are_within_one_unit(family, n, dtype, device):
    _check_cofactors(family, n, dtype, device)


@pytest.mark.parametrize(("family", "n", "dtype"), grid(AT_EDGES["cofactor"], EDGE_FAMILIES))
def test_cofactors_at_the_size_classes_edges_are_within_one_unit(family, n, dtype, device):
    _check_cofactors(family, n, dtype, device)


@pytest.mark.parametrize(
    ("family", "n", "dtype"),
    grid({torch.float32: (64, 65), torch.float64: (48,)}, INTEGER_FAMILIES),
)
def test_cofactors_of_large_integer_matrices_are_within_one_unit(family, n, dtype, device):
    _check_cofactors(family, n, dtype, device)


def _check_cofactors(family: str, n: int, dtype: torch.dtype, device: str) -> None:
    A = cases.matrices(family, n, dtype)
    C = torchdet.cofactor(A.to(device))
    units.assert_within(C, exact_cofactors(family, n, dtype), A, 1, what="cofactor")
    assert torch.equal(torchdet.adjugate(A.to(device)), C.mT)


def log_bounds(A: torch.Tensor, exact: oracles.Exact) -> tuple[float, float, float]:
    """The least and the greatest log|det| of a determinant within one unit, and its relative error.

    det within one unit of the truth t means |det| in [|t| - unit, |t| + unit], in the frame.
    """
    rows, cols = units.frame_exponents(A)
    total = int(rows.sum() + cols.sum())
    re, im = oracles.parts(exact.values[()])
    shift = int(exact.exponents) - total
    with mpmath.workdps(60):
        size = mpmath.ldexp(mpmath.sqrt(mpmath.mpf(re * re + im * im)), shift)
        allowed = mpmath.mpf(units.unit(A, 0))
        base = total * mpmath.log(2)
        low = mpmath.log(size - allowed) + base if size > allowed else -mpmath.inf
        high = mpmath.log(size + allowed) + base
        relative = float(allowed / size) if size else math.inf
        return float(low), float(high), relative


@pytest.mark.parametrize(("family", "n", "dtype"), grid(SLOGDET_ORDERS))
def test_slogdet_is_the_log_of_a_determinant_within_one_unit(family, n, dtype, device):
    """And 12 eps max(1, |log|) more: the log of mantissa and exponent, each rounded once."""
    A = cases.matrices(family, n, dtype)
    eps = torch.finfo(dtype).eps
    sign, logabs = torchdet.slogdet(A.to(device))
    assert sign.dtype == dtype
    assert logabs.dtype == dtype.to_real()
    for k, (a, exact) in enumerate(zip(A, exact_dets(family, n, dtype), strict=True)):
        low, high, relative = log_bounds(a, exact)
        slack = 12 * eps * max(1.0, abs(high) if math.isfinite(high) else 1.0)
        got, s = logabs[k].item(), sign[k].item()
        assert low - slack <= got <= high + slack, (k, got, low, high, a)
        if got == -math.inf:
            assert s == 0, (k, s)
            continue
        assert abs(abs(s) - 1) <= 4 * eps, (k, s)
        if relative < 0.5:
            # A relative error of the determinant turns its phase by at most asin(relative).
            expected = oracles.slogdet(a)[0]
            assert abs(s - expected) <= (2 * relative + 4 * eps if dtype.is_complex else 0), (k, s)


@pytest.mark.parametrize(("family", "n", "dtype"), grid(dict.fromkeys(cases.DTYPES, (1, 3, 5))))
def test_logdet_follows_from_slogdet(family, n, dtype, device):
    A = cases.matrices(family, n, dtype).to(device)
    sign, logabs = torchdet.slogdet(A)
    got = torchdet.logdet(A)
    if dtype.is_complex:
        # |sign| = 1 to a few roundings, so log(sign) + log|det| has that much more of a real part.
        eps = torch.finfo(dtype).eps
        angle = torch.where(sign == 0, 0, sign.angle())
        assert torch.allclose(got.real, logabs, rtol=2 * eps, atol=4 * eps)
        # log 0 has no phase: torch.logdet answers -inf + nan i.
        imag = torch.where(sign == 0, 0, got.imag)
        assert torch.allclose(imag, angle, rtol=0, atol=4 * eps)
    else:
        expected = torch.where(sign < 0, math.nan, logabs)
        assert torch.equal(got.isnan(), expected.isnan())
        assert torch.equal(got.nan_to_num(), expected.nan_to_num())


@pytest.mark.parametrize("n", BLOCK_ORDERS)
def test_every_cofactor_of_a_large_cycle_laplacian_is_its_number_of_spanning_trees(
    n, device, dtype
):
    A, _ = cases.cycle_laplacian(n, dtype)
    exact = _signed_constant(A, n)
    C = torchdet.cofactor(A.to(device))
    units.assert_within(C[None], [exact], A[None], 1, what="cofactor")


@pytest.mark.parametrize("n", BLOCK_ORDERS)
def test_every_cofactor_of_two_large_disjoint_cycles_is_zero(n, device, dtype):
    A, _ = cases.cycle_laplacian(n, dtype, cycles=2)
    zero = oracles.Exact(np.zeros((n, n), dtype=int).astype(object), np.zeros((n, n), dtype=int))
    units.assert_within(torchdet.cofactor(A.to(device))[None], [zero], A[None], 1, what="cofactor")
    det = oracles.Exact(np.array(0, dtype=object), np.array(0))
    units.assert_within(torchdet.det(A.to(device))[None], [det], A[None], 0, what="det")


def _signed_constant(A: torch.Tensor, n: int) -> oracles.Exact:
    """C(P L Q) = det P det Q P C(L) Q and C(L) is constant: the shuffle only decides the sign."""
    _, sign = cases.cycle_laplacian(n, A.dtype)
    value: object = oracles.Gauss(sign * n) if A.dtype.is_complex else sign * n
    values = np.empty((n, n), dtype=object)
    values.fill(value)
    return oracles.Exact(values, np.zeros((n, n), dtype=int))


@pytest.mark.parametrize("n", BLOCK_ORDERS)
def test_large_normal_matrices_agree_with_long_double_elimination(n, dtype, device):
    """A backward error of n eps |B| moves det by n eps sqrt(n) |B^-1| |B| and the inverse by that
    again.

    The factor kappa = cond(B) replaces the unit of units.py, which needs exact integers.
    """
    A = torch.randn(n, n, dtype=dtype)
    sign, log, inverse = oracles.extended(A)
    eps, kappa = torch.finfo(dtype).eps, units.condition(A)
    got_sign, got_log = torchdet.slogdet(A.to(device))
    relative = n * eps * kappa
    if relative < 0.25:
        assert abs(got_log.item() - float(log)) <= 12 * eps * abs(float(log)) + 2 * relative
        assert abs(complex(got_sign.item()) - sign) <= 2 * relative
    grad = torch.ones((), dtype=dtype, device=device)
    X = torch.ops.torchdet.slogdet_backward(grad, A.to(device)).cpu().conj().resolve_conj()
    expected = torch.from_numpy(inverse.T.astype(complex))
    error = torch.linalg.norm(X.to(torch.complex128) - expected) / torch.linalg.norm(expected)
    assert error <= relative, (error.item(), relative)


@pytest.mark.parametrize(
    ("family", "n", "dtype"),
    grid(dict.fromkeys(cases.DTYPES, (1, 2, 3, 4, 8, 12)), ["normal", "graded_both", "hilbert",
         "diagonal_huge_and_tiny", "denormal", "orthogonal", "near_singular"]),
)  # fmt: skip
def test_slogdet_backward_is_the_conjugate_inverse_transpose(family, n, dtype, device):
    """To first order X(B + E) - X(B) = -X E^T X, of norm n eps s_1 |X|_2 |X|_F at most.

    Division by the determinant and multiplication by grad round 4 times more in complex numbers.
    """
    A = cases.matrices(family, n, dtype)
    grad = torch.full(A.shape[:1], 1.5, dtype=dtype, device=device)
    got = torch.ops.torchdet.slogdet_backward(grad, A.to(device)).cpu()
    info = torch.finfo(dtype)
    for k, a in enumerate(A):
        kappa = units.condition(a)
        relative = n * info.eps * kappa + 4 * info.eps
        if relative > 0.25:
            continue  # the unit says nothing about an inverse without a correct digit
        rows, cols = units.frame_exponents(a)
        X = oracles.inverse_transpose(a)
        error = size = 0.0
        for i, j in np.ndindex(n, n):
            true = 1.5 * mpmath.conj(X[i, j])
            g = got[k, i, j].item()
            if abs(true) > info.max / 2 or not math.isfinite(abs(g)):
                assert abs(true) > info.max / 4, (k, i, j, g, true)
                continue
            scale = mpmath.ldexp(1, int(rows[i] + cols[j]))
            gap = max(abs(mpmath.mpc(g) - true) - info.smallest_normal * info.eps, 0)
            error += float(gap * scale) ** 2
            size += float(abs(true) * scale) ** 2
        assert math.sqrt(error) <= relative * math.sqrt(size), (
            k,
            math.sqrt(error / size),
            relative,
        )


@pytest.mark.parametrize(
    ("diagonal", "expected"),
    (
        ((1e30, 1e30, 1e-30, 1e-30), 1.0),
        ((1e-30, 1e-30, 1e30, 1e30), 1.0),
        ((1e30, 1e30, 1e-30, 0.0), 0.0),
    ),
)
def test_float32_determinants_do_not_overflow_on_the_way(diagonal, expected, device):
    A = torch.diag(torch.tensor(diagonal, device=device))
    eps = torch.finfo(torch.float32).eps
    # Each 1e30 carries a rounding error of eps / 2: 4 of them, and one unit of 16 eps at most.
    assert abs(torchdet.det(A).item() - expected) <= 18 * eps * expected
    assert torchdet.det(A.flip(0)).item() == torchdet.det(A).item()


def test_slogdet_of_a_matrix_beyond_the_range_of_its_determinant_is_finite(device, dtype):
    scale = 2.0**100 if dtype in (torch.float32, torch.complex64) else 2.0**1000
    for factor in (scale, 1 / scale):
        A = torch.eye(50, dtype=dtype, device=device) * factor
        sign, logabs = torchdet.slogdet(A)
        assert sign.item() == 1
        expected = 50 * math.log(factor)
        assert abs(logabs.item() - expected) <= 4 * torch.finfo(dtype).eps * abs(expected)


@pytest.mark.parametrize("n", (2, 3, 4, 5, 7, 8, 10, 12, 16, 24, 32, 40))
@pytest.mark.parametrize("exponent", (-24, -20, -10, 10, 20, 23))
def test_gradients_of_scaled_matrices_do_not_overflow_on_the_way(n, exponent, device, dtype):
    # The cofactors of 2^20 A leave the range of float32 from n = 8 on; A^-T does not, nor does the
    # gradient of det where grad is small. Scaling by a power of two is exact.
    A = torch.randn(4, n, n, dtype=dtype, device=device)
    grad = torch.ones(4, dtype=dtype, device=device)
    tolerance = torch.tensor([4 * n * torch.finfo(dtype).eps * units.condition(a) for a in A])
    tolerance = tolerance[:, None, None].to(device)

    inverse = torch.ops.torchdet.slogdet_backward(grad, A)
    scaled = torch.ops.torchdet.slogdet_backward(grad, A * 2.0**exponent) * 2.0**exponent
    largest = inverse.abs().amax((1, 2), keepdim=True)
    assert ((scaled - inverse).abs() <= tolerance * largest).all()

    half = -exponent * (n - 1) // 2  # grad takes half of the cofactors' scale, the result the rest
    if abs(half) < 100:
        gradient = torch.ops.torchdet.det_backward(grad, A)
        scaled = torch.ops.torchdet.det_backward(grad * 2.0**half, A * 2.0**exponent)
        scaled = scaled * 2.0 ** -(half + exponent * (n - 1))
        largest = gradient.abs().amax((1, 2), keepdim=True)
        assert ((scaled - gradient).abs() <= tolerance * largest).all()


@pytest.mark.parametrize("n", (1, 2, 3, 5, 8, 33))
def test_slogdet_is_zero_and_minus_infinity_where_a_row_or_column_is_zero(n, dtype, device):
    A = torch.randn(2, n, n, dtype=dtype, device=device)
    A[0, n // 2] = 0
    A[1, :, n - 1] = 0
    sign, logabs = torchdet.slogdet(A)
    assert (sign == 0).all()
    assert (logabs == -math.inf).all()
    assert (torchdet.det(A) == 0).all()
    grad = torch.ones(2, dtype=dtype, device=device)
    gradient = torch.ops.torchdet.slogdet_backward(grad, A)
    assert not gradient.isfinite().all(-1).all(-1).any(), (
        "a singular matrix has no gradient of log|det|"
    )


@pytest.mark.parametrize("half", (torch.float16, torch.bfloat16), ids=cases.name)
@pytest.mark.parametrize("n", (1, 2, 4, 7, 20))
def test_half_precision_rounds_the_float32_result_once(half, n, device):
    A = (torch.randn(5, n, n, device=device) / math.sqrt(n)).to(half)
    wide = A.float()
    assert torch.equal(torchdet.det(A), torchdet.det(wide).to(half))
    assert torch.equal(torchdet.cofactor(A), torchdet.cofactor(wide).to(half))
    for got, expected in zip(torchdet.slogdet(A), torchdet.slogdet(wide), strict=True):
        assert torch.equal(got, expected.to(half))
