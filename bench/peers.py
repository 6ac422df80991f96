"""The libraries that are timed, each behind the same few functions."""

from __future__ import annotations

import functools
import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

import torchdet
from bench.cases import Case
from bench.clocks import Call

# Compilers that start anew for every size would take the time of all others: these suffice.
_COMPILED_ORDERS = (2, 3, 8, 32, 128)


class Peer(Protocol):
    """A library."""

    name: str

    def supports(self, case: Case) -> bool:
        """Whether it is asked at all."""

    def operation(self, case: Case, A: Tensor, Z: Tensor | None) -> Call:
        """What is timed; the whole call, automatic differentiation and allocation included."""

    def tensor(self, result: Any) -> Tensor:
        """The result of the operation, for torch."""

    def finish(self, result: Any) -> None:
        """Waits for a result that is not computed in the order of torch's stream."""


def _every(case: Case) -> bool:
    return True


@dataclass(frozen=True)
class TorchPeer:
    """Functions (*, n, n) -> (*), differentiable by torch.autograd."""

    name: str
    det: Callable[[Tensor], Tensor]
    logabsdet: Callable[[Tensor], Tensor]
    hvp: Callable[[Tensor, Tensor], Tensor] | None = None  # else by differentiating det twice
    supports: Callable[[Case], bool] = _every

    def operation(self, case: Case, A: Tensor, Z: Tensor | None) -> Call:
        """The function, its gradient by autograd, or the derivative of that in direction Z."""
        function = self.logabsdet if case.slogdet else self.det
        if Z is not None and self.hvp is not None:
            return functools.partial(self.hvp, A, Z)
        if not (case.backward or case.hvp):
            return lambda: function(A)
        leaf = A.detach().requires_grad_()
        ones = A.new_ones(A.shape[:-2], dtype=A.dtype.to_real() if case.slogdet else None)
        if Z is None:
            return lambda: torch.autograd.grad(function(leaf), leaf, ones)[0]

        def twice() -> Tensor:
            # The gradient is conj(C), so what comes back is conjugated, too.
            (gradient,) = torch.autograd.grad(function(leaf), leaf, ones, create_graph=True)
            return torch.autograd.grad(gradient, leaf, Z)[0].conj()

        return twice

    def tensor(self, result: Tensor) -> Tensor:
        """It is one."""
        return result

    def finish(self, result: Tensor) -> None:
        """It is computed on torch's stream."""


class CupyPeer:
    """cupy.linalg, which has no derivatives, on torch's memory."""

    name = "cupy"

    def supports(self, case: Case) -> bool:
        """Forward only."""
        return not (case.backward or case.hvp)

    def operation(self, case: Case, A: Tensor, Z: Tensor | None) -> Call:
        """Cupy's current stream is the default one, as torch's is."""
        import cupy

        X = cupy.from_dlpack(A)
        if case.slogdet:
            return lambda: cupy.linalg.slogdet(X)[1]
        return lambda: cupy.linalg.det(X)

    def tensor(self, result: Any) -> Tensor:
        """The same memory."""
        return torch.from_dlpack(result)

    def finish(self, result: Any) -> None:
        """It is computed on torch's stream."""


class JaxPeer:
    """jax.numpy.linalg under jit, value and gradient, on torch's memory."""

    name = "jax"

    def supports(self, case: Case) -> bool:
        """What torch.compile is asked for, and no Hessian-vector products."""
        return _worth_compiling(case) and not case.hvp

    def operation(self, case: Case, A: Tensor, Z: Tensor | None) -> Call:
        """With the gradient the value is computed too, as by autograd."""
        function, gradient = _jax_functions(case.slogdet)
        import jax

        X = jax.numpy.from_dlpack(A)
        return (lambda: gradient(X)[1]) if case.backward else (lambda: function(X))

    def tensor(self, result: Any) -> Tensor:
        """The same memory."""
        return torch.from_dlpack(result)

    def finish(self, result: Any) -> None:
        """Jax has streams of its own, and computes one result after the other."""
        result.block_until_ready()


@functools.cache
def _jax_functions(slogdet: bool) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The function of a batch, and the same with its gradient."""
    # Without this jax takes three quarters of the device's memory for itself.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    import jax

    jax.config.update("jax_default_matmul_precision", "highest")  # as torch: else it is TF32

    def function(X: Any) -> Any:
        return jax.numpy.linalg.slogdet(X)[1] if slogdet else jax.numpy.linalg.det(X)

    return jax.jit(function), jax.jit(jax.value_and_grad(lambda X: function(X).sum()))


def _torch_logabsdet(A: Tensor) -> Tensor:
    return torch.linalg.slogdet(A).logabsdet


def _torchdet_logabsdet(A: Tensor) -> Tensor:
    return torchdet.slogdet(A).logabsdet


def _closed_det(A: Tensor) -> Tensor:
    """As written by hand for n = 2 and 3."""
    if A.shape[-1] == 2:
        (a, b), (c, d) = (row.unbind(-1) for row in A.unbind(-2))
        return a * d - b * c
    (a, b, c), (d, e, f), (g, h, i) = (row.unbind(-1) for row in A.unbind(-2))
    return a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)


def _closed_logabsdet(A: Tensor) -> Tensor:
    return _closed_det(A).abs().log()


def _has_closed_form(case: Case) -> bool:
    return case.n in (2, 3)


def _worth_compiling(case: Case) -> bool:
    fills_device = case.suite in ("gpu-small", "gpu-large")
    return fills_device and case.dtype == torch.float32 and case.n in _COMPILED_ORDERS


def _compiled(name: str, peer: TorchPeer) -> TorchPeer:
    """The peer under torch.compile, which cannot differentiate twice."""
    return TorchPeer(
        name,
        torch.compile(peer.det),
        torch.compile(peer.logabsdet),
        supports=lambda case: peer.supports(case) and _worth_compiling(case) and not case.hvp,
    )


_TORCHDET = TorchPeer(
    "torchdet", torchdet.det, _torchdet_logabsdet, hvp=torch.ops.torchdet.det_hvp.default
)
_TORCH = TorchPeer("torch.linalg", torch.linalg.det, _torch_logabsdet)


def peers(device: torch.device) -> tuple[Peer, ...]:
    """The first is measured, every other one is what it is compared with."""
    if device.type == "cpu":
        return _TORCHDET, _TORCH
    closed = TorchPeer("closed form", _closed_det, _closed_logabsdet, supports=_has_closed_form)
    installed = {"cupy": CupyPeer, "jax": JaxPeer}
    return (
        _TORCHDET,
        _TORCH,
        _compiled("torch.compile", _TORCH),
        closed,
        _compiled("closed form, compiled", closed),
        *(peer() for name, peer in installed.items() if importlib.util.find_spec(name)),
    )
