"""Compiles without a GPU what a machine with a GPU only has to link: ``make device-objects``.

build/device/ has an object file of every source of the extension that includes no header of torch
or Python: the CUDA kernels, and the CPU kernels. They fit every Python and every torch. The
manifest has the hash of what each was made from, so that a later run, here or on the machine with
the GPU, compiles what has changed and nothing else. That folder and the sources are all that has to
travel.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import functools
import hashlib
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "build" / "device"
MANIFEST = "manifest.json"
ARCHITECTURE = "9.0"  # an H200's, as TORCH_CUDA_ARCH_LIST has it
# On a machine with a GPU the CPU kernels are there for tests only: the portable ones are those that
# are compiled fast, and half the size.
INSTRUCTION_SETS = "portable"
_PORTABLE = "kernels_portable_", "quick_portable_"
# The C interface of the kernels, and the kernels that measure the machine.
INTERFACE = "tools/gpu/interface.cu"
MICRO = "tools/gpu/micro.cu"
CUDA = "csrc/cuda"
VARIANTS = "variants"  # a folder in that of the objects, and in that of the libraries
# The longest first, so that they do not run alone at the end.
SLOW = ("warp/", "block/", "targets/", "thread/")

_INCLUDE = re.compile(r'^\s*#\s*include\s*(["<])([^">]+)', re.MULTILINE)
_NEEDS_TORCH = ("torch/", "pybind11/")


class CompilationError(Exception):
    """What a compiler or the linker says."""


@functools.cache
def setup_module() -> ModuleType:
    """setup.py, which has the flags and knows the sources."""
    spec = importlib.util.spec_from_file_location("torchdet_setup", ROOT / "setup.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def included(source: Path, folder: Path) -> tuple[set[Path], set[str]]:
    """The project's files that a source is made of, itself included, and the other headers.

    folder: where files are looked for that do not lie beside the one that includes them.
    """
    files, others, rest = set(), set(), [source.resolve()]
    while rest:
        path = rest.pop()
        if path in files:
            continue
        files.add(path)
        for quote, name in _INCLUDE.findall(path.read_text()):
            found = [x for x in (path.parent / name, folder / name) if x.exists()]
            if quote == '"' and found:
                rest.append(found[0].resolve())
            else:
                others.add(name)
    return files, others


def needs_torch(source: Path) -> bool:
    """Whether its object depends on the torch or the Python of a machine."""
    return any(name.startswith(_NEEDS_TORCH) for name in included(source, source.parent)[1])


@dataclass(frozen=True)
class Unit:
    """A source, and how it is compiled. Paths are relative to the root of the project."""

    source: str
    architecture: str = ARCHITECTURE
    defines: tuple[str, ...] = ()
    root: Path = ROOT  # of the sources: another one for a variant of a kernel

    @property
    def is_cuda(self) -> bool:
        """Whether nvcc compiles it."""
        return self.source.endswith(".cu")

    @property
    def flags(self) -> list[str]:
        """Those of setup.py, for a shared library."""
        setup = setup_module()
        if not self.is_cuda:
            return [*setup.cxx_flags(), "-fPIC", *self.defines]
        number = self.architecture.replace(".", "")
        target = f"arch=compute_{number},code=sm_{number}"
        # Several libraries with the same kernels are loaded into one process: a static variable in
        # a template belongs to each of them, not, as is usual, to all together.
        host = ["-Xcompiler", "-fPIC,-fvisibility=hidden,-fno-gnu-unique"]
        return [*setup.NVCC_FLAGS, *host, "-gencode", target, *self.defines]

    @property
    def hash(self) -> str:
        """Of the flags and of every file of the project that it includes."""
        digest = hashlib.sha256("\0".join(self.flags).encode())
        for path in sorted(included(self.root / self.source, self.root / CUDA)[0]):
            digest.update(f"\0{os.path.relpath(path, self.root)}\0".encode())
            digest.update(path.read_bytes())
        return digest.hexdigest()

    @property
    def object(self) -> str:
        """The name of the object file: the path of the source in one word."""
        return self.source.replace("/", "-").rpartition(".")[0] + ".o"

    def compile(self, folder: Path) -> None:
        """Writes the object file, without symbols that no linker needs.

        Raises:
            CompilationError: The compiler fails.
        """
        compiler = [nvcc()] if self.is_cuda else shlex.split(os.environ.get("CXX", "c++"))
        target = folder / self.object
        paths = [f"-I{self.root / CUDA}", "-c", str(self.root / self.source), "-o", str(target)]
        run_tool([*compiler, *self.flags, *paths])
        run_tool(["strip", "--strip-unneeded", str(target)])


def nvcc() -> str:
    """Where it is; not every machine has it on PATH."""
    return shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc"


def run_tool(command: Sequence[str]) -> None:
    """Runs a compiler, a linker or the like.

    Raises:
        CompilationError: It fails.
    """
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode:
        raise CompilationError(f"{shlex.join(command)}\n{run.stdout}{run.stderr}")


def quick(names: Iterable[str]) -> list[str]:
    """Sources as setup.py names them, with the portable kernels that are compiled fast."""
    return [name.replace(*_PORTABLE) for name in names]


def sources(sets: str = INSTRUCTION_SETS) -> list[str]:
    """Those whose objects can be made here: what setup.py compiles, but for what needs torch."""
    setup = setup_module()
    cpu = [*setup.sources("csrc/cpu/[!t]*/*.cpp"), "csrc/cpu/targets/absent.cpp"]
    for name in sets.split(","):
        cpu += setup.sources(f"csrc/cpu/targets/kernels_{name}_*.cpp")
    cuda = setup.sources("csrc/cuda/**/*.cu")
    ready = [x for x in quick((*cuda, *cpu)) if not needs_torch(ROOT / x)]
    return [*ready, INTERFACE, MICRO]


def read_manifest(folder: Path = FOLDER) -> dict:
    """What is in the folder, or nothing."""
    try:
        return json.loads((folder / MANIFEST).read_text())
    except FileNotFoundError:
        return {"objects": {}}


def objects_in(folder: Path) -> dict[str, dict[str, Any]]:
    """What the manifest says of each source."""
    return read_manifest(folder)["objects"]


def stale(units: Iterable[Unit], folder: Path = FOLDER) -> list[Unit]:
    """The units whose object is missing, or made from something else than what is there now."""
    known = objects_in(folder)
    return [
        unit
        for unit in units
        if known.get(unit.source, {}).get("hash") != unit.hash
        or not (folder / unit.object).exists()
    ]


def bring_up_to_date(
    units: Sequence[Unit],
    folder: Path = FOLDER,
    jobs: int | None = None,
    facts: dict[str, Any] | None = None,
) -> list[str]:
    """Compiles what is stale, and returns which sources that were; an interrupted run loses little.

    facts: what else the manifest is to say.

    Raises:
        CompilationError: A compiler fails; what the others have made is kept.
    """
    folder.mkdir(parents=True, exist_ok=True)
    manifest = read_manifest(folder) | (facts or {})
    objects = {unit.source: manifest["objects"].get(unit.source) for unit in units}

    def write() -> None:
        manifest["objects"] = {source: entry for source, entry in objects.items() if entry}
        new = folder / f"{MANIFEST}.new"
        new.write_text(json.dumps(manifest, indent=1) + "\n")
        new.replace(folder / MANIFEST)

    def compile_one(unit: Unit) -> float:
        started = time.monotonic()
        unit.compile(folder)
        return time.monotonic() - started

    todo = stale(units, folder)
    todo.sort(key=lambda u: next((i for i, x in enumerate(SLOW) if x in u.source), len(SLOW)))
    names = {unit.object for unit in units}
    for path in folder.glob("*.o"):
        if path.name not in names:
            path.unlink()
    for unit in todo:
        objects[unit.source] = None
    write()
    with concurrent.futures.ThreadPoolExecutor(jobs or os.cpu_count()) as pool:
        tasks = {pool.submit(compile_one, unit): (unit, unit.hash) for unit in todo}
        try:
            for task in concurrent.futures.as_completed(tasks):
                unit, digest = tasks[task]
                seconds = task.result()
                size = (folder / unit.object).stat().st_size
                objects[unit.source] = {
                    "object": unit.object,
                    "hash": digest,
                    "bytes": size,
                    "seconds": round(seconds, 1),
                }
                write()
                print(f"{unit.source}: {size / 1e6:.2f} MB, {seconds:.0f} s", flush=True)
        finally:
            pool.shutdown(cancel_futures=True)
    return [unit.source for unit in todo]


def units(architecture: str = ARCHITECTURE, sets: str = INSTRUCTION_SETS) -> list[Unit]:
    """Everything that is compiled."""
    return [Unit(source, architecture) for source in sources(sets)]


def cuda_folders() -> list[str]:
    """Where the libraries of CUDA lie."""
    return setup_module().cuda_library_folders(str(Path(nvcc()).parents[1]))


def link(objects: Sequence[Path], library: Path) -> None:
    """A shared library that needs nothing of CUDA but the driver.

    Raises:
        CompilationError: The linker fails.
    """
    library.parent.mkdir(parents=True, exist_ok=True)
    command = [
        *shlex.split(os.environ.get("CXX", "c++")),
        *("-shared", "-s", "-o", str(library)),
        *map(str, objects),
        *(f"-L{folder}" for folder in cuda_folders()),
        *("-lcudart_static", "-ldl", "-lrt", "-lpthread"),
    ]
    run_tool(command)


def _members(folder: Path) -> dict[str, list[Path]]:
    """The libraries that can be linked of the objects in a folder: what lies in each."""
    made = {source: folder / entry["object"] for source, entry in objects_in(folder).items()}
    cuda = [path for s, path in made.items() if s.startswith("csrc/cuda/") and s.endswith(".cu")]
    libraries = {
        "libkernels.so": [*cuda, made[INTERFACE]],
        "libmicro.so": [made[MICRO]],
    }
    for manifest in sorted(folder.glob(f"{VARIANTS}/*/{MANIFEST}")):
        variant = manifest.parent
        files = [variant / entry["object"] for entry in objects_in(variant).values()]
        libraries[f"{VARIANTS}/lib{variant.name}.so"] = files
    return libraries


def link_libraries(target: Path, folder: Path = FOLDER) -> list[Path]:
    """Links the kernels behind their C interface, their variants, and those that measure."""
    libraries = {target / name: files for name, files in _members(folder).items()}
    for library, files in libraries.items():
        newest = max(path.stat().st_mtime for path in files)
        if not library.exists() or library.stat().st_mtime < newest:
            link(files, library)
    return list(libraries)


def commit() -> dict[str, object]:
    """Of the sources, and whether they were changed since; the manifest's where there is no git."""

    def git(*words: str) -> str:
        try:
            run = subprocess.run(
                ["git", *words], cwd=ROOT, capture_output=True, text=True, check=False
            )
        except OSError:
            return ""
        return run.stdout.strip() if run.returncode == 0 else ""

    changed = git("status", "--porcelain", "--", "csrc", "torchdet", "setup.py")
    if known := git("rev-parse", "--short=12", "HEAD"):
        return {"commit": known, "modified": bool(changed)}
    manifest = read_manifest()
    return {"commit": manifest.get("commit"), "modified": manifest.get("modified")}


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--architecture", default=ARCHITECTURE, help="as in TORCH_CUDA_ARCH_LIST")
    parser.add_argument("--instruction-sets", default=INSTRUCTION_SETS, help="of CPU kernels")
    parser.add_argument("--jobs", type=int)
    options = parser.parse_args()
    started = time.monotonic()
    facts = {"architecture": options.architecture, "instruction_sets": options.instruction_sets}
    facts |= commit()
    wanted = units(options.architecture, options.instruction_sets)
    try:
        compiled = bring_up_to_date(wanted, jobs=options.jobs, facts=facts)
        link_libraries(ROOT / "build" / "kernels")
    except CompilationError as error:
        print(error)
        return 1
    size = sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file())
    print(
        f"{len(compiled)} of {len(wanted)} sources compiled in {time.monotonic() - started:.0f} s; "
        f"{FOLDER.relative_to(ROOT)} has {size / 1e6:.1f} MB"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
