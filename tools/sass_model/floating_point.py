"""The instructions on floating-point numbers (see operations.py), which are kept as bits."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .disassembly import Instruction, SassError
from .operations import U32, U64, is_predicate, operation, signed, take_results
from .warp import Mask, Operation, Warp


def _singles(instruction: Instruction, warp: Warp,
             compute: Callable[..., np.ndarray]) -> Operation:  # fmt: skip
    """Register = compute(float32 operands, predicates as they are)."""
    _, register, operands = take_results(instruction.operands)
    write = warp.set_integer(register)
    flushes = "FTZ" in instruction.modifiers
    gets = [warp.single(x, instruction.immediate) for x in operands if not is_predicate(x)]
    conditions = [warp.predicate(x) for x in operands if is_predicate(x)]

    def run(mask: Mask) -> None:
        numbers = [get().view(np.float32) for get in gets]
        result = compute(*numbers, *(get() for get in conditions)).astype(np.float32)
        if flushes:
            result = np.where(abs(result) < np.finfo(np.float32).tiny, result * 0, result)
        write(result.view(U32), mask)

    return run


def _doubles(instruction: Instruction, warp: Warp,
             compute: Callable[..., np.ndarray]) -> Operation:  # fmt: skip
    """Two registers = compute(float64 operands)."""
    _, register, operands = take_results(instruction.operands)
    write = warp.set_wide(register)
    gets = [warp.double(x, instruction.immediate) for x in operands]

    def run(mask: Mask) -> None:
        result = compute(*(get().view(np.float64) for get in gets))
        write(result.astype(np.float64).view(U64), mask)

    return run


def _fuse_singles(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    return a.astype(np.float64) * b + c


def _fuse_doubles(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """In the wider format where the host has one.

    A residual 1 - x y, with y the reciprocal of x to its last bits, keeps ten of its own: enough
    for a Newton step.
    """
    return a.astype(np.longdouble) * b + c


@operation("FADD", "FMUL", "FFMA", "FMNMX", "FSEL")
def _single(instruction: Instruction, warp: Warp) -> Operation:
    compute = {
        "FADD": np.add,
        "FMUL": np.multiply,
        "FFMA": _fuse_singles,
        "FMNMX": lambda a, b, is_minimum: np.where(is_minimum, np.fmin(a, b), np.fmax(a, b)),
        "FSEL": lambda a, b, chosen: np.where(chosen, a, b),
    }[instruction.base]
    return _singles(instruction, warp, compute)


@operation("DADD", "DMUL", "DFMA")
def _double(instruction: Instruction, warp: Warp) -> Operation:
    compute = {"DADD": np.add, "DMUL": np.multiply, "DFMA": _fuse_doubles}[instruction.base]
    return _doubles(instruction, warp, compute)


@operation("HFMA2")
def _constant(instruction: Instruction, warp: Warp) -> Operation:
    """As the compiler uses it: 0 x 0 + a constant, which moves it on another pipe."""
    register, a, b, *_ = instruction.operands
    if {a, b} != {"RZ", "-RZ"}:
        raise SassError("arithmetic in float16")
    value, write = np.full(1, instruction.immediate, U32), warp.set_integer(register)
    return lambda mask: write(value, mask)


@operation("MUFU")
def _special_function(instruction: Instruction, warp: Warp) -> Operation:
    register, source = instruction.operands
    get, write = warp.single(source, instruction.immediate), warp.set_integer(register)
    function = {
        "RCP": lambda x: 1 / x, "RSQ": lambda x: 1 / np.sqrt(x), "SQRT": np.sqrt, "LG2": np.log2,
        "EX2": np.exp2,
    }[instruction.modifiers[0].removesuffix("64H")]  # fmt: skip
    if instruction.modifiers[0].endswith("64H"):  # of the upper halves of float64

        def run(mask: Mask) -> None:
            x = (get().astype(U64) << U64(32)).view(np.float64)
            write((function(x).view(U64) >> U64(32)).astype(U32), mask)

        return run
    return lambda mask: write(function(get().view(np.float32)).view(U32), mask)


@operation("FCHK")
def _check_division(instruction: Instruction, warp: Warp) -> Operation:
    """Whether a / b needs care. The hardware's bounds are not known: these are narrower."""
    predicate, a, b = instruction.operands
    put = warp.set_predicate(predicate)
    gets = [warp.single(x, instruction.immediate) for x in (a, b)]

    def run(mask: Mask) -> None:
        exponents = [get() >> U32(23) & U32(255) for get in gets]
        put(np.logical_or(*(abs(x.astype(np.int64) - 127) > 90 for x in exponents)), mask)

    return run


@operation("I2F", "I2FP")
def _from_integer(instruction: Instruction, warp: Warp) -> Operation:
    register, source = instruction.operands
    modifiers = instruction.modifiers
    is_wide = "U64" in modifiers or "S64" in modifiers
    is_unsigned = "U32" in modifiers or "U64" in modifiers
    get = (warp.wide if is_wide else warp.integer)(source)
    form = np.float64 if "F64" in modifiers else np.float32
    write = (warp.set_wide if form is np.float64 else warp.set_integer)(register)

    def run(mask: Mask) -> None:
        x = get()
        if not is_unsigned:
            x = x.astype(np.int64) if is_wide else signed(x)
        result = x.astype(form)
        if "RP" in modifiers:  # rounded up
            too_small = result.astype(np.longdouble) < x.astype(np.longdouble)
            result = np.where(too_small, np.nextafter(result, form(np.inf)), result)
        write(result.view(U64 if form is np.float64 else U32), mask)

    return run


@operation("F2I")
def _to_integer(instruction: Instruction, warp: Warp) -> Operation:
    register, source = instruction.operands
    modifiers = instruction.modifiers
    is_wide = "U64" in modifiers or "S64" in modifiers
    if "F64" in modifiers:
        get = warp.double(source, instruction.immediate)
    else:
        get = warp.single(source, instruction.immediate)
    form = np.float64 if "F64" in modifiers else np.float32
    round_it = {"TRUNC": np.trunc, "FLOOR": np.floor, "CEIL": np.ceil}[
        next((name for name in modifiers if name in ("TRUNC", "FLOOR", "CEIL")), "TRUNC")
    ]
    if "TRUNC" not in modifiers and "FLOOR" not in modifiers and "CEIL" not in modifiers:
        round_it = np.rint
    write = (warp.set_wide if is_wide else warp.set_integer)(register)
    bits = 64 if is_wide else 32
    is_unsigned = "U32" in modifiers or "U64" in modifiers
    least = 0 if is_unsigned else -(2 ** (bits - 1))
    most = 2**bits - 1 if is_unsigned else 2 ** (bits - 1) - 1

    def run(mask: Mask) -> None:
        x = round_it(get().view(form))
        clipped = [0 if v != v else min(max(int(v) if abs(v) < 2.0**80 else most, least), most)
                   for v in x.tolist()]  # fmt: skip
        wrapped = np.array([v % 2**bits for v in clipped], U64)
        write(wrapped if is_wide else wrapped.astype(U32), mask)

    return run


@operation("F2F")
def _to_other_format(instruction: Instruction, warp: Warp) -> Operation:
    register, source = instruction.operands
    forms = [name for name in instruction.modifiers if name in ("F32", "F64")]
    if forms == ["F64", "F32"]:
        single, put = warp.single(source, instruction.immediate), warp.set_wide(register)
        return lambda mask: put(single().view(np.float32).astype(np.float64).view(U64), mask)
    if forms == ["F32", "F64"]:
        double, write = warp.double(source, instruction.immediate), warp.set_integer(register)
        return lambda mask: write(double().view(np.float64).astype(np.float32).view(U32), mask)
    raise SassError("a conversion of formats")
