"""The libraries that are timed, each behind the same few functions."""

from __future__ import annotations

import functools
import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy
import torch
import torch.utils.dlpack
from torch import Tensor

import torchdet
from bench.cases import COMPILED, FORWARD, FUNC, OPS, RECORDED, TRANSFORMS, Case
from bench.clocks import Call
from bench.suites import AGAINST_TORCH

REGULAR = "torchdet, regular matrices"

# Compilers that start anew for every size would take the time of all others: these suffice. Where
# they compile for a GPU they take several seconds a case, and a run has minutes.
_COMPILED_ORDERS = {"small": (2, 3, 8, 32), "medium": (128,), "gpu-small": (3, 8, 32)}


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


def _compared_widely(case: Case) -> bool:
    """Not in the suites that ask a question about torchdet and torch.linalg alone."""
    return case.suite not in AGAINST_TORCH


@dataclass(frozen=True)
class TorchPeer:
    """Functions (*, n, n) -> (*), differentiable by torch.autograd."""

    name: str
    det: Callable[[Tensor], Tensor]
    logabsdet: Callable[[Tensor], Tensor]
    supports: Callable[[Case], bool] = _every

    def operation(self, case: Case, A: Tensor, Z: Tensor | None) -> Call:
        """The function, its gradient, that one's derivative; or one of torch's transforms."""
        function = self.logabsdet if case.slogdet else self.det
        if case.op == COMPILED:
            function = torch.compile(function, fullgraph=True)
        elif case.op in (*TRANSFORMS, *FUNC):
            return _transformed(function, case.transform, A, Z)
        if case.op in FORWARD:
            return lambda: function(A)
        leaf = A.detach().requires_grad_()
        if case.op == RECORDED:
            return lambda: function(leaf)
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


def _transformed(
    function: Callable[[Tensor], Tensor], transform: str, A: Tensor, Z: Tensor | None
) -> Call:
    """As a user writes it; of three Hessian-vector products through one graph the last one."""
    func = torch.func

    def total(X: Tensor) -> Tensor:
        return function(X).sum()

    def thrice() -> Tensor:
        leaf = A.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(total(leaf), leaf, create_graph=True)
        return [torch.autograd.grad(gradient, leaf, Z, retain_graph=True)[0] for _ in range(3)][-1]

    calls: dict[str, Call] = {
        "grad": lambda: func.grad(total)(A),
        "vmap(grad)": lambda: func.vmap(func.grad(function))(A),
        "vmap(jacrev)": lambda: func.vmap(func.jacrev(function))(A),
        "jvp": lambda: func.jvp(function, (A,), (Z,))[1],
        "jvp(grad)": lambda: func.jvp(func.grad(total), (A,), (Z,))[1],
        "vmap(hessian)": lambda: func.vmap(func.hessian(function))(A),
        "three hvp": thrice,
    }
    return calls[transform]


class RegularPeer(TorchPeer):
    """The library on matrices that are not singular, to see what a singular one costs."""

    def operation(self, case: Case, A: Tensor, Z: Tensor | None) -> Call:
        """The same on other matrices."""
        regular = replace(case, singular=False)
        ((A, Z),) = regular.inputs(A.device, 1)
        return super().operation(regular, A, Z)


class NumpyPeer:
    """numpy.linalg, which has no derivatives, on torch's memory."""

    name = "numpy"

    def supports(self, case: Case) -> bool:
        """Forward only, and no orders at which numpy's BLAS starts threads of its own."""
        return _compared_widely(case) and case.op in FORWARD and case.n <= 64

    def operation(self, case: Case, A: Tensor, Z: Tensor | None) -> Call:
        """LAPACK's LU, matrix by matrix."""
        X = A.numpy()
        if case.slogdet:
            return lambda: numpy.linalg.slogdet(X)[1]
        return lambda: numpy.linalg.det(X)

    def tensor(self, result: Any) -> Tensor:
        """The same memory; of a single matrix, a number."""
        return torch.as_tensor(result)

    def finish(self, result: Any) -> None:
        """It is computed when the call returns."""


class CupyPeer:
    """cupy.linalg, which has no derivatives, on torch's memory."""

    name = "cupy"

    def supports(self, case: Case) -> bool:
        """Forward only."""
        return case.op in FORWARD

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
        """What torch.compile is asked for."""
        return _worth_compiling(case)

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
    if torch.get_num_threads() == 1:
        os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")
    import jax

    jax.config.update("jax_default_matmul_precision", "highest")  # as torch: else it is TF32

    def function(X: Any) -> Any:
        return jax.numpy.linalg.slogdet(X)[1] if slogdet else jax.numpy.linalg.det(X)

    return jax.jit(function), jax.jit(jax.value_and_grad(lambda X: function(X).sum()))


class TensorflowPeer:
    """tf.linalg under tf.function, value and gradient, on torch's memory."""

    name = "tensorflow"

    def supports(self, case: Case) -> bool:
        """What torch.compile is asked for."""
        return _worth_compiling(case)

    def operation(self, case: Case, A: Tensor, Z: Tensor | None) -> Call:
        """With the gradient the value is computed too, as by autograd."""
        function, gradient = _tensorflow_functions(case.slogdet)
        import tensorflow

        X = tensorflow.experimental.dlpack.from_dlpack(torch.utils.dlpack.to_dlpack(A))
        return functools.partial(gradient if case.backward else function, X)

    def tensor(self, result: Any) -> Tensor:
        """A copy."""
        return torch.from_numpy(result.numpy())

    def finish(self, result: Any) -> None:
        """It is computed when the call returns."""


@functools.cache
def _tensorflow_functions(slogdet: bool) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The function of a batch, and its gradient."""
    import tensorflow

    tensorflow.config.threading.set_intra_op_parallelism_threads(torch.get_num_threads())
    tensorflow.config.threading.set_inter_op_parallelism_threads(1)

    def function(X: Any) -> Any:
        return tensorflow.linalg.slogdet(X)[1] if slogdet else tensorflow.linalg.det(X)

    def gradient(X: Any) -> Any:
        with tensorflow.GradientTape() as tape:
            tape.watch(X)
            value = function(X)
        return tape.gradient(value, X)

    return tensorflow.function(function), tensorflow.function(gradient)


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
    return _compared_widely(case) and case.n in (2, 3)


def _worth_compiling(case: Case) -> bool:
    usual = case.op in OPS and case.dtype == torch.float32
    return usual and case.n in _COMPILED_ORDERS.get(case.suite, ())


def _compiled(name: str, peer: TorchPeer) -> TorchPeer:
    """The peer under torch.compile."""
    return TorchPeer(
        name,
        torch.compile(peer.det),
        torch.compile(peer.logabsdet),
        supports=lambda case: peer.supports(case) and _worth_compiling(case),
    )


_TORCHDET = TorchPeer("torchdet", torchdet.det, _torchdet_logabsdet)
_ON_REGULAR = RegularPeer(
    **{**vars(_TORCHDET), "name": REGULAR, "supports": lambda case: case.singular}
)
_TORCH = TorchPeer("torch.linalg", torch.linalg.det, _torch_logabsdet)


def peers(device: torch.device, only_torch: bool = False) -> tuple[Peer, ...]:
    """The first is measured, every other one is what it is compared with."""
    if only_torch:
        return _TORCHDET, _TORCH, _ON_REGULAR
    if device.type == "cpu":
        installed = {"numpy": NumpyPeer, "jax": JaxPeer, "tensorflow": TensorflowPeer}
    else:
        installed = {"cupy": CupyPeer, "jax": JaxPeer}
    closed = TorchPeer("closed form", _closed_det, _closed_logabsdet, supports=_has_closed_form)
    return (
        _TORCHDET,
        _TORCH,
        _compiled("torch.compile", _TORCH),
        closed,
        _compiled("closed form, compiled", closed),
        _ON_REGULAR,
        *(peer() for name, peer in installed.items() if importlib.util.find_spec(name)),
    )
