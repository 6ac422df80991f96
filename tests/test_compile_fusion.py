"""The pointwise code that inductor makes for n <= 3 against exact arithmetic, in units (units.py).

One compiled function for each dtype has the results of all operators for all named matrices, and
the tests look at them. Its values are not those of a kernel: it contains no call of an operator.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from functools import cache
from typing import NamedTuple

import mpmath
import numpy as np
import pytest
import torch
from torch import Tensor
from torch._functorch import config as functorch_config
from torch._inductor import config
from torch._inductor.utils import run_and_get_code

import cases
import oracles
import torchdet
import units
from support import OPS, exact_cofactors, exact_dets, exact_hvps, run_script
from torchdet import _inductor

ORDERS = (1, 2, 3)
SEED = 7
RESULTS = ("det", "sign", "logabsdet", "cofactor", "det_backward", "slogdet_backward", "det_hvp")


@pytest.fixture(scope="module", autouse=True)
def _compile_anew():
    """Code that an earlier version of torchdet has left in torch's caches is not tested."""
    torch._dynamo.reset()
    with (
        config.patch(fx_graph_cache=False),
        functorch_config.patch(enable_autograd_cache=False),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(_inductor, "STORED_ON", ("cpu", "cuda"))  # whatever is chosen for users
        yield
    torch._dynamo.reset()


def compiled(f: Callable, *args: object, **settings: bool) -> tuple[object, str]:
    """What inductor's code for f gives, and the code."""
    result, code = run_and_get_code(torch.compile(f, fullgraph=True, **settings), *args)
    return result, "\n".join(code)


def calls_operators(code: str) -> bool:
    return "ops.torchdet" in code


# ---- values


class Batch(NamedTuple):
    families: dict[str, slice]
    A: Tensor
    Z: Tensor
    grad: Tensor


@cache
def batch(n: int, dtype: torch.dtype) -> Batch:
    """All named matrices, and behind each family one matrix that is not finite."""
    families, A, Z, end = {}, [], [], 0
    spoiled = torch.eye(n, dtype=dtype).unsqueeze(0)
    for k, family in enumerate(name for name in cases.FAMILIES if cases.exists(name, n)):
        matrices = cases.matrices(family, n, dtype)
        bad = spoiled.clone()
        bad[0, k % n, k // n % n] = (math.nan, math.inf, -math.inf)[k % 3]
        families[family] = slice(end, end + len(matrices))
        end += len(matrices) + 1
        A += [matrices, bad]
        Z += [cases.directions(matrices, SEED), spoiled]
    A, Z = torch.cat(A), torch.cat(Z)
    return Batch(families, A, Z, torch.full((len(A),), 1.5, dtype=dtype))


def everything(grad: Tensor, A: Tensor, Z: Tensor) -> tuple[Tensor, ...]:
    return (
        OPS.det(A),
        *OPS.slogdet(A),
        OPS.cofactor(A),
        OPS.det_backward(grad, A),
        OPS.slogdet_backward(grad, A),
        OPS.det_hvp(A, Z),
    )


@cache
def of_all_orders(dtype: torch.dtype) -> list[tuple[Tensor, ...]]:
    args = [(b.grad, b.A, b.Z) for b in (batch(n, dtype) for n in ORDERS)]
    values, code = compiled(lambda args: [everything(*x) for x in args], args)
    assert not calls_operators(code)
    return values


def results(n: int, dtype: torch.dtype) -> dict[str, Tensor]:
    return dict(zip(RESULTS, of_all_orders(dtype)[ORDERS.index(n)], strict=True))


each = pytest.mark.parametrize(
    ("n", "dtype"),
    [pytest.param(n, t, id=f"n{n}-{cases.name(t)}") for n in ORDERS for t in cases.REAL_DTYPES],
)


@each
def test_det_is_within_one_unit(n, dtype):
    got, b = results(n, dtype)["det"], batch(n, dtype)
    for family, place in b.families.items():
        exact = exact_dets(family, n, dtype)
        units.assert_within(got[place], exact, b.A[place], 0, what=family)


@each
def test_cofactors_are_within_one_unit(n, dtype):
    r, b = results(n, dtype), batch(n, dtype)
    for family, place in b.families.items():
        exact = exact_cofactors(family, n, dtype)
        units.assert_within(r["cofactor"][place], exact, b.A[place], 1, what=family)
        # 3/2 C, which overflows where C is large enough.
        scaled = [oracles.Exact(3 * c.values, c.exponents - 1) for c in exact]
        units.assert_within(r["det_backward"][place], scaled, b.A[place], 1, 1.5, what=family)


@each
def test_hessian_vector_products_are_within_one_unit(n, dtype):
    got, b = results(n, dtype)["det_hvp"], batch(n, dtype)
    for family, place in b.families.items():
        units.assert_within(got[place], exact_hvps(family, n, dtype, SEED), b.A[place], 2,
                            directions=[b.Z[place]], what=family)  # fmt: skip


def in_frame(A: Tensor) -> tuple[oracles.Exact, float, float, int]:
    """The determinant; its modulus and one unit in the frame of A, and the frame's exponent."""
    exact = oracles.det(A)
    frame = int(sum(map(np.sum, units.frame_exponents(A))))
    size = abs(units.to_float(int(exact.values[()]), int(exact.exponents) - frame))
    return exact, size, units.unit(A, 0), frame


@each
def test_slogdet_is_the_log_of_a_determinant_within_one_unit(n, dtype):
    """And 12 eps max(1, |log|) more, as for the kernels. log(1 + x) is within 2 |x| of 0 for |x| <=
    1/2."""
    r, b = results(n, dtype), batch(n, dtype)
    eps = torch.finfo(dtype).eps
    for place in b.families.values():
        for A, sign, log in zip(
            b.A[place], r["sign"][place].tolist(), r["logabsdet"][place].tolist(), strict=True
        ):
            exact, size, unit, frame = in_frame(A)
            assert sign == (0 if log == -math.inf else math.copysign(1, sign))
            if 0 < size >= 2 * unit:
                true = float(oracles.slogdet(A)[1])
                assert (sign > 0) == (exact.values[()] > 0)
                assert abs(float(log) - true) <= 12 * eps * max(1, abs(true)) + 2 * unit / size, A
            elif unit > 0:
                highest = float(mpmath.log(size + unit) + frame * mpmath.log(2))
                assert log <= highest + 12 * eps * max(1, abs(highest)), A
            else:
                assert log == -math.inf, A


@each
def test_gradients_of_log_det_are_cofactors_divided_by_the_determinant(n, dtype):
    """With errors c of C(B), at most one unit, and d of det(B) relative to it, X is off by at most
    (c / |det B| + d |X|) / (1 - d), and by n eps |X| of the last roundings."""
    got, b = results(n, dtype)["slogdet_backward"], batch(n, dtype)
    eps, largest = torch.finfo(dtype).eps, torch.finfo(dtype).max
    seen = 0
    for place in b.families.values():
        for A, X in zip(b.A[place], got[place], strict=True):
            _, size, unit, _ = in_frame(A)
            if not size:
                continue
            rows, cols = units.frame_exponents(A)
            true = 1.5 * oracles.inverse_transpose(A)
            relative = unit / size
            if relative > 0.25 or any(abs(x) > largest for x in true.flat):
                continue
            seen += 1
            # X of B is 2^r X 2^c.
            exponent = rows[:, None] + cols[None, :]
            scale = np.vectorize(lambda x, e: mpmath.ldexp(mpmath.mpf(x), int(e)), otypes=[object])
            with mpmath.workdps(60):
                got_B, true_B = (
                    scale(X.tolist(), exponent),
                    scale(np.vectorize(mpmath.re)(true), exponent),
                )
                error = float(mpmath.sqrt(sum(x * x for x in (got_B - true_B).flat)))
                norm = float(mpmath.sqrt(sum(x * x for x in true_B.flat)))
                # A result below the normal range is off by the smallest number.
                granule = float(
                    mpmath.ldexp(torch.finfo(dtype).smallest_normal * eps, int(exponent.max()))
                )
            allowed = 1.5 * units.unit(A, 1) / size + (relative + n * eps) * norm
            assert error <= allowed / (1 - relative) + n * granule, (A, error, allowed)
    assert seen >= 20


@each
def test_a_matrix_that_is_not_finite_gives_nan_for_itself_alone(n, dtype):
    b, finite = batch(n, dtype), torch.ones(len(batch(n, dtype).A), dtype=torch.bool)
    for place in b.families.values():
        finite[place.stop] = False
    assert torch.equal(finite, b.A.isfinite().all(-1).all(-1))
    for name, x in results(n, dtype).items():
        assert x[~finite].isnan().all(), name
        if name != "slogdet_backward":  # 0 / 0 at singular matrices
            assert not x[finite].isnan().any(), name
    singular = results(n, dtype)["sign"] == 0
    assert not results(n, dtype)["slogdet_backward"][singular].isfinite().any()


MINOR_SIGNS = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64)

EXTREME = {
    torch.float32: [(1e30, 1e30, 1e-30), (1e-30, 1e-30, 1e30), (1e38, 1e-38, 1e-38)],
    torch.float64: [(1e200, 1e200, 1e-200), (1e-300, 1e-300, 1e300), (1e308, 1e-308, 5e-324)],
}


@pytest.mark.parametrize("dtype", cases.REAL_DTYPES, ids=cases.name)
def test_only_the_result_need_be_in_range(dtype):
    """Of determinants in any order of their factors, and of gradients times what comes back."""
    diagonals = [d for values in EXTREME[dtype] for d in (values, values[::-1])]
    A = torch.diag_embed(torch.tensor(diagonals, dtype=dtype))
    tiny = float(A[A > 0].min())
    grad = torch.full((len(A),), tiny, dtype=dtype)
    (d, G), code = compiled(lambda g, A: (OPS.det(A), OPS.det_backward(g, A)), grad, A)
    assert not calls_operators(code)
    for a, got, gradient in zip(A, d, G, strict=True):
        units.assert_within(got[None], [oracles.det(a)], a[None], 0)
        C, (m, e) = oracles.cofactor(a), oracles.dyadic(tiny)
        product = oracles.Exact(m * C.values, C.exponents + e)
        for i in range(3):
            true, info = product.tensor(dtype)[i, i], torch.finfo(dtype)
            granule = info.smallest_normal * info.eps  # the smallest number
            assert torch.allclose(gradient[i, i], true, rtol=4 * info.eps, atol=granule)


# Zeros beside entries of any size; and the largest numbers, which no one factor 2^-e takes to 1.
TRIANGLES = [
    [[1e-200, 1e300], [0.0, 1e-300]],
    [[0.0, 1e300], [1e-300, 1e-200]],
    [[0.0, 1.0], [1e-200, 0.0]],
    [[0.0, 0.0], [1.0, 1e-200]],
    [[1e-200, 0.0], [1.0, 0.0]],
    [[-1.0, 1.7e308], [-1.7e308, 0.0]],
    [[1.7e308, 1.7e308], [0.0, 1e-300]],
]


def test_a_zero_has_no_size_and_the_largest_numbers_have_one():
    """In a triangle of order 2 nothing cancels: what is computed is as good as a product."""
    A = torch.tensor(TRIANGLES, dtype=torch.float64)
    grad = torch.full((len(A),), 1.5, dtype=torch.float64)
    got, code = compiled(everything, grad, A, A)
    assert not calls_operators(code)
    _, signs, logs, C, _, X, _ = got
    close = {"rtol": 16 * torch.finfo(A.dtype).eps, "atol": 0.0}
    for a, sign, log, cofactors, x in zip(A, signs, logs, C, X, strict=True):
        assert torch.equal(cofactors, torch.stack([a[1].flip(0), a[0].flip(0)]) * MINOR_SIGNS)
        (p, q), (r, s) = ([Fraction(y) for y in row] for row in a.tolist())
        if d := p * s - q * r:
            assert sign == (1 if d > 0 else -1)
            d = mpmath.mpf(d.numerator) / d.denominator
            true = mpmath.log(abs(d))
            # A rounding of d is an error of as much in its logarithm, however small that is.
            assert abs(float(log) - true) <= 12 * torch.finfo(A.dtype).eps * (1 + abs(true)), a
            inverse = [[mpmath.mpf(1.5) * float(y) / d for y in z] for z in ((s, -r), (-q, p))]
            true = [[float(y) for y in z] for z in inverse]
            assert torch.allclose(x, torch.tensor(true, dtype=A.dtype), **close), a
        else:
            assert (sign, log) == (0, -math.inf), a
    largest = torch.full((3, 1, 1), torch.finfo(A.dtype).max, dtype=A.dtype)
    (d, C), code = compiled(lambda A: (OPS.det(A), OPS.cofactor(A)), largest)
    assert not calls_operators(code)
    assert torch.equal(d, largest.flatten())
    assert torch.equal(C, torch.ones_like(largest))


def test_half_precision_rounds_once():
    """From float64, where an error of some 2^-53 may only turn a tie: at most one rounding."""
    halves = [torch.randn(16, 3, 3).to(t) for t in (torch.float16, torch.bfloat16)]
    values, code = compiled(lambda *halves: [torchdet.det(A) for A in halves], *halves)
    assert not calls_operators(code)
    for A, d in zip(halves, values, strict=True):
        assert d.dtype == A.dtype
        true = torch.stack([oracles.det(a).tensor(torch.float64) for a in A])
        assert torch.allclose(d.double(), true, rtol=torch.finfo(A.dtype).eps, atol=0)


# ---- derivatives, and what is compiled


def energy(A: Tensor) -> Tensor:
    sign, log = torchdet.slogdet(A.cos())
    return ((torchdet.det(A) - 1) ** 2 + sign * log).sum()


def value_and_gradient(f: Callable, A: Tensor) -> tuple[Tensor, Tensor]:
    leaf = A.clone().requires_grad_()
    torch._dynamo.mark_dynamic(leaf, 0)
    value = f(leaf)
    return value.detach(), torch.autograd.grad(value, leaf)[0]


def test_forward_and_backward_of_an_energy_fuse():
    """The order is known at compile time; the batch need not be."""
    f = torch.compile(energy, fullgraph=True)
    A = torch.randn(5, 2, 2, dtype=torch.float64)
    got, code = run_and_get_code(value_and_gradient, f, A)
    assert len(code) == 2  # forward and backward
    assert not any(map(calls_operators, code))
    B = torch.randn(17, 2, 2, dtype=torch.float64)
    for X, values in ((A, got), (B, value_and_gradient(f, B))):
        for g, e in zip(values, value_and_gradient(energy, X), strict=True):
            assert torch.allclose(g, e, rtol=1e-11, atol=1e-11)  # condition numbers up to 1e4


def test_on_a_cpu_matrices_that_lie_in_memory_go_to_the_kernels(monkeypatch):
    monkeypatch.setattr(_inductor, "STORED_ON", ("cuda",))
    A = torch.randn(5, 3, 3)
    for f, is_left in ((torchdet.det, True), (lambda A: torchdet.det(A * A.mT), False)):
        got, code = compiled(f, A)
        assert calls_operators(code) == is_left
        # Each is right for a matrix that differs by n eps from its own: |A|^2 n eps |A| of det.
        F = A if is_left else A * A.mT
        allowed = 2 * 3 * torch.finfo(A.dtype).eps * F.norm(dim=(-2, -1)) ** 3
        assert ((got - f(A)).abs() <= allowed).all()


def test_second_derivatives_in_compiled_code_are_exact_at_singular_matrices():
    """D C[Z] by forward over reverse mode, and as the gradient of a function of cofactors."""
    A = cases.matrices("integer_rank_1", 3, torch.float32)
    Z = cases.directions(A, SEED)

    def second(A: Tensor, Z: Tensor) -> tuple[Tensor, Tensor]:
        gradient = torch.func.grad(lambda X: torchdet.det(X).sum())
        by_jvp = torch.func.jvp(gradient, (A,), (Z,))[1]
        return by_jvp, torch.func.grad(lambda X: (torchdet.cofactor(X) * Z).sum())(A)

    got, code = compiled(second, A, Z)
    assert not calls_operators(code)
    for H in got:
        units.assert_within(H, exact_hvps("integer_rank_1", 3, torch.float32, SEED), A, 2,
                            directions=[Z])  # fmt: skip


OPERATORS_STAY = {
    "n = 4": (torch.randn(3, 4, 4), {}),
    "complex": (torch.randn(3, 3, 3, dtype=torch.complex128), {}),
    "n unknown": (torch.randn(5, 3, 3), {"dynamic": True}),
}


@pytest.mark.parametrize("case", OPERATORS_STAY)
def test_operators_stay(case):
    A, settings = OPERATORS_STAY[case]
    got, code = compiled(lambda A: torchdet.det(A), A, **settings)
    assert calls_operators(code)
    assert torch.equal(got, torchdet.det(A))


def test_operators_stay_where_a_compiler_may_reassociate():
    with config.patch({"cpp.enable_unsafe_math_opt_flag": True}):
        _, code = compiled(lambda A: torchdet.det(A), torch.randn(3, 3, 3))
    assert calls_operators(code)


def test_inductor_is_not_loaded_by_torchdet():
    script = "import sys, torchdet; print('torch._inductor.lowering' in sys.modules)"
    assert run_script(script).strip() == "False"
