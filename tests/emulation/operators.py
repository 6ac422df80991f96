"""The emulated kernels as torch operators, so that the whole suite can run on them.

The operators keep their plain PyTorch implementation for what is not a kernel's work: the checks of
the arguments, and half precision.
"""

from __future__ import annotations

from collections.abc import Callable

import emulated
import torch
from torch import Tensor

from torchdet import _ops, _reference


def _numpy(x: Tensor) -> object:
    return x.detach().resolve_conj().resolve_neg().numpy()


def _kernel(operator: str) -> Callable[..., Tensor | tuple[Tensor, ...]]:
    def run(*arguments: Tensor) -> Tensor | tuple[Tensor, ...]:
        A = arguments[0] if operator == "det_hvp" else arguments[-1]
        _reference.check_square(operator, A)
        if operator.endswith("_backward"):
            _reference.check_same(operator, "grad", arguments[0], A, A.shape[:-2])
        if operator == "det_hvp":
            _reference.check_same(operator, "Z", arguments[1], A)
        if A.dtype in (torch.float16, torch.bfloat16):
            results = run(*(x.float() for x in arguments))
            if isinstance(results, tuple):
                return tuple(x.to(A.dtype) for x in results)
            return results.to(A.dtype)
        others = [_numpy(x) for x in arguments if x is not A]
        results = tuple(map(torch.from_numpy, emulated.run(operator, _numpy(A), *others)))
        return results if len(results) > 1 else results[0]

    return run


def register() -> torch.library.Library:
    """Make them the CPU kernels, as long as the returned object lives.

    Needs TORCHDET_EXTENSION=0: the extension has CPU kernels of its own.
    """
    if _ops.HAS_EXTENSION:
        raise RuntimeError("the emulated kernels need TORCHDET_EXTENSION=0 in the environment")
    library = torch.library.Library("torchdet", "IMPL")
    for operator in emulated.OPERATORS:
        library.impl(operator, _kernel(operator), "CPU")
    return library
