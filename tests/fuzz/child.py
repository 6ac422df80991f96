"""The process that runs cases. Its death, and its silence, are findings too.

Where the C library brings a malloc that checks, the child uses it: a write beyond the end of an
allocation ends the process when that memory is freed.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import re
import signal
import subprocess
import time
import warnings
from collections import deque
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

Case = dict[str, Any]
MODULES = {"call": "fuzz.answers", "program": "fuzz.compare", "sum": "fuzz.sums"}
SECONDS = 180  # for one case, on a busy machine
CASES = 400  # in one process
REMEMBERED = 20  # cases before a death that may have caused it
CHECKING_MALLOC = {"LD_PRELOAD": "libc_malloc_debug.so.0", "GLIBC_TUNABLES": "glibc.malloc.check=3"}


@dataclass
class Finding:
    """What is wrong with a case; findings of one signature count as one fault."""

    signature: str
    text: str
    case: Case


def run_case(case: Case) -> None:
    """Run a case in this process; Wrong where something is not as it must be."""
    if case["kind"] == "sequence":
        for part in case["cases"]:
            run_case(part)
        return
    module = MODULES.get(case["kind"], case["kind"])
    importlib.import_module(module).run(case)


def _serve(connection: Connection) -> None:
    import torch

    torch.set_num_threads(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what malloc says before it aborts
    warnings.simplefilter("ignore")
    while (case := connection.recv()) is not None:
        answer, start = None, time.process_time()
        try:
            run_case(case)
        except Exception as error:
            answer = type(error).__name__, str(error)
        connection.send((answer, time.process_time() - start))


def signature(case: Case, text: str) -> str:
    """What a finding is called: where it was and what happened, without the numbers."""
    words = re.findall(r"[A-Za-z_]{2,}", re.sub(r"tensor\(.*|\[.*", "", text, flags=re.DOTALL))
    return " ".join([case.get("target", case["kind"]), *words[:9]])


class Child:
    """Runs cases, in a process that is replaced when it has died or is old."""

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(list(MODULES.values()))
        self._process: Any = None
        self._recent: deque[Case] = deque(maxlen=REMEMBERED)
        self._left = 0
        self.seconds = 0.0  # of the processor, spent in cases

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def run(self, case: Case) -> Finding | None:
        """Run a case. Where the process dies, run it, or those before it, in a new one."""
        answer = self._ask(case)
        if not isinstance(answer, str):
            return _finding(case, answer)
        earlier = list(self._recent)[-2::-1]
        self._recent.clear()
        for suspect in (case, *earlier):
            again = self._ask(suspect)
            self._stop()
            self._recent.clear()
            if isinstance(again, str):
                return Finding(signature(suspect, again), again, suspect)
        sequence = {"kind": "sequence", "cases": [*reversed(earlier), case]}
        return Finding(signature(sequence, answer), answer, sequence)

    def _ask(self, case: Case) -> tuple[str, str] | str | None:
        if self._left == 0:
            self._start()
        self._left -= 1
        self._recent.append(case)
        try:
            self._connection.send(case)
            if not self._connection.poll(SECONDS):
                self._stop()
                return f"took more than {SECONDS} seconds"
            answer, seconds = self._connection.recv()
            self.seconds += seconds
            return answer
        except (EOFError, BrokenPipeError, ConnectionResetError):
            self._process.join()
            code = self._process.exitcode
            self._left = 0
            return f"died: {signal.Signals(-code).name if code < 0 else f'exit status {code}'}"

    def _start(self) -> None:
        self._stop()
        self._connection, theirs = self._context.Pipe()
        self._process = self._context.Process(target=_serve, args=(theirs,), daemon=True)
        with _environment():
            self._process.start()
        theirs.close()
        self._left = CASES
        self._recent.clear()

    def _stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._connection.close()
        self._process, self._left = None, 0


def _finding(case: Case, answer: tuple[str, str] | None) -> Finding | None:
    if answer is None:
        return None
    kind, text = answer
    if kind != "Wrong":
        text = f"the fuzzer itself: {kind}: {text}"
    return Finding(signature(case, text), text, case)


class _environment:
    """The environment in which the server of the children starts, if it starts now."""

    def __enter__(self) -> None:
        probe = subprocess.run(
            ["true"], env={**os.environ, **CHECKING_MALLOC}, capture_output=True, check=False
        )
        self._before = {key: os.environ.get(key) for key in CHECKING_MALLOC}
        if probe.returncode == 0 and not probe.stderr:
            os.environ.update(CHECKING_MALLOC)

    def __exit__(self, *_: object) -> None:
        for key, value in self._before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value
