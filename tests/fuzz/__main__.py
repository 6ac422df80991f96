"""python -m fuzz: replays the corpus, then searches until the time is over or it is stopped."""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from pathlib import Path

import torch

import torchdet

from . import search
from .child import Child, Finding


def _show(finding: Finding, heading: str) -> None:
    print(f"\n{heading}: {finding.signature}\n  {finding.text[:1000]}")
    print(json.dumps(finding.case), flush=True)


def main() -> int:
    """Return 1 if something was found."""
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=math.inf, help="default: until stopped")
    parser.add_argument("--seed", type=int, default=None, help="default: from the clock")
    parser.add_argument("--corpus", type=Path, default=search.CORPUS, help="where findings go")
    parser.add_argument("--replay", type=Path, help="run one file of the corpus and stop")
    parser.add_argument("--kinds", nargs="+", default=list(search.KINDS), choices=search.KINDS)
    options = parser.parse_args()
    seed = time.time_ns() % 10**9 if options.seed is None else options.seed
    print(f"torchdet {torchdet.__file__}, torch {torch.__version__}, seed {seed}", flush=True)
    start = time.monotonic()
    deadline = start + 60 * options.minutes
    found = 0
    with Child() as child:
        looking = search.Search(child, options.kinds)
        files = [(p, c) for p, c in search.stored() if options.replay in (None, p)]
        if options.replay and not files:
            files = [(options.replay, json.loads(options.replay.read_text()))]
        for path, contents in files:
            if finding := child.run(contents["case"]):
                found += 1
                _show(finding, f"corpus/{path.name} fails")
                looking.known.add(finding.signature)
        try:
            while not options.replay and time.monotonic() < deadline:
                if finding := looking.round(seed, deadline):
                    found += 1
                    looking.known.add(finding.signature)
                    busy = child.seconds + time.process_time()
                    when = f"{time.monotonic() - start:.0f} s ({busy:.0f} s of the processor)"
                    when += f" and {looking.count.total()} cases"
                    _show(finding, f"FOUND after {when}, with SEED={seed}")
                    print(f"  kept in {search.keep(finding, seed, options.corpus)}", flush=True)
                seed += 1
        except KeyboardInterrupt:
            print("stopped")
    minutes = (time.monotonic() - start) / 60
    print(f"\n{looking.count.total()} cases in {minutes:.1f} minutes, {found} findings")
    for what, count in looking.count.most_common():
        print(f"  {count:7} {what} ({looking.seconds[what] / count * 1e3:.0f} ms each)")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
