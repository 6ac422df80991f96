"""Stages "tests" and "sanitizers": nothing is timed meanwhile, so they run side by side."""

from __future__ import annotations

import concurrent.futures
import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree
from collections.abc import Sequence
from pathlib import Path

from tools.gpu.results import Results

ROOT = Path(__file__).parents[2]
TESTS = (
    "tests/test_cuda.py",
    "tests/test_cuda_kept.py",
    "tests/test_values.py",
    "tests/test_contract.py",
)
WORKERS, MOST_FAILURES = 8, 30
LISTED = 100  # failing tests that are named
TAIL = 1500
PATIENCE = 12.0  # seconds for an interrupted pytest to end

# They watch torchdet's kernels alone: torch's own would take most of the time.
SANITIZERS = ("memcheck", "racecheck", "initcheck", "synccheck")
KERNELS = ("--kernel-name", "kernel_substring=run_kernel")
# What torch's LU has a part in is left out where only these kernels are watched: initcheck does not
# know that torch's have written something.
OPTIONS = {"initcheck": ("--without-lu",)}
SANITIZED = (
    *("--dtype", "float32", "--dtype", "complex128"),
    *(f"--n={n}" for n in (3, 8, 16, 32, 33, 64)),
    *("--large", "--batch", "5"),
)


def _pytest(command: Sequence[str], seconds: float) -> int:
    """The exit status. Where time is up pytest is interrupted, so that it reports what it has."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, cwd=ROOT, env=environment)
    for patience, how in ((seconds, signal.SIGINT), (PATIENCE, signal.SIGKILL)):
        try:
            return process.wait(patience)
        except subprocess.TimeoutExpired:
            process.send_signal(how)
    return process.wait()


def suite(
    results: Results, seconds: float, paths: Sequence[str] = TESTS, select: str = "cuda"
) -> int:
    """The suite on the GPU; 0 if all tests pass."""
    junit = results.folder / "junit.xml"
    command = [sys.executable, "-m", "pytest", "-q", *paths, "-k", select, "-p", "no:cacheprovider"]
    command += [f"--maxfail={MOST_FAILURES}", f"--junitxml={junit}"]
    if importlib.util.find_spec("xdist"):
        command += ["-n", str(WORKERS), "--dist", "loadgroup"]
    code = _pytest(command, max(1.0, seconds - PATIENCE))
    if not junit.exists():
        return code or 1
    outcome = xml.etree.ElementTree.parse(junit).getroot().find("testsuite")
    failed = [
        f"{case.get('classname')}::{case.get('name')}"
        for case in outcome.iter("testcase")
        if case.find("failure") is not None or case.find("error") is not None
    ]
    counts = {x: int(outcome.get(x, 0)) for x in ("tests", "failures", "errors", "skipped")}
    taken = float(outcome.get("time", 0))
    results.add("tests", **counts, exit=code, seconds=taken, failed=failed[:LISTED])
    return code


def _sanitize(tool: str, seconds: float) -> tuple[str, int, str, float]:
    started = time.monotonic()
    command = ["compute-sanitizer", "--tool", tool, *KERNELS, "--error-exitcode", "9"]
    command += [sys.executable, "tools/run_all_kernels.py", *SANITIZED, *OPTIONS.get(tool, ())]
    # Every tensor is an allocation of its own, so that memcheck knows where it ends.
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PYTORCH_NO_CUDA_MEMORY_CACHING": "1",
        "OMP_NUM_THREADS": "1",
    }
    # In a file: what it has said stays where it is ended.
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        output.seek(0)
        return tool, code, output.read(), time.monotonic() - started


def sanitizers(results: Results, seconds: float) -> int:
    """All tools of compute-sanitizer at once, a row for each as it ends; how many found faults."""
    failed = 0
    with concurrent.futures.ThreadPoolExecutor(len(SANITIZERS)) as pool:
        tasks = [pool.submit(_sanitize, tool, seconds) for tool in SANITIZERS]
        for task in concurrent.futures.as_completed(tasks):
            tool, code, text, taken = task.result()
            failed += code != 0
            row = {"tool": tool, "exit": code, "seconds": round(taken, 1)}
            results.add("sanitizers", **row, output=text[-TAIL:])
            print(f"--- {tool}: exit status {code}\n{text}", flush=True)
    return failed
