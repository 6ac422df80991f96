"""Stages "library" and "extension": link what was compiled beforehand, on the machine with the GPU.

The library of the kernels needs a linker only. For the extension the files that include headers of
torch or Python are compiled as well. What has changed since the objects were made is compiled, too:
everything, where there are no objects.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from typing import Any

from tools.gpu import objects
from tools.gpu.results import Results

ROOT = objects.ROOT
KERNELS = ROOT / "build" / "kernels"
# What shows that the library can be used, and fails where it cannot.
_IMPORT = """
import importlib.util, sys
if len(sys.argv) > 1:  # a library that is not in the package
    spec = importlib.util.spec_from_file_location("torchdet._C", sys.argv[1])
    import torch
    module = sys.modules["torchdet._C"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
import torchdet
info = sys.modules["torchdet._C"].build_info()
print("imported", info["cuda_architectures"], info["active_instruction_set"])
import torch
if torch.cuda.is_available():
    print("det of the identity on the GPU:", torchdet.det(torch.eye(3, device="cuda")).item())
"""


def require_extension() -> None:
    """Ends a stage that would otherwise run on plain PyTorch.

    Raises:
        RuntimeError: torchdet has no CUDA kernels here.
    """
    import torchdet

    extension = sys.modules.get("torchdet._C")
    if extension is None or not extension.build_info()["cuda_architectures"]:
        raise RuntimeError(f"{torchdet.__file__}: no extension with CUDA kernels")


def bring_up_to_date(results: Results, stage: str) -> dict[str, Any]:
    """The manifest, after what has changed since was compiled."""
    manifest = objects.read_manifest()
    architecture = manifest.get("architecture", objects.ARCHITECTURE)
    sets = manifest.get("instruction_sets", objects.INSTRUCTION_SETS)
    started = time.monotonic()
    compiled = objects.bring_up_to_date(objects.units(architecture, sets))
    results.add(stage, compiled=compiled, seconds=round(time.monotonic() - started, 1))
    return objects.read_manifest() | {"architecture": architecture, "instruction_sets": sets}


def library(results: Results) -> None:
    """build/kernels/libkernels.so and libmicro.so, and a library of each variant."""
    bring_up_to_date(results, "library")
    started = time.monotonic()
    made = objects.link_libraries(KERNELS)
    results.add(
        "library",
        libraries={path.name: path.stat().st_size for path in made},
        seconds=round(time.monotonic() - started, 1),
    )


def _arguments(manifest: dict[str, Any], build: Path) -> dict[str, Any]:
    """Of setup(): those of setup.py, with the objects in place of their sources."""
    import torch
    from torch.utils import cpp_extension

    setup = objects.setup_module()
    os.environ["TORCHDET_CUDA"] = "1"
    os.environ["TORCH_CUDA_ARCH_LIST"] = manifest["architecture"]
    os.environ["TORCHDET_INSTRUCTION_SETS"] = manifest["instruction_sets"]
    if torch.version.cuda is None:  # it links against such a torch as well, to be tried out
        cpp_extension.CUDA_HOME = str(Path(objects.nvcc()).parents[1])
        folders = objects.cuda_folders()
        setup.cuda_obstacle, setup.cuda_library_folders = lambda: "", lambda _: folders
    arguments = setup.extension_arguments()
    (extension,) = arguments["ext_modules"]
    made = manifest["objects"]
    extension.sources = objects.quick(extension.sources)
    ready = [source for source in extension.sources if source in made]
    extension.extra_objects = [str(objects.FOLDER / made[source]["object"]) for source in ready]
    extension.sources = [source for source in extension.sources if source not in made]

    class Build(arguments["cmdclass"]["build_ext"]):
        """With a folder of its own."""

        def finalize_options(self) -> None:
            super().finalize_options()
            self.build_temp = str(build)

    return arguments | {"cmdclass": {"build_ext": Build}}


def needed_libraries(library: Path) -> list[str]:
    """Those that it names, where there is a readelf."""
    if not shutil.which("readelf"):
        return []
    command = ["readelf", "-d", str(library)]
    text = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    lines = [line for line in text.splitlines() if "NEEDED" in line]
    return [line.partition("[")[2].rstrip("]") for line in lines]


def extension(results: Results, in_place: bool = True) -> None:
    """torchdet/_C, or, not in place, one in build/kernels; and whether it can be imported.

    Raises:
        RuntimeError: It cannot.
    """
    from setuptools import setup

    manifest = bring_up_to_date(results, "extension")
    started = time.monotonic()
    os.chdir(ROOT)
    where = ["--inplace"] if in_place else ["--build-lib", str(KERNELS)]
    build = ROOT / "build" / "device-extension"
    arguments = _arguments(manifest, build)
    sources = list(arguments["ext_modules"][0].sources)
    setup(script_args=["--quiet", "build_ext", *where], **arguments)
    name = "_C" + sysconfig.get_config_var("EXT_SUFFIX")
    made = (ROOT if in_place else KERNELS) / "torchdet" / name
    run = subprocess.run(
        [sys.executable, "-c", _IMPORT, *([] if in_place else [str(made)])],
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    results.add(
        "extension",
        sources=sources,
        bytes=made.stat().st_size,
        needed=needed_libraries(made),
        imported=run.stdout.strip(),
        seconds=round(time.monotonic() - started, 1),
    )
    if run.returncode:
        raise RuntimeError(f"{made} cannot be imported:\n{run.stdout}{run.stderr}")
