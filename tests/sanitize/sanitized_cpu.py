"""The CPU kernels under sanitizers: programs that are built on first use."""

from __future__ import annotations

import functools
import os
import platform
import re
import shutil
from pathlib import Path

import building
from kernel_program import KernelProgram

FOLDER = Path(__file__).parent
_NEEDED = {"avx512": {"avx512f", "avx512dq", "avx512vl"}, "avx2": {"avx2", "fma"}}


def missing() -> str | None:
    """What the programs cannot be built without, if it is not there."""
    found = shutil.which("make") and shutil.which(os.environ.get("CXX", "g++"))
    return None if found else "the programs are built with make and a C++ compiler"


def _instruction_sets() -> tuple[str, ...]:
    """The widest that this processor and the kernels have, and the one of any processor."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return ("portable",)
    found = set(re.findall(r"\w+", Path("/proc/cpuinfo").read_text()))
    wide = [name for name, needed in _NEEDED.items() if needed <= found]
    return (*wide[:1], "portable")


INSTRUCTION_SETS = tuple(os.environ.get("SANITIZE_SETS", "").split()) or _instruction_sets()


def build(instructions: str, sanitize: str, target: str = "kernels", **variables: str) -> Path:
    """The folder with what the Makefile calls `target`. sanitize: "address", which comes with
    undefined behaviour, or "thread".
    """
    variables |= {"TARGET": target, "INSTRUCTIONS": instructions, "SANITIZE": sanitize}
    return building.make(FOLDER, f"sanitize/{instructions}_{sanitize}", **variables)


def environment(instructions: str, fill: int = 0xFF) -> dict[str, str]:
    """In what it runs: it ends at the first finding."""
    return {
        **os.environ,
        "TORCHDET_CPU_CAPABILITY": instructions,
        "TORCHDET_SCRATCH_FILL": str(fill),
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "TSAN_OPTIONS": "halt_on_error=1",
    }


@functools.cache
def program(instructions: str, sanitize: str = "address", fill: int = 0xFF) -> KernelProgram:
    """The kernels of an instruction set. fill: of what scratch is full before it is written."""

    def command() -> list[str]:
        return [str(build(instructions, sanitize) / "kernels")]

    return KernelProgram(command, lambda: environment(instructions, fill))
