"""A variant of some kernels, to be timed beside those of the project: objects that travel along.

    python -m tools.gpu.variants wide --only warp/float --define TORCHDET_ROWS=2
    python -m tools.gpu.variants before --root ../other-checkout --only warp/float block/float

compiles csrc/cuda/warp/float.cu with that definition, or of that checkout, into a folder of
build/device/variants. The stage "library" links it on the machine with the GPU, and "kernels" times
every order that the variant has in turn with the project's own.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tools.gpu import objects
from tools.gpu.objects import FOLDER, INTERFACE, ROOT, VARIANTS, CompilationError, Unit

# The names of the files in the folder of a size class, as csrc/problem.h counts dtypes.
DTYPES = ("float", "double", "complex_float", "complex_double")
STUBS = "stubs.cpp"


def stubs(root: Path, chosen: list[str]) -> str:
    """A source in which the tables of all other classes and dtypes get no kernels.

    By the names that the linker knows, so that no header has a say in it.
    """
    lines = []
    for table in sorted(root.glob("csrc/cuda/*/table.h")):
        for number, name in enumerate(DTYPES):
            if f"{table.parent.name}/{name}" in chosen:
                continue
            function = f"add_{table.parent.name}_kernels"
            of_dtype = f"{len(function)}{function}ILNS_5DtypeE{number}EEE"
            symbol = f"_ZN8torchdet{of_dtype}vRNS_15CudaKernelTableE"
            own = f"{function}_{name}"
            lines += [f'void {own}(void*) asm("{symbol}");', f"void {own}(void*) {{}}"]
    return "\n".join([*lines, ""])


def build(name: str, chosen: list[str], root: Path, defines: list[str], architecture: str) -> Path:
    """The folder with its objects.

    Raises:
        CompilationError: A compiler fails.
    """
    work = FOLDER / VARIANTS / name
    work.mkdir(parents=True, exist_ok=True)
    (work / STUBS).write_text(stubs(root, chosen))
    flags = tuple(f"-D{define}" for define in defines)
    # What no table belongs to: what the device is asked at a launch.
    common = [str(p.relative_to(root)) for p in root.glob("csrc/cuda/*.cu")]
    sources = [*(f"csrc/cuda/{x}.cu" for x in chosen), *common, INTERFACE]
    units = [Unit(source, architecture, flags, root) for source in sources]
    units.append(Unit(STUBS, architecture, flags, work))
    objects.bring_up_to_date(units, work)
    return work


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name")
    parser.add_argument("--only", nargs="+", required=True, metavar="CLASS/DTYPE")
    parser.add_argument("--root", type=Path, default=ROOT, help="of another checkout")
    parser.add_argument("--define", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--architecture", default=objects.ARCHITECTURE)
    options = parser.parse_args()
    try:
        folder = build(
            options.name,
            options.only,
            options.root.resolve(),
            options.define,
            options.architecture,
        )
    except CompilationError as error:
        print(error)
        return 1
    size = sum(path.stat().st_size for path in folder.iterdir())
    print(f"{folder.relative_to(ROOT)}: {size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
