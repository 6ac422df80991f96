"""SASS, the machine code of NVIDIA's GPUs: from nvdisasm's text to instructions.

An instruction is 16 bytes. Its upper bits tell the scheduler what the hardware does not find out:
how long to wait before the warp's next instruction, and which of six barriers it sets or waits for.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from elftools.elf.elffile import ELFFile

SIZE = 16  # bytes of an instruction
NO_BARRIER = 7

_INSTRUCTION = re.compile(
    r"^\s+/\*(?P<address>[0-9a-f]{4,})\*/\s+(?:@(?P<guard>!?U?P\w+)\s+)?(?P<opcode>[A-Z]\S*)"
    r"\s*(?P<operands>.*?)\s*;\s*/\* 0x(?P<low>[0-9a-f]{16}) \*/"
)
_UPPER_HALF = re.compile(r"^\s+/\* 0x([0-9a-f]{16}) \*/")
_LABEL = re.compile(r"^([.$\w]+):")


class SassError(Exception):
    """What the model does not know, or what does not fit together."""


@dataclasses.dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction."""

    address: int
    guard: str | None  # the predicate in front of it: !P0
    opcode: str
    text: str  # of its operands
    encoding: int

    @property
    def operands(self) -> tuple[str, ...]:
        """One by one."""
        return split_operands(self.text)

    @property
    def base(self) -> str:
        """The opcode without modifiers: ISETP of ISETP.GE.AND."""
        return self.opcode.split(".")[0]

    @property
    def modifiers(self) -> tuple[str, ...]:
        """The rest: GE and AND."""
        return tuple(self.opcode.split(".")[1:])

    @property
    def immediate(self) -> int:
        """The 32 bits of an operand that is a number; text may round it."""
        return self.encoding >> 32 & 0xFFFFFFFF

    @property
    def stall(self) -> int:
        """Clocks until the warp may issue its next instruction."""
        return self.encoding >> 105 & 0xF

    @property
    def write_barrier(self) -> int:
        """Set until the result is there."""
        return self.encoding >> 110 & 0x7

    @property
    def read_barrier(self) -> int:
        """Set until the operands are read."""
        return self.encoding >> 113 & 0x7

    @property
    def waits_for(self) -> int:
        """Bit b for barrier b."""
        return self.encoding >> 116 & 0x3F

    def __str__(self) -> str:
        guard = f"@{self.guard} " if self.guard else ""
        return f"/*{self.address:04x}*/ {guard}{self.opcode} {self.text}"


@dataclasses.dataclass(frozen=True)
class Code:
    """A kernel and the functions that it calls, from address 0 on."""

    name: str
    instructions: tuple[Instruction, ...]
    labels: dict[str, int]  # the index of the instruction that follows

    def target(self, operand: str) -> int:
        """The index of the instruction that `(label) means."""
        return self.labels[operand.removeprefix("`(").removesuffix(")")]


def split_operands(text: str) -> tuple[str, ...]:
    """At commas; without hints for the register file."""
    return tuple(
        part.strip().replace(".reuse", "") for part in re.split(r",(?![^\[(]*[\])])", text) if part
    )


def parse(text: str) -> dict[str, Code]:
    """The kernels in what nvdisasm -c -hex prints, by name.

    Raises:
        SassError: A line looks like an instruction and cannot be read.
    """
    kernels: dict[str, Code] = {}
    instructions: list[Instruction] = []
    labels: dict[str, int] = {}
    lines = iter(text.splitlines())
    for line in lines:
        if line.startswith(".text."):
            instructions, labels = [], {}
            name = line.removeprefix(".text.").removesuffix(":")
            kernels[name] = Code(name, (), labels)
        elif label := _LABEL.match(line):
            labels[label[1]] = len(instructions)
        elif found := _INSTRUCTION.match(line):
            upper = _UPPER_HALF.match(next(lines, ""))
            if upper is None:
                raise SassError(f"no second half of the encoding after {line}")
            encoding = int(upper[1], 16) << 64 | int(found["low"], 16)
            instructions.append(
                Instruction(int(found["address"], 16), found["guard"], found["opcode"],
                            found["operands"], encoding)
            )  # fmt: skip
        elif re.match(r"^\s+/\*[0-9a-f]{4,}\*/", line):
            raise SassError(f"not understood: {line}")
        if instructions:
            kernels[name] = Code(name, instructions, labels)  # type: ignore[arg-type]
    return {name: dataclasses.replace(code, instructions=tuple(code.instructions))
            for name, code in kernels.items()}  # fmt: skip


@functools.cache
def nvdisasm() -> str:
    """Its path: the one of the package nvidia-cuda-nvdisasm, or that on PATH.

    Raises:
        SassError: There is none.
    """
    package = importlib.util.find_spec("nvidia")
    for folder in package.submodule_search_locations if package else ():  # type: ignore[union-attr]
        for path in sorted(Path(folder).glob("cu*/bin/nvdisasm")):
            return str(path)
    found = shutil.which("nvdisasm")
    if found is None:
        raise SassError("no nvdisasm; pip install nvidia-cuda-nvdisasm")
    return found


def kernel_names(cubin: Path) -> dict[str, int]:
    """The index of each kernel's symbol."""
    with cubin.open("rb") as file:
        symbols = ELFFile(file).get_section_by_name(".symtab")
        return {
            symbol.name: index
            for index, symbol in enumerate(symbols.iter_symbols())
            if symbol["st_info"]["type"] == "STT_FUNC" and not symbol.name.startswith("$")
        }


def disassemble(cubin: Path, names: Iterable[str]) -> dict[str, Code]:
    """These kernels of a .cubin file."""
    indices = kernel_names(cubin)
    wanted = ",".join(str(indices[name]) for name in names)
    text = subprocess.run(
        [nvdisasm(), "-c", "-hex", "-fun", wanted, str(cubin)],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    return parse(text)
