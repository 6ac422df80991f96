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


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _git(*arguments: str) -> str:
    run = subprocess.run(
        ("git", *arguments), capture_output=True, text=True, cwd=Path(__file__).parent, check=False
    )
    return run.stdout.strip()


def _build_info() -> dict[str, Any] | None:
    """None where torchdet runs without its extension."""
    extension = sys.modules.get("torchdet._C")
    return dict(extension.build_info()) if extension else None


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
        "build": _build_info(),
        "commit": _git("rev-parse", "--short=12", "HEAD") or None,
        "modified": bool(_git("status", "--porcelain", "--", "csrc", "torchdet", "setup.py")),
    }
