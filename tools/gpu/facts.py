"""Stage "facts": the machine, and its limits as `python -m bench` measures them."""

from __future__ import annotations

import subprocess
from dataclasses import asdict

import torch

from bench import machine
from bench.clocks import CudaClock
from bench.limits import measure_limits
from bench.timing import Effort
from tools.gpu.results import Results

EFFORT = Effort(rounds=3, seconds=0.02)
_TOOLS = ("nvidia-smi", "nvcc --version", "ncu --version", "compute-sanitizer --version")


def _says(command: str) -> str:
    """What a tool prints, or that it is not there."""
    try:
        run = subprocess.run(
            command.split(), capture_output=True, text=True, check=False, timeout=20
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{type(error).__name__}: {error}"
    return run.stdout + run.stderr


def run(results: Results) -> None:
    """One row that says which machine it is, and one with its limits and its clocks under load."""
    device = torch.device("cuda", torch.cuda.current_device())
    results.add("facts", tools={command: _says(command) for command in _TOOLS})
    clock = CudaClock(device)
    limits = measure_limits(clock, EFFORT, quick=False)
    facts = machine.facts()
    facts["device"] = machine.device_facts(device)  # warm by now, and its clocks with it
    shared = torch.cuda.get_device_properties(device).shared_memory_per_block_optin
    results.add("facts", machine=facts, limits=limits, effort=asdict(EFFORT), shared_bytes=shared)
