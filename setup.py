"""Builds the extension torchdet._C: the operators' schemas and their CPU kernels.

TORCHDET_EXTENSION=0 builds the package without it (no compiler needed); torchdet then runs on
plain PyTorch.
"""

import os
import platform
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).parent
SOURCES = [
    "csrc/ops.cpp",
    *sorted(str(p.relative_to(ROOT)) for p in (ROOT / "csrc/cpu").glob("*.cpp")),
]

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
    # The oldest torch whose stable ABI the operators use.
    "-DTORCH_TARGET_VERSION=0x020a000000000000",
]


def extension_arguments() -> dict:
    """The arguments of setup() that build torchdet._C, or none where it is switched off."""
    if os.environ.get("TORCHDET_EXTENSION", "1") == "0":
        return {}
    import pybind11
    from torch.utils.cpp_extension import BuildExtension, CppExtension

    flags = list(CXX_FLAGS)
    if platform.system() == "Linux":
        flags.append("-fno-gnu-unique")
    compiler = os.environ.get("CXX", "c++")
    flags.append(f'-DTORCHDET_COMPILER="{Path(compiler).name} " __VERSION__')
    extension = CppExtension(
        "torchdet._C",
        SOURCES,
        include_dirs=[pybind11.get_include()],
        extra_compile_args={"cxx": flags},
        py_limited_api=False,
    )
    build_ext = BuildExtension.with_options(use_ninja=True)
    return {"ext_modules": [extension], "cmdclass": {"build_ext": build_ext}}


setup(**extension_arguments())
