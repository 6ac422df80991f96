"""The build backend: that of setuptools, after a look at what the build needs.

A front end, e.g. pip, builds in an environment of its own and downloads into it what the backend
asks for. This one never asks for torch, which has up to 5 GB. Where the kernels are to be compiled
and torch is missing, it says so before anything is downloaded; pyproject.toml therefore requires
nothing, and setuptools is asked for here. The hooks are those of PEP 517 and PEP 660.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import shutil
import sysconfig

SETUPTOOLS, TORCH = (77, 0), (2, 10)  # the oldest ones

WITHOUT_TORCH = """\
torchdet: the kernels are compiled against torch, and this build environment has none. Either build
in the environment that has the torch to be used (2.10 or newer); with -v the progress is shown:
    pip install torch ninja pybind11 'setuptools>=77'
    pip install -v --no-build-isolation .
or leave the kernels out; the same operators then run in plain PyTorch, slower:
    TORCHDET_EXTENSION=0 pip install ."""


def compiles() -> bool:
    """Whether the kernels are wanted; setup.py reads the same variable."""
    return os.environ.get("TORCHDET_EXTENSION", "1") != "0"


def version(name: str) -> tuple[int, ...] | None:
    """Of an installed distribution, to the second number; None where there is none."""
    try:
        return tuple(int(x) for x in re.findall(r"\d+", importlib.metadata.version(name))[:2])
    except importlib.metadata.PackageNotFoundError:
        return None


def ninja() -> str | None:
    """Its path; the folder of this Python's scripts need not be on PATH."""
    return shutil.which("ninja") or shutil.which("ninja", path=sysconfig.get_path("scripts"))


def missing_tools() -> list[str]:
    """Of what compiling needs beside torch. torch has pybind11, but 2.10 refuses to include it."""
    found = {"ninja": ninja(), "pybind11": importlib.util.find_spec("pybind11")}
    return [name for name, where in found.items() if where is None]


def check_torch() -> None:
    """Ends the build where the kernels cannot be compiled against the torch that is there.

    Raises:
        SystemExit: Its text is what pip shows.
    """
    if importlib.util.find_spec("torch") is None:
        raise SystemExit(WITHOUT_TORCH)
    found = version("torch")
    if found is not None and found < TORCH:
        raise SystemExit(
            f"torchdet: expected torch 2.10 or newer, got {importlib.metadata.version('torch')}; "
            "pip install --upgrade torch"
        )


def check_setuptools() -> None:
    """Ends the build where setuptools is missing or too old to read pyproject.toml."""
    found = version("setuptools")
    if found is None or found < SETUPTOOLS:
        raise SystemExit(
            f"torchdet: expected setuptools 77 or newer in this environment, got "
            f"{importlib.metadata.version('setuptools') if found else 'none'}; "
            "pip install 'setuptools>=77'"
        )


def check() -> None:
    """Everything that compiling needs, where the kernels are wanted."""
    if compiles():
        check_torch()
    check_setuptools()
    if not compiles():
        return
    if missing := missing_tools():
        raise SystemExit(
            f"torchdet: expected {' and '.join(missing)} in this environment; "
            f"pip install {' '.join(missing)}"
        )
    os.environ["PATH"] = os.pathsep.join([os.path.dirname(ninja()), os.environ.get("PATH", "")])


# ---- the hooks


def get_requires_for_build_sdist(config_settings=None):  # noqa: D103
    return ["setuptools>=77"]


def get_requires_for_build_wheel(config_settings=None):  # noqa: D103
    if not compiles():
        return ["setuptools>=77"]
    check_torch()
    return ["setuptools>=77", *missing_tools()]


get_requires_for_build_editable = get_requires_for_build_wheel


def build_sdist(sdist_directory, config_settings=None):  # noqa: D103
    check_setuptools()
    from setuptools import build_meta

    return build_meta.build_sdist(sdist_directory, config_settings)


def _checked(name):
    """A hook of setuptools, after the check."""

    def hook(*args, **kwargs):
        check()
        from setuptools import build_meta

        return getattr(build_meta, name)(*args, **kwargs)

    return hook


prepare_metadata_for_build_wheel = _checked("prepare_metadata_for_build_wheel")
prepare_metadata_for_build_editable = _checked("prepare_metadata_for_build_editable")
build_wheel = _checked("build_wheel")
build_editable = _checked("build_editable")
