"""Runs Python with an extension that the sanitizers watch: with_extension.py -m pytest tests/..

It is built on first use, of the kernels of the sanitized program. From Python 3.11 on: an older one
takes the package in the working directory.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "emulation"))

import sanitized_cpu


def main() -> None:
    """Becomes the Python that the command line asks for."""
    instructions = sanitized_cpu.INSTRUCTION_SETS[0]
    package = sanitized_cpu.build(instructions, "address", "extension", PYTHON=sys.executable)
    # Python comes without the sanitizer, whose library has to be the first one of a process.
    compiler = os.environ.get("CXX", "g++")
    library = subprocess.check_output([compiler, "-print-file-name=libasan.so"], text=True).strip()
    environment = sanitized_cpu.environment(instructions)
    environment["ASAN_OPTIONS"] = "detect_leaks=0"  # what Python itself leaks
    environment["LD_PRELOAD"] = library
    environment["PYTHONSAFEPATH"] = "1"  # not the package in the working directory
    environment["PYTHONPATH"] = os.pathsep.join((str(package), os.environ.get("PYTHONPATH", "")))
    os.execve(sys.executable, [sys.executable, *sys.argv[1:]], environment)


if __name__ == "__main__":
    main()
