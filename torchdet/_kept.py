"""What forward passes keep for backward passes: when, and how many integers."""

import torch
from torch import Tensor

from . import _extension, _factored
from ._reference_numbers import HALF
from ._schemas import HAS_EXTENSION

if HAS_EXTENSION:
    from . import _C

    _BUILD = _C.build_info()
    _REAL: int = _BUILD["least_kept"]
    _COMPLEX: int = _BUILD["least_kept_complex"]
    # From which order on something is kept; of other dtypes nothing is.
    _LEAST_ON_CPU = {torch.float32: _REAL, torch.float64: _REAL,
                     torch.complex64: _COMPLEX, torch.complex128: _COMPLEX}  # fmt: skip
    _LEAST_ON_CUDA = {getattr(torch, name): n for name, n in _extension.least_large().items()}
    _LEAST = min(_REAL, _COMPLEX)
    _LEAST_BOTH_RESULTS: int = _BUILD["least_both_results"]
    _LEAST_FACTORS: int = _BUILD["least_factors"]

    def keeps(A: Tensor) -> bool:
        """Whether the forward pass of an A that requires a gradient is to keep what helps backward.

        It does where kernels exist for that, and where that is faster.
        """
        return (
            A.dim() >= 2
            and A.shape[-1] >= _LEAST
            and torch.is_grad_enabled()
            and A.dtype in (least := _LEAST_ON_CPU if A.is_cpu else _LEAST_ON_CUDA)
            and A.shape[-1] >= least[A.dtype]
            and (A.is_cpu or A.is_cuda)
            # A trace serves A without a gradient as well.
            and not torch.jit.is_tracing()  # type: ignore[attr-defined]
        )

    def inverts_once(A: Tensor) -> bool:
        """Whether a gradient of log|det A| and the inverse beside it take one inversion."""
        return A.is_cpu and A.shape[-1] >= _LEAST_BOTH_RESULTS and A.dtype not in HALF

    def kept_integers(A: Tensor) -> int:
        """How many integers are kept of a matrix, as csrc/select.h has it."""
        n = A.shape[-1]
        if not (A.is_cpu or (A.is_cuda and _LEAST_ON_CUDA)):
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

    def inverts_once(A: Tensor) -> bool:
        """Never, as well."""
        return False

    def kept_integers(A: Tensor) -> int:
        """One, which says that nothing is kept."""
        return 1

    def factor_sizes(A: Tensor) -> tuple[int, int]:
        """As those of the reference."""
        return _factored.sizes(A.shape[-1])
