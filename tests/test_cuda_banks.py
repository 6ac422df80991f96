"""Bank conflicts of the CUDA kernels, as the emulation counts them (cuda_emulation/banks.h)."""

from __future__ import annotations

import emulated
import pytest
from problems import arguments

MISSING = emulated.missing()
pytestmark = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))

LANES = range(32)


@pytest.mark.parametrize(
    ("size", "offset", "wavefronts", "least", "worst"),
    (
        (4, lambda t: 4 * t, 1, 1, 1),
        (4, lambda t: 0, 1, 1, 1),  # the same word for all
        (4, lambda t: 4 * (t // 2), 1, 1, 1),
        (4, lambda t: 8 * t, 2, 1, 2),
        (4, lambda t: 128 * t, 32, 1, 32),
        (4, lambda t: 132 * t, 1, 1, 1),  # rows of 33 words
        (8, lambda t: 8 * t, 2, 2, 1),
        (8, lambda t: 8 * (t // 2), 1, 1, 1),  # lanes t and t^1 share
        (8, lambda t: 8 * (t // 4 * 2 + t % 2), 1, 1, 1),  # lanes t and t^2 share
        (8, lambda t: 8 * (t // 8 * 4 + t % 4), 2, 2, 1),  # lanes t and t^4: served by halves
        (8, lambda t: 16 * t, 4, 2, 2),
        (8, lambda t: 256 * t, 32, 2, 16),
        (16, lambda t: 16 * t, 4, 4, 1),
        (16, lambda t: 0, 2, 2, 1),
        (16, lambda t: 16 * (t // 2), 2, 2, 1),
        (16, lambda t: 16 * (t // 4 * 2 + t % 2), 2, 2, 1),
        (16, lambda t: 16 * (t // 2) if t < 16 else 16 * t, 3, 3, 1),  # the first half shares
        (16, lambda t: 128 * t, 32, 4, 8),
        (16, lambda t: 144 * t, 4, 4, 1),  # rows of an odd number of words of 16 bytes
        (16, lambda t: 16 * t if t < 8 else -1, 1, 1, 1),  # a quarter takes part
        # Lanes t^2 do not take part, so halves are served together.
        (16, lambda t: 128 * t if t % 8 < 2 else -1, 8, 2, 4),
        (4, lambda t: 4 if t == 5 else -1, 1, 1, 1),
    ),
)
def test_the_wavefronts_of_an_access_are_counted(size, offset, wavefronts, least, worst):
    # Each is once a load and once a store.
    counted = emulated.accesses_at(size, [offset(t) for t in LANES])
    assert counted == (2, 2 * wavefronts, 2 * least, worst)


@pytest.mark.parametrize(
    ("size", "offset", "where"),
    ((4, 1024, "place 1024"), (16, 1016, "place 1016"), (8, 12, "place 12"), (16, 8, "place 8")),
)
def test_an_access_outside_or_across_words_ends_the_run(size, offset, where):
    with pytest.raises(RuntimeError, match=f"accesses {size} bytes at {where} of 1024"):
        emulated.accesses_at(size, [offset] * 32, 1024)


def test_nothing_is_counted_unless_it_is_asked_for():
    emulated.run("det", *arguments("det", 33, "float32", 1))
    assert emulated.accesses_at(4, [0] * 32).accesses == 2


@pytest.mark.parametrize(
    ("n", "dtype"),
    (
        *((n, "float32") for n in (70, 96, 128, 160)),
        *((n, dtype) for n in (50, 64, 96) for dtype in ("float64", "complex64")),
        (64, "complex128"),
    ),
)
@pytest.mark.parametrize(("operator", "most"), (("det", 1.4), ("cofactor", 1.15)))
def test_a_matrix_of_a_block_lies_in_different_banks(operator, most, n, dtype):
    # A row has an odd number of words (block/matrix.h), and lanes that are served together take
    # rows in different banks (block/panel.h): all those of cofactors, of which a few single words
    # collide, while rows in pivoted order do here and there. Neighbouring rows would take up to
    # three times as long.
    counted = emulated.shared_accesses(operator, *arguments(operator, n, dtype, 1))
    assert counted.accesses > 0
    assert counted.wavefronts < most * counted.least


@pytest.mark.parametrize("operator", ("det", "cofactor"))
@pytest.mark.parametrize("n", (13, 16, 20, 24, 28, 32, 40, 64))
def test_the_pivot_rows_of_a_warp_are_free_of_conflicts(operator, n):
    # Up to eight matrices share a warp, and their lines are four words more than a row apart
    # (warp/elimination.h): the words of 16 bytes that are served together lie in different banks.
    counted = emulated.shared_accesses(operator, *arguments(operator, n, "float32", 35))
    assert counted.accesses > 0
    assert counted.wavefronts == counted.least
