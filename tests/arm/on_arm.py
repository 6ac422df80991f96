"""The CPU kernels on Arm: a program for aarch64, run by QEMU, that works on numpy arrays."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import building
from kernel_program import DTYPES, KEEPING_OPERATORS, OPERATORS, KernelProgram

FOLDER = Path(__file__).parent
COMPILER = os.environ.get("ARM_CXX", "aarch64-linux-gnu-g++")
EMULATOR = next(filter(shutil.which, ("qemu-aarch64-static", "qemu-aarch64")), None)


def missing() -> str | None:
    """What the program cannot be built or run without, if it is not there."""
    if shutil.which("make") is None or shutil.which(COMPILER) is None:
        return f"no make or no compiler for Arm ({COMPILER}; Debian: g++-aarch64-linux-gnu)"
    return None if EMULATOR else "no emulator of Arm (Debian: qemu-user-static)"


def _command() -> list[str]:
    if (reason := missing()) is not None:
        raise RuntimeError(reason)
    return [str(EMULATOR), str(building.make(FOLDER, "arm", ARM_CXX=COMPILER) / "kernels")]


_PROGRAM = KernelProgram(_command, lambda: {**os.environ, "TORCHDET_CPU_CAPABILITY": "portable"})
run, least_kept, kept_integers = _PROGRAM.run, _PROGRAM.least_kept, _PROGRAM.kept_integers

__all__ = [
    "DTYPES",
    "KEEPING_OPERATORS",
    "OPERATORS",
    "kept_integers",
    "least_kept",
    "missing",
    "run",
]
