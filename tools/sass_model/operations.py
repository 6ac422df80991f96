"""What the instructions compute.

Enough of SASS (that of sm_90) for the project's kernels; another instruction is an error, not a
guess. Arithmetic is right to the last bits but not in them: fused operations go through a wider
format and are rounded twice. The model needs the path and the addresses, and checks the results of
a kernel to a tolerance.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from .disassembly import Instruction, SassError
from .warp import Operation, Warp

U32, U64, I64 = np.uint32, np.uint64, np.int64
Bind = Callable[[Instruction, Warp], Operation]
OPERATIONS: dict[str, Bind] = {}


def bind(instruction: Instruction, warp: Warp) -> Operation:
    """The instruction as a function of the lanes that execute it.

    Raises:
        SassError: It is not known.
    """
    base = instruction.base
    for name in (base, base.removeprefix("U")):  # the uniform data path computes the same
        if name in OPERATIONS:
            return OPERATIONS[name](instruction, warp)
    raise SassError("not in tools/sass_model/operations.py")


def operation(*names: str) -> Callable[[Bind], Bind]:
    """Enters a function in the table."""

    def enter(function: Bind) -> Bind:
        OPERATIONS.update(dict.fromkeys(names, function))
        return function

    return enter


def is_predicate(operand: str) -> bool:
    """P0 .. PT, UP0 .. UPT, perhaps negated."""
    return operand.lstrip("!U").startswith("P") and operand.lstrip("!U")[1:] in "01234567T"


def take_results(operands: Sequence[str]) -> tuple[list[str], str, list[str]]:
    """Predicates, the register in front of them or behind, and what goes in."""
    rest, predicates = list(operands), []
    while is_predicate(rest[0]):
        predicates.append(rest.pop(0))
    register = rest.pop(0)
    while rest and is_predicate(rest[0]):
        predicates.append(rest.pop(0))
    return predicates, register, rest


def signed(x: np.ndarray) -> np.ndarray:
    """The number that 32 bits stand for, in 64."""
    return x.astype(np.int32).astype(I64)
