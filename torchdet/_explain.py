"""Which kernel serves a matrix, and why: what csrc/select.h says, in words."""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from . import _schemas

# What a user does, and the operator that does it.
TASKS = {
    "det": "det",
    "gradient of det": "det_backward",
    "second derivative of det": "det_hvp",
    "slogdet": "slogdet",
    "gradient of slogdet": "slogdet_backward",
    "second derivative of slogdet": "slogdet_hvp",
}
DTYPES = ("float32", "float64", "complex64", "complex128")
# Half types compute in float32.
_COMPUTED_IN = {"float16": "float32", "bfloat16": "float32"}


class Kernel(NamedTuple):
    """Who serves a task, up to which order, where the source is, and why."""

    task: str
    size_class: str
    orders: str
    file: str
    reason: str


def targets() -> Sequence[str]:
    """The instruction set in use, and "cuda" where there are kernels and a device."""
    if not _schemas.HAS_EXTENSION:
        return ["plain PyTorch"]
    from . import _C

    build = _C.build_info()
    has_kernels = build["cuda_architectures"] and not build["cuda_driver_problem"]
    has_cuda = has_kernels and torch.cuda.is_available()
    return [build["active_instruction_set"], *(["cuda"] if has_cuda else [])]


def explain(n: int, dtype: str, target: str) -> list[Kernel]:
    """A row for each task; n >= 1, dtype as torch names it, target one of `targets`."""
    dtype = _COMPUTED_IN.get(dtype, dtype)
    if not _schemas.HAS_EXTENSION:
        kernel = "plain PyTorch", "all n", "torchdet/_reference.py", "no compiled extension"
        return [Kernel(task, *kernel) for task in TASKS]
    from . import _C

    rows = []
    for task, operator in TASKS.items():
        choice = _C.select(operator, dtype, n, target)
        end = choice["largest_n"]
        orders = f"to n = {end}" if end < 1 << 62 else "every larger n"
        reason = f"{choice['owner']}: {choice['reason']}"
        rows.append(Kernel(task, choice["size_class"], orders, choice["file"], reason))
    return rows


def saved(n: int, dtype: str) -> str:
    """What a forward pass on the CPU saves for the backward pass, beside A."""
    if not _schemas.HAS_EXTENSION:
        return "A forward pass saves A for the backward pass."
    from . import _C

    is_complex = dtype.startswith("complex")
    least = _C.build_info()["least_kept_complex" if is_complex else "least_kept"]
    if n < least:
        return f"A forward pass saves A for the backward pass (more from n = {least} on)."
    choice = _C.select("det_backward", _COMPUTED_IN.get(dtype, dtype), n, targets()[0])
    is_rows = choice["size_class"] == "rows"
    what = "the first half of an elimination" if is_rows else "the factors L, D and U"
    return (
        f"A forward pass that may have a backward pass saves A and, on the CPU, {what}: as many "
        "bytes as A, and some integers."
    )
