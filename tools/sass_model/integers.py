"""The instructions on integers, bits and predicates (see operations.py)."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence

import numpy as np

from .disassembly import Instruction, SassError
from .operations import I64, U32, U64, is_predicate, operation, signed, take_results
from .warp import Getter, Mask, Operation, Setter, Warp, always


def _integer_operation(instruction: Instruction, warp: Warp,
                       compute: Callable[..., np.ndarray]) -> Operation:  # fmt: skip
    """Register = compute(operands), all of them integers or predicates."""
    _, register, operands = take_results(instruction.operands)
    write = warp.set_integer(register)
    sources = [warp.predicate(x) if is_predicate(x) else warp.integer(x) for x in operands]

    def run(mask: Mask) -> None:
        write(compute(*(get() for get in sources)), mask)

    return run


def _addition(write: Setter, carries: Sequence[Setter], terms: Sequence[Getter],
              carries_in: Sequence[Getter]) -> Operation:  # fmt: skip
    """The sum of terms in 64 bits, to a register, and what goes beyond it to predicates."""

    def run(mask: Mask) -> None:
        total = functools.reduce(operator.add, [get().astype(I64) for get in (*terms, *carries_in)])
        write(total.astype(U32), mask)
        for k, carry in enumerate(carries):
            carry(total >> I64(32) > k, mask)

    return run


def _term(warp: Warp, operand: str) -> Getter:
    """For a sum whose carry counts: -x is ~x + 1."""
    if operand.startswith("-") and "R" in operand:
        inverse = warp.integer("~" + operand[1:])
        return lambda: inverse().astype(I64) + I64(1)
    return warp.integer(operand)


@operation("IADD3", "VIADD")
def _add(instruction: Instruction, warp: Warp) -> Operation:
    predicates, register, operands = take_results(instruction.operands)
    terms = [_term(warp, x) for x in operands if not is_predicate(x)]
    carries_in = [warp.predicate(x) for x in operands if is_predicate(x)]
    return _addition(warp.set_integer(register), [warp.set_predicate(x) for x in predicates],
                     terms, carries_in)  # fmt: skip


@operation("IMAD", "IMUL")
def _multiply_add(instruction: Instruction, warp: Warp) -> Operation:
    predicates, register, operands = take_results(instruction.operands)
    modifiers = instruction.modifiers
    is_wide, is_high = "WIDE" in modifiers, "HI" in modifiers
    extend = (lambda x: x.astype(U64)) if "U32" in modifiers else lambda x: signed(x).astype(U64)
    a, b = warp.integer(operands[0]), warp.integer(operands[1])
    c = (warp.wide if is_wide or is_high else warp.integer)(operands[2])
    carry_in = [warp.predicate(x) for x in operands[3:]]
    write = (warp.set_wide if is_wide else warp.set_integer)(register)
    carries = [warp.set_predicate(x) for x in predicates]

    def run(mask: Mask) -> None:
        product, addend = extend(a()) * extend(b()), c().astype(U64)
        total = product + addend
        for get in carry_in:
            total = total + get().astype(U64)
        for carry in carries:
            carry(total < product, mask)
        write(total >> U64(32) if is_high else total, mask)

    if is_wide:
        return run
    plain = write
    write = lambda value, mask: plain(value.astype(U32), mask)  # noqa: E731
    return run


@operation("LEA")
def _shift_add(instruction: Instruction, warp: Warp) -> Operation:
    """(a << shift) + b, or the upper half of it, of a with c above it."""
    predicates, register, operands = take_results(instruction.operands)
    modifiers = instruction.modifiers
    carry_in = [warp.predicate(operands.pop())] if is_predicate(operands[-1]) else []
    shift = U64(int(operands.pop(), 0))
    a, b = warp.integer(operands[0]), _term(warp, operands[1])
    is_high = "HI" in modifiers
    if is_high and "SX32" in modifiers:
        low = lambda: signed(a()).astype(U64)  # noqa: E731
    elif is_high:
        above = warp.integer(operands[2])
        low = lambda: above().astype(U64) << U64(32) | a()  # noqa: E731
    else:
        low = lambda: a().astype(U64)  # noqa: E731

    def shifted() -> np.ndarray:
        value = low() << shift
        return (value >> U64(32) if is_high else value & U64(0xFFFFFFFF)).astype(I64)

    return _addition(warp.set_integer(register), [warp.set_predicate(x) for x in predicates],
                     [shifted, b], carry_in)  # fmt: skip


@operation("LOP3")
def _logic(instruction: Instruction, warp: Warp) -> Operation:
    predicates, register, (a, b, c, table, *carry) = take_results(instruction.operands)
    x, y, z = warp.integer(a), warp.integer(b), warp.integer(c)
    entries, write = int(table, 0), warp.set_integer(register)
    sets = [warp.set_predicate(p) for p in predicates]
    other = warp.predicate(carry[0]) if carry else always(np.bool_(False))
    combine = np.logical_and if "PAND" in instruction.modifiers else np.logical_or

    def run(mask: Mask) -> None:
        value = _look_up(entries, x(), y(), z())
        write(value, mask)
        for put in sets:
            put(combine(value != 0, other()), mask)

    return run


def _look_up(entries: int, a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Bit by bit, entry 4 a + 2 b + c of a table of eight bits; numbers or booleans."""
    result = np.zeros(np.broadcast_shapes(a.shape, b.shape, c.shape), a.dtype)
    for index in range(8):
        if entries >> index & 1:
            result |= (a if index & 4 else ~a) & (b if index & 2 else ~b) & (c if index & 1 else ~c)
    return result


@operation("PLOP3")
def _predicate_logic(instruction: Instruction, warp: Warp) -> Operation:
    first, second, a, b, c, *tables = instruction.operands
    x, y, z = warp.predicate(a), warp.predicate(b), warp.predicate(c)
    puts = [(warp.set_predicate(p), int(table, 0))
            for p, table in zip((first, second), tables, strict=True)]  # fmt: skip

    def run(mask: Mask) -> None:
        values = [_look_up(table, x(), y(), z()) for _, table in puts]
        for (put, _), value in zip(puts, values, strict=True):
            put(value, mask)

    return run


@operation("SHF")
def _funnel_shift(instruction: Instruction, warp: Warp) -> Operation:
    """Of c with a below it, to the left or right; the upper or the lower half."""
    modifiers = instruction.modifiers
    to_right, is_high, wraps = "R" in modifiers, "HI" in modifiers, "W" in modifiers
    most = 63 if "U64" in modifiers or "S64" in modifiers else 31 if wraps else 32
    is_signed = "S32" in modifiers or "S64" in modifiers

    def compute(a: np.ndarray, shift: np.ndarray, c: np.ndarray) -> np.ndarray:
        count = (shift & U32(most) if wraps else np.minimum(shift, U32(most))).astype(U64)
        value = c.astype(U64) << U64(32) | a
        if not to_right:
            value = value << count
        elif is_signed:
            value = (value.astype(I64) >> count.astype(I64)).astype(U64)
        else:
            value = value >> count
        return (value >> U64(32) if is_high else value).astype(U32)

    return _integer_operation(instruction, warp, compute)


@operation("PRMT")
def _permute_bytes(instruction: Instruction, warp: Warp) -> Operation:
    if instruction.modifiers:
        raise SassError("a mode of PRMT")

    def compute(a: np.ndarray, selector: np.ndarray, c: np.ndarray) -> np.ndarray:
        both = c.astype(U64) << U64(32) | a
        result = np.zeros(both.shape, U32)
        for k in range(4):
            choice = (selector >> U32(4 * k) & U32(15)).astype(U64)
            byte = (both >> (choice & U64(7)) * U64(8) & U64(255)).astype(U32)
            spread = np.where(byte & U32(128), U32(255), U32(0))
            result = result | np.where(choice & U64(8), spread, byte) << U32(8 * k)
        return result

    return _integer_operation(instruction, warp, compute)


@operation("MOV", "R2UR", "S2R", "S2UR", "CS2R")
def _move(instruction: Instruction, warp: Warp) -> Operation:
    _, register, (source, *_) = take_results(instruction.operands)
    if instruction.base == "CS2R":
        if source != "SRZ":
            raise SassError("a special register of 64 bits")
        zero = np.zeros(1, U64)
        is_single = "32" in instruction.modifiers
        put = (warp.set_integer if is_single else warp.set_wide)(register)
        return lambda mask: put(zero.astype(U32) if is_single else zero, mask)
    get, write = warp.integer(source), warp.set_integer(register)
    if register.startswith("U"):
        return lambda mask: write(_of_first(get(), mask), mask)
    return lambda mask: write(get(), mask)


def _of_first(x: np.ndarray, mask: Mask) -> np.ndarray:
    """The value of the first lane that takes part."""
    first = 0 if mask is None or len(x) == 1 else int(np.argmax(np.broadcast_to(mask, len(x))))
    return x[first : first + 1]


@operation("IABS")
def _magnitude(instruction: Instruction, warp: Warp) -> Operation:
    return _integer_operation(instruction, warp, lambda x: abs(signed(x)).astype(U32))


@operation("SEL")
def _select(instruction: Instruction, warp: Warp) -> Operation:
    return _integer_operation(instruction, warp, lambda a, b, p: np.where(p, a, b))


@operation("VIMNMX", "VIMNMX3", "VIADDMNMX", "IMNMX")
def _integer_extreme(instruction: Instruction, warp: Warp) -> Operation:
    """The smallest operand, or the largest if the predicate is false; RELU: at least 0."""
    is_unsigned = "U32" in instruction.modifiers
    extend = (lambda x: x.astype(I64)) if is_unsigned else signed
    adds, is_rectified = instruction.base == "VIADDMNMX", "RELU" in instruction.modifiers

    def compute(*values: np.ndarray) -> np.ndarray:
        *numbers, is_minimum = values
        if adds:
            numbers = [numbers[0] + numbers[1], numbers[2]]
        extended = [extend(x) for x in numbers]
        least = functools.reduce(np.minimum, extended)
        extreme = np.where(is_minimum, least, functools.reduce(np.maximum, extended))
        return (np.maximum(extreme, 0) if is_rectified else extreme).astype(U32)

    return _integer_operation(instruction, warp, compute)


@operation("POPC", "FLO", "BREV", "BMSK")
def _bits_of_integer(instruction: Instruction, warp: Warp) -> Operation:
    bits = np.arange(32, dtype=U32)[:, None]

    def highest(x: np.ndarray) -> np.ndarray:
        """Place of the highest bit that is set; -1 if there is none."""
        place = np.where(x >> bits & U32(1), bits.astype(I64), I64(-1)).max(0)
        if "SH" in instruction.modifiers:  # counted from above
            place = np.where(place < 0, place, 31 - place)
        return place.astype(U32)

    compute = {
        "POPC": lambda x: (x >> bits & U32(1)).sum(0, dtype=U32),
        "FLO": highest,
        "BREV": lambda x: ((x >> bits & U32(1)) << (U32(31) - bits)).sum(0, dtype=U32),
    }[instruction.base.removeprefix("U")]
    if instruction.base.removeprefix("U") == "FLO" and "U32" not in instruction.modifiers:
        raise SassError("FLO of a signed number")
    return _integer_operation(instruction, warp, compute)


@operation("P2R")
def _predicates_to_register(instruction: Instruction, warp: Warp) -> Operation:
    register, _, source, kept = instruction.operands
    write, get, bits = warp.set_integer(register), warp.integer(source), U32(int(kept, 0))
    places = np.arange(7, dtype=U32)[:, None]

    def run(mask: Mask) -> None:
        packed = (warp.predicates[:7].astype(U32) << places).sum(0, dtype=U32)
        write(packed & bits | get() & ~bits, mask)

    return run


@operation("R2P")
def _register_to_predicates(instruction: Instruction, warp: Warp) -> Operation:
    _, source, kept = instruction.operands
    get, bits = warp.integer(source), int(kept, 0)
    puts = [(k, warp.set_predicate(f"P{k}")) for k in range(7) if bits >> k & 1]

    def run(mask: Mask) -> None:
        value = get()
        for k, put in puts:
            put(value >> U32(k) & U32(1) != 0, mask)

    return run
