"""What a wheel for Linux must keep to, to run where its tag says, with every torch from 2.10 on.

    python tools/check_wheel.py dist/torchdet-*.whl

The library in it may use the C functions of torch's stable ABI as of 2.10, those of Python, and the
system libraries that the tag names, in the versions of the tag's glibc. It must have no search path
of its own and no executable stack. `make wheel` calls this.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

from elftools.elf.elffile import ELFFile
from elftools.elf.gnuversions import GNUVerNeedSection, GNUVerSymSection

# Those of setup.py, and what they include for CUDA.
ABI_FLAGS = ("-DTORCH_TARGET_VERSION=0x020a000000000000", "-DUSE_CUDA")
ABI_HEADERS = (
    "torch/csrc/stable/c/shim.h",
    "torch/csrc/inductor/aoti_torch/generated/c_shim_aten.h",  # torch/csrc/stable/ops.h includes it
)
LIBRARIES = re.compile(
    r"(libtorch(_cpu|_cuda)?|libc10(_cuda)?)\.so"
    r"|lib(stdc\+\+|m|gcc_s|c|pthread|dl|rt)\.so\.\d|ld-linux-.*\.so\.\d"
)
# Of the compiler's start files; weak, and absent as a rule.
START_FILES = {"_ITM_deregisterTMCloneTable", "_ITM_registerTMCloneTable", "__gmon_start__"}
EXECUTABLE = 1  # PF_X


def stable_abi(include: Path) -> set[str]:
    """The functions that torch's headers declare for extensions that are to run on torch 2.10."""
    compiler = shlex.split(os.environ.get("CXX", "c++"))
    text = subprocess.run(
        [*compiler, "-E", "-x", "c++", *ABI_FLAGS, f"-I{include}", "-"],
        input="".join(f"#include <{header}>\n" for header in ABI_HEADERS),
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    return set(re.findall(r"\b((?:aoti_torch|torch)_\w+)\s*\(", text))


@dataclass
class Library:
    """What there is to know of a shared library."""

    needed: list[str] = field(default_factory=list)
    search_paths: list[str] = field(default_factory=list)
    has_executable_stack: bool = True  # what the system assumes of a file that does not say
    undefined: list[tuple[str, str]] = field(default_factory=list)  # names, versions

    @classmethod
    def read(cls, path: Path) -> Library:
        """From an ELF file."""
        library = cls()
        with path.open("rb") as file:
            elf = ELFFile(file)
            for segment in elf.iter_segments("PT_GNU_STACK"):
                library.has_executable_stack = bool(segment["p_flags"] & EXECUTABLE)
            for tag in elf.get_section_by_name(".dynamic").iter_tags():
                if tag.entry.d_tag == "DT_NEEDED":
                    library.needed.append(tag.needed)
                elif tag.entry.d_tag in ("DT_RPATH", "DT_RUNPATH"):
                    library.search_paths.append(getattr(tag, tag.entry.d_tag[3:].lower()))
            library.undefined = _undefined(elf)
        return library

    def newest(self, of: str) -> tuple[int, ...]:
        """The newest version of a library's symbols, e.g. "GLIBC", that is asked for."""
        versions = (version.removeprefix(f"{of}_") for _, version in self.undefined
                    if re.fullmatch(rf"{of}_[\d.]+", version))  # fmt: skip
        return max((tuple(map(int, version.split("."))) for version in versions), default=())


def _undefined(elf: ELFFile) -> list[tuple[str, str]]:
    """The symbols that other libraries must have, each with its version or nothing."""
    names, numbers = {}, None
    for section in elf.iter_sections():
        if isinstance(section, GNUVerNeedSection):
            for _, versions in section.iter_versions():
                names.update({version["vna_other"]: version.name for version in versions})
        elif isinstance(section, GNUVerSymSection):
            numbers = section
    table = elf.get_section_by_name(".dynsym")
    return [
        (symbol.name, names.get(numbers.get_symbol(i)["ndx"], "") if numbers else "")
        for i, symbol in enumerate(table.iter_symbols())
        if symbol.name and symbol["st_shndx"] == "SHN_UNDEF"
    ]


def problems(library: Library, stable: set[str], glibc: tuple[int, int]) -> list[str]:
    """What is wrong with it, in words. glibc: the version of the wheel's tag."""
    found = []
    foreign = sorted(
        name
        for name, version in library.undefined
        if not version and name not in stable | START_FILES and not re.match(r"_?Py[A-Z_]", name)
    )
    if foreign:
        found.append(
            "expected of torch the C functions of its stable ABI as of 2.10, got also "
            f"{', '.join(foreign[:5])}{f' and {len(foreign) - 5} more' if foreign[5:] else ''}"
        )
    if others := [name for name in library.needed if not LIBRARIES.fullmatch(name)]:
        found.append(f"expected torch's libraries and the system's, got also {', '.join(others)}")
    if library.search_paths:
        found.append(f"expected no RPATH or RUNPATH, got {', '.join(library.search_paths)}")
    if library.has_executable_stack:
        found.append("expected a stack that is not executable")
    if library.newest("GLIBC") > glibc:
        found.append(
            f"expected symbols of glibc {glibc[0]}.{glibc[1]} at most, as the tag says, got "
            f"{'.'.join(map(str, library.newest('GLIBC')))}"
        )
    return found


def glibc_of_tag(name: str) -> tuple[int, int] | None:
    """The glibc that a wheel's name promises to need at most; None where it promises nothing."""
    tags = re.findall(r"manylinux_(\d+)_(\d+)_", name)
    return min(((int(a), int(b)) for a, b in tags), default=None)


def check(wheel: Path, stable: set[str]) -> list[str]:
    """What is wrong with a wheel; prints what its libraries need."""
    glibc = glibc_of_tag(wheel.name)
    if glibc is None:
        return [f"expected a manylinux tag, got {wheel.name}; make wheel repairs it"]
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if re.search(r"\.so(\.|$)", name)]
        if len(names) != 1:
            return [f"expected one shared library, got {', '.join(names) or 'none'}"]
        library = Library.read(Path(archive.extract(names[0], folder)))
    used = {name for name, _ in library.undefined} & stable
    newest = ", ".join(
        f"{of} {'.'.join(map(str, library.newest(of)))}" for of in ("GLIBC", "GLIBCXX", "CXXABI")
    )
    print(f"{names[0]}: {len(used)} of the {len(stable)} functions of torch's stable ABI; {newest}")
    return [f"{names[0]}: {problem}" for problem in problems(library, stable, glibc)]


def main() -> int:
    """The wheels named on the command line; 1 if something is wrong with one."""
    from torch.utils.cpp_extension import include_paths

    stable = stable_abi(Path(include_paths()[0]))
    found = [problem for name in sys.argv[1:] for problem in check(Path(name), stable)]
    print(*found, sep="\n", end="\n" if found else "")
    return 1 if found or not sys.argv[1:] else 0


if __name__ == "__main__":
    sys.exit(main())
