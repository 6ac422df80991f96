"""torch.compile's inductor makes pointwise code of small determinants, instead of kernel calls.

For real matrices of n <= 3 a call of an operator takes longer than its arithmetic, and its result
goes through memory. The formulas of _pointwise.py take their place in the loops of what is around
them. They act below autograd, and below the choice of what a forward pass saves: derivatives are
those of _rules.py, and what is saved is the matrix. Everything else (complex matrices, n >= 4, an
order that is not known at compile time, other devices and compilers, torch.export) keeps the
operators.
"""

import functools
import sys
from collections.abc import Callable
from typing import Any

import torch

from . import _torch_internals

LARGEST_ORDER = 3
Box = Any  # inductor's Tensor


def follow_inductor() -> None:
    """Register the formulas if inductor is loaded.

    Every compiler asks the operators for shapes and dtypes before anything else; inductor is loaded
    by then. It is never loaded by torchdet: that takes a second.
    """
    if "torch._inductor.lowering" in sys.modules:
        _register()


@functools.cache
def _register() -> None:
    inductor = _torch_internals.inductor()
    if inductor is None:
        return
    from . import _pointwise

    for name, formulas in {
        "det": (_pointwise.det,),
        "slogdet": (_pointwise.sign, _pointwise.logabsdet),
    }.items():
        _lower(inductor, name, formulas, gives_matrix=False)
    for name in ("cofactor", "det_backward", "slogdet_backward", "det_hvp"):
        _lower(inductor, name, (getattr(_pointwise, name),), gives_matrix=True)


def _lower(
    inductor: Any, name: str, formulas: tuple[Callable[..., Any], ...], gives_matrix: bool
) -> None:
    from . import _pointwise

    operator = getattr(torch.ops.torchdet, name).default
    call_operator = inductor.fallback_handler(operator, add_to_fallback_set=False)
    select, unsqueeze, cat, view = (
        inductor.lowerings[op]
        for op in (torch.ops.aten.select.int, torch.ops.aten.unsqueeze.default,
                   torch.ops.aten.cat.default, torch.ops.aten.view.default)
    )  # fmt: skip

    def lowering(*args: Box) -> Any:
        A = args[-1]
        n = _order(A)
        if n is None or inductor.reassociates():
            return call_operator(*args)
        dtype = A.get_dtype()
        of_matrices = [len(x.get_size()) == len(A.get_size()) for x in args]
        boxes: list[Box] = []
        for x, is_matrix in zip(args, of_matrices, strict=True):
            boxes += (
                [select(select(x, -2, i), -1, j) for i in range(n) for j in range(n)]
                if is_matrix else [x]
            )  # fmt: skip

        def result(formula: Callable[..., Any], *place: int) -> Box:
            def number(*numbers: Any) -> Any:
                wide = iter([_pointwise.ops.to_dtype(x, torch.float64) for x in numbers])
                values = [
                    [[next(wide) for _ in range(n)] for _ in range(n)] if is_matrix else next(wide)
                    for is_matrix in of_matrices
                ]
                at = of_matrices.index(True)
                frame = _pointwise.Frame(values.pop(at), dtype is torch.float64)
                return _pointwise.ops.to_dtype(formula(frame, *values, *place), dtype)

            return inductor.make_pointwise(number, override_return_dtype=dtype)(*boxes)

        if not gives_matrix:
            results = tuple(map(result, formulas))
            return results if len(results) > 1 else results[0]
        parts = [
            unsqueeze(result(formulas[0], i, j), -1) for i in range(n) for j in range(n)
        ]
        return view(cat(parts, -1), list(A.get_size()))

    inductor.register_lowering(operator, type_promotion_kind=None)(lowering)


def _order(A: Box) -> int | None:
    """n, where there are formulas for A."""
    n = A.get_size()[-1]
    known = isinstance(n, int) or n.is_number
    device = A.get_device().type
    if not known or A.get_dtype().is_complex or device not in ("cpu", "cuda"):
        return None
    return int(n) if 1 <= n <= LARGEST_ORDER else None
