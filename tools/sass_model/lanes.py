"""The instructions between lanes, and on memory (see operations.py)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .disassembly import Instruction, SassError
from .memory import LANES, Cost
from .operations import I64, U32, U64, is_predicate, operation, signed, take_results
from .warp import Arrival, ClusterBarrier, Mask, Operation, Warp


@operation("SHFL")
def _shuffle(instruction: Instruction, warp: Warp) -> Operation:
    predicate, register, a, b, c = instruction.operands
    value, index, bounds = warp.integer(a), warp.integer(b), warp.integer(c)
    write, put = warp.set_integer(register), warp.set_predicate(predicate)
    mode, lanes = instruction.modifiers[0], np.arange(LANES)

    def run(mask: Mask) -> None:
        limit = np.broadcast_to(bounds().astype(I64), LANES)
        segment, last = limit >> 8 & 31, limit & 31
        step = index().astype(I64) & 31
        top, bottom = lanes & segment | last & ~segment, lanes & segment
        source = {
            "IDX": bottom | step & ~segment, "BFLY": lanes ^ step, "UP": lanes - step,
            "DOWN": lanes + step,
        }[mode]  # fmt: skip
        inside = source >= top if mode == "UP" else source <= top
        source = np.where(inside, source, lanes)
        if mask is not None and not np.broadcast_to(mask, LANES)[source[mask]].all():
            raise SassError("a shuffle from a lane that takes no part")
        result = np.broadcast_to(value(), LANES)[source]
        write(result, mask)
        put(inside, mask)

    return run


@operation("VOTE", "VOTEU")
def _vote(instruction: Instruction, warp: Warp) -> Operation:
    predicates, source = list(instruction.operands[:-1]), instruction.operands[-1]
    registers = [predicates.pop(0)] if not is_predicate(predicates[0]) else []
    get, mode = warp.predicate(source), instruction.modifiers[0]
    writes = [warp.set_integer(x) for x in registers]
    puts = [warp.set_predicate(x) for x in predicates]

    def run(mask: Mask) -> None:
        lanes = np.broadcast_to(get(), LANES)
        voters = np.ones(LANES, bool) if mask is None else np.broadcast_to(mask, LANES)
        yes = lanes & voters
        outcome = yes.any() if mode == "ANY" else bool((lanes | ~voters).all())
        if mode not in ("ANY", "ALL"):
            raise SassError("a vote")
        for write in writes:
            write(np.packbits(yes, bitorder="little").view(U32), None)
        for put in puts:
            put(np.full(1, outcome), None if "U" in predicates[0] else mask)

    return run


@operation("REDUX")
def _reduce(instruction: Instruction, warp: Warp) -> Operation:
    _, register, (source,) = take_results(instruction.operands)
    get, write, modifiers = warp.integer(source), warp.set_integer(register), instruction.modifiers
    combine = {"MAX": np.maximum, "MIN": np.minimum, "OR": np.bitwise_or, "AND": np.bitwise_and,
               "XOR": np.bitwise_xor}.get(modifiers[0] if modifiers else "", np.add)  # fmt: skip
    extend = signed if "S32" in modifiers else lambda x: x.astype(I64)

    def run(mask: Mask) -> None:
        values = extend(np.broadcast_to(get(), LANES))
        result = combine.reduce(values if mask is None else values[mask])
        write(np.full(1, result).astype(U32), mask)

    return run


@operation("BAR")
def _block_barrier(instruction: Instruction, warp: Warp) -> Operation:
    if instruction.modifiers[0] != "SYNC":
        raise SassError("a barrier at which a warp does not wait")
    number, *count = instruction.operands
    barrier = int(number, 0)
    threads = warp.integer(count[0] if count else "c[0x0][0x0]")  # that of a block's threads

    def run(mask: Mask) -> Arrival:
        if mask is not None and not mask.all():
            raise SassError("a barrier of the block where the lanes of a warp have parted")
        warps, rest = divmod(int(threads()[0]), LANES)
        if rest or not warps:
            raise SassError("a barrier of part of a warp")
        return Arrival(barrier, warps)

    return run


@operation("UCGABAR_ARV")
def _arrive_at_cluster(instruction: Instruction, warp: Warp) -> Operation:
    return lambda mask: ClusterBarrier(waits=False)


@operation("UCGABAR_WAIT")
def _wait_for_cluster(instruction: Instruction, warp: Warp) -> Operation:
    return lambda mask: ClusterBarrier(waits=True)


# ---- memory


def _size(modifiers: Sequence[str]) -> int:
    if not {"S8", "S16"}.isdisjoint(modifiers):
        raise SassError("an access to signed bytes")
    sizes = {"U8": 1, "U16": 2, "64": 8, "128": 16}
    return next((sizes[name] for name in modifiers if name in sizes), 4)


@operation("LDG", "LD", "LDS")
def _load(instruction: Instruction, warp: Warp) -> Operation:
    _, register, (source, *_) = take_results(instruction.operands)
    size, address = _size(instruction.modifiers), warp.address(source)
    base, first = register.rstrip("0123456789"), register.lstrip("UR")
    writes = [warp.set_integer(register if first == "Z" else f"{base}{int(first) + k}")
              for k in range(max(size // 4, 1))]  # fmt: skip

    def run(mask: Mask) -> Cost:
        words, cost = warp.memory.access(address(), mask, size, None)
        for write, word in zip(writes, words, strict=True):
            write(word, mask)
        return cost

    return run


@operation("STG", "ST", "STS")
def _store(instruction: Instruction, warp: Warp) -> Operation:
    target, register = instruction.operands
    size, address = _size(instruction.modifiers), warp.address(target)
    base, first = register.rstrip("0123456789"), register.lstrip("UR")
    gets = [warp.integer(register if first == "Z" else f"{base}{int(first) + k}")
            for k in range(max(size // 4, 1))]  # fmt: skip

    def run(mask: Mask) -> Cost:
        words = np.stack([np.broadcast_to(get(), LANES) for get in gets])
        return warp.memory.access(address(), mask, size, words)[1]

    return run


@operation("LDGSTS")
def _copy(instruction: Instruction, warp: Warp) -> Operation:
    """Global to shared memory, past the registers; at once, for what follows waits for it."""
    target, source = (warp.address(operand) for operand in instruction.operands[:2])
    size = _size(instruction.modifiers)

    def run(mask: Mask) -> Cost:
        words, read = warp.memory.access(source(), mask, size, None)
        written = warp.memory.access(target(), mask, size, words)[1]
        return Cost(max(read.wavefronts, written.wavefronts), read.new_bytes)

    return run


@operation("LDC")
def _load_constant(instruction: Instruction, warp: Warp) -> Operation:
    register, source = instruction.operands
    size = _size(instruction.modifiers)
    get = warp.constant(source, size)
    write = warp.set_integer(register)
    if size <= 4:
        return lambda mask: write(get()[0], mask)
    put = warp.set_wide(register)

    def run(mask: Mask) -> None:
        words = get()
        put(words[1].astype(U64) << U64(32) | words[0], mask)

    return run


@operation("NOP", "YIELD", "DEPBAR", "LDGDEPBAR", "MEMBAR", "ERRBAR", "CGAERRBAR", "CCTL",
           "NANOSLEEP")  # fmt: skip
def _nothing(instruction: Instruction, warp: Warp) -> Operation:
    return lambda mask: None
