"""Runs stages, each in a process of its own: whatever happens to one, the next has its turn."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tools.gpu.results import DONE, FAILED, LEFT_OUT, TIMEOUT, Results

# What a stage must have left of the whole time to be begun at all, as a share of its own limit.
WORTH_STARTING = 0.25
TAIL = 2000  # characters of a stage's output that a failure keeps
POLL, GRACE = 0.05, 3.0  # seconds


SECONDS = "{seconds}"  # in a command: what the stage may take, so that it can end by itself
WRITING = 8.0  # of its limit, for writing down what there is


@dataclass(frozen=True)
class Stage:
    """A command, and how long it may take."""

    name: str
    seconds: float
    command: Sequence[str]
    environment: dict[str, str] = field(default_factory=dict)


@dataclass
class _Running:
    stage: Stage
    process: subprocess.Popen[bytes]
    log: Path
    started: float
    limit: float


def _start(stage: Stage, results: Results, limit: float) -> _Running:
    log = results.folder / f"{stage.name}.log"
    with log.open("wb") as output:
        own = f"{max(1.0, limit - WRITING):.0f}"
        process = subprocess.Popen(
            [own if word == SECONDS else word for word in stage.command],
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **stage.environment},
            start_new_session=True,  # so that what it starts ends with it
        )
    return _Running(stage, process, log, time.monotonic(), limit)


def _end(process: subprocess.Popen[bytes]) -> None:
    """The stage and what it has started: asked first, so that results reach the disk."""
    for how, patience in ((signal.SIGTERM, GRACE), (signal.SIGKILL, None)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, how)
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            continue
        if how == signal.SIGTERM:
            continue  # the leader is gone, its children perhaps are not
        return


def _close(running: _Running, status: str, results: Results) -> str:
    seconds = round(time.monotonic() - running.started, 1)
    with contextlib.suppress(ProcessLookupError):  # what a stage leaves running
        os.killpg(running.process.pid, signal.SIGKILL)
    row = {"status": status, "seconds": seconds, "exit": running.process.returncode}
    text = running.log.read_text(errors="replace")
    if status != DONE:
        row["tail"] = text[-TAIL:]
    results.add(running.stage.name, **row)
    with (results.folder / "log.txt").open("a") as whole:
        whole.write(f"=== {running.stage.name}: {status}, {seconds} s\n{text}\n")
    running.log.unlink()
    print(f"{running.stage.name}: {status} after {seconds} s", flush=True)
    return status


def run_side_by_side(stages: Sequence[Stage], results: Results, end: float) -> dict[str, str]:
    """How each ended; all of them before `end` of time.monotonic()."""
    statuses: dict[str, str] = {}
    running: list[_Running] = []
    for stage in stages:
        left = end - time.monotonic()
        if left < WORTH_STARTING * stage.seconds:
            statuses[stage.name] = LEFT_OUT
            results.add(stage.name, status=LEFT_OUT, reason=f"{left:.0f} s left")
            print(f"{stage.name}: {LEFT_OUT}, {left:.0f} s left", flush=True)
            continue
        running.append(_start(stage, results, min(stage.seconds, left)))
    try:
        while running:
            for one in list(running):
                code = one.process.poll()
                if code is None and time.monotonic() - one.started > one.limit:
                    _end(one.process)
                    status = TIMEOUT
                elif code is None:
                    continue
                else:
                    status = DONE if code == 0 else FAILED
                running.remove(one)
                statuses[one.stage.name] = _close(one, status, results)
            time.sleep(POLL)
    finally:
        for one in running:  # this program is interrupted
            _end(one.process)
            _close(one, TIMEOUT, results)
    return statuses


def run(
    groups: Sequence[Sequence[Stage]], results: Results, seconds: float, finished: set[str]
) -> dict[str, str]:
    """The groups one after the other, the stages of each side by side, but for those finished.

    A group that starts late has what is left of `seconds`; a stage for which that is too little is
    left out, and a later run can do it.
    """
    end = time.monotonic() + seconds
    statuses: dict[str, str] = {}
    for group in groups:
        todo = [stage for stage in group if stage.name not in finished]
        statuses |= run_side_by_side(todo, results, end)
    return statuses
