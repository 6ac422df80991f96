"""Run a command that compiles the extension and show how far it is, one line for each file.

    python tools/show_build.py build/install.log pip install --verbose ...

All output goes to the log, and its end to the terminal where the command fails.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

# What ninja prints when a file is compiled: how many are, of how many, and the compiler's command.
_COMPILED = re.compile(r"\s*\[(\d+)/(\d+)\] .* -c (\S+)")
_ANNOUNCED = re.compile(r"\s*torchdet: (kernels for .+)")  # by setup.py
_LINES_OF_AN_ERROR = 60


def progress(lines: Iterable[str], folder: Path, seconds: Iterator[float]) -> Iterator[str]:
    """What is worth showing. seconds: since the start, asked for once a line that is shown."""
    for line in lines:
        if match := _COMPILED.match(line):
            done, count, path = match.groups()
            source = Path(path)
            shown = source.relative_to(folder) if source.is_relative_to(folder) else source
            yield f"[{done}/{count}] {shown} ({next(seconds):.0f} s)"
        elif match := _ANNOUNCED.match(line):
            yield f"Compiling {match.group(1)}."


def run(log: Path, command: list[str]) -> int:
    """The exit status of the command."""
    start = time.monotonic()
    seconds = iter(lambda: time.monotonic() - start, None)
    log.parent.mkdir(parents=True, exist_ok=True)
    with (
        log.open("w") as file,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process,
    ):
        assert process.stdout is not None

        def logged() -> Iterator[str]:
            for line in process.stdout:
                file.write(line)
                yield line

        for line in progress(logged(), Path.cwd(), seconds):
            print(line, flush=True)
    if process.returncode:
        print(*log.read_text().splitlines()[-_LINES_OF_AN_ERROR:], sep="\n")
        print(f"All of it is in {log}.")
    return process.returncode


if __name__ == "__main__":
    sys.exit(run(Path(sys.argv[1]), sys.argv[2:]))
