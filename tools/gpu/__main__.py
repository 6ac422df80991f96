"""Everything that needs a GPU, in stages that each have their own time: ``python -m tools.gpu``.

A GPU comes for minutes. Whatever is known is in FOLDER/results.jsonl at once; a stage that fails or
takes too long does not keep the next from its turn; a second run with the same folder, or one with
--after, leaves out the stages that are done. tools/gpu/report.py makes tables of the results.

Without a GPU nothing is measured: --dry-run compiles, links against the torch that is there, and
runs the first look at all kernels on the emulation.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

from tools.gpu import objects, results, runner, stage
from tools.gpu.runner import SECONDS, Stage

ROOT = Path(__file__).parents[2]
# Seconds that a stage may take. Those of a line run side by side: linking and the measurements of
# single instructions, which the GPU's own clock takes; tests and sanitizers, when nothing is timed.
PLAN: tuple[tuple[tuple[str, float], ...], ...] = (
    (("library", 200),),
    (("facts", 30),),
    (("extension", 240), ("micro", 60)),
    (("smoke", 60),),
    (("kernels", 100),),
    (("times", 125),),
    (("tests", 140), ("sanitizers", 140)),
    (("profile", 150),),
    (("large", 40),),
    (("repeats", 60),),
)
DRY_PLAN: tuple[tuple[tuple[str, float], ...], ...] = (
    (("library", 3600),),
    (("extension", 1200),),
    (("smoke", 1200),),
)
# Not results, but what the others stand on; quick where nothing has changed.
BUILT = ("library", "extension")
SETS = {
    "core": (*BUILT, "facts", "micro", "smoke", "kernels", "times"),
    "check": (*BUILT, "tests", "sanitizers"),
    "profile": (*BUILT, "profile", "large", "repeats"),
}


def has_gpu() -> bool:
    """Whether torch can compute on one, asked in another process."""
    question = "import sys, torch; sys.exit(not torch.cuda.is_available())"
    return subprocess.run([sys.executable, "-c", question], check=False).returncode == 0


def groups(options: argparse.Namespace) -> list[list[Stage]]:
    """The stages that were asked for, with their commands."""
    common = ["--out", str(options.out)]
    for path in options.after:
        common += ["--after", str(path)]
    for n in options.n or ():
        common += ["--n", str(n)]
    common += ["--dry-run"] * options.dry_run

    def command(name: str) -> Sequence[str]:
        own = ["--seconds", SECONDS]
        return [sys.executable, "-m", "tools.gpu.stage", name, *common, *own]

    environment = {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "OPENBLAS_NUM_THREADS": "1"}
    chosen = []
    for group in DRY_PLAN if options.dry_run else PLAN:
        stages = [
            Stage(name, seconds, command(name), environment)
            for name, seconds in group
            if name in options.stages
        ]
        if stages:
            chosen.append(stages)
    return chosen


def main() -> int:
    """Command line; 0 if every stage that was asked for is done."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    stage.arguments(parser)
    names = [name for group in PLAN for name, _ in group]
    parser.add_argument(
        "--stages", default=",".join(names),
        help=f"some of {', '.join(names)}, or core, check, profile, separated by commas",
    )  # fmt: skip
    parser.add_argument("--seconds", type=float, default=560, help="for all of them")
    options = parser.parse_args()
    options.out = options.out.resolve()
    options.after = [path.resolve() for path in options.after]
    wanted = [x for name in options.stages.split(",") for x in SETS.get(name, (name,))]
    if unknown := set(wanted) - set(names):
        parser.error(f"no such stages: {', '.join(sorted(unknown))}")
    options.stages = wanted
    if not (options.dry_run or has_gpu()):
        print("torch sees no GPU here: nothing is measured (--dry-run does what can be done)")
        return 2
    written = results.Results(options.out)
    finished = results.finished(results.read([*options.after, written.path])) - set(BUILT)
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # and end the stages
    written.add("run", date=now, dry_run=options.dry_run, stages=wanted, **objects.commit())
    statuses = runner.run(groups(options), written, options.seconds, finished)
    return int(any(status != results.DONE for status in statuses.values()))


if __name__ == "__main__":
    sys.exit(main())
