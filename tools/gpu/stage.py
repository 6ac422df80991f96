"""One stage, in a process of its own: ``python -m tools.gpu.stage NAME --out FOLDER``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from tools.gpu.results import Results, read

ROOT = Path(__file__).parents[2]
LIBRARY = ROOT / "build" / "kernels" / "libkernels.so"
MICRO = ROOT / "build" / "kernels" / "libmicro.so"
VARIANTS = ROOT / "build" / "kernels" / "variants"


def _library(options: argparse.Namespace) -> int:
    from tools.gpu import link

    link.library(Results(options.out))
    return 0


def _extension(options: argparse.Namespace) -> int:
    from tools.gpu import link

    link.extension(Results(options.out), in_place=not options.dry_run)
    return 0


def _facts(options: argparse.Namespace) -> int:
    from tools.gpu import facts

    facts.run(Results(options.out))
    return 0


def _smoke(options: argparse.Namespace) -> int:
    from tools.gpu import smoke
    from tools.gpu.library import DTYPES, KernelLibrary

    path, device = LIBRARY, "cuda"
    if options.dry_run:
        import torch

        torch.set_num_threads(1)
        path, device = smoke.emulation(), "cpu"
    library = KernelLibrary(path, device)
    return smoke.run(Results(options.out), library, DTYPES, options.n) > 0


def _micro(options: argparse.Namespace) -> int:
    from tools.gpu import micro

    micro.run(Results(options.out), MICRO)
    return 0


def _kernels(options: argparse.Namespace) -> int:
    from tools.gpu import kernels

    results = Results(options.out)
    earlier = read([*options.after, results.path])
    return kernels.run(results, earlier, LIBRARY, VARIANTS.glob("*.so")) > 0


def _times(options: argparse.Namespace, noisy: bool = False) -> int:
    from tools.gpu import link, times

    link.require_extension()
    results = Results(options.out)
    earlier = read([*options.after, results.path])
    return times.run(results, earlier, options.seconds, noisy) > 0


def _repeats(options: argparse.Namespace) -> int:
    return _times(options, noisy=True)


def _tests(options: argparse.Namespace) -> int:
    from tools.gpu import checks, link

    link.require_extension()
    return checks.suite(Results(options.out), options.seconds)


def _sanitizers(options: argparse.Namespace) -> int:
    from tools.gpu import checks, link

    link.require_extension()
    return checks.sanitizers(Results(options.out), options.seconds)


def _profile(options: argparse.Namespace) -> int:
    from tools.gpu import profiles

    return profiles.profile(Results(options.out), LIBRARY)


def _large(options: argparse.Namespace) -> int:
    from tools.gpu import link, profiles

    link.require_extension()
    profiles.large(Results(options.out))
    return 0


STAGES: dict[str, Callable[[argparse.Namespace], int]] = {
    "library": _library,
    "extension": _extension,
    "facts": _facts,
    "smoke": _smoke,
    "micro": _micro,
    "kernels": _kernels,
    "times": _times,
    "repeats": _repeats,
    "tests": _tests,
    "sanitizers": _sanitizers,
    "profile": _profile,
    "large": _large,
}


def arguments(parser: argparse.ArgumentParser) -> None:
    """What a stage and the whole run have in common."""
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument(
        "--after", type=Path, action="append", default=[], metavar="JSONL",
        help="results of an earlier run: what it has finished is not repeated",
    )  # fmt: skip
    parser.add_argument("--dry-run", action="store_true", help="what can be done without a GPU")
    parser.add_argument("--n", type=int, action="append", help="smoke: only this order")


def main() -> int:
    """Command line; 0 if all is as it should be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stage", choices=STAGES)
    arguments(parser)
    parser.add_argument("--seconds", type=float, default=1e9, help="that the stage may take")
    options = parser.parse_args()
    return STAGES[options.stage](options)


if __name__ == "__main__":
    sys.exit(main())
