"""Kernels that are wrong on purpose (cuda_emulation/faults.cpp): the emulation finds each fault."""

from __future__ import annotations

import itertools

import emulated
import numpy as np
import pytest
from checks import assert_same_bits

MISSING = emulated.missing()
pytestmark = [
    pytest.mark.skipif(MISSING is not None, reason=str(MISSING)),
    pytest.mark.usefixtures("plain_schedule"),
]


def outcomes(fault: str) -> set[bytes]:
    """What the kernel writes in all orders and on all contents of shared memory."""
    seen = set()
    for order, fill in itertools.product(emulated.ORDERS, (0x00000000, 0xFFFFFFFF)):
        emulated.schedule(order, 1, fill)
        seen.add(emulated.fault(fault).tobytes())
    return seen


@pytest.mark.parametrize(
    "fault", ("no barrier", "no warp barrier", "half warps", "uninitialised", "no barrier before")
)
def test_a_race_or_uninitialised_memory_shows_in_the_result(fault):
    assert len(outcomes(fault)) > 1


@pytest.mark.parametrize("fault", ("shuffle", "vote"))
def test_a_race_that_a_collective_happens_to_order_does_not_show(fault):
    # It does in test_cuda_sanitizers.py.
    assert len(outcomes(fault)) == 1


@pytest.mark.parametrize(
    "sound", ("barrier", "warp barrier", "whole warp", "named barriers", "cluster")
)
def test_with_its_barrier_the_same_kernel_always_gives_one_result(sound):
    assert len(outcomes(sound)) == 1


@pytest.mark.parametrize(
    ("fault", "where"),
    (
        ("exited lane", "0..19 at shuffle 20..31 at the end"),
        ("diverged", "0..0 at shuffle_xor 1..1 at any_in_warp"),
        ("skipped barrier", "0..31 at sync_block 32..63 at the end"),
        ("other lanes", "0..15 at sync_warp 16..31 at the end"),
        ("other barrier", "0..63 at sync_threads"),
        ("skipped cluster barrier", "0..39 at wait_cluster 40..63 at the end"),
    ),
)
def test_threads_that_do_not_meet_at_a_collective_are_named(fault, where):
    with pytest.raises(RuntimeError, match="do not meet") as error:
        emulated.fault(fault)
    assert where in str(error.value)


@pytest.mark.parametrize(
    ("fault", "what"),
    (
        ("foreign lane", "shuffles from lane 20, which does not take part in 0x0000ffff"),
        ("unnamed caller", "calls any_in_warp of 0xfffeffff, which does not name it"),
        (
            "other count",
            "calls sync_threads of (32|64) at barrier 1, where others wait for (64|32)",
        ),
        ("one too many", "calls sync_threads of 32 at barrier 1, where all have arrived"),
        ("second arrival", "arrives at the barrier of the cluster twice"),
        ("no arrival", "waits at a barrier of the cluster at which it has not arrived"),
        ("foreign block", "reads block 2 of 2"),
    ),
)
def test_a_thread_that_does_what_its_lanes_forbid_is_named(fault, what):
    for order in emulated.ORDERS:
        emulated.schedule(order, 1)
        with pytest.raises(RuntimeError, match=rf"block [01]: thread \d+ {what}"):
            emulated.fault(fault)


@pytest.mark.parametrize("fault", ("no barrier behind", "late reader"))
def test_a_block_that_ends_while_another_may_still_read_it_is_named(fault):
    what = "ends while other blocks may still read|reads the shared memory of block . .* has ended"
    for order, seed in itertools.product(emulated.ORDERS, range(4)):
        emulated.schedule(order, seed)
        with pytest.raises(RuntimeError, match=what):
            emulated.fault(fault)


def test_lanes_of_a_warp_may_meet_on_their_own():
    def warp(first: int) -> list[int]:
        sums = [4 * first + 10 - lane for lane in range(5)]
        exchanged = [first + lane for lane in range(15, 7, -1)]
        return [*sums, *(1,) * 3, *exchanged, *(first + 119,) * 16]

    for order in emulated.ORDERS:
        emulated.schedule(order, 1)
        assert emulated.fault("lanes apart").tolist() == warp(0) + warp(32)


def test_numbers_that_are_not_normal_have_the_reciprocals_of_a_gpu():
    # Of NaN, 2^-140, -2^-140, -2^127, whose reciprocal is subnormal, 0 and infinity.
    got = emulated.fault("reciprocals")[:6]
    assert got.view(np.uint32)[0] == emulated.GPU_NAN
    expected = np.array([np.inf, -np.inf, -0.0, np.inf, 0.0], np.float32)
    assert_same_bits((got[1:],), (expected,), "reciprocals")
