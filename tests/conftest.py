"""Devices, seeds, the hypothesis profile, and the backend and GPU lines of the report."""

from __future__ import annotations

import importlib
import os
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import torch

from cases import EMULATION, EXTENSION

NO_CUDA = "no CUDA device"

# The kernels' source, run as it would be on other machines.
for folder in ("emulation", "cuda_emulation", "arm", "sanitize"):
    sys.path.append(str(Path(__file__).parent / folder))
if EMULATION:
    import operators

    kernels = importlib.import_module({"cuda": "emulated", "arm": "on_arm"}[EMULATION])
    if reason := kernels.missing():
        raise pytest.UsageError(reason)
    EMULATED_KERNELS = operators.register(kernels)

hypothesis.settings.register_profile(
    "torchdet", derandomize=True, deadline=None, database=None, max_examples=30
)
hypothesis.settings.load_profile("torchdet")

if "PYTEST_XDIST_WORKER" in os.environ:
    # The workers share the cores; tests about threads set their own number.
    torch.set_num_threads(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    text = "of the cases of each test, the first and about one in K others"
    parser.addoption("--every", type=int, default=1, metavar="K", help=text)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A hash chooses, so that the sample has no step in common with a grid of parameters."""
    seen: set[str] = set()
    left_out = set()
    for item in items:
        test = item.nodeid.partition("[")[0]
        if test in seen and zlib.crc32(item.nodeid.encode()) % config.getoption("every"):
            left_out.add(item)
        seen.add(test)
    if left_out:
        config.hook.pytest_deselected(items=list(left_out))
        items[:] = [item for item in items if item not in left_out]


def pytest_report_header() -> str:
    cuda = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    if EMULATION:
        backend = {"cuda": "CUDA kernels on the host", "arm": "CPU kernels on Arm"}[EMULATION]
    elif EXTENSION:
        backend = "extension"
    else:
        backend = "reference (extension not built or switched off)"
    return f"torchdet backend: {backend}, torch {torch.__version__}, CUDA device: {cuda}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = terminalreporter.stats.get("skipped", [])
    count = sum(NO_CUDA in str(report.longrepr) for report in skipped)
    if count:
        terminalreporter.write_line(f"{count} GPU cases skipped: {NO_CUDA}")


@pytest.fixture(
    params=[
        "cpu",
        pytest.param(
            "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason=NO_CUDA)
        ),
    ]
)
def device(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=[torch.float32, torch.float64, torch.complex64, torch.complex128],
                ids=["float32", "float64", "complex64", "complex128"])  # fmt: skip
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param


@pytest.fixture(params=[torch.float64, torch.complex128], ids=["float64", "complex128"])
def wide_dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param


@pytest.fixture(autouse=True)
def _same_start() -> Iterator[None]:
    """Every test begins with the same seed and leaves the thread count as it was."""
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    yield
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    """torch.compile knows of no code before the test, and of none of the test after it."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture
def plain_schedule() -> Iterator[None]:
    """The emulated CUDA kernels run in their usual order; the test may ask for another one."""
    emulated = importlib.import_module("emulated")
    emulated.schedule()
    yield
    emulated.schedule()
