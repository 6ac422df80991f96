"""Where the result of a search goes: the table of docs/accuracy.md, the cases of the suite."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

import cases
from accuracy.measure import OPERATORS, Batch

CASES = Path(__file__).parents[1] / "worst_cases.json"
PAGE = Path(__file__).parents[2] / "docs" / "accuracy.md"
BACKEND = "extension" if cases.EXTENSION else "reference"
DTYPES = ("float32", "float64", "complex64", "complex128")
# The largest orders of which the worst matrices are kept as cases: exact integers stay short.
LARGEST_STORED = 6


@dataclass(frozen=True)
class Case:
    """One matrix, and its directions, as a test can read it: parts in hexadecimal, row by row."""

    operator: str
    dtype: str
    n: int
    found: str  # by the search on which implementation, or "mended": once beyond its bound
    units: float  # error when it was found, confirmed in rational arithmetic
    condition: float
    matrices: tuple[str, ...]  # A and the directions

    @property
    def batch(self) -> Batch:
        A, *Zs = (self._array(text) for text in self.matrices)
        return Batch(A, tuple(Zs))

    def _array(self, text: str) -> np.ndarray:
        parts = np.array([float.fromhex(x) for x in text.split()])
        dtype = np.dtype(self.dtype)
        if dtype.kind == "c":
            parts = parts.view(complex)
        return parts.astype(dtype).reshape(1, self.n, self.n)


def case(operator: str, found: str, units: float, condition: float, batch: Batch) -> Case:
    """The only matrix of the batch."""
    A = batch.A
    texts = tuple(_text(X[0]) for X in (A, *batch.Zs))
    rounded = float(f"{condition:.3g}") if math.isfinite(condition) else condition
    return Case(operator, A.dtype.name, A.shape[-1], found, float(f"{units:.3g}"), rounded, texts)


def _text(X: np.ndarray) -> str:
    parts = X.ravel().astype(complex).view(float) if X.dtype.kind == "c" else X.ravel()
    return " ".join(re.sub(r"\.?0*p", "p", float(x).hex()) for x in parts)


def read_cases() -> list[Case]:
    if not CASES.exists():
        return []
    stored = json.loads(CASES.read_text())
    return [Case(**{**c, "matrices": tuple(c["matrices"])}) for c in stored]


def write_cases(new: Iterable[Case]) -> None:
    """Takes the place of what was found on this implementation; the other cases stay."""
    key = lambda c: (c.operator, c.found, c.n, DTYPES.index(c.dtype))  # noqa: E731
    kept = [c for c in read_cases() if c.found != BACKEND]
    kept += [c for c in new if c.n <= LARGEST_STORED]
    lines = ",\n".join(json.dumps(asdict(c)) for c in sorted(kept, key=key))
    CASES.write_text(f"[\n{lines}\n]\n")


def table(found: Iterable[Case]) -> str:
    """Worst error and, in brackets, the condition of its matrix, by operator, order and dtype."""
    by_key = {(c.operator, c.n, c.dtype): c for c in found}
    lines = [f"| operator | n | {' | '.join(DTYPES)} |", "|---|---|" + "---|" * len(DTYPES)]
    for operator in OPERATORS:
        orders = sorted({n for name, n, _ in by_key if name == operator})
        for n in orders:
            cells = [_cell(by_key.get((operator, n, dtype))) for dtype in DTYPES]
            lines.append(f"| `{operator}` | {n} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(c: Case | None) -> str:
    if c is None:
        return ""
    condition = "singular" if c.condition > 1e19 else f"{c.condition:.0e}".replace("e+0", "e")
    return f"{c.units:.2f} ({condition.replace('e+', 'e')})"


def write_table(found: Iterable[Case], how: str) -> None:
    begin, end = (f"<!-- {word} {BACKEND} -->" for word in ("begin", "end"))
    text = PAGE.read_text()
    before, rest = text.split(begin)
    after = rest.split(end)[1]
    PAGE.write_text(f"{before}{begin}\n{how}\n\n{table(found)}\n{end}{after}")
