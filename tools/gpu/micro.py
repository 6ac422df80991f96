"""Stage "micro": what single instructions cost on this GPU, by kernels of their own (micro.cu)."""

from __future__ import annotations

import ctypes
from pathlib import Path

from tools.gpu.results import Results

ROUNDS = 5
WARPS = (4, 8, 16)
_EACH = 0x01010101  # the same number in each of the four bytes of `way`
# Name of the kernel in micro.cu, what is varied, and its `way`.
MEASUREMENTS: tuple[tuple[str, str, int], ...] = (
    *(("lds128", f"{k} addresses, neighbours share", k) for k in (1, 2, 4, 8, 16, 32)),
    *(("lds128", f"{k} addresses, lanes far apart share", 100 + k) for k in (2, 4, 8, 16)),
    *(("sts128", f"{k} lanes store", k * _EACH) for k in (0, 1, 4, 8, 32)),
    ("sts128", "one lane stores, in one of four instructions", 1),
    ("sts128", "8 lanes store, in one of four instructions", 8),
    *((name, "", 1) for name in ("shfl", "redux", "ffma", "fmnmx", "dfma")),
    *((f"code{k}", f"{k} KB of straight-line code", 1) for k in (20, 40, 80)),
)
THREADS, CARVEOUTS = 64, (-1, 100)
SHARED_KB = (5, 9, 17, 25, 34, 57, 75, 100)


def run(results: Results, library: Path) -> None:
    """Everything once.

    Raises:
        RuntimeError: CUDA reports an error.
    """
    micro = ctypes.CDLL(str(library))
    micro.micro_run.restype = micro.micro_residents.restype = ctypes.c_char_p

    def check(message: bytes | None) -> None:
        if message is not None:
            raise RuntimeError(message.decode())

    for name, what, way in MEASUREMENTS:
        for warps in WARPS:
            clocks, hertz = ctypes.c_double(), ctypes.c_double()
            to = (ctypes.byref(clocks), ctypes.byref(hertz))
            check(micro.micro_run(name.encode(), way, warps, ROUNDS, *to))
            results.add(
                "micro",
                instruction=name,
                what=what,
                warps=warps,
                clocks=round(clocks.value, 4),
                hertz=round(hertz.value),
            )
    for kilobytes in SHARED_KB:
        for carveout in CARVEOUTS:
            residents = ctypes.c_int()
            check(
                micro.micro_residents(kilobytes * 1024, THREADS, carveout, ctypes.byref(residents))
            )
            results.add(
                "micro",
                residents=residents.value,
                shared_kb=kilobytes,
                threads=THREADS,
                carveout=carveout,
            )
