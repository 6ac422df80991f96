"""What the stages find out, one JSON object a line, on disk as soon as it is known.

A row has the stage that wrote it, and either what was measured or, as "status", how it ended.
Stages may run side by side and end at any moment: each row is one write to the end of the file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

NAME = "results.jsonl"
DONE, FAILED, TIMEOUT, LEFT_OUT = "done", "failed", "timeout", "left out"

Row = dict[str, Any]


def read(paths: Iterable[Path]) -> list[Row]:
    """The rows of these files, in their order; half a line at the end of a file is none."""
    rows = []
    for path in paths:
        for line in path.read_text().splitlines() if path.exists() else ():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                continue
    return rows


def finished(rows: Iterable[Row]) -> set[str]:
    """The stages that need not run again."""
    return {row["stage"] for row in rows if row.get("status") == DONE}


def of_stage(rows: Iterable[Row], *stages: str) -> list[Row]:
    """What these stages have measured."""
    return [row for row in rows if row["stage"] in stages and "status" not in row]


class Results:
    """The file of a run, to which rows are added."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.path = folder / NAME

    def add(self, stage: str, **row: Any) -> None:
        """Appends a row."""
        line = json.dumps({"stage": stage, **row}, default=str) + "\n"
        file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(file, line.encode())
        finally:
            os.close(file)

    def rows(self) -> list[Row]:
        """All until now."""
        return read([self.path])
