"""Measures what README and docs quote, and writes their tables: ``python -m bench.publish``.

One command, about 32 minutes on an idle machine (`make bench-results`): each run of PLAN is a
process of its own and leaves one file in bench/results, over the one that was there. Then the table
of the README and docs/measurements-cpu.md are written from these files. ``--render`` does only
that; ``--quick`` tries it all with tiny inputs, and writes to out/ instead.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from bench import machine, pages, plots
from bench.files import read_json
from bench.sections import Result

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "results"
PAGE = ROOT / "docs" / "measurements-cpu.md"
PLOT = ROOT / "docs" / "images" / "speed.png"
README = ROOT / "README.md"
# Pages that may quote a result.
QUOTING = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/*.md")
QUICK = 0.2  # minutes of a run that is only tried
REFERENCE = re.compile(r"bench/results/([\w.-]+)")


@dataclass(frozen=True)
class Run:
    """A file of bench/results, and the command that makes it."""

    name: str
    arguments: str
    minutes: float
    module: str = "bench"
    capability: str = ""  # the instruction set that torchdet is held to
    threads: int = 1
    extension: bool = True

    def environment(self) -> dict[str, str]:
        """What differs from this process's."""
        # numpy, which makes the truth, is not to start threads of its own beside those timed.
        variables = {"OMP_NUM_THREADS": str(self.threads), "OPENBLAS_NUM_THREADS": "1"}
        if self.capability:
            variables["TORCHDET_CPU_CAPABILITY"] = self.capability
        if not self.extension:
            variables["TORCHDET_EXTENSION"] = "0"
        return variables

    def command(self, path: Path, quick: bool) -> list[str]:
        """With few tiny cases where it is only tried."""
        words = [sys.executable, "-m", self.module, *self.arguments.split(), "--json", str(path)]
        if self.module == "bench":
            words += ["--only-torch", "--threads", str(self.threads)]
            words += ["--quick"] if quick else []
        if self.module != "bench.latency":
            words += ["--minutes", str(QUICK if quick else self.minutes)]
        elif quick:
            words += ["--rounds", "1"]
        return words


def _orders(*orders: int) -> str:
    return " ".join(f"--n {n}" for n in orders)


_SPEED = "--suite small --suite medium --suite large --suite hvp"
PLAN = (
    Run("cpu-speed", f"{_SPEED} --suite latency --suite single --suite transforms", 6.3),
    Run("cpu-dram", "--suite dram --rounds 3", 1.7),
    Run("cpu-memory", "--suite memory --dtype float32 --rounds 3", 1.8),
    Run("cpu-func", f"--suite func --seconds 0.01 --rounds 9 {_orders(1, 3, 8, 16)}", 3.4),
    Run("cpu-orders", "--suite orders --seconds 0.01 --rounds 7", 1.4),
    Run("cpu-scan", "--suite scan --seconds 0.01 --rounds 9", 1.9),
    Run("cpu-wavefunction", "", 3.0, module="bench.wavefunction"),
    Run("cpu-likelihood", "", 1.5, module="bench.likelihood"),
    Run("cpu-fusion", "", 1.0, module="bench.fusion"),
    Run("cpu-latency", "--rounds 15", 0.3, module="bench.latency"),
    Run(
        "cpu-threads",
        "--suite small --suite medium --suite single "
        + _orders(3, 8, 16, 32, 64, 128, 256, 512, 1024),
        1.5,
        threads=2,
    ),
    Run("cpu-scan-2t", "--suite scan --seconds 0.01 --rounds 9", 1.3, threads=2),
    Run(
        "cpu-speed-avx2",
        f"{_SPEED} {_orders(2, 4, 8, 16, 32, 64, 128, 256, 512)}",
        2.4,
        capability="avx2",
    ),
    Run("cpu-scan-avx2", "--suite scan --seconds 0.01 --rounds 7", 1.6, capability="avx2"),
    Run("cpu-plain", "--suite plain --complex --seconds 0.01 --rounds 5", 2.5, extension=False),
)


def measure(folder: Path, quick: bool, only: list[str] | None) -> int:
    """Every run of the plan, one after the other; how many of them ended with an error."""
    failed, built = 0, (machine.build_info() or {}).get("instruction_sets", [])
    for run in PLAN:
        if only and run.name not in only:
            continue
        if run.capability and run.capability not in built:
            print(f"{run.name}: left out, this build has no kernels for {run.capability}")
            continue
        started = time.monotonic()
        print(f"{run.name} (at most {run.minutes:g} minutes)", flush=True)
        command = run.command(folder / f"{run.name}.json", quick)
        code = subprocess.run(command, cwd=ROOT, env=os.environ | run.environment()).returncode
        print(f"{run.name}: {time.monotonic() - started:.0f} s, exit status {code}", flush=True)
        failed += code != 0
    return failed


def results(folder: Path) -> dict[str, Result]:
    """The runs of the plan whose files are there."""
    paths = {run.name: folder / f"{run.name}.json" for run in PLAN}
    return {name: read_json(path) for name, path in paths.items() if path.exists()}


def render(folder: Path, page: Path, plot: Path, readme: Path) -> None:
    """The page, its plot and the README's table, from the files that are there."""
    runs = results(folder)
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(pages.measurements(runs))
    plot.parent.mkdir(parents=True, exist_ok=True)
    if "cpu-speed" in runs:
        plots.plot(runs["cpu-speed"], plot)
    text = README.read_text()
    begin, end = "<!-- speed: begin -->\n", "<!-- speed: end -->"
    head, _, rest = text.partition(begin)
    _, _, tail = rest.partition(end)
    readme.write_text(head + begin + pages.readme_block(runs) + end + tail)


def references() -> dict[str, list[str]]:
    """The files of bench/results that pages refer to, and which pages these are."""
    found: dict[str, list[str]] = {}
    for pattern in QUOTING:
        for page in sorted(ROOT.glob(pattern)):
            for name in REFERENCE.findall(page.read_text()):
                found.setdefault(name.rstrip("."), []).append(str(page.relative_to(ROOT)))
    return found


def superseded() -> list[str]:
    """The files of bench/results that no page refers to."""
    return sorted({path.name for path in RESULTS.iterdir()} - set(references()))


def main() -> int:
    """Command line; not 0 if a run failed, an answer of torchdet was wrong, or a file is left."""
    parser = argparse.ArgumentParser(prog="python -m bench.publish", description=__doc__)
    parser.add_argument("--render", action="store_true", help="only write page and table anew")
    parser.add_argument("--quick", action="store_true", help="does it run at all?")
    parser.add_argument("--only", action="append", choices=[run.name for run in PLAN])
    options = parser.parse_args()
    trial = ROOT / "out" / "publish"
    folder = trial if options.quick else RESULTS
    failed = 0 if options.render else measure(folder, options.quick, options.only)
    if options.quick:
        render(folder, trial / "measurements-cpu.md", trial / "speed.png", trial / "README.md")
        print(f"wrote {trial}")
        return int(failed > 0)
    render(folder, PAGE, PLOT, README)
    print(f"wrote {PAGE.relative_to(ROOT)}, {PLOT.relative_to(ROOT)} and the table of README.md")
    if left := superseded():
        print(
            "no page refers to these results: git rm "
            + " ".join(f"bench/results/{x}" for x in left)
        )
    return int(failed > 0 or bool(left))


if __name__ == "__main__":
    sys.exit(main())
