"""Facts about the machine and the build, kept with every result."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

import torchdet

# What nvidia-smi is asked for: it says "[N/A]" where a device does not know.
_SMI_FIELDS = (
    "driver_version",
    "clocks.sm",
    "clocks.max.sm",
    "clocks.mem",
    "clocks.max.mem",
    "power.limit",
    "temperature.gpu",
)


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _output(*command: str) -> str:
    """What a program prints; nothing where there is no such program."""
    try:
        run = subprocess.run(
            command, capture_output=True, text=True, cwd=Path(__file__).parent, check=False
        )
    except OSError:
        return ""
    return run.stdout.strip() if run.returncode == 0 else ""


def build_info() -> dict[str, Any] | None:
    """None where torchdet runs without its extension."""
    extension = sys.modules.get("torchdet._C")
    return dict(extension.build_info()) if extension else None


def _smi(uuid: str) -> dict[str, str]:
    query = f"--query-gpu={','.join(_SMI_FIELDS)}"
    values = _output("nvidia-smi", f"--id=GPU-{uuid}", query, "--format=csv,noheader")
    return dict(zip(_SMI_FIELDS, values.split(", "), strict=False)) if values else {}


def device_facts(device: torch.device) -> dict[str, Any]:
    """Of a GPU. Its clocks are those of this moment: ask while it is warm."""
    properties = torch.cuda.get_device_properties(device)
    return {
        "name": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "memory_bytes": properties.total_memory,
        "l2_bytes": getattr(properties, "L2_cache_size", None),
        "cuda": torch.version.cuda,
        "nvidia_smi": _smi(str(getattr(properties, "uuid", "")).removeprefix("GPU-")),
    }


def packages() -> dict[str, str]:
    """The versions of the peers' packages that have been used until now."""
    names = ("cupy", "jax", "triton")
    return {name: sys.modules[name].__version__ for name in names if name in sys.modules}


def facts() -> dict[str, Any]:
    """What a reader needs to judge or to repeat a measurement."""
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "platform": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torch_cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "torchdet": torchdet.__version__,
        "build": build_info(),
        "commit": _output("git", "rev-parse", "--short=12", "HEAD") or None,
        "modified": bool(
            _output("git", "status", "--porcelain", "--", ":/csrc", ":/torchdet", ":/setup.py")
        ),
    }
