"""Builds the extension torchdet._C: the operators' schemas, their CPU and their CUDA kernels.

TORCHDET_EXTENSION=0 builds the package without it (no compiler needed); torchdet then runs on
plain PyTorch. TORCHDET_INSTRUCTION_SETS names those that get kernels beside the portable ones:
"all", which is the default; names, e.g. "avx512,avx2"; or "native", the best one of this machine,
which leaves the portable ones for tests, and compiles them fast rather than well. "all" is the
default because what is installed may run elsewhere, from an image or a shared folder, where
"native" would be slow without a word; on 6 cores or more it takes no longer.
CUDA kernels are built for a torch with CUDA, where there is an nvcc of the same major version.
TORCHDET_CUDA=0 leaves them out, TORCHDET_CUDA=1 makes it an error if they cannot be compiled.
TORCH_CUDA_ARCH_LIST, e.g. "9.0", names the architectures.
TORCHDET_LOCAL_VERSION=cu128 makes the version 0.2.0+cu128: a wheel that is kept apart from others.
"""

import os
import platform
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).parent

CXX_FLAGS = [
    "-std=c++20",
    "-O3",
    # Python's own flags may ask for debug symbols, which would be nine tenths of the library.
    "-g0",
    # Packs and single numbers must round alike, so fusing is written out (math/lane.h) and never
    # left to the compiler.
    "-ffp-contract=off",
    "-fno-math-errno",
    # Nothing but PyInit__C is exported, and no template instance is shared with another library
    # of the process.
    "-fvisibility=hidden",
    "-Wall",
    "-Wextra",
    # 64-byte packs are passed between inlined functions only, so the ABI note of older compilers
    # is moot.
    "-Wno-psabi",
    # False alarms of GCC 12 inside its own AVX-512 header.
    "-Wno-maybe-uninitialized",
    "-Wno-uninitialized",
    # The oldest torch whose stable ABI the operators use.
    "-DTORCH_TARGET_VERSION=0x020a000000000000",
]

# Those that have kernels; csrc/cpu/targets has the files of each.
INSTRUCTION_SETS = ("avx512", "avx2", "portable")

# Names as in TORCH_CUDA_ARCH_LIST. PTX lets newer devices compile the kernels themselves.
CUDA_ARCHITECTURES = "8.0;9.0;10.0+PTX"
OLDEST_NVCC = (12, 8)
NVCC_FLAGS = [
    "-std=c++20",
    "-O3",
    "-fmad=false",  # fusing is written out, as for the CPU
    "--expt-relaxed-constexpr",  # std::numeric_limits, std::min
    "--compress-mode=size",  # a third of the library's size; needs OLDEST_NVCC
    "--compiler-options=-fvisibility=hidden,-fno-gnu-unique",  # as for the CPU
]


# Commands that look at no extension, so torch is not needed. MANIFEST.in has csrc for the archive.
NOTHING_COMPILED = {"sdist", "egg_info", "dist_info"}

# For a file whose name has that part, on one core of a Xeon of 2023 (AVX-512, GCC 12).
SECONDS = {"quick": 55, "avx512": 210, "avx2": 155, "portable": 110, ".cu": 90}


def cores() -> int:
    """Those that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def sources(pattern: str) -> list[str]:
    """Paths below the folder of this file, relative to it."""
    return sorted(str(p.relative_to(ROOT)) for p in ROOT.glob(pattern))


def cxx_flags() -> list[str]:
    """Those of this platform."""
    flags = list(CXX_FLAGS)
    if platform.system() == "Linux":
        flags.append("-fno-gnu-unique")
    if platform.machine() in ("x86_64", "AMD64"):
        # No instruction depends on it, only their choice and order, wherever the library runs. On
        # an EPYC with AVX-512, against the compiler's default (GCC 12), time of cofactors in
        # float32: n = 8: 0.88, n = 10: 0.90, others 0.96 to 1.03; float64: n = 7: 0.80, n = 10:
        # 0.88; with AVX2 n = 6: 0.81; complex64 n = 10, 12: 1.10.
        flags.append("-mtune=icelake-server")
    return flags


def native_instruction_set(compiler: str) -> str:
    """The best one of this machine, by the test that the library makes when it runs.

    Raises:
        SystemExit: The compiler makes no program that runs here.
    """
    program = """
        #include <cstdio>
        #include "processor.h"
        int main() {
          using namespace torchdet;
          std::puts(has_avx512() ? "avx512" : has_avx2() ? "avx2" : "portable");
        }"""
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "processor")
        include = f"-I{ROOT / 'csrc/cpu/dispatch'}"
        command = [*shlex.split(compiler), "-x", "c++", "-", include, "-o", path]
        try:
            subprocess.run(command, input=program, text=True, check=True)
            return subprocess.run([path], capture_output=True, text=True, check=True).stdout.strip()
        except (OSError, subprocess.CalledProcessError) as error:
            raise SystemExit(
                f"TORCHDET_INSTRUCTION_SETS=native: {error}; name the instruction sets instead"
            ) from error


def instruction_sets(choice: str, compiler: str) -> list[str]:
    """What TORCHDET_INSTRUCTION_SETS asks for; portable kernels are always built."""
    if choice == "native":
        choice = native_instruction_set(compiler)
    named = INSTRUCTION_SETS if choice == "all" else choice.split(",")
    if unknown := set(named) - set(INSTRUCTION_SETS):
        raise SystemExit(
            f"TORCHDET_INSTRUCTION_SETS: expected all, native, or some of "
            f"{', '.join(INSTRUCTION_SETS)}, separated by commas, got {', '.join(sorted(unknown))}"
        )
    return [name for name in INSTRUCTION_SETS if name in {*named, "portable"}]


def cuda_obstacle() -> str:
    """Why CUDA kernels cannot be compiled for the torch that is there; empty where they can."""
    import torch
    from torch.utils import cpp_extension

    if torch.version.cuda is None:
        return f"torch {torch.__version__} is without CUDA"
    if cpp_extension.CUDA_HOME is None:
        return "no nvcc in CUDA_HOME/bin, on PATH or in /usr/local/cuda/bin"
    nvcc = Path(cpp_extension.CUDA_HOME) / "bin" / "nvcc"
    try:
        run = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True)
        major, minor = map(int, re.search(r"release (\d+)\.(\d+)", run.stdout).groups())
    except (OSError, subprocess.CalledProcessError, AttributeError) as error:
        return f"{nvcc} --version does not say which it is ({error})"
    if major != int(torch.version.cuda.split(".")[0]):
        return f"torch is of CUDA {torch.version.cuda}, {nvcc} of CUDA {major}.{minor}"
    if (major, minor) < OLDEST_NVCC:
        return f"{nvcc} is of CUDA {major}.{minor}, older than 12.8"
    return ""


def wants_cuda(choice: str, obstacle: str) -> bool:
    """Whether to build the CUDA kernels. choice: that of TORCHDET_CUDA."""
    if choice not in ("", "0", "1"):
        raise SystemExit(f"TORCHDET_CUDA: expected 0, 1 or nothing, got {choice}")
    if choice == "1" and obstacle:
        raise SystemExit(
            f"TORCHDET_CUDA=1: expected a torch with CUDA and nvcc 12.8 or newer of the same major "
            f"version, got: {obstacle}"
        )
    return choice != "0" and not obstacle


def cuda_library_folders(cuda_home: str) -> list[str]:
    """Where nvcc itself links from; toolkits are laid out in several ways."""
    command = [str(Path(cuda_home) / "bin" / "nvcc"), "--dryrun", "-x", "cu", os.devnull]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    libraries = next(line for line in run.stderr.splitlines() if "LIBRARIES=" in line)
    return re.findall(r'"-L([^"]+)"', libraries)


def announcement(sets: list[str], sources: list[str], jobs: int, cuda: str) -> str:
    """What is compiled, and how long about. cuda: what there is to say of the CUDA kernels."""
    seconds = [
        next((t for part, t in SECONDS.items() if part in Path(source).name), 4)
        for source in sources
    ]
    minutes = max(60, sum(seconds) / jobs, *seconds) / 60
    return (
        f"kernels for {', '.join(sets)}; {cuda}: {len(sources)} files, {jobs} at a time, "
        f"about {minutes:.0f} minutes from scratch"
    )


def extension_arguments() -> dict:
    """The arguments of setup() that build torchdet._C, or none where it is switched off."""
    if os.environ.get("TORCHDET_EXTENSION", "1") == "0" or NOTHING_COMPILED & set(sys.argv):
        return {}
    import pybind11
    from torch.utils import cpp_extension

    flags = cxx_flags()
    compiler = os.environ.get("CXX", "c++")
    choice = os.environ.get("TORCHDET_INSTRUCTION_SETS", "all")
    sets = instruction_sets(choice, compiler)
    kernels = sources("csrc/cpu/[!t]*/*.cpp") + ["csrc/cpu/targets/absent.cpp"]
    for name in sets:
        # "native" with a better set: the portable kernels are there for tests only.
        is_quick = name == "portable" and len(sets) > 1 and choice == "native"
        kernels += sources(f"csrc/cpu/targets/{'quick' if is_quick else 'kernels'}_{name}_*.cpp")
    flags.append(f'-DTORCHDET_COMPILER="{Path(compiler).name} " __VERSION__')
    extension = cpp_extension.CppExtension(
        "torchdet._C",
        ["csrc/ops.cpp", *kernels],
        include_dirs=[pybind11.get_include()],
        extra_compile_args={"cxx": flags, "nvcc": NVCC_FLAGS},
        py_limited_api=False,
    )
    if platform.system() == "Linux":
        # Before torch's libraries: some of them export functions of a C++ library that is newer
        # than the system's, and the extension would then need such a torch.
        extension.libraries.insert(0, "stdc++")
    cuda_choice = os.environ.get("TORCHDET_CUDA", "")
    obstacle = cuda_obstacle()
    if wants_cuda(cuda_choice, obstacle):
        architectures = os.environ.setdefault("TORCH_CUDA_ARCH_LIST", CUDA_ARCHITECTURES)
        flags.append(f'-DTORCHDET_CUDA_ARCHITECTURES="{architectures}"')
        extension.sources += sources("csrc/cuda/*.cpp") + sources("csrc/cuda/**/*.cu")
        # The static runtime: the library also loads where there is no CUDA at all.
        extension.libraries += ["cudart_static", "dl", "rt", "pthread"]
        extension.library_dirs += cuda_library_folders(cpp_extension.CUDA_HOME)
        cuda = f"CUDA kernels for {architectures}"
    else:
        cuda = f"no CUDA kernels ({obstacle or 'TORCHDET_CUDA=0'})"
    # ninja would take more jobs than cores, and a file takes up to 1.1 GB.
    jobs = int(os.environ.setdefault("MAX_JOBS", str(cores())))

    class BuildExtension(cpp_extension.BuildExtension):
        """Keeps the objects: an editable install would build in a new folder every time."""

        def finalize_options(self) -> None:
            super().finalize_options()
            self.build_temp = str(ROOT / "build" / "objects")

        def build_extensions(self) -> None:
            # tools/show_build.py shows the line, and so does pip -v.
            print(f"torchdet: {announcement(sets, extension.sources, jobs, cuda)}", flush=True)
            super().build_extensions()

    return {"ext_modules": [extension], "cmdclass": {"build_ext": BuildExtension}}


def version_arguments() -> dict:
    """The arguments of setup() that add what TORCHDET_LOCAL_VERSION says to the version."""
    local = os.environ.get("TORCHDET_LOCAL_VERSION")
    return {"options": {"egg_info": {"tag_build": f"+{local}"}}} if local else {}


if __name__ == "__main__":
    setup(**version_arguments(), **extension_arguments())
