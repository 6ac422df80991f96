"""The emulated CUDA kernels under the sanitizers of memory, undefined behaviour and threads.

`make sanitize` runs it.
Not part of `make test`: with the sanitizers these kernels compile for some minutes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import checks
import emulated
import pytest

MISSING = emulated.missing()
pytestmark = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))


MEMORY, THREADS = "address,undefined", "thread"
RUNTIMES = {MEMORY: "libasan.so", THREADS: "libtsan.so"}


def without_randomised_addresses() -> list[str]:
    """Older thread sanitizers need it where the system randomises addresses by many bits."""
    command = ["setarch", "-R"]
    can = shutil.which("setarch") and not subprocess.run([*command, "true"], check=False).returncode
    return command if can else []


def sanitized(kind: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    compiler = os.environ.get("CXX", "g++")
    runtime = subprocess.run(
        [compiler, f"-print-file-name={RUNTIMES[kind]}"], capture_output=True, text=True, check=True
    ).stdout.strip()
    if not os.path.isabs(runtime):
        pytest.skip(f"{compiler} has no {kind} sanitizer here")
    environment = {
        **os.environ,
        "LD_PRELOAD": runtime,
        "PYTHONPATH": str(Path(checks.__file__).parent),
        # Python itself leaks, and numpy's threads are not of interest.
        "ASAN_OPTIONS": "detect_leaks=0",
        "TSAN_OPTIONS": "halt_on_error=1",
        "OPENBLAS_NUM_THREADS": "1",
        "TORCHDET_EMULATION": str(emulated.build(kind)),
    }
    program = Path(emulated.__file__).with_name("sanitized.py")
    return subprocess.run(
        [*without_randomised_addresses(), sys.executable, program, kind, *arguments],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("kind", RUNTIMES)
def test_the_sanitizers_find_nothing_in_any_kernel(kind):
    run = sanitized(kind)
    assert run.returncode == 0, run.stderr[-5000:]
    assert run.stdout == "all kernels ran\n"


@pytest.mark.parametrize("fault", ("outside shared", "outside global"))
def test_the_sanitizers_find_an_access_outside(fault):
    run = sanitized(MEMORY, "fault", fault)
    assert run.returncode != 0
    assert "heap-buffer-overflow" in run.stderr


# The first two show in the results as well, the others in no order of threads.
@pytest.mark.parametrize(
    "fault", ("no barrier", "half warps", "shuffle", "vote", "one place for all blocks")
)
def test_the_sanitizers_find_a_race(fault):
    run = sanitized(THREADS, "fault", fault)
    assert run.returncode != 0
    assert "ThreadSanitizer: data race" in run.stderr


@pytest.mark.parametrize(
    "sound",
    (
        "barrier",
        "warp barrier",
        "whole warp",
        "shuffle, barrier",
        "vote, barrier",
        "named barriers",
    ),
)
def test_with_its_barrier_the_same_kernel_has_no_race(sound):
    run = sanitized(THREADS, "fault", sound)
    assert run.returncode == 0, run.stderr[-5000:]
