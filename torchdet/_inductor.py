"""torch.compile's inductor makes pointwise code of small determinants, instead of kernel calls.

For real matrices of n <= 3, a result that goes through memory takes longer than its arithmetic. The
formulas of _pointwise.py join the loops of what is around them. They act below autograd, and after
torch has chosen what a forward pass saves: derivatives are those of _rules.py, and the matrix is
what is saved. (As decompositions, which inductor also has, they would act before: it then saves up
to 13 numbers for each matrix.) All else keeps the operators: complex matrices, n >= 4, an order
that is not known at compile time, other devices, other compilers, torch.export.
"""

import functools
import hashlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.compiler import config as compiler

from . import _torch_internals

LARGEST_ORDER = 3
DEVICES: tuple[str, ...] = ("cpu", "cuda")  # others may lack float64
# Where that goes for matrices that lie in memory, too. On a CPU the operators' kernels, with one
# matrix in each SIMD lane, then are up to three times as fast as inductor's loop over numbers.
STORED_ON: tuple[str, ...] = ("cuda",)
Box = Any  # inductor's Tensor


def follow_inductor() -> None:
    """Register the formulas if inductor is loaded, which takes a second: torchdet does not load it.

    Every compiler asks the operators for shapes and dtypes first; by the time that inductor does,
    it is loaded.
    """
    mark = _version_of_code()
    if mark not in compiler.cache_key_tag:
        compiler.cache_key_tag += mark
    if "torch._inductor.lowering" in sys.modules:
        _register()


@functools.cache
def _version_of_code() -> str:
    """What changes where torch would compile other code for the same operators.

    torch keeps compiled code on disk, and finds it by the program: which derivatives, sizes of what
    is saved and formulas torchdet has given it is not in there. An upgrade, or a process without
    the extension, would run code that was made for another torchdet.
    """
    digest = hashlib.sha256()
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    if extension := sys.modules.get("torchdet._C"):
        build = extension.build_info()
        sizes = [build[x] for x in ("least_kept", "least_kept_complex", "least_factors")]
        digest.update(repr(sizes).encode())
    return f"torchdet-{digest.hexdigest()[:16]}"


@functools.cache
def _register() -> None:
    inductor = _torch_internals.inductor()
    if inductor is None:
        return
    from . import _pointwise as formulas

    Lowering(inductor, "det", formulas.det)
    Lowering(inductor, "slogdet", formulas.sign, formulas.logabsdet)
    for name in ("cofactor", "det_backward", "slogdet_backward", "det_hvp"):
        Lowering(inductor, name, getattr(formulas, name), gives_matrix=True)


class Lowering:
    """Calls the formulas for an operator, or the operator."""

    def __init__(
        self,
        inductor: _torch_internals.Inductor,
        name: str,
        *formulas: Callable[..., Any],
        gives_matrix: bool = False,
    ) -> None:
        operator = getattr(torch.ops.torchdet, name).default
        self.inductor, self.formulas, self.gives_matrix = inductor, formulas, gives_matrix
        self.call_operator = inductor.fallback_handler(operator, add_to_fallback_set=False)
        inductor.register_lowering(operator, type_promotion_kind=None)(self.__call__)

    def __call__(self, *args: Box) -> Any:
        """The results; the last argument is a matrix, and all that are have its shape."""
        A = args[-1]
        n = _order(A)
        is_left = self.inductor.is_stored(A) and A.get_device().type not in STORED_ON
        if n is None or is_left or self.inductor.reassociates():
            return self.call_operator(*args)
        if not self.gives_matrix:
            results = tuple(self.pointwise(n, formula, args) for formula in self.formulas)
            return results if len(results) > 1 else results[0]
        aten, lowerings = torch.ops.aten, self.inductor.lowerings
        parts = [
            lowerings[aten.unsqueeze.default](self.pointwise(n, self.formulas[0], args, i, j), -1)
            for i in range(n)
            for j in range(n)
        ]
        return lowerings[aten.view.default](
            lowerings[aten.cat.default](parts, -1), list(A.get_size())
        )

    def pointwise(
        self, n: int, formula: Callable[..., Any], args: tuple[Box, ...], *place: int
    ) -> Box:
        """A formula for all matrices of the batch."""
        from ._pointwise import Frame, ops

        dtype, dims = args[-1].get_dtype(), len(args[-1].get_size())
        are_matrices = [len(x.get_size()) == dims for x in args]
        select = self.inductor.lowerings[torch.ops.aten.select.int]
        boxes: list[Box] = []
        for x, is_matrix in zip(args, are_matrices, strict=True):
            rows = [select(x, -2, i) for i in range(n)] if is_matrix else []
            boxes += [select(row, -1, j) for row in rows for j in range(n)] or [x]

        def of_numbers(*numbers: Any) -> Any:
            wide = iter([ops.to_dtype(x, torch.float64) for x in numbers])
            values: list[Any] = [
                [[next(wide) for _ in range(n)] for _ in range(n)] if is_matrix else next(wide)
                for is_matrix in are_matrices
            ]
            A = values.pop(are_matrices.index(True))
            frame = Frame(A, narrow=dtype is not torch.float64)
            return ops.to_dtype(formula(frame, *values, *place), dtype)

        return self.inductor.make_pointwise(of_numbers, override_return_dtype=dtype)(*boxes)


def _order(A: Box) -> int | None:
    """n, where there are formulas for A."""
    n = A.get_size()[-1]
    is_known = isinstance(n, int) or n.is_number
    if not is_known or A.get_dtype().is_complex or A.get_device().type not in DEVICES:
        return None
    return int(n) if 1 <= n <= LARGEST_ORDER else None
