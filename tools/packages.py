"""Suites and training jobs of other packages: with torch's determinants, and rerouted to torchdet.

Each package comes as its source archive from PyPI, in a pinned version, and is imported from there.
An environment of its own has torch and what the packages need; torchdet is that of this repository,
with the extension that is built. Tests run twice, the second time inside of
`torchdet.accelerate()`, and must give the same outcomes. Curves of training jobs must agree within
what rounding explains. `make test-packages` calls this; what it finds goes to docs/packages.md.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

from bench.machine import facts
from tools import packages_report as report
from tools.versions import last_line, run

ROOT = Path(__file__).resolve().parents[1]
PROGRAMS = ROOT / "tests" / "packages"
TORCH = "torch==2.13.0"


@dataclass(frozen=True)
class Package:
    """What is run of a package."""

    name: str
    version: str
    reached_by: str  # its public functions and classes that call a determinant
    needs: tuple[str, ...]  # what its tests and jobs import
    tests: tuple[str, ...]  # those files of its archive that reach determinants, or one of ours
    jobs: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """How tables name it."""
        return f"{self.name} {self.version}"

    @property
    def has_tests(self) -> bool:
        """Whether the archive has tests of what reaches determinants."""
        return not self.tests[0].startswith("check_")


PACKAGES = (
    Package(
        "zuko", "1.6.0", "none; its tests compare every transform's log-determinant with slogdet",
        ("numpy",), ("tests/test_flows.py", "tests/test_transforms.py"),
    ),
    Package(
        "nflows", "0.14",
        "`NaiveLinear`, `utils.torchutils.logabsdet`; its tests compare `LULinear`, `QRLinear`, "
        "`SVDLinear` and `HouseholderSequence` with them",
        ("numpy", "matplotlib", "torchtestcase==2018.2"),
        tuple(f"tests/transforms/{name}_test.py"
              for name in ("linear", "lu", "orthogonal", "qr", "svd")),
        ("nflows-naive-linear",),
    ),
    Package(
        "normflows", "1.7.3",
        "`Invertible1x1Conv`, `InvertibleAffine` and `GlowBlock`, all with `use_lu=False`; "
        "`GaussianPCA`",
        ("numpy",),
        tuple(f"normflows/{name}_test.py"
              for name in ("core", "distributions/base", "flows/mixing", "flows/affine/glow")),
        ("normflows-affine", "normflows-glow"),
    ),
    Package(
        "FrEIA", "0.2",
        "`FixedLinearTransform`, `Fixed1x1Conv`, `GraphINN.log_jacobian_numerical`",
        ("numpy", "scipy"), ("check_freia.py",),
    ),
    Package(
        "pyro-ppl", "1.9.2",
        "`contrib.oed.util.linear_model_ground_truth`, "
        "`contrib.gp.models.GPRegression.iter_sample`",
        ("numpy", "opt_einsum", "pyro-api", "tqdm"), ("check_pyro.py",),
    ),
    Package(
        "qmctorch", "0.4.0",
        "`SlaterPooling`, and by it `SlaterJastrow` with its energies and gradients",
        ("numpy<3", "scipy", "matplotlib", "tqdm", "h5py", "pints", "pyscf==2.14.0", "mendeleev",
         "twiggy", "plams", "ase"),
        tuple(f"tests/wavefunction/{name}.py"
              for name in ("pooling/test_slater", "pooling/test_trace_trick",
                           "test_slaterjastrow")),
        ("qmctorch-lih",),
    ),
    Package(
        "kornia", "0.8.2",
        "`fundamental_from_projections`, `find_fundamental` with seven points, "
        "`decompose_essential_matrix`, `decompose_essential_matrix_no_svd`, "
        "`motion_from_essential`, `solve_pnp_dlt`",
        ("numpy", "kornia_rs"), ("check_kornia.py",),
    ),
    Package(
        "kornia", "0.9.0",
        "the same without `find_fundamental` and `decompose_essential_matrix_no_svd`",
        ("numpy", "kornia_rs"), ("check_kornia.py",), ("kornia-cameras",),
    ),
)  # fmt: skip


def set_up(folder: Path, packages: list[Package], torch: str) -> Path:
    """An environment with torch and what the packages need; its Python."""
    python = folder / "venv" / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    needs = sorted({need for package in packages for need in package.needs})
    for wanted in (torch.split(), ["pytest", *needs]):
        install = [str(python), "-m", "pip", "install", "--quiet", *wanted]
        done = run(install, folder)
        if done.returncode:
            raise SystemExit(f"{' '.join(install)}: {last_line(done)}")
    return python


def unpacked(package: Package, python: Path, folder: Path) -> Path:
    """The folder with the source archive's content."""
    for child in folder.glob("*"):
        if child.is_dir() and child.name.replace("_", "-") == f"{package.name}-{package.version}":
            return child
    download = [str(python), "-m", "pip", "download", "--quiet", "--no-deps",
                "--no-binary", package.name, "--dest", str(folder),
                f"{package.name}=={package.version}"]  # fmt: skip
    done = run(download, folder)
    archives = list(folder.glob("*.tar.gz"))
    if done.returncode or not archives:
        raise SystemExit(f"{' '.join(download)}: {last_line(done)}")
    for archive in archives:
        with tarfile.open(archive) as content:
            content.extractall(folder, filter="data")
        archive.unlink()
    return unpacked(package, python, folder)


class Workplace:
    """Where a package's tests and jobs run: its archive, torchdet, and nothing else of ours."""

    def __init__(self, package: Package, python: Path, folder: Path) -> None:
        self.package, self.python = package, python
        archives = folder / "archives"
        archives.mkdir(exist_ok=True)
        self.source = unpacked(package, python, archives)
        # The root of this repository has packages `tests` and `tools`, as others have.
        (folder / "path").mkdir(exist_ok=True)
        link = folder / "path" / "torchdet"
        link.unlink(missing_ok=True)
        link.symlink_to(ROOT / "torchdet")
        self.path = os.pathsep.join(map(str, (folder / "path", PROGRAMS, self.source)))
        self.result = folder / "result.json"

    def run(self, *arguments: str) -> dict:
        """What a program that ends with the name of its JSON file has written there."""
        self.result.unlink(missing_ok=True)
        command = [str(self.python), *arguments, str(self.result)]
        done = run(command, self.source, PYTHONPATH=self.path, PYTHONDONTWRITEBYTECODE="1")
        if not self.result.exists():
            print(done.stdout[-4000:], done.stderr[-4000:], file=sys.stderr)
            return {"problem": f"{self.package.key}: {last_line(done)}"}
        return json.loads(self.result.read_text())

    def tests(self, determinants: str) -> dict:
        """Outcomes of the tests, with torch's determinants ("stock") or torchdet's ("rerouted")."""
        files = list(self.package.tests)
        if not self.package.has_tests:
            files = ["--noconftest", "-c", str(ROOT / "pyproject.toml"),
                     *(str(PROGRAMS / file) for file in files)]  # fmt: skip
        return self.run("-m", "pytest", "--quiet", "-p", "no:cacheprovider", "-p", "rerouting",
                        *files, "--determinants", determinants, "--outcomes")  # fmt: skip

    def job(self, name: str) -> dict:
        """Curves and times of a training job."""
        return self.run(str(PROGRAMS / "jobs.py"), name, "--out")


def try_package(package: Package, python: Path, folder: Path) -> dict:
    """Runs all of one package."""
    workplace, machine = Workplace(package, python, folder), facts()
    return {
        "package": package.key, "date": datetime.date.today().isoformat(),
        "cpu": machine["cpu"], "busy": machine["load_average"] > machine["cores"],
        "reached_by": package.reached_by, "files": package.tests, "archive": package.has_tests,
        "stock": workplace.tests("stock"), "rerouted": workplace.tests("rerouted"),
        "jobs": {name: workplace.job(name) for name in package.jobs},
    }  # fmt: skip


def main() -> int:
    """Runs the packages and writes the page; 1 where something is not explained."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=sorted({p.name for p in PACKAGES}))
    parser.add_argument("--torch", default=TORCH, help="what pip installs as torch")
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "packages")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "packages.md")
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    chosen = [p for p in PACKAGES if not arguments.only or p.name in arguments.only]
    python = set_up(folder, chosen, arguments.torch)
    version = last_line(run([str(python), "-c", "import torch; print(torch.__version__)"], folder))
    # Earlier results stay, so that one package can be tried again.
    kept = folder / "results.json"
    results = json.loads(kept.read_text()) if kept.exists() else {}
    problems = []
    for package in chosen:
        print(package.key, flush=True)
        result = {**try_package(package, python, folder), "torch": version}
        results[package.key] = result
        kept.write_text(json.dumps(results))
        for line in report.summary(result):
            print(f"  {line}", flush=True)
        problems += report.problems(result)
    shown = [results[p.key] for p in PACKAGES if p.key in results]
    arguments.out.write_text(report.page(shown))
    for problem in problems:
        print(f"PROBLEM: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
