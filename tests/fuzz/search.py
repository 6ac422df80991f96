"""The search: draw cases, run them, make what fails small, keep it."""

from __future__ import annotations

import hashlib
import json
import random
import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import hypothesis
import hypothesis.strategies as st

from . import calls, programs, sums
from .child import Case, Child, Finding

CORPUS = Path(__file__).parent / "corpus"
EXAMPLES = 300  # in one round, which has one seed
SHRINK_SECONDS = 40.0  # of the processor


KINDS = {"call": calls.calls, "sum": sums.sums, "program": programs.programs}


def cases(kinds: Sequence[str]) -> st.SearchStrategy[Case]:
    """Cases of these kinds, in equal numbers."""
    return st.one_of([KINDS[kind]() for kind in kinds])


class Search:
    """Rounds of one seed each, until the time is over."""

    def __init__(self, child: Child, kinds: Sequence[str] = tuple(KINDS)) -> None:
        self.child, self.kinds, self.known = child, kinds, set[str]()
        self.count: Counter[str] = Counter()
        self.seconds: Counter[str] = Counter()

    def round(self, seed: int, deadline: float, examples: int = EXAMPLES) -> Finding | None:
        """The first finding of a round that is not known yet, made small."""
        self._best: Finding | None = None
        self._deadline = deadline
        settings = hypothesis.settings(
            max_examples=examples,
            deadline=None,
            database=None,
            derandomize=False,
            phases=(hypothesis.Phase.generate, hypothesis.Phase.shrink),
            suppress_health_check=list(hypothesis.HealthCheck),
            verbosity=hypothesis.Verbosity.quiet,
        )
        try:
            rng = random.Random(seed)
            hypothesis.find(cases(self.kinds), self._fails, settings=settings, random=rng)
        except (hypothesis.errors.NoSuchExample, _OutOfTimeError):
            pass
        except hypothesis.errors.Flaky:  # also where the time was over in the midst of a case
            if self._best is None and time.monotonic() <= deadline:
                raise
        if self._best is not None:
            self._best = self._without_steps(self._best)
        return self._best

    def _busy(self) -> float:
        return self.child.seconds + time.process_time()

    def _without_steps(self, finding: Finding) -> Finding:
        """Drop the steps that can go, should the shrinker have had no time for them."""
        for position in reversed(range(len(finding.case.get("steps", ())))):
            steps = list(finding.case["steps"])
            del steps[position]
            found = self.child.run({**finding.case, "steps": steps})
            if found is not None and found.signature == finding.signature:
                finding = found
        return finding

    def _fails(self, case: Case) -> bool:
        now = time.monotonic()
        if self._best is None and now > self._deadline:
            raise _OutOfTimeError
        if self._best is not None and self._busy() > self._enough:
            return False
        found = self.child.run(case)
        what = case.get("target", case["kind"])
        self.count[what] += 1
        self.seconds[what] += time.monotonic() - now
        if found is None or found.signature in self.known:
            return False
        if self._best is None:
            self._best = found
            self._enough = self._busy() + SHRINK_SECONDS
            return True
        if found.signature != self._best.signature:
            return False
        self._best = found
        return True


class _OutOfTimeError(Exception):
    pass


# ---- the corpus


def stored() -> Iterator[tuple[Path, dict[str, Any]]]:
    """The corpus: path and contents of each file."""
    for path in sorted(CORPUS.glob("*.json")):
        yield path, json.loads(path.read_text())


def keep(finding: Finding, seed: int, folder: Path = CORPUS) -> Path:
    """Write a finding to the corpus."""
    text = json.dumps(finding.case, sort_keys=True)
    slug = re.sub(r"[^a-z]+", "-", finding.signature.lower())[:48].strip("-")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{slug}-{hashlib.sha256(text.encode()).hexdigest()[:8]}.json"
    contents = {"found": finding.text, "seed": seed, "case": finding.case}
    path.write_text(json.dumps(contents, indent=1) + "\n")
    return path
