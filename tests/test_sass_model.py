"""The model of the CUDA kernels' speed: machine code, and its execution."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg

pytest.importorskip("elftools")

from sass import run
from tools.sass_model.disassembly import SassError, parse
from tools.sass_model.execution import Case, check, check_lu, usual_matrices
from tools.sass_model.memory import SHARED_BASE, Memory, wavefronts

# ---- machine code

# As nvdisasm prints it, shortened between the columns.
EXCERPT = """
//--------------------- .text.kernel --------------------------
        .section        .text.kernel,"ax",@progbits
.text.kernel:
        /*0000*/                   LDC R1, c[0x0][0x28] ;        /* 0x00000a00ff017b82 */
                                                                 /* 0x000ff00000000800 */
        /*0010*/                   LDC R33, c[0x0][0x218] ;      /* 0x00008600ff217b82 */
                                                                 /* 0x000e220000000800 */
.L_x_1:
        /*0020*/    @!P1 LOP3.LUT R0, R33.reuse, 0x1, RZ, 0xfc, !PT;/* 0x0000000121007812 */
                                                                 /* 0x001fe400078efcff */
        /*0030*/                   LDG.E.64 R58, desc[UR8][R44.64+0x8] ; /* 0x000000082c3a7981 */
                                                                 /* 0x000ea2000c1e1b00 */
        /*0040*/                   BRA `(.L_x_1);                /* 0xfffffff000f47947 */
                                                                 /* 0x000fc0000383ffff */
"""


def test_instructions_are_read_with_their_control_bits():
    (code,) = parse(EXCERPT).values()
    assert code.name == "kernel"
    constant, other, logic, load, branch = code.instructions
    # Waits eight clocks, sets and waits for nothing; then: sets barrier 0; then: waits for it.
    assert (constant.stall, constant.write_barrier, constant.read_barrier) == (8, 7, 7)
    assert (other.stall, other.write_barrier, other.waits_for) == (1, 0, 0)
    assert (logic.waits_for, logic.guard, logic.base, logic.modifiers) == (
        1,
        "!P1",
        "LOP3",
        ("LUT",),
    )
    assert logic.operands == ("R0", "R33", "0x1", "RZ", "0xfc", "!PT")
    assert load.operands == ("R58", "desc[UR8][R44.64+0x8]")
    assert code.target(branch.operands[0]) == 2


def test_a_line_that_cannot_be_read_is_an_error():
    with pytest.raises(SassError, match="not understood"):
        parse(EXCERPT.replace("LDC R33", "{ldc R33"))


# ---- execution


def test_a_loop_runs_as_often_as_its_counter_says():
    warp = run("MOV R1, 0x5", ".L_1:", "IADD3 R0, R0, 0x3, RZ", "IADD3 R1, R1, -0x1, RZ",
               "ISETP.NE.AND P0, PT, R1, RZ, PT", "@P0 BRA `(.L_1)")  # fmt: skip
    assert (warp.registers[0] == 15).all()
    assert len(warp.steps) == 1 + 5 * 4 + 1


def test_lanes_part_and_meet_again():
    warp = run("S2R R0, SR_TID.X", "ISETP.GE.AND P0, PT, R0, 0x10, PT", "BSSY B0, `(.L_2)",
               "@P0 BRA `(.L_1)", "MOV R1, 0x1", "BRA `(.L_2)", ".L_1:", "MOV R1, 0x2",
               "NOP", ".L_2:", "BSYNC B0", "VIADD R1, R1, 0x10")  # fmt: skip
    assert (warp.registers[1] == np.where(np.arange(32) < 16, 0x11, 0x12)).all()
    # Both ways, each of them once; from the barrier on all lanes go together.
    names = [warp.code.instructions[step.index].base for step in warp.steps]
    assert (names.count("MOV"), names.count("BSYNC"), names.count("VIADD")) == (2, 1, 1)


def test_a_slow_path_that_no_lane_takes_is_not_executed():
    warp = run("ISETP.NE.AND P0, PT, R0, RZ, PT", "@!P0 BRA `(.L_1)", "MUFU.RCP R1, R1", ".L_1:",
               "NOP")  # fmt: skip
    assert [step.index for step in warp.steps] == [0, 1, 3, 4]


# float32
SIGN, ONE, ONE_AND_A_HALF, TWO, FOUR = 2**31, 0x3F800000, 0x3FC00000, 0x40000000, 0x40800000


@pytest.mark.parametrize(
    ("line", "inputs", "expected"),
    (
        ("IADD3 R0, R1, -R2, R3", {"R1": 5, "R2": 7, "R3": 1}, 2**32 - 1),
        ("IMAD R0, R1, R2, -R3", {"R1": 2**31, "R2": 2, "R3": 1}, 2**32 - 1),
        ("IMAD.HI.U32 R0, R1, R2, R4", {"R1": 2**31, "R2": 6, "R4": 0, "R5": 1}, 4),
        ("LEA R0, R1, R2, 0x3", {"R1": 5, "R2": 2}, 42),
        ("LEA.HI R0, R1, R2, RZ, 0x5", {"R1": 2**31, "R2": 2}, 18),
        ("LEA.HI.SX32 R0, R1, R2, 0x1", {"R1": 2**31, "R2": 5}, 4),
        ("LOP3.LUT R0, R1, R2, R3, 0x96, !PT", {"R1": 12, "R2": 10, "R3": 1}, 7),
        ("LOP3.LUT R0, R1, R2, R3, 0xf8, !PT", {"R1": 8, "R2": 6, "R3": 3}, 10),
        ("SHF.R.S32.HI R0, RZ, 0x4, R1", {"R1": 2**32 - 32}, 2**32 - 2),
        ("SHF.R.S64 R0, RZ, 0x1e, R1", {"R1": 3}, 12),
        ("SHF.L.U64.HI R0, R1, 0x4, R2", {"R1": 0xF0000000, "R2": 1}, 0x1F),
        ("PRMT R0, R1, 0x5410, R2", {"R1": 0xAAAABBBB, "R2": 0xCCCCDDDD}, 0xDDDDBBBB),
        ("PRMT R0, R1, 0x9910, RZ", {"R1": 0x8001}, 0xFFFF8001),
        ("VIMNMX R0, R1, -0x3, !PT", {"R1": 2**32 - 5}, 2**32 - 3),
        ("VIADDMNMX R0, R1, R2, 0x7, PT", {"R1": 4, "R2": 9}, 7),
        ("VIADDMNMX.RELU R0, R1, R2, 0x7, PT", {"R1": 4, "R2": 2**32 - 9}, 0),
        ("VIMNMX.RELU R0, R1, 0x4, PT", {"R1": 9}, 4),
        ("FLO.U32 R0, R1", {"R1": 0x900}, 11),
        ("POPC R0, R1", {"R1": 0xF0F}, 8),
        ("FFMA R0, |R1|, -R2, R3", {"R1": ONE_AND_A_HALF | SIGN, "R2": TWO, "R3": FOUR}, ONE),
        ("FMUL R0, R1, 16777216 #0x4b800000", {"R1": 0x33800000}, ONE),
        ("FMNMX R0, R1, R2, !PT", {"R1": 0x7FFFFFFF, "R2": ONE}, ONE),
        ("HFMA2.MMA R0, -RZ, RZ, 1.875, 0 #0x3f800000", {}, ONE),
        ("MUFU.RCP R0, R1", {"R1": 0x40000000}, 0x3F000000),
        ("I2F.U32.RP R0, R1", {"R1": 2**24 + 1}, 0x4B800001),
        ("F2I.FTZ.U32.TRUNC.NTZ R0, R1", {"R1": 0x40700000}, 3),
        ("SHFL.BFLY PT, R0, R1, 0x1, 0x1f", {"R1": np.arange(32)}, np.arange(32) ^ 1),
        ("SHFL.IDX PT, R0, R1, 0x3, 0x1c1f", {"R1": np.arange(32)}, np.arange(32) & 28 | 3),
        ("REDUX.MAX.S32 UR4, R1", {"R1": np.arange(32)}, 0),
    ),
)  # fmt: skip
def test_what_instructions_compute(line, inputs, expected):
    warp = run(line, **inputs)
    assert (warp.registers[0] == expected).all(), warp.registers[0]


def test_sums_of_64_bits_carry():
    warp = run("IADD3 R0, P0, R2, R4, RZ", "IADD3.X R1, R3, R5, RZ, P0, !PT",
               "IADD3 R6, P1, R2, -R4, RZ", "IADD3.X R7, R3, ~R5, RZ, P1, !PT",
               R2=2**32 - 1, R3=1, R4=2, R5=3)  # fmt: skip
    assert (warp.registers[[0, 1, 6, 7], 0] == (1, 5, 2**32 - 3, 2**32 - 2)).all()


def test_float64_is_in_two_registers():
    def halves(x):
        return np.float64(x).view(np.uint64) & 0xFFFFFFFF, np.float64(x).view(np.uint64) >> 32

    (low, high), (low_b, high_b) = halves(1 / 3), halves(-6.0)
    warp = run("DFMA R0, R2, |R4|, 1 #0x3ff00000", "DSETP.GT.AND P0, P1, R0, R4, PT",
               R2=low, R3=high, R4=low_b, R5=high_b)  # fmt: skip
    bits = np.uint64(warp.registers[1, 0]) << np.uint64(32) | np.uint64(warp.registers[0, 0])
    assert bits.view(np.float64) == 3.0
    assert warp.predicates[0].all()
    assert not warp.predicates[1].any()


@pytest.mark.parametrize(
    "line",
    (
        "HMMA.16816 R0, R2, R4, R6",
        "PRMT.B4E R0, R1, R2, R3",
        "LDS.S8 R0, [R1]",
        "BAR.ARV 0x1, 0x40",
        "WARPSYNC.COLLECTIVE R1, `(x)",
    ),
)
def test_an_unknown_instruction_is_named(line):
    with pytest.raises(SassError, match=line.split()[0]):
        run(line)


@pytest.mark.parametrize("address", (0x998, 0x1004, 0x1010))
def test_no_access_goes_beyond_a_matrix_or_is_unaligned(address):
    memory = Memory(0)
    memory.add("the matrices", 0x1000, np.zeros(4, np.float32))
    with pytest.raises(SassError, match="address"):
        run("LDG.E.128 R4, desc[UR4][R2.64]", memory=memory, R2=address, R3=0)


def test_memory_counts_what_is_touched_for_the_first_time():
    memory = Memory(1024)
    memory.add("the matrices", 0x1000, np.arange(64, dtype=np.float32))
    at = 0x1000 + 4 * np.arange(32)
    warp = run("LDG.E R4, desc[UR4][R2.64]", "LDG.E R5, desc[UR4][R2.64+0x4]", "STS [R6], R4",
               "LDS R8, [R6]", memory=memory, R2=at, R3=0,
               R6=SHARED_BASE + 8 * np.arange(32))  # fmt: skip
    assert (warp.registers[8].view(np.float32) == np.arange(32)).all()
    costs = [(step.effect.new_bytes, step.effect.wavefronts) for step in warp.steps[:4]]
    assert costs == [(128, 1), (4, 1), (0, 2), (0, 2)]


@pytest.mark.parametrize(
    ("words", "size", "expected"),
    (
        (np.arange(32), 4, 1),
        (np.zeros(32, int), 4, 1),
        (2 * np.arange(32), 4, 2),
        (3 * np.arange(32), 4, 1),
        (32 * np.arange(32), 4, 32),
        (2 * np.arange(32), 8, 2),
        (4 * np.arange(32), 16, 4),
        (4 * (np.arange(32) // 2), 16, 2),  # each shares its word with the next lane
        (4 * (np.arange(32) % 2 + np.arange(32) // 4 * 2), 16, 2),  # with the next but one
        (4 * (np.arange(32) // 4), 16, 2),
        (20 * np.arange(32), 16, 4),
        (8 * np.arange(32), 16, 8),
    ),
)
def test_wavefronts_of_shared_memory(words, size, expected):
    assert wavefronts(4 * words, np.arange(32), size) == expected


def test_lanes_that_take_no_part_cost_nothing():
    # One of every four lanes stores 16 bytes, as where a pivot row is published.
    assert wavefronts(16 * np.arange(8), np.arange(0, 32, 4), 16) == 2
    assert wavefronts(np.array([0]), np.array([5]), 16) == 1
    assert wavefronts(np.array([3, 130]), np.array([0, 1]), 1) == 2  # words of one bank


@pytest.mark.parametrize(
    ("size", "stored", "others", "first"),
    (("U8", 0xAA, 0x44AA2211, 0x11), ("U16", 0xAABB, 0xAABB2211, 0x2211)),
)
def test_less_than_a_word_is_stored_beside_others(size, stored, others, first):
    memory = Memory(1024)
    memory.shared.words[:] = 0x44332211
    warp = run(f"STS.{size} [R2+0x2], R4", "LDS R5, [R2]", f"LDS.{size} R6, [R2]", memory=memory,
               R2=SHARED_BASE + 4 * np.arange(32), R4=0x10000 + stored)  # fmt: skip
    assert (warp.registers[5] == others).all()
    assert (warp.registers[6] == first).all()


def test_what_lies_in_the_cache_costs_the_same_each_time():
    memory = Memory(1024)
    memory.add("the matrices", 0x1000, np.arange(64, dtype=np.float32), is_cached=True)
    at = 0x1000 + 4 * np.arange(32)
    warp = run("LDG.E R4, desc[UR4][R2.64]", "LDG.E R5, desc[UR4][R2.64+0x4]",
               "STG.E desc[UR4][R2.64], R5", memory=memory, R2=at, R3=0)  # fmt: skip
    costs = [(step.effect.new_bytes, step.effect.cached_bytes) for step in warp.steps[:3]]
    assert costs == [(0, 128), (0, 160), (0, 128)]  # in sectors of 32 bytes
    assert (warp.registers[5].view(np.float32) == np.arange(1, 33)).all()


# ---- results


def test_results_that_are_wrong_are_found_out():
    case = Case("det", "float32", 5)
    matrices = usual_matrices(case, 4)
    exact = np.linalg.det(matrices.astype(np.float64))
    gradients = np.ones(4, np.float32)
    check(case, matrices, gradients, exact.astype(np.float32))
    for wrong in (exact * (1, 1, 1, 1.001), exact * (1, 1, 1, np.nan)):
        with pytest.raises(SassError, match="err by"):
            check(case, matrices, gradients, wrong)


def test_an_lu_that_is_wrong_is_found_out():
    case = Case("lu", "float64", 6)
    (columns,) = usual_matrices(case, 1)
    lu, exchanges = scipy.linalg.lu_factor(columns.T)
    check_lu(case, columns, lu.T, exchanges + 1)
    wrong = lu.copy()
    wrong[4, 2] += 1e-6
    with pytest.raises(SassError, match="errs"):
        check_lu(case, columns, wrong.T, exchanges + 1)
    with pytest.raises(SassError, match="errs"):
        check_lu(case, columns, lu.T, np.arange(6) + 1)
