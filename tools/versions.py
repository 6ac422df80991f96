"""One wheel with several versions of torch: installs, tests, and a table of what came out.

For each version there is a new virtual environment with torch, the wheel and the test tools, in
which neither the sources nor the editable install can stand in for what the wheel lacks. It is
removed before the next one: a torch with CUDA takes up to 6 GB. `make versions` calls this.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HIDDEN = ROOT / "tools" / "torch_without_private_names"
VERSIONS = ("2.10.0", "2.12.0", "newest")
TIME_LIMIT = 1800  # seconds for one group of tests
BYTES = 8 << 30  # what an environment may take

# The groups of tests by what they ask: files of tests/, and which of their tests.
GROUPS = {
    "values": (["test_contract.py"], ""),
    "gradients": (["test_gradients.py"], ""),
    "transforms": (["test_transforms.py"], ""),
    "compile": (["test_compile.py"], "agree_with_eager or inductor or itself or vmap or export"),
}
WITHOUT_PRIVATE_NAMES = (["test_contract.py", "test_transforms.py"], "")


@dataclass
class Result:
    """What one version of torch gave."""

    asked: str
    torch: str = ""
    date: str = ""
    cells: dict[str, str] = field(default_factory=dict)
    exactness: dict[str, str] = field(default_factory=dict)

    @property
    def right(self) -> bool:
        """Whether everything passed; a version that cannot be had is no failure of torchdet."""
        return all(cell.startswith(("ok", "cannot")) for cell in self.cells.values())


def run(command: list[str], folder: Path, **environment: str) -> subprocess.CompletedProcess:
    """A command in a folder of its own, with neither this repository nor its Python in reach."""
    left_out = ("PYTHONPATH", "VIRTUAL_ENV", "TORCHDET_EXTENSION")
    inherited = {k: v for k, v in os.environ.items() if k not in left_out}
    try:
        return subprocess.run(
            command, cwd=folder, env={**inherited, "OMP_NUM_THREADS": "1", **environment},
            capture_output=True, text=True, timeout=TIME_LIMIT, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 124, "", f"more than {TIME_LIMIT} s")


def last_line(done: subprocess.CompletedProcess) -> str:
    """The last line that says something."""
    lines = (done.stdout + done.stderr).strip().splitlines()
    return lines[-1].strip() if lines else ""


def install(asked: str, wheel: Path, folder: Path) -> tuple[Path | None, str]:
    """The Python of a new environment, or None and why there is none."""
    if shutil.disk_usage(folder).free < BYTES:
        return None, "cannot be had: less than 8 GB of disk are free"
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    python = folder / "venv" / "bin" / "python"
    torch = ["--upgrade", "torch"] if asked == "newest" else [f"torch=={asked}"]
    for packages in (torch, [f"{wheel}[test,examples]"]):
        done = run([str(python), "-m", "pip", "install", "--quiet", *packages], folder)
        if done.returncode:
            return None, f"cannot be had: {last_line(done)}"
    return python, ""


def newest_on_registry(python: Path, folder: Path) -> str:
    """The newest version that the registry lists, which pip's constraints may refuse."""
    done = run([str(python), "-m", "pip", "index", "versions", "torch"], folder)
    found = re.search(r"^torch \((\S+)\)", done.stdout, re.MULTILINE)
    return found[1] if found else ""


def pytest(python: Path, folder: Path, group: tuple[list[str], str], **environment: str) -> str:
    """Runs tests of this repository on the installed wheel; "ok" and a count, or what failed."""
    files, chosen = group
    started = time.monotonic()
    command = [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(ROOT),
               "-c", str(ROOT / "pyproject.toml"), "-k", chosen,
               *(str(ROOT / "tests" / file) for file in files)]  # fmt: skip
    done = run(command, folder, PYTHONDONTWRITEBYTECODE="1", **environment)
    passed = re.search(r"(\d+) passed", done.stdout)
    if done.returncode == 0 and passed:
        return f"ok, {passed[1]} in {time.monotonic() - started:.0f} s"
    print(done.stdout[-6000:], done.stderr[-2000:], file=sys.stderr)
    return f"FAILED: {last_line(done)}"


def try_version(asked: str, wheel: Path, folder: Path) -> Result:
    """Installs a version and asks it everything."""
    result = Result(asked, date=datetime.date.today().isoformat())
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    python, reason = install(asked, wheel, folder)
    if python is None:
        result.cells["install"] = reason
        return result
    empty = folder / "empty"
    empty.mkdir()
    done = run([str(python), "-c", "import torch; print(torch.__version__)"], empty)
    result.torch = last_line(done)
    if asked == "newest":
        newest = newest_on_registry(python, folder)
        if newest and newest != result.torch.split("+")[0]:
            print(f"torch {newest} is on the registry, but pip here takes {result.torch}")
            result.asked = f"newest that pip takes here, of {newest} on the registry"
    done = run([str(python), "-m", "torchdet", "check"], empty)
    result.cells["check"] = "ok" if done.returncode == 0 else f"FAILED: {last_line(done)}"
    for name, files in GROUPS.items():
        result.cells[name] = pytest(python, empty, files)
    result.cells["without private names"] = pytest(
        python, empty, WITHOUT_PRIVATE_NAMES, PYTHONPATH=str(HIDDEN)
    )
    done = run([str(python), str(ROOT / "examples/exactness.py"), "--json"], empty)
    result.cells["exactness"] = "ok" if done.returncode == 0 else f"FAILED: {last_line(done)}"
    if done.returncode == 0:
        result.exactness = json.loads(done.stdout)
    return result


# ---- the page


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def page(results: list[Result], wheel: Path) -> str:
    """docs/versions.md."""
    names = list(dict.fromkeys(name for result in results for name in result.cells))
    rows = [
        [result.torch or result.asked, result.asked, result.date,
         *(result.cells.get(name, "") for name in names)]
        for result in results
    ]  # fmt: skip
    asked = [result for result in results if result.exactness]
    questions = list(asked[0].exactness) if asked else []
    answers = [[q, *(result.exactness[q] for result in asked)] for q in questions]
    return f"""# Versions of torch

`make versions` writes this page. One wheel, `{wheel.name}`, is installed into a new environment for
each version of torch. There it runs `python -m torchdet check`, the tests of values, gradients,
transforms and compilation, a run in which torch's private names are hidden from torchdet
([tools/torch_without_private_names](../tools/torch_without_private_names/sitecustomize.py)), and
`make exactness`.

{table(["torch", "asked for", "date", *names], rows)}

What torch itself answers to the questions of
[examples/exactness.py](../examples/exactness.py); torchdet's answers are right in all of them:

{table(["question", *(result.torch.split("+")[0] for result in asked)], answers)}
"""


def main() -> int:
    """Tries every version, one after the other; 1 if anything failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--wheel", type=Path, required=True)
    parser.add_argument("--versions", nargs="+", default=VERSIONS, metavar="VERSION")
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "versions")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "versions.md")
    arguments = parser.parse_args()
    wheel, folder = arguments.wheel.resolve(), arguments.folder.resolve()
    # Earlier results stay, so that one version can be tried again.
    kept = folder / "results.json"
    results = {}
    if kept.exists():
        results = {key: Result(**fields) for key, fields in json.loads(kept.read_text()).items()}
    for version in arguments.versions:
        print(f"torch {version}", flush=True)
        result = try_version(version, wheel, folder / "environment")
        shutil.rmtree(folder / "environment")
        for name, cell in result.cells.items():
            print(f"  {name}: {cell}", flush=True)
        results[version] = result
        kept.write_text(json.dumps({key: asdict(result) for key, result in results.items()}))
        arguments.page.write_text(page(list(results.values()), wheel))
    return 0 if all(results[version].right for version in arguments.versions) else 1


if __name__ == "__main__":
    sys.exit(main())
