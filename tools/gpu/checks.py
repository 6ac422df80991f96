"""Stages "tests" and "sanitizers": nothing is timed meanwhile, so they run side by side."""

from __future__ import annotations

import concurrent.futures
import importlib.util
import os
import subprocess
import sys
import time
import xml.etree.ElementTree
from pathlib import Path

from tools.gpu.results import Results

ROOT = Path(__file__).parents[2]
TESTS = ("tests/test_cuda.py", "tests/test_values.py", "tests/test_contract.py")
WORKERS, MOST_FAILURES = 8, 30
LISTED = 100  # failing tests that are named
TAIL = 1500

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


def suite(results: Results, paths: tuple[str, ...] = TESTS, select: str = "cuda") -> int:
    """The suite on the GPU; 0 if all tests pass."""
    junit = results.folder / "junit.xml"
    command = [sys.executable, "-m", "pytest", "-q", *paths, "-k", select, "-p", "no:cacheprovider"]
    command += [f"--maxfail={MOST_FAILURES}", f"--junitxml={junit}"]
    if importlib.util.find_spec("xdist"):
        command += ["-n", str(WORKERS), "--dist", "loadgroup"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    code = subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode
    if not junit.exists():
        return code or 1
    outcome = xml.etree.ElementTree.parse(junit).getroot().find("testsuite")
    failed = [
        f"{case.get('classname')}::{case.get('name')}"
        for case in outcome.iter("testcase")
        if case.find("failure") is not None or case.find("error") is not None
    ]
    counts = {x: int(outcome.get(x, 0)) for x in ("tests", "failures", "errors", "skipped")}
    results.add("tests", **counts, seconds=float(outcome.get("time", 0)), failed=failed[:LISTED])
    return code


def _sanitize(tool: str) -> tuple[str, int, str, float]:
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
    run = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    return tool, run.returncode, run.stdout + run.stderr, time.monotonic() - started


def sanitizers(results: Results) -> int:
    """All tools of compute-sanitizer at once, a row for each as it ends; how many found faults."""
    failed = 0
    with concurrent.futures.ThreadPoolExecutor(len(SANITIZERS)) as pool:
        for task in concurrent.futures.as_completed(pool.submit(_sanitize, x) for x in SANITIZERS):
            tool, code, text, seconds = task.result()
            failed += code != 0
            row = {"tool": tool, "exit": code, "seconds": round(seconds, 1)}
            results.add("sanitizers", **row, output=text[-TAIL:])
            print(f"--- {tool}: exit status {code}\n{text}", flush=True)
    return failed
