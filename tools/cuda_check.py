"""Compile every CUDA kernel and report what each needs of an SM; no GPU is used.

Fails where a kernel spills registers or has a stack frame: what a thread keeps in arrays must be in
registers, and ptxas says so only here (docs/cuda.md). What has not changed since the last time is
not compiled again (tools/cuda_objects.py).
"""

import argparse
import os
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.progress import track
from rich.table import Table

from tools.cuda_objects import (
    ARCHITECTURES,
    CompilationError,
    Kernel,
    bring_up_to_date,
    readable,
    units,
)

# Objects of 17.5 MB are 15 MB of a wheel, which compresses them; the CPU kernels of all instruction
# sets are 10 MB beside them. A quarter is PTX, for devices newer than all architectures. A library
# for one architecture has less than 5 MB of objects.
LARGEST_MB = 17.6


def report(kernels: Sequence[Kernel], architectures: Sequence[str], console: Console) -> int:
    """Prints a row for each kernel; how many have a stack frame or spill registers."""
    table = Table("kernel", *(f"{a}: registers" for a in architectures), "stack", "spills")
    wrong = 0
    names = sorted({kernel.name for kernel in kernels})
    for name, text in sorted(zip(names, readable(names), strict=True), key=lambda pair: pair[1]):
        found = {kernel.architecture: kernel for kernel in kernels if kernel.name == name}
        stack = max(kernel.stack for kernel in found.values())
        spills = max(kernel.spills for kernel in found.values())
        wrong += bool(stack or spills)
        registers = (str(found[a].registers) for a in architectures)
        table.add_row(text, *registers, str(stack), str(spills),
                      style="red" if stack or spills else None)  # fmt: skip
    console.print(table)
    return wrong


def main() -> int:
    """Compile, print the table, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--architectures", nargs="+", default=ARCHITECTURES, metavar="sm_NN")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    console = Console(width=120)
    wanted = units(arguments.architectures)
    try:
        done = bring_up_to_date(wanted, arguments.jobs)
        for _ in track(done, "nvcc", len(wanted), console=console, disable=not console.is_terminal):
            pass
    except CompilationError as error:
        console.print(str(error), markup=False, highlight=False)
        return 1
    kernels = [kernel for unit in wanted for kernel in unit.kernels()]
    wrong = report(kernels, arguments.architectures, console)
    size = sum(unit.path("o").stat().st_size for unit in wanted)
    count = len({kernel.name for kernel in kernels})
    console.print(
        f"{count} kernels, {wrong} with a stack frame or spilled registers; objects of "
        f"{size / 1e6:.1f} MB, of which {LARGEST_MB} are allowed"
    )
    return 1 if wrong or not kernels or size > LARGEST_MB * 1e6 else 0


if __name__ == "__main__":
    sys.exit(main())
