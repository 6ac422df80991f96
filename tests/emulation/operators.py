"""The emulated kernels as torch operators, so that the whole suite can run on them.

The operators keep their plain PyTorch implementation for what is not a kernel's work: the checks of
the arguments, and half precision.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import torch
from torch import Tensor

from torchdet import _inverse, _reference, _reference_kept, _schemas

HALF = (torch.float16, torch.bfloat16)


def _numpy(x: Tensor) -> object:
    return x.detach().resolve_conj().resolve_neg().numpy()


def _kernel(kernels: ModuleType, operator: str) -> Callable[..., Tensor | tuple[Tensor, ...]]:
    def run(*arguments: Tensor) -> Tensor | tuple[Tensor, ...]:
        A = arguments[0] if operator == "det_hvp" else arguments[-1]
        _reference.check_square(operator, A)
        if operator.endswith("_backward"):
            _reference.check_same(operator, "grad", arguments[0], A, A.shape[:-2])
        if operator == "det_hvp":
            _reference.check_same(operator, "Z", arguments[1], A)
        if A.dtype in HALF:
            results = run(*(x.float() for x in arguments))
            if isinstance(results, tuple):
                return tuple(x.to(A.dtype) for x in results)
            return results.to(A.dtype)
        others = [_numpy(x) for x in arguments if x is not A]
        results = tuple(map(torch.from_numpy, kernels.run(operator, _numpy(A), *others)))
        return results if len(results) > 1 else results[0]

    return run


def _keeps(kernels: ModuleType, A: Tensor) -> bool:
    dtype = str(A.dtype).removeprefix("torch.")
    return A.dtype not in HALF and A.shape[-1] >= kernels.least_kept(dtype)


def _keep(kernels: ModuleType, operator: str) -> Callable[..., tuple[Tensor, ...]]:
    def run(A: Tensor) -> tuple[Tensor, ...]:
        _reference.check_square(operator.removesuffix("_keep"), A)
        if not _keeps(kernels, A):
            return getattr(_reference_kept, operator)(A)
        return tuple(map(torch.from_numpy, kernels.run(operator, _numpy(A))))

    return run


def _backward_kept(kernels: ModuleType, operator: str) -> Callable[..., Tensor]:
    def run(grad: Tensor, A: Tensor, kept: Tensor, integers: Tensor) -> Tensor:
        if not _keeps(kernels, A):
            return getattr(_reference_kept, f"{operator}_kept")(grad, A, kept, integers)
        _reference.check_same(operator, "grad", grad, A, A.shape[:-2])
        _reference_kept.check_kept(operator, A, kept, integers, kernels.kept_integers(A.shape[-1]))
        numbers = (_numpy(kept), _numpy(integers))
        return torch.from_numpy(kernels.run(operator, _numpy(A), _numpy(grad), numbers)[0])

    return run


def _register_keeping(kernels: ModuleType, library: torch.library.Library) -> None:
    for name in ("det", "slogdet"):
        library.impl(f"_{name}_keep", _keep(kernels, f"{name}_keep"), "CPU")
        backward = _backward_kept(kernels, f"{name}_backward")
        library.impl(f"_{name}_backward_kept", backward, "CPU")


def _slogdet_hvp_kept(kernels: ModuleType) -> Callable[..., Tensor]:
    def run(A: Tensor, Z: Tensor) -> Tensor:
        _reference.check_square("slogdet_hvp", A)
        _reference.check_same("slogdet_hvp", "Z", Z, A)
        name = str(A.dtype).removeprefix("torch.")
        if name not in kernels.DTYPES or not kernels.fits("slogdet_hvp", name, A.shape[-1]):
            return _inverse.slogdet_hvp_kept(A, Z)
        return torch.from_numpy(kernels.run("slogdet_hvp", _numpy(A), _numpy(Z))[0])

    return run


def register(kernels: ModuleType) -> torch.library.Library:
    """Make the OPERATORS that kernels.run() runs the CPU kernels, as long as the result lives.

    Needs TORCHDET_EXTENSION=0: the extension has CPU kernels of its own.
    """
    if _schemas.HAS_EXTENSION:
        raise RuntimeError("the emulated kernels need TORCHDET_EXTENSION=0 in the environment")
    library = torch.library.Library("torchdet", "IMPL")
    for operator in kernels.OPERATORS:
        library.impl(operator, _kernel(kernels, operator), "CPU")
    if hasattr(kernels, "KEEPING_OPERATORS"):
        _register_keeping(kernels, library)
    if hasattr(kernels, "FURTHER_OPERATORS"):
        library.impl("_slogdet_hvp_kept", _slogdet_hvp_kept(kernels), "CPU")
    return library
