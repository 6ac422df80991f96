"""The instructions that compare numbers and set predicates (see operations.py)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import numpy as np

from .disassembly import Instruction
from .operations import I64, operation, signed
from .warp import Getter, Mask, Operation, Setter, Warp

COMPARISONS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "LT": np.less, "LE": np.less_equal, "GT": np.greater, "GE": np.greater_equal,
    "EQ": np.equal, "NE": np.not_equal,
}  # fmt: skip


def compare(modifiers: Sequence[str], a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Floating-point numbers; with a U behind it, a comparison holds where one is NaN."""
    name = modifiers[0]
    unordered = np.isnan(a) | np.isnan(b)
    if name in ("NUM", "NAN"):
        return unordered == (name == "NAN")
    result = COMPARISONS[name.removesuffix("U")](a, b)
    return result | unordered if name.endswith("U") else result & ~unordered


@operation("ISETP", "FSETP", "DSETP")
def _set_predicate(instruction: Instruction, warp: Warp) -> Operation:
    first, second, a, b, other, *extended = instruction.operands
    modifiers = instruction.modifiers
    put, put_opposite = warp.set_predicate(first), warp.set_predicate(second)
    combine = {"AND": np.logical_and, "OR": np.logical_or, "XOR": np.logical_xor}[
        next(name for name in modifiers[1:] if name in ("AND", "OR", "XOR"))
    ]
    condition = warp.predicate(other)
    base = instruction.base.removeprefix("U")
    if base == "ISETP":
        extend = (lambda x: x.astype(I64)) if "U32" in modifiers else signed
        x, y = warp.integer(a), warp.integer(b)
        below = warp.predicate(extended[0]) if "EX" in modifiers else None
        test = functools.partial(_compare_integers, modifiers[0], below)
    else:
        form = np.float32 if base == "FSETP" else np.float64
        bind_number = warp.single if base == "FSETP" else warp.double
        x, y = bind_number(a, instruction.immediate), bind_number(b, instruction.immediate)
        extend = lambda bits: bits.view(form)  # noqa: E731
        if modifiers[0] in ("MAX", "MIN"):
            return _choose_extreme(modifiers[0], put, put_opposite, x, y)
        test = functools.partial(compare, modifiers)

    def run(mask: Mask) -> None:
        result = test(extend(x()), extend(y()))
        given = condition()
        values = combine(result, given), combine(~result, given)
        put(values[0], mask)
        put_opposite(values[1], mask)

    return run


def _compare_integers(name: str, below: Getter | None, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """below: how the lower halves compare, where these are the upper ones."""
    if below is None:
        return COMPARISONS[name](a, b)
    if name == "NE":
        return (a != b) | below()
    if name == "EQ":
        return (a == b) & below()
    return (a < b if name in ("LT", "LE") else a > b) | (a == b) & below()


def _choose_extreme(name: str, put: Setter, put_quiet: Setter, x: Getter, y: Getter) -> Operation:
    """Whether the first is the one, of two float64, and whether both are NaN."""

    def run(mask: Mask) -> None:
        a, b = x().view(np.float64), y().view(np.float64)
        first = (a > b if name == "MAX" else a < b) | np.isnan(b) & ~np.isnan(a)
        both = np.isnan(a) & np.isnan(b)
        put(first, mask)
        put_quiet(both, mask)

    return run
