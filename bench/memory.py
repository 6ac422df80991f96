"""Peak memory of a call, as the operating system counts it: scratch and libraries included."""

from __future__ import annotations

import ctypes
import gc
from pathlib import Path

from bench.clocks import Call

MEMORY_NOISE = 1 << 20  # bytes that the system counts one time and not the other

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_RESET_PEAK = "5"


def _bytes_of(field: str) -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) << 10


def peak_bytes(call: Call) -> int | None:
    """What the process holds at most during a call, beyond what it held before.

    The call has run before, so libraries are loaded and have their threads' scratch, which counts
    only where it is made anew. None where the system does not tell (it is Linux that does).
    """
    try:
        call()
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)  # else memory given back to malloc would be reused unseen
        _CLEAR.write_text(_RESET_PEAK)
        before = _bytes_of("VmRSS")
        call()
        return max(0, _bytes_of("VmHWM") - before)
    except (OSError, AttributeError, StopIteration):
        return None
