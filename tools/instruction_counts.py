"""Count the instructions that CPU kernels execute per matrix and compare them with the record.

A guard against slower kernels where timings are of no use: the counts are the same on an idle
machine and on a busy one. Fails where a kernel executes more instructions than
tools/instruction_counts.json says for this compiler; --record after a change that is meant, or with
a compiler that has no record.
"""

import argparse
import ctypes
import json
import os
import platform
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

import torchdet._ops

RECORD = Path(__file__).with_suffix(".json")
TOLERANCE = 0.03

# The same numbers on every architecture of Linux.
PTRACE_TRACEME, PTRACE_CONT, PTRACE_SINGLESTEP, PTRACE_GETREGSET = 0, 7, 9, 0x4204
NT_PRSTATUS = 1  # the general registers
PROGRAM_COUNTER = {"x86_64": 16, "aarch64": 32}  # index among them
STEPPED = signal.SIGTRAP << 8 | 0x7F  # wait status after a step
MARKED = signal.SIGSTOP << 8 | 0x7F  # wait status at a mark
NO_PTRACE = 3  # exit status of the process that is counted
# Far more than any call takes. It takes forever where atomic operations are exclusive loads and
# stores, as on old ARM processors: a step breaks their reservation, so that they start over.
MOST_STEPS = 5_000_000
# The first calls allocate work space and look up symbols.
WARM_UPS = 2


class Case(NamedTuple):
    """An operator on a batch of matrices."""

    op: str
    dtype: str
    n: int
    batch: int

    @property
    def name(self) -> str:
        """The key in the record."""
        return f"{self.op} {self.dtype} n={self.n}"

    def arguments(self) -> tuple[torch.Tensor, ...]:
        """Of the operator; the same in every run."""
        generator, dtype = torch.Generator().manual_seed(self.n), getattr(torch, self.dtype)
        shape = (self.batch, self.n, self.n)
        A, Z = (torch.randn(shape, generator=generator, dtype=dtype) for _ in range(2))
        return {
            "det": (A,),
            "det_backward": (Z[:, 0, 0].clone(), A),
            "det_hvp": (A, Z),
            "_det_keep": (A,),
        }[self.op]


# Every operator in every size class: one matrix per lane, rows in packs, blocked. The batches are
# whole packs or groups of matrices, and make some ten thousand instructions, so that the checks of
# a call, a thousand, are a small part of them; 50 thousand take a second.
CASES = tuple(
    Case(*case)
    for case in (
        ("det", "float32", 3, 512),
        ("det", "float32", 8, 64),
        ("det", "float32", 16, 16),
        ("det", "float32", 32, 4),
        ("det", "float32", 48, 2),
        ("det", "float32", 66, 2),
        ("det", "float64", 3, 256),
        ("det", "float64", 8, 32),
        ("det", "float64", 32, 2),
        ("det", "float64", 66, 1),
        ("det", "complex64", 8, 16),
        ("det", "complex128", 73, 1),
        ("det_backward", "float32", 3, 256),
        ("det_backward", "float32", 8, 32),
        ("det_backward", "float32", 16, 4),
        ("det_backward", "float32", 32, 4),
        ("det_backward", "float64", 3, 128),
        ("_det_keep", "float32", 48, 2),
        ("det_hvp", "float32", 4, 16),
        ("det_hvp", "float32", 33, 1),
    )
)

Counts = dict[str, dict[str, float]]  # by instruction set and case


class CannotCountError(Exception):
    """Says why calls cannot be stepped through here, which is no fault of the kernels."""


class Comparison(NamedTuple):
    """One kernel's instructions per matrix."""

    instruction_set: str
    case: str
    recorded: float | None
    counted: float

    @property
    def change(self) -> float:
        """Relative to the record; 0 without one."""
        return self.counted / self.recorded - 1 if self.recorded else 0.0

    @property
    def verdict(self) -> str:
        """Empty where all is as recorded."""
        if self.recorded is None:
            return "not recorded"
        if abs(self.change) <= TOLERANCE:
            return ""
        return "SLOWER" if self.change > 0 else "fewer: record anew"


def compare(recorded: Counts, counted: Counts) -> list[Comparison]:
    """Every count beside the recorded one."""
    return [
        Comparison(instruction_set, case, recorded.get(instruction_set, {}).get(case), count)
        for instruction_set, counts in counted.items()
        for case, count in counts.items()
    ]


class Registers(ctypes.Structure):
    """Where ptrace puts the general registers: struct iovec, and room for any architecture's."""

    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))

    def __init__(self) -> None:
        self.values = (ctypes.c_uint64 * 64)()
        super().__init__(ctypes.addressof(self.values), ctypes.sizeof(self.values))


LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
LIBC.ptrace.restype = ctypes.c_long


def ptrace(request: int, pid: int, address: int = 0, data: object = None) -> None:
    """The system call.

    Raises:
        CannotCountError: The system refuses, as some containers do.
    """
    if LIBC.ptrace(request, pid, address, data):
        raise CannotCountError(f"ptrace: {os.strerror(ctypes.get_errno())}")


def call_operators() -> None:
    """What the counted process does: each call between two marks, where it stops."""
    torch.set_num_threads(1)
    try:
        ptrace(PTRACE_TRACEME, 0)
    except CannotCountError:
        sys.exit(NO_PTRACE)
    # Without the records for derivatives, which are Python and take more steps than many a kernel.
    with torch.inference_mode():
        for case in CASES:
            operator, arguments = getattr(torch.ops.torchdet, case.op).default, case.arguments()
            for _ in range(WARM_UPS):
                operator(*arguments)
            signal.raise_signal(signal.SIGSTOP)
            operator(*arguments)
            signal.raise_signal(signal.SIGSTOP)


def check_status(status: int, expected: int) -> None:
    """Where the counted process stopped is where it should.

    Raises:
        CannotCountError: It was refused ptrace.
        RuntimeError: It is anywhere else.
    """
    if status == NO_PTRACE << 8:
        raise CannotCountError("the system refuses ptrace")
    if status != expected:
        raise RuntimeError(f"the counted process stopped or ended with wait status {status:#x}")


def count_call(pid: int, code: range) -> int:
    """Instructions between two marks, of those at the addresses in code.

    Single steps of ptrace see every instruction set and need neither hardware counters, which
    virtual machines lack, nor a simulator, none of which knows AVX-512.
    """
    registers, index = Registers(), PROGRAM_COUNTER[platform.machine()]
    values, iovec, waitpid = registers.values, ctypes.byref(registers), os.waitpid
    count = 0
    for _ in range(MOST_STEPS):
        ptrace(PTRACE_GETREGSET, pid, NT_PRSTATUS, iovec)
        count += values[index] in code
        ptrace(PTRACE_SINGLESTEP, pid)
        status = waitpid(pid, 0)[1]
        if status != STEPPED:
            check_status(status, MARKED)
            return count
    raise RuntimeError(f"a call does not end within {MOST_STEPS} steps")


def extension_addresses(pid: int) -> range:
    """Where the process has the extension.

    Only instructions there count: those of Python, torch and malloc are not the kernels', and
    depend on addresses that differ from process to process.
    """
    path = os.path.realpath(torchdet._C.__file__)
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    parts = [line.split()[0].split("-") for line in lines if path in line]
    return range(int(parts[0][0], 16), int(parts[-1][1], 16))


def count(instruction_set: str, console: Console) -> dict[str, float]:
    """Instructions per matrix of every case."""
    # Two processes that take turns are faster on one processor.
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    environment = {**os.environ, "TORCHDET_CPU_CAPABILITY": instruction_set}
    process = subprocess.Popen([sys.executable, __file__, "--call"], env=environment)
    counts = {}
    try:
        for case in track(CASES, instruction_set, console=console, disable=not console.is_terminal):
            check_status(os.waitpid(process.pid, 0)[1], MARKED)
            instructions = count_call(process.pid, extension_addresses(process.pid))
            counts[case.name] = round(instructions / case.batch, 1)
            ptrace(PTRACE_CONT, process.pid)
    finally:
        process.kill()
        process.wait()
    return counts


def report(comparisons: list[Comparison], console: Console) -> int:
    """Prints them; the number of kernels that got slower."""
    table = Table("instruction set", "case", title="instructions per matrix")
    for heading in ("recorded", "counted", "change"):
        table.add_column(heading, justify="right")
    table.add_column()
    for one in comparisons:
        recorded = "" if one.recorded is None else str(one.recorded)
        change = "" if one.recorded is None else f"{one.change:+.1%}"
        style = {"SLOWER": "red", "": None}.get(one.verdict, "yellow")
        table.add_row(one.instruction_set, one.case, recorded, str(one.counted), change,
                      one.verdict, style=style)  # fmt: skip
    console.print(table)
    slower = sum(one.verdict == "SLOWER" for one in comparisons)
    print(f"{len(comparisons)} kernels counted, {slower} execute more instructions than recorded")
    return slower


def check(record: bool) -> int:
    """Compares, or records; the exit status.

    Raises:
        CannotCountError: This is not the place to count.
    """
    if sys.platform != "linux" or platform.machine() not in PROGRAM_COUNTER:
        raise CannotCountError("only on Linux, x86-64 or ARM64")
    if not torchdet._schemas.HAS_EXTENSION:
        raise CannotCountError("torchdet is installed without its extension")
    info = torchdet._C.build_info()
    compiler = f"{info['compiler']}, {platform.machine()}"
    records: dict[str, Counts] = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    if not record and compiler not in records:
        raise CannotCountError(
            f"nothing is recorded for {compiler}; python tools/instruction_counts.py --record"
        )
    # Those of this processor; it uses the portable kernels only if there are no others for it.
    names, active = info["instruction_sets"], info["active_instruction_set"]
    sets = names[names.index(active) :]
    sets = [name for name in sets if name != "portable"] or sets
    console = Console(width=None if sys.stdout.isatty() else 120)
    counted = {name: count(name, console) for name in sets}
    slower = report(compare(records.get(compiler, {}), counted), console)
    if not record:
        return int(slower > 0)
    records.setdefault(compiler, {}).update(counted)
    RECORD.write_text(json.dumps(records, indent=2) + "\n")
    print(f"recorded for {compiler}")
    return 0


def main() -> int:
    """Command line; 1 if a kernel got slower."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--record", action="store_true", help="write what is counted to the record")
    parser.add_argument("--call", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.call:
        call_operators()
        return 0
    try:
        return check(arguments.record)
    except CannotCountError as reason:
        print(f"no instructions are compared: {reason}")
        return 0


if __name__ == "__main__":
    sys.exit(main())
