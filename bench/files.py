"""Results on disk: compact JSON, one case a line, numbers with the digits that a time has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

DIGITS = 4


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, dict):
        return {key: _rounded(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(entry) for entry in value]
    return value


def _compact(value: Any) -> str:
    return json.dumps(_rounded(value), separators=(",", ":"))


def write_json(result: dict[str, Any], path: Path) -> None:
    """Facts first, then the lists of cases."""

    def entry(value: Any) -> str:
        lines = isinstance(value, list) and value and isinstance(value[0], dict)
        return "[\n" + ",\n".join(map(_compact, value)) + "\n]" if lines else _compact(value)

    path.parent.mkdir(parents=True, exist_ok=True)
    parts = (f"{json.dumps(key)}:{entry(value)}" for key, value in result.items())
    path.write_text("{" + ",\n".join(parts) + "}\n")


def append_line(entry: dict[str, Any], path: Path) -> None:
    """One line of JSON at the end of a file, which is there when this returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(_compact(entry) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """What `write_json` has written."""
    return json.loads(path.read_text())
