"""Compile every CUDA kernel and report what each needs of an SM; no GPU is used.

Fails where a kernel spills registers or has a stack frame: what a thread keeps in arrays must be in
registers, and ptxas says so only here (docs/cuda.md).
"""

import argparse
import concurrent.futures
import os
import re
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.progress import track
from rich.table import Table

ROOT = Path(__file__).parents[1]
FLAGS = runpy.run_path(str(ROOT / "setup.py"))["NVCC_FLAGS"]
ARCHITECTURES = ("sm_80", "sm_90", "sm_100")
# What the CPU kernels, which are 6 MB compressed, leave of a wheel of 20 MB.
LARGEST_MB = 14
RESOURCES = re.compile(
    r"Compiling entry function '(?P<name>\w+)' for '(?P<architecture>\w+)'.*?"
    r"(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, "
    r"(?P<loads>\d+) bytes spill loads.*?Used (?P<registers>\d+) registers"
    r"(?P<rest>[^\n]*)",
    re.DOTALL,
)


class Kernel(NamedTuple):
    """Resources of one kernel on one architecture."""

    name: str
    architecture: str
    registers: int
    shared: int  # static; kernels ask for the rest at launch
    stack: int
    spills: int


def compile_kernels(source: Path, architecture: str, folder: Path) -> tuple[list[Kernel], str]:
    """The kernels of a source file, and the compiler's complaints."""
    number = architecture.removeprefix("sm_")
    # The newest architecture also as PTX, as the library has it.
    ptx = f",compute_{number}" if architecture == ARCHITECTURES[-1] else ""
    target = f"arch=compute_{number},code=[{architecture}{ptx}]"
    run = subprocess.run(
        ["nvcc", *FLAGS, "-Xptxas", "-v", "-gencode", target,
         "-c", str(source), "-o", str(folder / f"{source.parent.name}_{source.stem}.{architecture}.o")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if run.returncode:
        return [], run.stdout + run.stderr
    kernels = []
    for match in RESOURCES.finditer(run.stderr):
        shared = re.search(r"(\d+) bytes smem", match["rest"])
        spills = int(match["stores"]) + int(match["loads"])
        kernels.append(
            Kernel(match["name"], match["architecture"], int(match["registers"]),
                   int(shared[1]) if shared else 0, int(match["stack"]), spills)
        )  # fmt: skip
    return kernels, ""


def readable(names: list[str]) -> list[str]:
    """Kernel names as in the source: ThreadDeterminants<float, 3>."""
    text = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True,
                          check=True).stdout  # fmt: skip
    text = re.sub(r"torchdet::(cuda::)?", "", text)
    return [re.sub(r".*run_kernel<(.*) ?>\(Problem\)$", r"\1", line) for line in text.splitlines()]


def main() -> int:
    """Compile, print the table, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--architectures", nargs="+", default=ARCHITECTURES, metavar="sm_NN")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    console = Console(width=120)
    sources = sorted((ROOT / "csrc/cuda").rglob("*.cu"))
    kernels: list[Kernel] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool,
    ):
        tasks = [
            pool.submit(compile_kernels, source, architecture, Path(folder))
            for source in sources
            for architecture in arguments.architectures
        ]
        done = concurrent.futures.as_completed(tasks)
        for task in track(
            done, "nvcc", len(tasks), console=console, disable=not console.is_terminal
        ):
            found, complaint = task.result()
            if complaint:
                console.print(complaint, markup=False, highlight=False)
                return 1
            kernels += found
        size = sum(path.stat().st_size for path in Path(folder).glob("*.o"))

    table = Table(
        "kernel", *(f"{a}: registers" for a in arguments.architectures), "stack", "spills"
    )
    wrong = 0
    names = sorted({kernel.name for kernel in kernels})
    for name, text in sorted(zip(names, readable(names), strict=True), key=lambda pair: pair[1]):
        found = {kernel.architecture: kernel for kernel in kernels if kernel.name == name}
        stack = max(kernel.stack for kernel in found.values())
        spills = max(kernel.spills for kernel in found.values())
        wrong += bool(stack or spills)
        registers = (str(found[a].registers) for a in arguments.architectures)
        table.add_row(text, *registers, str(stack), str(spills),
                      style="red" if stack or spills else None)  # fmt: skip
    console.print(table)
    console.print(
        f"{len(names)} kernels, {wrong} with a stack frame or spilled registers; objects of "
        f"{size / 1e6:.1f} MB, of which {LARGEST_MB} are allowed"
    )
    return 1 if wrong or not kernels or size > LARGEST_MB * 1e6 else 0


if __name__ == "__main__":
    sys.exit(main())
