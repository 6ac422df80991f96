"""What torch must know of the operators without running them: checks, shapes and dtypes.

They serve torch.compile, torch.export, FakeTensor and DTensor: the checks of the reference, and
empty results.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from . import _factored, _frexp, _inverse, _logsum, _reference, _reference_kept
from ._kept import factor_sizes, kept_integers


def _fake_det(A: Tensor) -> Tensor:
    _reference.check_square("det", A)
    return A.new_empty(A.shape[:-2])


def _fake_slogdet(A: Tensor) -> tuple[Tensor, Tensor]:
    _reference.check_square("slogdet", A)
    batch = A.shape[:-2]
    return A.new_empty(batch), A.new_empty(batch, dtype=_reference.real_dtype(A))


def _fake_det_frexp(A: Tensor) -> tuple[Tensor, Tensor]:
    _reference.check_square("det_frexp", A)
    batch = A.shape[:-2]
    exponents = _frexp.exponent_dtype(A)
    return A.new_empty(batch), A.new_empty(batch, dtype=exponents)


def _fake_det_frexp_backward(grad: Tensor, A: Tensor, exponent: Tensor) -> Tensor:
    _frexp.check_backward(grad, A, exponent)
    return A.new_empty(A.shape)


def _fake_det_frexp_hvp(A: Tensor, Z: Tensor, exponent: Tensor) -> Tensor:
    _frexp.check_hvp(A, Z, exponent)
    return A.new_empty(A.shape)


def _fake_det_frexp_backward_jvp(
    grad: Tensor, A: Tensor, exponent: Tensor, grad_tangent: Tensor, Z: Tensor
) -> Tensor:
    _frexp.check_backward_jvp(grad, A, exponent, grad_tangent, Z)
    return A.new_empty(A.shape)


def _fake_det_frexp_jet(A: Tensor, J: Tensor, exponent: Tensor) -> tuple[Tensor, Tensor]:
    _frexp.check_jet(A, J, exponent)
    return A.new_empty(J.shape[:-2]), A.new_empty(J.shape[:-2])


def _fake_det_freedom(A: Tensor, mantissa: Tensor) -> Tensor:
    _frexp.check_freedom(A, mantissa)
    return A.new_empty(A.shape[:-2], dtype=_frexp.exponent_dtype(A))


def _fake_logsum(terms: Tensor, exponent: Tensor) -> tuple[Tensor, Tensor]:
    _logsum.check_terms("logsum", terms, exponent)
    return terms.new_empty(terms.shape[:-1]), exponent.new_empty(terms.shape[:-1])


def _fake_logsum_ratios(terms: Tensor, exponent: Tensor) -> Tensor:
    _logsum.check_terms("logsum_ratios", terms, exponent)
    return terms.new_empty(terms.shape)


def _fake_logsum_shares(terms: Tensor, exponent: Tensor, freedom: Tensor) -> Tensor:
    _logsum.check_shares(terms, exponent, freedom)
    return exponent.new_empty(freedom.shape)


def _fake_cofactor(A: Tensor) -> Tensor:
    _reference.check_square("cofactor", A)
    return A.new_empty(A.shape)


def _fake_det_backward(grad: Tensor, A: Tensor) -> Tensor:
    _reference.check_square("det_backward", A)
    _reference.check_same("det_backward", "grad", grad, A, A.shape[:-2])
    return A.new_empty(A.shape)


def _fake_slogdet_backward(grad: Tensor, A: Tensor) -> Tensor:
    _reference.check_square("slogdet_backward", A)
    _reference.check_same("slogdet_backward", "grad", grad, A, A.shape[:-2])
    return A.new_empty(A.shape)


def _fake_det_hvp(A: Tensor, Z: Tensor) -> Tensor:
    _reference.check_square("det_hvp", A)
    _reference.check_same("det_hvp", "Z", Z, A)
    return A.new_empty(A.shape)


def _fake_slogdet_hvp(A: Tensor, Z: Tensor) -> Tensor:
    _reference.check_square("slogdet_hvp", A)
    _reference.check_same("slogdet_hvp", "Z", Z, A)
    return A.new_empty(A.shape)


def _fake_slogdet_hvp_scaled(grad: Tensor, A: Tensor, Z: Tensor) -> Tensor:
    _inverse.check_scaled(grad, A, Z)
    return A.new_empty(A.shape)


def _fake_kept(A: Tensor) -> tuple[Tensor, Tensor]:
    return A.new_empty(A.shape), A.new_empty((*A.shape[:-2], kept_integers(A)), dtype=torch.int32)


def _check_kept(op: str, A: Tensor, kept: Tensor, integers: Tensor) -> None:
    _reference_kept.check_kept(op, A, kept, integers, kept_integers(A))


def _fake_det_keep(A: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return _fake_det(A), *_fake_kept(A)


def _fake_slogdet_keep(A: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return *_fake_slogdet(A), *_fake_kept(A)


def _fake_det_backward_kept(grad: Tensor, A: Tensor, kept: Tensor, integers: Tensor) -> Tensor:
    result = _fake_det_backward(grad, A)
    _check_kept("det_backward", A, kept, integers)
    return result


def _fake_slogdet_backward_kept(grad: Tensor, A: Tensor, kept: Tensor, integers: Tensor) -> Tensor:
    result = _fake_slogdet_backward(grad, A)
    _check_kept("slogdet_backward", A, kept, integers)
    return result


def _fake_slogdet_backward_inverse(grad: Tensor, A: Tensor) -> tuple[Tensor, Tensor]:
    return _fake_slogdet_backward(grad, A), A.new_empty(A.shape)


def _fake_slogdet_backward_inverse_kept(*args: Tensor) -> tuple[Tensor, Tensor]:
    return _fake_slogdet_backward_kept(*args), args[1].new_empty(args[1].shape)


def _fake_slogdet_factor(A: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    _factored.check_wide("slogdet_solve", A)
    columns, count = factor_sizes(A)
    factors = A.new_empty((*A.shape[:-1], columns))
    return *_fake_slogdet(A), factors, A.new_empty((*A.shape[:-2], count), dtype=torch.int32)


def _fake_slogdet_backward_factored(
    grad: Tensor, A: Tensor, factors: Tensor, integers: Tensor
) -> Tensor:
    _factored.check_factors("slogdet_backward", A, factors, integers, factor_sizes(A))
    return _fake_slogdet_backward(grad, A)


def _fake_solve_factored(A: Tensor, B: Tensor, factors: Tensor, integers: Tensor) -> Tensor:
    _factored.check_system(A, B, factors, integers, factor_sizes(A))
    return B.new_empty(B.shape)


def _fake_cofactor_derivative(A: Tensor, Z: Tensor) -> Tensor:
    _inverse.check_directions("cofactor_derivative", A, Z)
    return A.new_empty(A.shape)


def _fake_inverse_derivative(A: Tensor, Z: Tensor) -> Tensor:
    _inverse.check_directions("inverse_derivative", A, Z)
    return A.new_empty(A.shape)


FAKE_KERNELS: dict[str, Callable[..., Any]] = {
    "det": _fake_det,
    "slogdet": _fake_slogdet,
    "det_frexp": _fake_det_frexp,
    "_det_frexp_backward": _fake_det_frexp_backward,
    "_det_frexp_hvp": _fake_det_frexp_hvp,
    "_det_frexp_backward_jvp": _fake_det_frexp_backward_jvp,
    "_det_freedom": _fake_det_freedom,
    "_det_relative": _frexp.relative,  # reads no data
    "_det_frexp_jet": _fake_det_frexp_jet,
    "_logsum": _fake_logsum,
    "_logsum_ratios": _fake_logsum_ratios,
    "_logsum_shares": _fake_logsum_shares,
    "cofactor": _fake_cofactor,
    "det_backward": _fake_det_backward,
    "slogdet_backward": _fake_slogdet_backward,
    "det_hvp": _fake_det_hvp,
    "slogdet_hvp": _fake_slogdet_hvp,
    "_slogdet_hvp_kept": _fake_slogdet_hvp,
    "_slogdet_hvp_scaled": _fake_slogdet_hvp_scaled,
    "_slogdet_backward_inverse": _fake_slogdet_backward_inverse,
    "_det_keep": _fake_det_keep,
    "_slogdet_keep": _fake_slogdet_keep,
    "_det_backward_kept": _fake_det_backward_kept,
    "_slogdet_backward_kept": _fake_slogdet_backward_kept,
    "_slogdet_backward_inverse_kept": _fake_slogdet_backward_inverse_kept,
    "_slogdet_factor": _fake_slogdet_factor,
    "_slogdet_backward_factored": _fake_slogdet_backward_factored,
    "_solve_factored": _fake_solve_factored,
    "_solve_adjoint_factored": _fake_solve_factored,
    "_cofactor_derivative": _fake_cofactor_derivative,
    "_inverse_derivative": _fake_inverse_derivative,
}
