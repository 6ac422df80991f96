"""The operators torch.ops.torchdet.*: where their kernels come from, what torch must know of them.

_schemas.py names them and loads the extension, which registers its kernels. Here every operator
gets
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
from ._fake_kernels import FAKE_KERNELS
from ._levels import batch_first
from ._schemas import HAS_EXTENSION, library


def _cofactor_derivative(A: Tensor, Z: Tensor) -> Tensor:
    _inverse.check_directions("cofactor_derivative", A, Z)
    return _higher_order.cofactor_derivative(A, Z.unbind(-3))


def _inverse_derivative(A: Tensor, Z: Tensor) -> Tensor:
    _inverse.check_directions("inverse_derivative", A, Z)
    return _inverse.derivative(A, Z.unbind(-3))


# ---- kernels in plain PyTorch

_KERNELS: dict[str, Callable[..., Any]] = {
    "det": _reference.det,
    "slogdet": _reference.slogdet,
    "det_frexp": _frexp.det_frexp if HAS_EXTENSION else _reference.det_frexp,
    "_det_frexp_backward": _frexp.backward,
    "_det_frexp_hvp": _frexp.hvp,
    "_det_frexp_backward_jvp": _frexp.backward_jvp,
    "_det_freedom": _frexp.freedom,
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
    "_slogdet_hvp_scaled": _inverse.slogdet_hvp_scaled,
    "_slogdet_backward_inverse": _inverse.slogdet_backward_inverse,
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
        return FAKE_KERNELS[name](*args)

    library.impl(name, _KERNELS[name], "CompositeExplicitAutograd")
    fake_kernel = _sharding.with_sharding_rule(op, fake)
    torch.library.register_fake(f"torchdet::{name}", fake_kernel, lib=library)
    torch.library.register_vmap(f"torchdet::{name}", vmap, lib=library)


for _name in _KERNELS:
    _register(_name)
