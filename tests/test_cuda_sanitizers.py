"""The emulated CUDA kernels under the sanitizers of memory and undefined behaviour: make sanitize.

Not part of `make test`: with the sanitizers these kernels compile for some minutes.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import checks
import emulated
import pytest

MISSING = emulated.missing()
pytestmark = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))


def sanitized(*arguments: str) -> subprocess.CompletedProcess[str]:
    compiler = os.environ.get("CXX", "g++")
    asan = subprocess.run(
        [compiler, "-print-file-name=libasan.so"], capture_output=True, text=True, check=True
    ).stdout.strip()
    if not os.path.isabs(asan):
        pytest.skip(f"{compiler} has no address sanitizer here")
    environment = {
        **os.environ,
        "LD_PRELOAD": asan,
        "PYTHONPATH": str(Path(checks.__file__).parent),
        # Python itself leaks, and numpy's threads are not of interest.
        "ASAN_OPTIONS": "detect_leaks=0",
        "OPENBLAS_NUM_THREADS": "1",
        "TORCHDET_EMULATION": str(emulated.build("address,undefined")),
    }
    program = Path(emulated.__file__).with_name("sanitized.py")
    return subprocess.run(
        [sys.executable, program, *arguments], env=environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip


def test_the_sanitizers_find_nothing_in_any_kernel():
    run = sanitized()
    assert run.returncode == 0, run.stderr[-5000:]
    assert run.stdout == "all kernels ran\n"


@pytest.mark.parametrize("fault", ("outside shared", "outside global"))
def test_the_sanitizers_find_an_access_outside(fault):
    run = sanitized("fault", fault)
    assert run.returncode != 0
    assert "heap-buffer-overflow" in run.stderr
