"""How pages of the gallery run the programs of the folder examples.

With TORCHDET_DOCS_QUICK set they run with the short arguments of examples/short.py: the pages
are made, and their numbers mean nothing.
"""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

from IPython.display import Image

ROOT = Path(__file__).parents[2]
PICTURES = ROOT / "build" / "docs-pictures"


def run(name: str, processes: int = 0) -> None:
    """Run examples/<name>.py as a user does, and print what it prints.

    processes: by torchrun, with so many; else the program draws a picture.
    """
    command = [sys.executable, f"examples/{name}.py", "--out", str(PICTURES)]
    if processes:
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command = [*torchrun, "--nproc-per-node", str(processes), f"examples/{name}.py"]
    if os.environ.get("TORCHDET_DOCS_QUICK"):
        command += runpy.run_path(str(ROOT / "examples" / "short.py"))["ARGUMENTS"][name]
    # What conf.py sets for one process of one is torchrun's to set.
    own = {"MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE", "LOCAL_RANK"}
    environment = {name: value for name, value in os.environ.items() if name not in own}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{name} ended with {done.returncode}:\n{done.stderr[-4000:]}")
    # Without progress bars, and what moves a terminal's cursor.
    output = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", done.stdout)
    lines = [line for line in output.splitlines() if line.strip() and "━" not in line]
    print("\n".join(line for line in lines if not line.startswith("wrote ")))


def picture(name: str) -> Image:
    """A picture that a program wrote."""
    return Image(filename=str(PICTURES / f"{name}.png"))
