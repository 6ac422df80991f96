"""How pages of the gallery run the programs of the folder examples."""

import subprocess
import sys
from pathlib import Path

from IPython.display import Image

ROOT = Path(__file__).parents[2]
PICTURES = ROOT / "build" / "docs-pictures"


def run(name: str, *arguments: str) -> None:
    """Run examples/<name>.py as a user does, and print what it prints."""
    command = [sys.executable, f"examples/{name}.py", "--out", str(PICTURES), *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{name} ended with {done.returncode}:\n{done.stderr[-4000:]}")
    lines = [line for line in done.stdout.splitlines() if not line.startswith("wrote ")]
    print("\n".join(lines))


def picture(name: str) -> Image:
    """A picture that a program wrote."""
    return Image(filename=str(PICTURES / f"{name}.png"))
