"""What the emulations run is made on first use."""

from __future__ import annotations

import fcntl
import subprocess
from pathlib import Path

BUILD = Path(__file__).parents[2] / "build"


def make(sources: Path, name: str, **variables: str) -> Path:
    """The folder build/NAME, with what the Makefile in `sources` makes where it is out of date."""
    folder = BUILD / name
    folder.mkdir(parents=True, exist_ok=True)
    values = [f"{key}={value}" for key, value in variables.items()]
    with (folder / "lock").open("w") as lock:  # several processes may want it at once
        fcntl.flock(lock, fcntl.LOCK_EX)
        subprocess.run(
            ["make", "--silent", "-j2", f"BUILD={folder}", *values], cwd=sources, check=True
        )
    return folder
