"""Where the result of a search goes: the table of docs/accuracy.md, the cases of the suite."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
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


def write_cases(new: Sequence[Case]) -> None:
    """Takes the place of what was found on this implementation for these operators and orders."""
    key = lambda c: (c.operator, c.found, c.n, DTYPES.index(c.dtype))  # noqa: E731
    searched = {(c.operator, c.n) for c in new}
    kept = [c for c in read_cases() if c.found != BACKEND or (c.operator, c.n) not in searched]
    kept += [c for c in new if c.n <= LARGEST_STORED]
    lines = ",\n".join(json.dumps(asdict(c)) for c in sorted(kept, key=key))
    CASES.write_text(f"[\n{lines}\n]\n")


Rows = dict[tuple[str, int], str]


def _rows(found: Iterable[Case]) -> Rows:
    """Worst error and, in brackets, the condition of its matrix, by operator, order and dtype."""
    by_key = {(c.operator, c.n, c.dtype): c for c in found}
    rows = {}
    for operator, n in {key[:2] for key in by_key}:
        cells = [_cell(by_key.get((operator, n, dtype))) for dtype in DTYPES]
        rows[operator, n] = f"| `{operator}` | {n} | {' | '.join(cells)} |"
    return rows


def _cell(c: Case | None) -> str:
    if c is None:
        return ""
    condition = "singular" if c.condition > 1e19 else f"{c.condition:.0e}".replace("e+0", "e")
    return f"{c.units:.2f} ({condition.replace('e+', 'e')})"


def write_table(found: Iterable[Case], how: str) -> None:
    """The rows of a search take the place of those of the same operators and orders.

    how: what has been searched. It stands below what it said of the other rows, if there are any.
    """
    begin, end = (f"<!-- {word} {BACKEND} -->" for word in ("begin", "end"))
    text = PAGE.read_text()
    before, rest = text.split(begin)
    old, after = rest.split(end)
    new = _rows(found)
    stored: Rows = {
        (operator, int(n)): line
        for line, operator, n in re.findall(r"^(\| `(\w+)` \| (\d+) \| .*)$", old, re.MULTILINE)
    }
    rows = stored | new
    if stored.keys() - new.keys():
        earlier = old.split("\n|")[0].strip()
        how = f"{earlier}\n\n{how[:-1]}, for {_searched(new)}:"
    lines = [f"| operator | n | {' | '.join(DTYPES)} |", "|---|---|" + "---|" * len(DTYPES)]
    order = list(OPERATORS)
    lines += [rows[key] for key in sorted(rows, key=lambda key: (order.index(key[0]), key[1]))]
    table = "\n".join(lines)
    PAGE.write_text(f"{before}{begin}\n{how}\n\n{table}\n{end}{after}")


def _searched(rows: Rows) -> str:
    by_orders: dict[tuple[int, ...], list[str]] = {}
    for operator in OPERATORS:
        if orders := tuple(sorted(n for name, n in rows if name == operator)):
            by_orders.setdefault(orders, []).append(f"`{operator}`")
    return "; ".join(
        f"{', '.join(names)} at n = {', '.join(map(str, orders))}"
        for orders, names in by_orders.items()
    )
