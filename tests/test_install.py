"""What a user who installs from source meets; without network, without torch, without a GPU."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
import venv
import zipfile
from pathlib import Path

import pytest
import torch
from torch.utils import cpp_extension

import setup
from tools import build_backend

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> Path:
    """A copy to build in, without what has been built here."""
    folder = tmp_path_factory.mktemp("sources")
    for name in ("csrc", "torchdet", "tools"):
        ignored = shutil.ignore_patterns("*.so", "__pycache__")
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    return folder


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory) -> Path:
    """An environment with setuptools alone."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, with_pip=False, symlinks=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    for name in ("setuptools", "_distutils_hack", "pkg_resources"):
        if (spec := importlib.util.find_spec(name)) is not None:
            package = Path(spec.origin).parent
            (packages / name).symlink_to(package)
    information = Path(importlib.metadata.distribution("setuptools")._path)
    (packages / information.name).symlink_to(information)
    return folder / "bin" / "python"


def hook(python: Path, sources: Path, call: str, **environment: str) -> subprocess.CompletedProcess:
    """Calls a hook of the backend in a process of its own, as a front end does."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("TORCHDET", "PYTHON"))}
    inherited |= {"PYTHONPATH": "tools", "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [python, "-c", f"import build_backend; print(build_backend.{call})"], cwd=sources,
        env={**inherited, **environment}, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


def has_pip() -> bool:
    return importlib.util.find_spec("pip") is not None


@pytest.mark.skipif(not has_pip(), reason="this environment has no pip")
def test_pip_without_torch_ends_at_once_and_names_the_commands(sources, tmp_path):
    """In an environment of pip's own, into which it could download nothing here."""
    started = time.monotonic()
    run = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--no-index", "--wheel-dir", tmp_path, sources],
        capture_output=True, text=True, check=False, timeout=60,
        env={k: v for k, v in os.environ.items() if k != "TORCHDET_EXTENSION"},
    )  # fmt: skip
    seconds = time.monotonic() - started
    assert run.returncode == 1
    text = run.stdout + run.stderr
    assert "pip install -v --no-build-isolation ." in text
    assert "TORCHDET_EXTENSION=0 pip install ." in text
    assert "Traceback" not in text
    # A second on an idle machine; a download of torch takes a minute or more.
    assert seconds < 20


@pytest.mark.parametrize("kind", ("wheel", "editable"))
def test_without_torch_nothing_is_asked_for_or_built(bare_python, sources, tmp_path, kind):
    for call in (
        f"get_requires_for_build_{kind}()",
        f"prepare_metadata_for_build_{kind}({str(tmp_path)!r})",
        f"build_{kind}({str(tmp_path)!r})",
    ):
        run = hook(bare_python, sources, call)
        assert (run.returncode, run.stderr.strip()) == (1, build_backend.WITHOUT_TORCH), call
    assert not list(tmp_path.iterdir())


def test_a_wheel_without_the_extension_needs_no_torch_and_is_for_every_python(
    bare_python, sources, tmp_path
):
    run = hook(bare_python, sources, "get_requires_for_build_wheel()", TORCHDET_EXTENSION="0")
    assert run.stdout.strip() == "['setuptools>=77']"
    run = hook(bare_python, sources, f"build_wheel({str(tmp_path)!r})", TORCHDET_EXTENSION="0")
    assert run.returncode == 0, run.stderr
    (wheel,) = tmp_path.iterdir()
    assert wheel.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = {Path(name).name for name in archive.namelist() if name.startswith("torchdet/")}
    assert names == {path.name for path in (sources / "torchdet").iterdir()}


def test_the_source_archive_needs_no_torch(bare_python, sources, tmp_path):
    assert hook(bare_python, sources, "get_requires_for_build_sdist()").stdout.strip() == (
        "['setuptools>=77']"
    )
    run = hook(bare_python, sources, f"build_sdist({str(tmp_path)!r})")
    assert run.returncode == 0, run.stderr
    (archive,) = tmp_path.iterdir()
    with tarfile.open(archive) as opened:
        names = {Path(*Path(name).parts[1:]) for name in opened.getnames()}
    needed = [sources / name for name in ("setup.py", "pyproject.toml", "tools/build_backend.py")]
    needed += [*sources.glob("csrc/**/*.*"), *sources.glob("torchdet/*.*")]
    assert {path.relative_to(sources) for path in needed} <= names


@pytest.mark.parametrize(
    ("installed", "message"),
    (
        ({"torch": "2.9.1", "setuptools": "80.9"}, "expected torch 2.10 or newer, got 2.9.1"),
        ({"torch": "2.10.0+cpu", "setuptools": "65.5.0"}, "setuptools 77 or newer .*got 65.5.0"),
        ({"torch": "3.0.0a0+git12", "setuptools": "77.0.3"}, "expected ninja in"),
    ),
)
def test_what_is_missing_or_too_old_is_named(installed, message, monkeypatch):
    monkeypatch.delenv("TORCHDET_EXTENSION", raising=False)
    monkeypatch.setattr(importlib.metadata, "version", installed.__getitem__)
    monkeypatch.setattr(build_backend, "ninja", lambda: None)
    with pytest.raises(SystemExit, match=message):
        build_backend.check()


def test_ninja_beside_python_is_found_though_it_is_not_on_path(tmp_path, monkeypatch):
    program = tmp_path / "ninja"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(build_backend.sysconfig, "get_path", lambda _: str(tmp_path))
    monkeypatch.delenv("TORCHDET_EXTENSION", raising=False)
    monkeypatch.setattr(build_backend, "check_torch", lambda: None)
    build_backend.check()
    assert os.environ["PATH"] == f"{tmp_path}{os.pathsep}/nowhere"


# ---- whether CUDA kernels are compiled


@pytest.fixture
def nvcc(tmp_path, monkeypatch):
    """Puts an nvcc into CUDA_HOME that says what it is told to; torch is of the CUDA given."""

    def make(torch_cuda: str | None, says: str) -> None:
        program = tmp_path / "bin" / "nvcc"
        program.parent.mkdir()
        program.write_text(f"#!/bin/sh\n{says}\n")
        program.chmod(0o755)
        monkeypatch.setattr(torch.version, "cuda", torch_cuda)
        monkeypatch.setattr(cpp_extension, "CUDA_HOME", str(tmp_path))

    return make


def release(version: str) -> str:
    return f"echo 'Cuda compilation tools, release {version}, V{version}.88'"


@pytest.mark.parametrize(
    ("torch_cuda", "says", "obstacle"),
    (
        ("13.0", release("13.0"), None),
        ("12.8", release("12.9"), None),
        (None, release("13.0"), r"torch \S+ is without CUDA"),
        ("12.8", release("13.0"), r"torch is of CUDA 12.8, .*nvcc of CUDA 13.0"),
        ("12.6", release("12.6"), r"nvcc is of CUDA 12.6, older than 12.8"),
        ("13.0", "echo something else", "does not say which"),
        ("13.0", "exit 3", "does not say which"),
    ),
)
def test_cuda_kernels_are_for_a_torch_of_the_same_cuda(torch_cuda, says, obstacle, nvcc):
    nvcc(torch_cuda, says)
    found = setup.cuda_obstacle()
    assert setup.wants_cuda("", found) == (obstacle is None)
    assert not setup.wants_cuda("0", found)
    if obstacle is None:
        assert found == ""
        assert setup.wants_cuda("1", found)
    else:
        assert re.search(obstacle, found), found
        with pytest.raises(SystemExit, match="TORCHDET_CUDA=1: expected a torch with CUDA") as e:
            setup.wants_cuda("1", found)
        assert found in str(e.value)


def test_no_nvcc_is_an_obstacle(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(cpp_extension, "CUDA_HOME", None)
    assert setup.cuda_obstacle().startswith("no nvcc")


def test_another_choice_of_cuda_is_an_error():
    with pytest.raises(SystemExit, match="TORCHDET_CUDA: expected 0, 1 or nothing, got yes"):
        setup.wants_cuda("yes", "")


@pytest.mark.parametrize(("jobs", "minutes"), ((1, 7), (2, 4), (64, 4)))
def test_the_line_before_a_build_says_what_and_how_long(jobs, minutes, monkeypatch):
    """The longest file is waited for, whatever the number of jobs."""
    monkeypatch.setattr(setup, "SECONDS", {"avx2_float": 180, "avx2_double": 240})
    files = ["csrc/ops.cpp", "kernels_avx2_float.cpp", "kernels_avx2_double.cpp"]
    line = setup.announcement(["avx2", "portable"], files, jobs, "no CUDA kernels (why)")
    assert line == (
        f"kernels for avx2, portable; no CUDA kernels (why): 3 files, {jobs} at a time, "
        f"about {minutes} minutes from scratch"
    )


def test_every_file_of_kernels_has_a_time():
    for path in setup.sources("csrc/cpu/targets/*_*_*.cpp") + setup.sources("csrc/cuda/*/*.cu"):
        assert any(part in Path(path).name for part in setup.SECONDS), path
