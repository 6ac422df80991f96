"""What the library asks of CUDA's runtime, the driver and torch, on fakes of them (cuda_runtime/).

No GPU is needed: two threads that launch one kernel, errors of the runtime, a driver that is too
old, and where torch's stream is found.
"""

from __future__ import annotations

import ctypes
import functools
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import building
import pytest

from torchdet import _extension

HAS_COMPILER = shutil.which("make") and shutil.which(os.environ.get("CXX", "g++"))
compiled = pytest.mark.skipif(not HAS_COMPILER, reason="made with make and a C++ compiler")
SOURCES = Path(__file__).with_name("cuda_runtime")
OPTIN = 227 * 1024
NO_CARVEOUT = -1


@functools.cache
def folder() -> Path:
    return building.make(SOURCES, "cuda_runtime")


def runtime() -> ctypes.CDLL:
    """A runtime that nothing has been asked of yet: every test loads a copy of its own."""
    path = folder() / f"libruntime-{os.getpid()}-{next(_copies)}.so"
    shutil.copy(folder() / "libruntime.so", path)
    library = ctypes.CDLL(str(path))
    path.unlink()
    for name in ("fake_launch", "fake_limits", "fake_driver_problem"):
        getattr(library, name).restype = ctypes.c_char_p
    return library


_copies = iter(range(1000))


def launch(library: ctypes.CDLL, kernel=0, device=0, shared=OPTIN, carveout=NO_CARVEOUT):
    return library.fake_launch(kernel, device, ctypes.c_size_t(shared), carveout)


@compiled
def test_a_kernel_gets_its_attributes_once_on_each_device():
    library = runtime()
    for expected, kernel, device, shared in (
        (0, 0, 0, 48 * 1024),  # what every block may have
        (1, 0, 0, 48 * 1024 + 16),
        (1, 0, 0, OPTIN),
        (2, 0, 1, OPTIN),
        (3, 1, 1, 100_000),
        (3, 1, 1, OPTIN),
        (3, 0, 0, OPTIN),
    ):
        assert launch(library, kernel, device, shared) is None
        assert library.fake_settings() == expected
    assert library.fake_carveout() == NO_CARVEOUT


@compiled
def test_a_kernel_that_prefers_shared_memory_gets_it():
    library = runtime()
    for _ in range(2):
        assert launch(library, shared=1024, carveout=100) is None
    assert library.fake_settings() == 2
    assert library.fake_carveout() == 100


@compiled
def test_two_threads_may_launch_one_kernel_at_two_orders():
    library, failed, together = runtime(), [], threading.Barrier(2)

    def launches(shared: int) -> None:  # ctypes lets the threads run side by side
        together.wait()
        failed.append(library.fake_launches(0, ctypes.c_size_t(shared), 10_000))

    threads = [threading.Thread(target=launches, args=(shared,)) for shared in (66_000, 50_000)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == [0, 0]


@compiled
@pytest.mark.parametrize(
    "function",
    ("cudaGetDevice", "cudaDeviceGetAttribute", "cudaFuncSetAttribute", "cudaLaunchKernelExC"),
)
def test_a_call_that_fails_is_reported_once(function):
    library = runtime()
    library.fake_failure(function.encode())
    assert launch(library) == b"unknown error"
    assert library.fake_last_error() == 0
    assert launch(library) is None


@compiled
def test_more_shared_memory_than_there_is_is_refused():
    library = runtime()
    assert launch(library, shared=OPTIN + 16) == b"invalid argument"
    assert library.fake_last_error() == 0
    assert launch(library) is None


@compiled
def test_limits_that_cannot_be_asked_for_leave_no_error_behind():
    library = runtime()
    assert library.fake_limits(0) is None
    assert library.fake_limits(9) == b"invalid argument"
    assert library.fake_last_error() == 0


# ---- the driver


@compiled
@pytest.mark.parametrize(
    ("driver", "built", "parts"),
    (
        (0, 13000, ()),  # no driver, no GPU
        (13000, 13000, ()),
        (13000, 13020, ()),  # the same major version
        (14010, 13000, ()),
        (
            12080,
            13000,
            ("CUDA 13.0:", "for CUDA 13 or", "got one for CUDA 12.8.", "with CUDA 12 ("),
        ),
        (
            11070,
            12080,
            ("CUDA 12.8:", "for CUDA 12 or", "got one for CUDA 11.7.", "with CUDA 11 ("),
        ),
    ),
)
def test_a_driver_of_an_older_major_version_is_named(driver, built, parts):
    message = runtime().fake_driver_problem(driver, built).decode()
    assert bool(message) is bool(parts)
    assert all(part in message for part in parts)


IN_A_PROCESS = """
import ctypes, os, sys
library = ctypes.CDLL(sys.argv[1])
library.installed_driver_problem.restype = ctypes.c_char_p
print(library.installed_driver_problem().decode())
if os.fork() == 0:
    os._exit(0)
"""


@compiled
@pytest.mark.parametrize("is_old", (True, False))
def test_the_driver_that_is_installed_is_asked(is_old, tmp_path):
    # Where there is a driver of this machine's own, the fake comes before it.
    (tmp_path / "libcuda.so.1").write_bytes(
        (folder() / "libcuda.so.1").read_bytes() if is_old else b"no library"
    )
    done = subprocess.run(
        [sys.executable, "-c", IN_A_PROCESS, folder() / "libruntime.so"],
        env={**os.environ, "LD_LIBRARY_PATH": str(tmp_path)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert ("got one for CUDA 12.8" in done.stdout) is is_old


@pytest.mark.parametrize("problem", ("", "expected a newer driver"))
def test_an_import_says_what_is_wrong_with_the_driver(problem, monkeypatch, recwarn):
    module = SimpleNamespace(build_info=lambda: {"cuda_driver_problem": problem})
    monkeypatch.delenv("TORCHDET_EXTENSION", raising=False)
    monkeypatch.setattr(_extension.importlib, "import_module", lambda name: module)
    assert _extension.load()  # the CPU's kernels serve
    texts = [str(warning.message) for warning in recwarn]
    assert texts == ([f"torchdet: {problem}."] if problem else [])


# ---- torch's stream

FIND_STREAM = """
import ctypes, os, sys
runtime, torch, mode = sys.argv[1:]
if mode != "absent":
    ctypes.CDLL(torch, getattr(os, mode) | os.RTLD_NOW)
print(ctypes.CDLL(runtime).stream_of_torch())
"""


@compiled
@pytest.mark.parametrize(
    ("mode", "stream"), (("absent", -1), ("RTLD_LOCAL", 7), ("RTLD_GLOBAL", 7))
)
def test_the_stream_is_found_however_torch_is_loaded(mode, stream):
    # The library here is linked with nothing of torch, as a linker with --as-needed leaves it.
    done = subprocess.run(
        [sys.executable, "-c", FIND_STREAM,
         folder() / "libruntime.so", folder() / "libtorch_cuda.so", mode],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert int(done.stdout) == stream
