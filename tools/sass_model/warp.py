"""A warp that runs SASS: its registers, the operands of instructions, and the path it takes.

Values are arrays over the 32 lanes; those of the uniform data path have one element and are
broadcast. Where lanes take different paths, those at the lowest address go on first, and wait for
the others at the barriers (BSYNC, WARPSYNC) that the compiler has put there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from .disassembly import Code, Instruction, SassError
from .memory import LANES, Cost, Memory

Mask = np.ndarray | None  # the lanes that take part; None for all
Getter = Callable[[], np.ndarray]
Setter = Callable[[np.ndarray, Mask], None]

MOST_STEPS = 3_000_000
NOWHERE, AT_WARP_BARRIER = -1, 16  # or the number of the barrier at which a lane waits
ALL = 0xFFFFFFFF
_REGISTER = re.compile(r"([-~]?)(\|?)(U?)R(\d+|Z)\|?$")
_CONSTANT = re.compile(r"([-~]?)(\|?)c\[0x(\w+)\]\[(?:(U?R\d+|U?RZ)\+?)?(?:0x(\w+))?\]\|?$")


class Arrival(NamedTuple):
    """At a barrier of the block, where the warp waits for others."""

    barrier: int
    warps: int  # that have to come


class ClusterBarrier(NamedTuple):
    """The barrier of a cluster: the warp arrives, or waits until all have arrived as often."""

    waits: bool


Effect = Cost | Arrival | ClusterBarrier | None
Operation = Callable[[Mask], Effect]


class Step(NamedTuple):
    """An instruction that was executed."""

    index: int
    effect: Effect  # of one that accesses memory, or is a barrier of the block or the cluster


class Warp:
    """One warp of a block."""

    def __init__(self, code: Code, memory: Memory, constants: dict[int, bytes],
                 special: dict[str, np.ndarray]) -> None:  # fmt: skip
        self.code, self.memory, self.special = code, memory, special
        self.constants = {bank: np.frombuffer(data, np.uint8) for bank, data in constants.items()}
        self.registers = np.zeros((256, LANES), np.uint32)
        self.uniform = np.zeros((64, 1), np.uint32)
        self.predicates = np.zeros((8, LANES), bool)
        self.uniform_predicates = np.zeros((8, 1), bool)
        self.predicates[7] = self.uniform_predicates[7] = True
        self.barriers = np.zeros((16, LANES), np.uint32)  # the lanes that a lane waits for
        self.steps: list[Step] = []

    # ---- operands

    def integer(self, operand: str) -> Getter:
        """A 32-bit operand."""
        if found := _REGISTER.match(operand):
            negation, magnitude, uniform, number = found.groups()
            if number == "Z":
                return always(np.uint32(ALL if negation == "~" else 0))
            row = (self.uniform if uniform else self.registers)[int(number)]
            if magnitude:
                raise SassError(f"a magnitude as an integer: {operand}")
            if negation == "~":
                return lambda: ~row
            if negation == "-":
                return lambda: np.uint32(0) - row
            return lambda: row
        if found := _CONSTANT.match(operand):
            get = self.constant(operand, 4)
            if found[2]:
                raise SassError(f"a magnitude as an integer: {operand}")
            return {"": lambda: get()[0], "-": lambda: np.uint32(0) - get()[0],
                    "~": lambda: ~get()[0]}[found[1]]  # fmt: skip
        if re.fullmatch(r"-?(0x[0-9a-f]+|\d+)", operand):
            return always(np.uint32(int(operand, 0) & ALL))
        if operand in self.special:
            return lambda: self.special[operand]
        raise SassError(f"not an integer: {operand}")

    def wide(self, operand: str) -> Getter:
        """A 64-bit integer in two registers, as uint64."""
        low, high = self.integer(operand), self.integer(next_register(operand))
        return lambda: high().astype(np.uint64) << np.uint64(32) | low()

    def single(self, operand: str, immediate: int) -> Getter:
        """A float32 as its bits; immediate: the number that stands for one in the text."""
        if found := _REGISTER.match(operand) or _CONSTANT.match(operand):
            plain = self.integer(operand.strip("-|~"))
            return _signed(plain, found[1], found[2], np.uint32(0x80000000))
        return always(np.uint32(immediate))

    def double(self, operand: str, immediate: int) -> Getter:
        """A float64 in two registers, as its bits; of a number in the text, the upper half."""
        if found := _REGISTER.match(operand):
            plain = self.wide(operand.strip("-|~"))
            return _signed(plain, found[1], found[2], np.uint64(1 << 63))
        if found := _CONSTANT.match(operand):
            get = self.constant(operand.strip("-|~"), 8)

            def wide() -> np.ndarray:
                words = get()
                return words[1].astype(np.uint64) << np.uint64(32) | words[0]

            return _signed(wide, found[1], found[2], np.uint64(1 << 63))
        return always(np.uint64(immediate << 32))

    def constant(self, operand: str, size: int) -> Getter:
        """Words of a constant bank: (words, 1 or lanes)."""
        found = _CONSTANT.match(operand)
        if found is None:
            raise SassError(f"not in a constant bank: {operand}")
        bank, offset = int(found[3], 16), int(found[5] or "0", 16)
        if bank not in self.constants:
            raise SassError(f"constant bank {bank:#x} is not known: {operand}")
        data = self.constants[bank]
        index = self.integer(found[4]) if found[4] else always(np.uint32(0))

        def get() -> np.ndarray:
            at = (index() + np.uint32(offset)).astype(np.int64)
            if size < 4:
                return data[at][None].astype(np.uint32)
            parts = [data[at + k].astype(np.uint32) << np.uint32(k % 4 * 8) for k in range(size)]
            return np.array([sum(parts[k : k + 4]) for k in range(0, size, 4)])

        return get

    def predicate(self, operand: str) -> Getter:
        """P0, !UP3, PT .."""
        rows = self.uniform_predicates if "U" in operand else self.predicates
        row = rows[7 if operand.endswith("T") else int(operand[-1])]
        return (lambda: ~row) if operand.startswith("!") else (lambda: row)

    def set_integer(self, operand: str) -> Setter:
        """Writes a register."""
        found = _REGISTER.match(operand)
        if found is None:
            raise SassError(f"not a register: {operand}")
        _, _, uniform, number = found.groups()
        if number == "Z":
            return lambda value, mask: None
        row = (self.uniform if uniform else self.registers)[int(number)]

        def write(value: np.ndarray, mask: Mask) -> None:
            if mask is None or uniform:
                row[...] = value
            else:
                np.copyto(row, value, where=mask)

        return write

    def set_wide(self, operand: str) -> Setter:
        """Writes 64 bits to two registers."""
        low, high = self.set_integer(operand), self.set_integer(next_register(operand))

        def write(value: np.ndarray, mask: Mask) -> None:
            low(value.astype(np.uint32), mask)
            high((value >> np.uint64(32)).astype(np.uint32), mask)

        return write

    def set_predicate(self, operand: str) -> Setter:
        """Writes a predicate."""
        if operand.endswith("T"):
            return lambda value, mask: None
        row = (self.uniform_predicates if "U" in operand else self.predicates)[int(operand[-1])]

        def write(value: np.ndarray, mask: Mask) -> None:
            if mask is None or len(row) == 1:
                row[...] = value
            else:
                np.copyto(row, value, where=mask)

        return write

    def address(self, operand: str) -> Getter:
        """Of [R2.64+UR4+0x10], or desc[UR8][..], whose descriptor says nothing of interest."""
        inside = re.search(r"\[([^\[\]]*)\]$", operand)
        if inside is None:
            raise SassError(f"not an address: {operand}")
        terms = [self._address_term(term) for term in inside[1].split("+")]
        return lambda: np.add.reduce(
            np.broadcast_arrays(*(term().astype(np.int64) for term in terms))
        )

    def _address_term(self, term: str) -> Getter:
        name, _, form = term.partition(".")
        if not name.startswith(("R", "U")):  # a number, which may be negative
            return always(np.int64(int(name, 0)))
        if form == "64":
            return self.wide(name)
        factors = {"": 1, "U32": 1, "X4": 4, "X8": 8, "X16": 16}
        if form not in factors:
            raise SassError(f"not understood in an address: {term}")
        plain, factor = self.integer(name), np.uint32(factors[form])
        return lambda: plain() * factor

    # ---- the path

    def run(self, bind: Callable[[Instruction, Warp], Operation]
            ) -> Iterator[Arrival | ClusterBarrier]:  # fmt: skip
        """Executes until all lanes have left; stops at each barrier of the block or the cluster.

        Raises:
            SassError: An instruction is not known, or the lanes wait for each other for ever.
        """
        operations: dict[int, tuple[Getter | None, Operation | None]] = {}
        instructions = self.code.instructions
        place = np.zeros(LANES, np.int64)
        waits = np.full(LANES, NOWHERE)
        gone = np.zeros(LANES, bool)
        while not gone.all():
            ready = ~gone & (waits == NOWHERE)
            if not ready.any():
                self._release(waits, gone)
                continue
            pc = int(place[ready].min())
            active = ready & (place == pc)
            mask = None if active.all() else active
            others = place[ready & ~active]
            meets = int(others.min()) if len(others) else len(instructions)
            while True:
                instruction = instructions[pc]
                if pc not in operations:
                    guard = self.predicate(instruction.guard) if instruction.guard else None
                    operations[pc] = guard, _bind(bind, instruction, self)
                guard, operation = operations[pc]
                takes = mask
                if guard is not None:
                    takes = guard() & (active if mask is not None else True)
                if operation is None:
                    self.steps.append(Step(pc, None))
                    taken = np.broadcast_to(True if takes is None else takes, LANES) & active
                    self._branch(instruction, pc, active, taken, place, waits, gone)
                    break
                effect = operation(takes) if takes is None or takes.any() else None
                self.steps.append(Step(pc, effect))
                pc += 1
                if type(effect) in (Arrival, ClusterBarrier):
                    yield effect
                if pc == meets:
                    place[active] = pc
                    break
            if len(self.steps) > MOST_STEPS:
                raise SassError(f"{self.code.name} does not end within {MOST_STEPS} instructions")

    def _branch(self, instruction: Instruction, pc: int, active: np.ndarray, taken: np.ndarray,
                place: np.ndarray, waits: np.ndarray, gone: np.ndarray) -> None:  # fmt: skip
        """What changes the path; the lanes `taken` do so."""
        base, operands = instruction.base, instruction.operands
        place[active] = pc + 1
        if base == "EXIT":
            gone |= taken
        elif base == "BRA":
            if instruction.modifiers[:1] in (("DIV",), ("CONV",)):
                diverged = not (active | gone).all()
                if diverged == (instruction.modifiers[0] == "CONV"):
                    return
            for condition in operands[:-1]:
                if not condition.startswith("UR"):
                    taken = taken & self.predicate(condition)()
            place[taken] = self.code.target(operands[-1])
        elif base == "CALL":
            place[taken] = self.code.target(operands[-1])
        elif base == "RET":
            returns = self.integer(operands[0])()
            first = self.code.instructions[0].address
            place[taken] = (returns[taken].astype(np.int64) - first) // 16
        elif base == "BSSY":
            self.barriers[int(operands[0][1:]), taken] = _bits(taken)
        elif base == "BREAK":
            self.barriers[int(operands[-1][1:])] &= ~_bits(taken)
        elif base == "BSYNC":
            waits[taken] = int(operands[0][1:])
        elif base == "WARPSYNC" and instruction.modifiers[:1] != ("COLLECTIVE",):
            waits[taken] = AT_WARP_BARRIER
        else:
            raise SassError(f"the model does not know {instruction}")
        self._release(waits, gone, must=False)

    def _release(self, waits: np.ndarray, gone: np.ndarray, must: bool = True) -> None:
        """Lets the lanes go on that no other is missing from."""
        released = False
        for barrier in np.unique(waits[waits != NOWHERE]):
            here = waits == barrier
            needed = np.full(LANES, ALL, np.uint32)
            if barrier != AT_WARP_BARRIER:
                needed = self.barriers[barrier]
            missing = np.uint32(_bits(~here & ~gone))
            free = here & (needed & missing == 0)
            if free.any():
                waits[free] = NOWHERE
                released = True
        if must and not released:
            raise SassError(f"lanes of {self.code.name} wait for each other")


CONTROL = ("EXIT", "BRA", "CALL", "RET", "BSSY", "BREAK", "BSYNC", "WARPSYNC")


def _bind(bind: Callable[[Instruction, Warp], Operation], instruction: Instruction,
          warp: Warp) -> Operation | None:  # fmt: skip
    """None for what changes the path."""
    if instruction.base in CONTROL:
        return None
    try:
        return bind(instruction, warp)
    except (SassError, KeyError, ValueError, IndexError) as error:
        raise SassError(f"the model does not know {instruction}: {error!r}") from error


def always(value: np.generic) -> Getter:
    """The same for all lanes, whatever happens."""
    array = np.array([value])
    return lambda: array


def _signed(plain: Getter, negation: str, magnitude: str, sign: np.unsignedinteger) -> Getter:
    """With |x|, then -x, of floating-point numbers given as bits."""
    if magnitude and negation:
        return lambda: plain() | sign
    if magnitude:
        return lambda: plain() & ~sign
    if negation:
        return lambda: plain() ^ sign
    return plain


def _bits(lanes: np.ndarray) -> np.uint32:
    return np.packbits(lanes, bitorder="little").view(np.uint32)[0]


def next_register(operand: str) -> str:
    """R3 for R2, RZ for RZ."""
    return re.sub(r"R(\d+)", lambda found: f"R{int(found[1]) + 1}", operand, count=1)
