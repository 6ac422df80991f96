"""The model of the CUDA kernels' speed: warps of a block, and blocks of a cluster."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("elftools")

from sass import assemble, run
from tools.sass_model.disassembly import SassError
from tools.sass_model.execution import bind, run_blocks, special_registers
from tools.sass_model.memory import RANK_SHIFT, SHARED_BASE, SHARED_WINDOW, Memory
from tools.sass_model.warp import Arrival, Warp

# ---- several warps


def run_warps(count: int, *lines: str) -> list[Warp]:
    """As run(), a block of that many warps. R0: the thread, R1: its place in shared memory."""
    code, memory = assemble(*lines, "EXIT"), Memory(4096)
    sizes = np.array([32 * count], np.uint32).tobytes().ljust(64, b"\0")
    warps = [Warp(code, memory, {0: sizes}, special_registers(w)) for w in range(count)]
    for warp in warps:
        warp.registers[0] = warp.special["SR_TID.X"]
        warp.registers[1] = SHARED_BASE + 4 * warp.registers[0]
    run_blocks([warps], bind)
    return warps


def arrivals(warp: Warp) -> list[tuple[int, int]]:
    return [step.effect for step in warp.steps if isinstance(step.effect, Arrival)]


def test_what_a_warp_writes_before_a_barrier_others_read_behind_it():
    # Each thread reads what the next warp has written, the last warp what the first has.
    warps = run_warps(3, "STS [R1], R0", "BAR.SYNC.DEFER_BLOCKING 0x0",
                      "ISETP.GE.AND P0, PT, R0, 0x40, PT", "MOV R2, 0x80", "@P0 MOV R2, -0x100",
                      "IADD3 R1, R1, R2, RZ", "LDS R3, [R1]")  # fmt: skip
    for w, warp in enumerate(warps):
        assert (warp.registers[3] == (w + 1) % 3 * 32 + np.arange(32)).all()
        assert arrivals(warp) == [(0, 3)]


def test_a_barrier_of_some_warps_does_not_wait_for_the_others():
    # Warps 0 and 1 meet at barrier 1, then all three at barrier 0.
    warps = run_warps(3, "ISETP.GE.AND P0, PT, R0, 0x40, PT", "MOV R2, 0x40",
                      "@!P0 BAR.SYNC.DEFER_BLOCKING 0x1, R2", "BAR.SYNC.DEFER_BLOCKING 0x0",
                      "VIADD R3, R0, 0x1")  # fmt: skip
    assert [arrivals(warp) for warp in warps] == [[(1, 2), (0, 3)]] * 2 + [[(0, 3)]]
    assert all((warp.registers[3] == warp.registers[0] + 1).all() for warp in warps)


@pytest.mark.parametrize(
    ("lines", "message"),
    (
        (("BAR.SYNC 0x1, 0x60",), r"barriers \[1\] of the block for ever"),
        (("ISETP.GE.AND P0, PT, R0, 0x20, PT", "@P0 BAR.SYNC 0x0"), r"barriers \[0\]"),
        (("ISETP.EQ.AND P0, PT, R0, 0x1, PT", "@P0 BAR.SYNC 0x0"), "have parted"),
        (("BAR.SYNC 0x1, 0x30",), "part of a warp"),
    ),
)
def test_warps_that_do_not_meet_are_an_error(lines, message):
    with pytest.raises(SassError, match=message):
        run_warps(2, *lines)


# ---- several blocks


def run_cluster(*lines: str) -> list[Warp]:
    """As run(), two blocks of a warp. R0: the lane, R1: the rank, R2: a place for the lane."""
    code = assemble(*lines, "EXIT")
    memories = [Memory(4096, rank) for rank in range(2)]
    warps = []
    for rank, memory in enumerate(memories):
        memory.of_cluster = [of_block.shared for of_block in memories]
        warp = Warp(code, memory, {0: bytes(64)}, special_registers(0, rank))
        warp.registers[0] = np.arange(32)
        warp.registers[1] = rank
        warp.registers[2] = SHARED_BASE + 4 * warp.registers[0] + (rank << RANK_SHIFT)
        warp.registers[4] = SHARED_BASE + 4 * warp.registers[0] + ((1 - rank) << RANK_SHIFT)
        warps.append(warp)
    run_blocks([[warp] for warp in warps], bind)
    return warps


def test_blocks_read_each_others_memory_behind_a_barrier_of_the_cluster():
    # Block 0 is the first to arrive, and would read zeros if it did not wait for block 1.
    warps = run_cluster("LEA R3, R1, R0, 0x8", "STS [R2], R3", "UCGABAR_ARV", "UCGABAR_WAIT",
                        "S2R R5, SR_SWINHI", "LD.E R6, desc[UR4][R4.64]", "UCGABAR_ARV",
                        "UCGABAR_WAIT")  # fmt: skip
    for rank, warp in enumerate(warps):
        assert (warp.registers[6] == ((1 - rank) << 8) + np.arange(32)).all()
        cost = warp.steps[5].effect
        assert (cost.new_bytes, cost.remote_bytes) == (0, 128)


def test_blocks_write_to_each_others_memory():
    warps = run_cluster("LEA R3, R1, R0, 0x8", "S2R R5, SR_SWINHI", "ST.E desc[UR4][R4.64], R3",
                        "UCGABAR_ARV", "UCGABAR_WAIT", "LDS R6, [R2]")  # fmt: skip
    for rank, warp in enumerate(warps):
        assert (warp.registers[6] == ((1 - rank) << 8) + np.arange(32)).all()
        assert warp.steps[2].effect.remote_bytes == 128


def test_a_generic_address_of_shared_memory_needs_a_cluster():
    with pytest.raises(SassError, match="no cluster"):
        run("LD.E R6, desc[UR4][R4.64]", R4=SHARED_BASE, R5=SHARED_WINDOW)


def test_memory_of_the_own_block_is_not_remote():
    warps = run_cluster("STS [R2], R0", "MOV R4, R2", "S2R R5, SR_SWINHI",
                        "LD.E R6, desc[UR4][R4.64]")  # fmt: skip
    for warp in warps:
        assert (warp.registers[6] == np.arange(32)).all()
        assert warp.steps[3].effect.remote_bytes == 0


@pytest.mark.parametrize(
    ("lines", "message"),
    (
        (("ISETP.EQ.AND P0, PT, R1, 0x1, PT", "@P0 UCGABAR_ARV", "UCGABAR_WAIT"), "the cluster"),
        (("VIADD R4, R4, 0x2000000", "S2R R5, SR_SWINHI", "LD.E R6, desc[UR4][R4.64]"), "no block"),
        (("VIADD R4, R4, 0x1000", "S2R R5, SR_SWINHI", "LD.E R6, desc[UR4][R4.64]"), "bad address"),
    ),
)
def test_what_a_cluster_does_not_do_is_an_error(lines, message):
    with pytest.raises(SassError, match=message):
        run_cluster(*lines)
