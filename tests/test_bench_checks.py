"""What benchmarks take for right: their oracles against exact rationals; what is found wrong."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

import oracles
import torchdet
from bench import exact
from bench.cases import FUNC, HVP, HVPS, JVP, OPS, Case
from bench.checks import Truth, _Factors
from bench.peers import peers

KINDS = ("regular", "rank n - 1", "rank n - 2")


def matrices(n: int, dtype: torch.dtype, kind: str) -> tuple[Tensor, Tensor]:
    A, Z = torch.randn(2, n, n, dtype=dtype)
    for column in range(KINDS.index(kind)):
        A[:, n - 1 - column] = A[:, 0] if n > 1 + column else 0
    return A, Z


def rational(A: Tensor, Z: Tensor) -> tuple[np.ndarray, ...]:
    """det, C and H[Z] in exact rational arithmetic, rounded once."""
    return tuple(
        value.tensor(A.dtype).numpy()
        for value in (oracles.det(A), oracles.cofactor(A), oracles.hvp(A, Z))
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", (1, 2, 3, 6))
def test_many_digits_agree_with_exact_rationals(n, kind, wide_dtype):
    A, Z = matrices(n, wide_dtype, kind if n > 1 else KINDS[min(KINDS.index(kind), 1)])
    a, z = A.numpy(), Z.numpy()
    got = exact.det(a), exact.cofactors(a), exact.cofactors_along(a, z)
    for value, truth in zip(got, rational(A, Z), strict=True):
        np.testing.assert_array_almost_equal_nulp(np.real(value), truth.real, 1)
        np.testing.assert_array_almost_equal_nulp(np.imag(value), truth.imag, 1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", (2, 3, 6))
def test_singular_values_agree_with_exact_rationals(n, kind, wide_dtype):
    A, Z = matrices(n, wide_dtype, kind)
    factors = _Factors.of(A.numpy()[None])
    eps = np.finfo(float).eps
    relative = np.array([4 * np.sqrt(5) * n * eps]) + factors.relative_residual
    units = factors.units(factors.residual, relative)
    got = factors.det(), factors.cofactors(), factors.cofactors_along(Z.numpy()[None])
    sizes = 1, 1, float(torch.linalg.norm(Z))
    for value, truth, unit, size in zip(got, rational(A, Z), units, sizes, strict=True):
        assert np.linalg.norm(np.ravel(value - truth)) <= unit[0] * size
        assert unit[0] < 1e-10  # so it says something


CASES = [(op, False) for op in (*OPS, *HVPS, JVP, *FUNC)]
CASES += [(op, True) for op in (OPS[0], OPS[1], HVP, JVP, *FUNC[: len(FUNC) // 2])]


def answer_of(case: Case) -> tuple[Truth, Tensor]:
    """The truth for a case, and torchdet's answer."""
    ((A, Z),) = case.inputs(torch.device("cpu"), 1)
    return Truth(case, A, Z), peers(torch.device("cpu"), only_torch=True)[0].operation(
        case, A, Z
    )().clone()


@pytest.mark.parametrize(("op", "singular"), CASES)
@pytest.mark.parametrize(("n", "single"), ((2, True), (5, False)))
def test_a_wrong_answer_is_found_at_singular_matrices_too(op, singular, n, single):
    """An answer that is off by 1e-3 of the size of the first matrix's, in float32."""
    case = Case("func", op, n, torch.float32, 1 if single else 7, singular=singular)
    truth, answer = answer_of(case)
    assert truth.fault(answer) is None
    off, index = answer.clone(), 0 if single else -1
    size = max(float(off[index].abs().max()), 1.0)
    off[index] += 1e-3 * size
    assert "1 of" in truth.fault(off)
    off[index] = torch.nan
    assert truth.fault(off) == "a result is not finite"


@pytest.mark.parametrize("n", (2, 8, 40))
def test_a_gradient_of_zero_at_singular_matrices_is_wrong(n, dtype):
    """As torch.linalg's may be; from n = 25 on only singular values tell."""
    case = Case("scan", OPS[1], n, dtype, 3, singular=True)
    truth, answer = answer_of(case)
    assert truth.fault(answer) is None
    assert "3 of 3" in truth.fault(torch.zeros_like(answer))


@pytest.mark.parametrize("op", (OPS[0], OPS[1], HVP))
@pytest.mark.parametrize("factor", (0.5, 3.0))
def test_the_limit_is_a_unit(op, factor):
    """Beyond it an answer is wrong; within it is right."""
    case = Case("small", op, 6, torch.float32, 4)
    truth, _ = answer_of(case)
    reference = truth.references[0]
    order = 2 if case.hvp else int(case.backward)
    exactly = torch.from_numpy((reference.det, reference.C, reference.H)[order]).clone()
    allowed = reference.u[order][0]
    if order == 2:
        allowed *= np.linalg.norm(reference.Z[0])
    exactly[(0,) * exactly.dim()] += factor * allowed
    fault = truth.fault(exactly)
    assert (fault is None) is (factor < 1)


def test_the_sample_has_the_last_matrix():
    case = Case("small", OPS[0], 2, torch.float64, 10_001)
    ((A, _),) = case.inputs(torch.device("cpu"), 1)
    answer = torchdet.det(A)
    answer[-1] += 1
    assert "number 10000" in Truth(case, A, None).fault(answer)
