"""Lines of SASS, run by the model (tools/sass_model)."""

from __future__ import annotations

import numpy as np

from tools.sass_model.disassembly import Code, parse
from tools.sass_model.execution import bind, run_blocks
from tools.sass_model.memory import Memory
from tools.sass_model.warp import Warp


def assemble(*lines: str) -> Code:
    """What the lines mean as SASS; a number behind # is an immediate in the encoding."""
    text, address = ".text.test:\n", 0
    for line in lines:
        if line.endswith(":"):
            text += f"{line}\n"
            continue
        words, _, immediate = line.partition("#")
        low = (int(immediate, 0) if immediate else 0) << 32
        text += f"\t/*{address:04x}*/ {words.strip()} ; /* 0x{low:016x} */\n\t/* 0x{0:016x} */\n"
        address += 16
    return parse(text)["test"]


def run(*lines: str, memory: Memory | None = None, **registers) -> Warp:
    """The warp after these instructions. registers: R2=value of each lane."""
    special = {"SR_TID.X": np.arange(32, dtype=np.uint32)}
    warp = Warp(assemble(*lines, "EXIT"), memory or Memory(1024), {0: bytes(64)}, special)
    for name, values in registers.items():
        warp.registers[int(name[1:])] = values
    with np.errstate(all="ignore"):
        run_blocks([[warp]], bind)
    return warp
