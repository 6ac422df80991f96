"""How long an SM takes for blocks of warps that all execute the same instructions."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .disassembly import Code, SassError
from .launches import FOLDER, compile_library
from .warp import Step

# By opcode. An opcode that is missing here is an error, not a guess.
PIPES = {
    "FMA": "FFMA FMUL FADD",
    "IMAD": "IMAD IMUL",
    "ALU": "LOP3 IADD3 ISETP FSETP SEL FSEL FMNMX VIMNMX VIMNMX3 VIADDMNMX VIADD IMNMX SHF LEA"
    " PRMT MOV IABS PLOP3 P2R R2P FCHK I2FP BMSK",
    "FP64": "DFMA DMUL DADD DSETP",
    "XU": "MUFU POPC FLO BREV I2F F2I F2F",
    "shared": "SHFL REDUX LDS STS",
    "global": "LDG STG LD ST LDGSTS",
    "system": "LDC S2R S2UR CS2R",
    "other": "HFMA2 R2UR VOTE NOP YIELD DEPBAR LDGDEPBAR MEMBAR ERRBAR CCTL NANOSLEEP"
    " BRA EXIT CALL RET BSSY BREAK BSYNC WARPSYNC",
}
PIPE_OF = {opcode: pipe for pipe, opcodes in PIPES.items() for opcode in opcodes.split()}
REDUX_WAVEFRONTS = 2

# What an SM of sm_90 has.
REGISTERS, REGISTERS_AT_ONCE = 65536, 256  # given out to warps in such pieces
SHARED_BYTES, SHARED_BYTES_OF_SYSTEM = 228 * 1024, 1024  # the latter for each block
MOST_WARPS, MOST_BLOCKS = 64, 32

STEP = np.dtype(
    [
        *((name, np.int32) for name in (
            "pipe", "stall", "write_barrier", "read_barrier", "waits_for", "is_branch",
            "is_store", "is_shared_load", "has_no_latency",
        )),
        ("padding", np.int32),
        ("wavefronts", np.float64),
        ("global_bytes", np.float64),
    ]
)  # fmt: skip


class Timing(NamedTuple):
    """Of a block in the steady state of an SM."""

    clocks: float
    pipe_clocks: dict[str, float]  # that each pipe would take if it were never idle
    instructions: dict[str, int]  # of each of its warps, by pipe


@functools.cache
def _library() -> ctypes.CDLL:
    library = compile_library("simulator", FOLDER / "host/simulator.cpp", "-O2")
    library.clocks_per_block.restype = ctypes.c_double
    library.pipe_name.restype = ctypes.c_char_p
    return library


@functools.cache
def pipe_names() -> tuple[str, ...]:
    """As the C++ program counts them."""
    library = _library()
    return tuple(library.pipe_name(k).decode() for k in range(library.pipe_count()))


def pipe_of(base: str) -> str:
    """The pipe of an opcode.

    Raises:
        SassError: It is not known.
    """
    if base in PIPE_OF:
        return PIPE_OF[base]
    if base.startswith("U") or base == "VOTEU":  # UIADD3, ..
        return "uniform"
    raise SassError(f"no pipe is known for {base} (tools/sass_model/simulator.py)")


def trace_of(code: Code, steps: Sequence[Step]) -> np.ndarray:
    """What the simulator reads, of what a warp executed."""
    names = pipe_names()
    fixed: dict[int, tuple] = {}
    trace = []
    for index, cost in steps:
        instruction = code.instructions[index]
        base = instruction.base
        if index not in fixed:
            fixed[index] = (
                names.index(pipe_of(base)), instruction.stall, instruction.write_barrier,
                instruction.read_barrier, instruction.waits_for, base == "BRA",
                base in ("STG", "ST"), base == "LDS", base == "CS2R", 0,
            )  # fmt: skip
        wavefronts, new_bytes = 0, 0
        if pipe_of(base) in ("shared", "global"):
            wavefronts = REDUX_WAVEFRONTS if base == "REDUX" else 1
        if cost is not None:
            wavefronts, new_bytes = cost.wavefronts, cost.new_bytes
        trace.append((*fixed[index], wavefronts, new_bytes))
    return np.array(trace, STEP)


def blocks_at_once(threads: int, registers: int, shared_bytes: int) -> int:
    """How many blocks an SM has at a time, if all of its shared memory is given to them."""
    warps = threads // 32
    per_warp = -(-registers * 32 // REGISTERS_AT_ONCE) * REGISTERS_AT_ONCE
    by_registers = REGISTERS // 4 // per_warp * 4 // warps  # a quarter of them for each scheduler
    by_memory = SHARED_BYTES // (shared_bytes + SHARED_BYTES_OF_SYSTEM)
    return min(by_registers, by_memory, MOST_WARPS // warps, MOST_BLOCKS)


def simulate(trace: np.ndarray, at_once: int, warps: int) -> Timing:
    """Blocks of `warps` warps, `at_once` of them at a time on an SM."""
    library = _library()
    pointer = trace.ctypes.data_as(ctypes.c_void_p)
    length = ctypes.c_int64(len(trace))
    busy = (ctypes.c_double * len(pipe_names()))()
    library.pipe_clocks(pointer, length, busy)
    counts = np.bincount(trace["pipe"], minlength=len(pipe_names()))
    clocks = library.clocks_per_block(pointer, length, at_once, warps)
    used = list(zip(pipe_names(), busy, counts.tolist(), strict=True))
    return Timing(
        clocks,
        {"issue": warps * len(trace) / 4, **{name: warps * x for name, x, _ in used if x}},
        {name: count for name, _, count in used if count},
    )
