"""The operators torch.ops.torchdet.*: where their kernels come from, what torch must know of them.

The compiled extension registers its kernels when it is imported. Here every operator gets
- its schema;
- its plain PyTorch implementation, for all devices without a kernel of their own, and for every
  device when the extension is missing or switched off by TORCHDET_EXTENSION=0 in the environment;
- a fake kernel: shape and dtype of the result (torch.compile, torch.export, FakeTensor, DTensor);
- a sharding rule (DTensor);
- a batching rule (torch.vmap).
Gradients are registered by the Functions (_function.py).
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from . import (
    _extension,
    _factored,
    _frexp,
    _higher_order,
    _inductor,
    _inverse,
    _logsum,
    _reference,
    _reference_kept,
    _sharding,
)
from ._levels import batch_first

_SCHEMAS = (
    "det(Tensor A) -> Tensor",
    "slogdet(Tensor A) -> (Tensor sign, Tensor logabsdet)",
    "det_frexp(Tensor A) -> (Tensor mantissa, Tensor exponent)",
    # What derivatives of the mantissa take: grad conj(C(A)) 2^-exponent, H(A)[Z] 2^-exponent.
    "_det_frexp_backward(Tensor grad, Tensor A, Tensor exponent) -> Tensor",
    "_det_frexp_hvp(Tensor A, Tensor Z, Tensor exponent) -> Tensor",
    # The change of the first of these two with grad and A.
    "_det_frexp_backward_jvp(Tensor grad, Tensor A, Tensor exponent, Tensor grad_tangent, "
    "Tensor Z) -> Tensor",
    # Mantissa and exponent with a share of the latter in the former.
    "_det_relative(Tensor A, Tensor mantissa, Tensor exponent, Tensor share, Tensor share_of_zero) "
    "-> (Tensor relative, Tensor own)",
    # First and second derivatives of det(A + t J) 2^-exponent at t = 0, J of shape (*, d, n, n).
    "_det_frexp_jet(Tensor A, Tensor J, Tensor exponent) -> (Tensor first, Tensor second)",
    # Of sum_k terms_k 2^exponent_k, and what the derivatives of its logarithm are made of.
    "_logsum(Tensor terms, Tensor exponent) -> (Tensor sign, Tensor logabs)",
    "_logsum_ratios(Tensor terms, Tensor exponent) -> Tensor",
    # What each factor of a term takes of its exponent less that of the sum; factors: (*, K, S).
    "_logsum_shares(Tensor terms, Tensor exponent, Tensor factors) -> (Tensor share, Tensor zero)",
    "cofactor(Tensor A) -> Tensor",
    "det_backward(Tensor grad, Tensor A) -> Tensor",
    "slogdet_backward(Tensor grad, Tensor A) -> Tensor",
    "det_hvp(Tensor A, Tensor Z) -> Tensor",
    "slogdet_hvp(Tensor A, Tensor Z) -> Tensor",
    "_slogdet_hvp_kept(Tensor A, Tensor Z) -> Tensor",
    # Determinants with what helps their backward passes, numbers and integers; and those passes.
    # The last one gives conj(A^-T) as well, which is the gradient for grad = 1.
    "_det_keep(Tensor A) -> (Tensor det, Tensor kept, Tensor integers)",
    "_slogdet_keep(Tensor A) -> (Tensor sign, Tensor logabsdet, Tensor kept, Tensor integers)",
    "_det_backward_kept(Tensor grad, Tensor A, Tensor kept, Tensor integers) -> Tensor",
    "_slogdet_backward_kept(Tensor grad, Tensor A, Tensor kept, Tensor integers) -> Tensor",
    "_slogdet_backward_inverse_kept(Tensor grad, Tensor A, Tensor kept, Tensor integers) -> "
    "(Tensor gradient, Tensor inverse)",
    # Determinants with what is left of the factorisation, numbers and integers; the gradient of the
    # logarithm, A^-1 B and A^-H B from that.
    "_slogdet_factor(Tensor A) -> (Tensor sign, Tensor logabsdet, Tensor factors, Tensor integers)",
    "_slogdet_backward_factored(Tensor grad, Tensor A, Tensor factors, Tensor integers) -> Tensor",
    "_solve_factored(Tensor A, Tensor B, Tensor factors, Tensor integers) -> Tensor",
    "_solve_adjoint_factored(Tensor A, Tensor B, Tensor factors, Tensor integers) -> Tensor",
    # In PyTorch only: D^m C(A)[Z_1..Z_m] and D^m A^-T[Z_1..Z_m] for m >= 2, directions stacked in Z
    # of shape (*, m, n, n). As operators, is_grads_batched=True and torch.compile need not look in.
    "_cofactor_derivative(Tensor A, Tensor Z) -> Tensor",
    "_inverse_derivative(Tensor A, Tensor Z) -> Tensor",
)
# Registrations live as long as this object does.
library = torch.library.Library("torchdet", "DEF")
for _schema in _SCHEMAS:
    library.define(_schema)
HAS_EXTENSION = _extension.load()
_HALF = (torch.float16, torch.bfloat16)


def _check_directions(op: str, A: Tensor, Z: Tensor) -> None:
    _reference.check_square(op, A)
    _reference.check_dense(op, "Z", Z)
    if Z.dim() < 3 or Z.shape[-3] == 0:
        raise RuntimeError(
            f"{op}: expected Z of shape (*, m, n, n) with m >= 1 directions, got {tuple(Z.shape)}"
        )
    *batch, n, _ = A.shape
    _reference.check_same(op, "Z", Z, A, torch.Size((*batch, Z.shape[-3], n, n)))


def _cofactor_derivative(A: Tensor, Z: Tensor) -> Tensor:
    _check_directions("cofactor_derivative", A, Z)
    return _higher_order.cofactor_derivative(A, Z.unbind(-3))


def _inverse_derivative(A: Tensor, Z: Tensor) -> Tensor:
    _check_directions("inverse_derivative", A, Z)
    return _inverse.derivative(A, Z.unbind(-3))


# ---- kernels in plain PyTorch

_KERNELS: dict[str, Callable[..., Any]] = {
    "det": _reference.det,
    "slogdet": _reference.slogdet,
    "det_frexp": _frexp.det_frexp if HAS_EXTENSION else _reference.det_frexp,
    "_det_frexp_backward": _frexp.backward,
    "_det_frexp_hvp": _frexp.hvp,
    "_det_frexp_backward_jvp": _frexp.backward_jvp,
    "_det_relative": _frexp.relative,
    "_det_frexp_jet": _frexp.jet if HAS_EXTENSION else _frexp.jet_by_minors,
    "_logsum": _logsum.logsum,
    "_logsum_ratios": _logsum.logsum_ratios,
    "_logsum_shares": _logsum.logsum_shares,
    "cofactor": _reference.cofactor,
    "det_backward": _reference.det_backward,
    "slogdet_backward": _reference.slogdet_backward,
    "det_hvp": _reference.det_hvp,
    "slogdet_hvp": _inverse.slogdet_hvp,
    "_slogdet_hvp_kept": _inverse.slogdet_hvp_kept,
    "_det_keep": _reference_kept.det_keep,
    "_slogdet_keep": _reference_kept.slogdet_keep,
    "_det_backward_kept": _reference_kept.det_backward_kept,
    "_slogdet_backward_kept": _reference_kept.slogdet_backward_kept,
    "_slogdet_backward_inverse_kept": _reference_kept.slogdet_backward_inverse_kept,
    "_slogdet_factor": _factored.slogdet_factor,
    "_slogdet_backward_factored": _factored.backward,
    "_solve_factored": _factored.solve,
    "_solve_adjoint_factored": _factored.solve_adjoint,
    "_cofactor_derivative": _cofactor_derivative,
    "_inverse_derivative": _inverse_derivative,
}

# ---- fake kernels: the checks of the reference and empty outputs


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
    exponents = torch.float32 if A.dtype in _HALF else _reference.real_dtype(A)
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


def _fake_logsum(terms: Tensor, exponent: Tensor) -> tuple[Tensor, Tensor]:
    _logsum.check_terms("logsum", terms, exponent)
    return terms.new_empty(terms.shape[:-1]), exponent.new_empty(terms.shape[:-1])


def _fake_logsum_ratios(terms: Tensor, exponent: Tensor) -> Tensor:
    _logsum.check_terms("logsum_ratios", terms, exponent)
    return terms.new_empty(terms.shape)


def _fake_logsum_shares(*args: Tensor) -> tuple[Tensor, Tensor]:
    _logsum.check_shares(*args)
    return args[1].new_empty(args[1].shape), args[1].new_empty(args[1].shape)


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


def _fake_kept(A: Tensor) -> tuple[Tensor, Tensor]:
    return A.new_empty(A.shape), A.new_empty((*A.shape[:-2], kept_integers(A)), dtype=torch.int32)


def _check_kept(op: str, A: Tensor, kept: Tensor, integers: Tensor) -> None:
    _reference_kept.check_kept(op, A, kept, integers, kept_integers(A))


def _fake_det_keep(A: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return _fake_det(A), *_fake_kept(A)


def _fake_slogdet_keep(A: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return *_fake_slogdet(A), *_fake_kept(A)


def _fake_det_backward_kept(grad: Tensor, A: Tensor, kept: Tensor, integers: Tensor) -> Tensor:
    _check_kept("det_backward", A, kept, integers)
    return _fake_det_backward(grad, A)


def _fake_slogdet_backward_kept(grad: Tensor, A: Tensor, kept: Tensor, integers: Tensor) -> Tensor:
    _check_kept("slogdet_backward", A, kept, integers)
    return _fake_slogdet_backward(grad, A)


def _fake_slogdet_backward_inverse_kept(*args: Tensor) -> tuple[Tensor, Tensor]:
    return _fake_slogdet_backward_kept(*args), _fake_slogdet_backward_kept(*args)


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
    _check_directions("cofactor_derivative", A, Z)
    return A.new_empty(A.shape)


def _fake_inverse_derivative(A: Tensor, Z: Tensor) -> Tensor:
    _check_directions("inverse_derivative", A, Z)
    return A.new_empty(A.shape)


_FAKE_KERNELS: dict[str, Callable[..., Any]] = {
    "det": _fake_det,
    "slogdet": _fake_slogdet,
    "det_frexp": _fake_det_frexp,
    "_det_frexp_backward": _fake_det_frexp_backward,
    "_det_frexp_hvp": _fake_det_frexp_hvp,
    "_det_frexp_backward_jvp": _fake_det_frexp_backward_jvp,
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


# ---- batching


def operator(name: str) -> Any:
    """torch.ops.torchdet.NAME, which has one overload."""
    return getattr(torch.ops.torchdet, name).default


def out_dims(op: Any) -> int | tuple[int, ...]:
    """Where the mapped dimension of each result is: in front."""
    results = len(op._schema.returns)
    return (0,) * results if results > 1 else 0


def _register(name: str) -> None:
    op = operator(name)

    def vmap(info: Any, in_dims: Sequence[int | None], *args: Tensor) -> tuple[Any, Any]:
        return op(*batch_first(name, info.batch_size, in_dims, args)), out_dims(op)

    def fake(*args: Tensor) -> Any:
        _inductor.follow_inductor()
        return _FAKE_KERNELS[name](*args)

    library.impl(name, _KERNELS[name], "CompositeExplicitAutograd")
    fake_kernel = _sharding.with_sharding_rule(op, fake)
    torch.library.register_fake(f"torchdet::{name}", fake_kernel, lib=library)
    torch.library.register_vmap(f"torchdet::{name}", vmap, lib=library)


for _name in _KERNELS:
    _register(_name)


# ---- what forward passes keep for the backward pass

if HAS_EXTENSION:
    from . import _C

    _BUILD = _C.build_info()
    _LEAST_KEPT: int = _BUILD["least_kept"]
    _LEAST_FACTORS: int = _BUILD["least_factors"]
    _LEAST_LARGE = {getattr(torch, name): n for name, n in _extension.least_large().items()}

    def keeps(A: Tensor) -> bool:
        """Whether the forward pass of an A that requires a gradient is to keep what helps backward.

        It does where kernels exist for that, and where that is faster.
        """
        return (
            A.dim() >= 2
            and A.shape[-1] >= _LEAST_KEPT
            and torch.is_grad_enabled()
            and (A.is_cpu or (A.is_cuda and A.shape[-1] >= _LEAST_LARGE.get(A.dtype, 1 << 62)))
            and A.dtype not in _HALF
            # A trace serves A without a gradient as well.
            and not torch.jit.is_tracing()  # type: ignore[attr-defined]
        )

    def kept_integers(A: Tensor) -> int:
        """How many integers are kept of a matrix, as csrc/select.h has it."""
        n = A.shape[-1]
        if not (A.is_cpu or (A.is_cuda and _LEAST_LARGE)):
            return 1
        return n + 1 if n < _LEAST_FACTORS else 3 * n + 2

    def factor_sizes(A: Tensor) -> tuple[int, int]:
        """How many columns of numbers and how many integers are left of a factorisation."""
        n = A.shape[-1]
        return (n, 3 * n + 2) if A.device.type == "cpu" else _factored.sizes(n)
else:

    def keeps(A: Tensor) -> bool:
        """Never: the reference gains nothing by it."""
        return False

    def kept_integers(A: Tensor) -> int:
        """One, which says that nothing is kept."""
        return 1

    def factor_sizes(A: Tensor) -> tuple[int, int]:
        """As those of the reference."""
        return _factored.sizes(A.shape[-1])
