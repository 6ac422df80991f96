"""How long an SM takes for blocks whose warps execute given instructions."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .disassembly import Code, SassError
from .launches import FOLDER, compile_library
from .memory import Cost
from .warp import ClusterBarrier, Step

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
    "other": "HFMA2 R2UR VOTE NOP YIELD DEPBAR LDGDEPBAR MEMBAR ERRBAR CGAERRBAR CCTL NANOSLEEP"
    " BRA EXIT CALL RET BSSY BREAK BSYNC WARPSYNC BAR",
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
            "is_store", "is_shared_load", "has_no_latency", "block_barrier", "arrivals",
            "cluster_barrier",
        )),
        ("wavefronts", np.float64),
        ("global_bytes", np.float64),
        ("remote_bytes", np.float64),
        ("cached_bytes", np.float64),
    ]
)  # fmt: skip


# Values of cluster_barrier.
ARRIVES, WAITS = 1, 2


class Timing(NamedTuple):
    """Of a block in the steady state of an SM, or of a cluster on as many SMs as it has blocks."""

    clocks: float  # of each SM
    pipe_clocks: dict[str, float]  # that each pipe would take if it were never idle
    instructions: dict[str, int]  # of all its warps, by pipe


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
    indices = np.array([step.index for step in steps])
    kinds = np.zeros(len(code.instructions), STEP)
    for index in np.unique(indices):
        instruction = code.instructions[index]
        base, kind = instruction.base, kinds[index]
        pipe = pipe_of(base)
        kind["pipe"], kind["stall"] = names.index(pipe), instruction.stall
        kind["write_barrier"] = instruction.write_barrier
        kind["read_barrier"] = instruction.read_barrier
        kind["waits_for"] = instruction.waits_for
        kind["is_branch"], kind["is_store"] = base == "BRA", base in ("STG", "ST")
        kind["is_shared_load"], kind["has_no_latency"] = base == "LDS", base == "CS2R"
        if pipe in ("shared", "global"):
            kind["wavefronts"] = REDUX_WAVEFRONTS if base == "REDUX" else 1
    trace = kinds[indices]
    for step, (_, effect) in zip(trace, steps, strict=True):
        if isinstance(effect, Cost):
            step["wavefronts"], step["global_bytes"] = effect.wavefronts, effect.new_bytes
            step["remote_bytes"] = effect.remote_bytes
            step["cached_bytes"] = effect.cached_bytes
        elif isinstance(effect, ClusterBarrier):
            step["cluster_barrier"] = WAITS if effect.waits else ARRIVES
        elif effect is not None:
            step["block_barrier"], step["arrivals"] = effect.barrier, effect.warps
    return trace


def blocks_at_once(threads: int, registers: int, shared_bytes: int) -> int:
    """How many blocks an SM has at a time, if all of its shared memory is given to them."""
    warps = threads // 32
    per_warp = -(-registers * 32 // REGISTERS_AT_ONCE) * REGISTERS_AT_ONCE
    by_registers = REGISTERS // 4 // per_warp * 4 // warps  # a quarter of them for each scheduler
    by_memory = SHARED_BYTES // (shared_bytes + SHARED_BYTES_OF_SYSTEM)
    return min(by_registers, by_memory, MOST_WARPS // warps, MOST_BLOCKS)


def simulate(traces: Sequence[np.ndarray], at_once: int, cluster_size: int = 1) -> Timing:
    """Blocks of warps with these traces, `at_once` of them at a time on an SM.

    The traces of a cluster are those of its blocks, one after the other.

    Raises:
        SassError: Warps wait for each other for ever.
    """
    library, names = _library(), pipe_names()
    pointers = (ctypes.c_void_p * len(traces))(*(trace.ctypes.data for trace in traces))
    lengths = (ctypes.c_int64 * len(traces))(*map(len, traces))
    busy = (ctypes.c_double * len(names))()
    warps = len(traces) // cluster_size
    library.pipe_clocks(pointers, lengths, len(traces), busy)
    counts = np.bincount(np.concatenate([trace["pipe"] for trace in traces]), minlength=len(names))
    clocks = library.clocks_per_block(pointers, lengths, warps, at_once, cluster_size)
    if clocks < 0:
        raise SassError("warps wait for each other at barriers for ever")
    used = list(zip(names, busy, counts.tolist(), strict=True))
    of_pipes = {"issue": counts.sum() / 4, **{name: clocks for name, clocks, _ in used if clocks}}
    return Timing(
        clocks,
        {name: clocks / cluster_size for name, clocks in of_pipes.items()},
        {name: count for name, _, count in used if count},
    )
