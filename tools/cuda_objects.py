"""The CUDA sources compiled by nvcc, and kept: what of them is up to date is not compiled again.

build/cuda_check/<architecture>/ has the object file of each source, its machine code (.cubin), what
ptxas says of each kernel (.log), and a fingerprint of the command and of every file of the project
that the source includes (.json). tools/cuda_check.py and tools/sass_model share the folder.
"""

from __future__ import annotations

import concurrent.futures
import functools
import hashlib
import json
import os
import re
import runpy
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
FLAGS = runpy.run_path(str(ROOT / "setup.py"))["NVCC_FLAGS"]
FOLDER = ROOT / "build/cuda_check"
ARCHITECTURES = ("sm_80", "sm_90", "sm_100")
RESOURCES = re.compile(
    r"Compiling entry function '(?P<name>\w+)' for '(?P<architecture>\w+)'.*?"
    r"(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, "
    r"(?P<loads>\d+) bytes spill loads.*?Used (?P<registers>\d+) registers"
    r"(?P<rest>[^\n]*)",
    re.DOTALL,
)


class CompilationError(Exception):
    """What nvcc says."""


class Kernel(NamedTuple):
    """Resources of one kernel on one architecture."""

    name: str  # as the linker knows it
    architecture: str
    registers: int
    shared: int  # static; kernels ask for the rest at launch
    stack: int
    spills: int


class Unit(NamedTuple):
    """A source file on one architecture."""

    source: Path
    architecture: str

    def path(self, suffix: str) -> Path:
        """One of its files in the folder of the architecture."""
        name = "_".join(self.source.relative_to(ROOT / "csrc/cuda").with_suffix("").parts)
        return FOLDER / self.architecture / f"{name}.{suffix}"

    @property
    def command(self) -> list[str]:
        """nvcc, without the names of files."""
        number = self.architecture.removeprefix("sm_")
        # The newest architecture also as PTX, as the library has it.
        ptx = f",compute_{number}" if self.architecture == ARCHITECTURES[-1] else ""
        target = f"arch=compute_{number},code=[{self.architecture}{ptx}]"
        return ["nvcc", *FLAGS, "-Xptxas", "-v", "-gencode", target, "-MMD", "--keep", "-c"]

    def fingerprint(self, dependencies: Sequence[str]) -> dict[str, str]:
        """Of the command, the compiler and the files, each relative to the project."""
        command = hashlib.sha256("\0".join([compiler(), *self.command]).encode())
        contents = {
            name: hashlib.sha256((ROOT / name).read_bytes()).hexdigest()
            for name in dependencies
            if (ROOT / name).exists()
        }
        return {"command": command.hexdigest(), **contents}

    def is_current(self) -> bool:
        """Whether the files in the folder are what nvcc would make."""
        if not all(self.path(suffix).exists() for suffix in ("o", "cubin", "log", "json")):
            return False
        recorded = json.loads(self.path("json").read_text())
        return recorded == self.fingerprint([name for name in recorded if name != "command"])

    def compile(self) -> None:
        """Writes the files.

        Raises:
            CompilationError: nvcc fails.
        """
        self.path("json").unlink(missing_ok=True)  # what is half written is not current
        self.path("o").parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.path("o").parent) as folder:
            dependencies = Path(folder) / "dependencies"
            run = subprocess.run(
                [*self.command, str(self.source), "-o", str(self.path("o")),
                 "--keep-dir", folder, "-MF", str(dependencies)],
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            if run.returncode:
                raise CompilationError(run.stdout + run.stderr)
            # None where the source has no kernel; nvcc makes one file all the same.
            (cubin,) = Path(folder).glob("*.cubin")
            shutil.move(cubin, self.path("cubin"))
            names = dependencies.read_text().replace("\\\n", " ").split()
        self.path("log").write_text(run.stderr)
        files = (Path(name).resolve() for name in names if not name.endswith((":", ".o")))
        inside = sorted({str(p.relative_to(ROOT)) for p in files if p.is_relative_to(ROOT)})
        self.path("json").write_text(json.dumps(self.fingerprint(inside), indent=1) + "\n")

    def kernels(self) -> list[Kernel]:
        """What ptxas said of each."""
        kernels = []
        for match in RESOURCES.finditer(self.path("log").read_text()):
            shared = re.search(r"(\d+) bytes smem", match["rest"])
            spills = int(match["stores"]) + int(match["loads"])
            kernels.append(
                Kernel(match["name"], match["architecture"], int(match["registers"]),
                       int(shared[1]) if shared else 0, int(match["stack"]), spills)
            )  # fmt: skip
        return kernels


@functools.cache
def compiler() -> str:
    """The version of nvcc."""
    return subprocess.run(
        ["nvcc", "--version"], capture_output=True, text=True, check=True
    ).stdout.strip()


def units(architectures: Sequence[str], folders: Sequence[str] = ("",)) -> list[Unit]:
    """The sources in these folders of csrc/cuda, on each architecture."""
    found = {p for folder in folders for p in (ROOT / "csrc/cuda" / folder).rglob("*.cu")}
    return [Unit(source, name) for source in sorted(found) for name in architectures]


def bring_up_to_date(wanted: Sequence[Unit], jobs: int | None = None) -> Iterator[Unit]:
    """Each unit once its files are current.

    Raises:
        CompilationError: nvcc fails.
    """
    with concurrent.futures.ThreadPoolExecutor(jobs or os.cpu_count()) as pool:
        tasks = {
            pool.submit(lambda unit=unit: unit.is_current() or unit.compile()): unit
            for unit in wanted
        }
        try:
            for task in concurrent.futures.as_completed(tasks):
                task.result()
                yield tasks[task]
        finally:
            pool.shutdown(cancel_futures=True)


def readable(names: Sequence[str]) -> list[str]:
    """Kernel names as in the source: ThreadDeterminants<float, 3>."""
    text = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True,
                          check=True).stdout  # fmt: skip
    text = re.sub(r"torchdet::(cuda::)?", "", text)
    return [re.sub(r".*run_kernel<(.*?) ?>\(Problem\)$", r"\1", line) for line in text.splitlines()]
