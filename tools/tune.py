"""Measure the constants of csrc/tuning.h and csrc/select.h anew, on this processor.

Each question is about one constant. For every alternative the sources are copied, the constant is
overwritten in the copy, and a program of the kernels that depend on it is compiled, without torch
(time_kernels.h). The programs then run in turn, on one thread, and the least time of each case
counts. Answers go to bench/tuning/<processor>.json; the constants are changed by hand.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.progress import track

import setup
from bench import machine

ROOT = Path(__file__).parents[1]
CSRC = ROOT / "csrc"
RESULTS = ROOT / "bench/tuning"
BUILD = ROOT / "build/tune"
VECTOR_BYTES = {"avx512": 64, "avx2": 32, "portable": 16}
NUMBERS = {"float32": (4, 1), "float64": (8, 1), "complex64": (4, 2), "complex128": (8, 2)}
OPS = {"det": "kDet", "cofactor": "kCofactor", "det_hvp": "kDetHvp"}
NOT_MEASURED = {
    "kLargestOwnSteps, kLeastRowsApart, kCofactorColumns, kLuColumns": "costs of a few percent",
    "kLargestOwnProducts, kLeastLoopOverResults, kLeastBothResults":
        "want second derivatives of log|det|, which these programs do not have",
    "kBytesAhead, kMostExpected": "want a batch beyond the caches and an idle machine",
    "fewer_packs, long_rows": "depend on the instruction set, less on the processor",
    "own_packs": "a matter of the time to compile as well",
    "kTileOf32Registers, kTileOf16Registers, kTilesInCache, kLeastFetchedAhead, kProductDepth":
        "`make bench` shows them at n = 256 and above",
    "kLargestSensitivity, kLargestGrowth": "bounds of errors, not of time: `make accuracy`",
    "kGrainOfBatch, kGrainOfMatrix, kGrainOfInverse, kLeastShared": "want several idle cores",
    "kLeastFactors": "follows from row_orders",
}  # fmt: skip


class Case(NamedTuple):
    """What is timed: statements of C++ on `batch`."""

    name: str
    numbers: str
    n: int
    op: str  # of the enumeration Op
    body: str


class Alternative(NamedTuple):
    """One program. overwrite: what takes the place of the constant, or nothing."""

    value: str
    cases: tuple[Case, ...]
    overwrite: str = ""


class Question(NamedTuple):
    """A constant, where it stands, and what it could be."""

    constant: str
    file: str
    pattern: str
    alternatives: tuple[Alternative, ...]


def pack(instruction_set: str, numbers: str) -> str:
    """The C++ type of a pack of numbers."""
    size, parts = NUMBERS[numbers]
    vec = f"Vec<{'float' if size == 4 else 'double'}, {VECTOR_BYTES[instruction_set] // size}>"
    return f"Complex<{vec}>" if parts == 2 else vec


def kernel(size_class: str, op: str, V: str, n: int) -> str:
    """The C++ name of a kernel."""
    function = {"det": "determinants", "cofactor": "cofactor_matrices", "det_hvp": "det_hvp"}[op]
    is_hvp = op == "det_hvp"
    owner = {
        "lane": f"{'LaneHvp' if is_hvp else 'LaneKernels'}<{V}, {n}>",
        "rows": f"ClassRows<{V}, {n}>::{'Hvp' if is_hvp else 'Matrices'}",
        "blocked": f"{'BlockedHvp' if is_hvp else 'BlockedKernels'}<{V}>",
    }[size_class]
    return f"{owner}::{function}"


def case(instruction_set: str, size_class: str, op: str, numbers: str, n: int) -> Case:
    """One kernel on one order; the name does not tell the class."""
    name = kernel(size_class, op, pack(instruction_set, numbers), n)
    return Case(f"{op} {numbers} n={n}", numbers, n, OPS[op], f"batch.run({name});")


def both_passes(instruction_set: str, numbers: str, n: int, keep: bool) -> Case:
    """A determinant and its gradient, from half an elimination or anew."""
    K = f"ClassRows<{pack(instruction_set, numbers)}, {n}>::Matrices"
    body = (
        f"batch.run_both({K}::determinants, {K}::from_kept);"
        if keep
        else f"batch.run_both_from_A({K}::determinants, {K}::cofactor_matrices);"
    )
    return Case(f"det and gradient {numbers} n={n}", numbers, n, "kDetBackward", body)


def crossover(s: str, constant: str, below: str, above: str, orders: dict[str, tuple]) -> Question:
    """Two size classes on the orders where they may meet. orders: by operator and numbers."""

    def cases(size_class: str) -> tuple[Case, ...]:
        return tuple(
            case(s, size_class, *key.split(), n) for key, several in orders.items() for n in several
        )

    both = tuple(Alternative(name, cases(name)) for name in (below, above))
    return Question(constant, "select.h", rf"constexpr Orders {constant}\(", both)


def function(name: str) -> str:
    """A pattern of the body of a constexpr function."""
    return rf"(?s)(?<={name}\()[^{{]*\{{.*?\n\}}"


def questions(s: str) -> list[Question]:
    """What is measured for instruction set s."""
    width = VECTOR_BYTES[s] // 4
    lane = {
        "det float32": (14, 18, 20, 22),
        "det float64": (13, 15, 17, 22),
        "det complex64": (16, 20, 22),
        "cofactor float32": (10, 12, 14, 16),
        "cofactor float64": (9, 11, 12, 14),
        "cofactor complex64": (10, 12, 14),
        "cofactor complex128": (9, 12, 14),
        "det_hvp float32": (8, 10, 12, 14),
        "det_hvp float64": (8, 10, 11, 13),
    }
    rows = {
        f"{op} {numbers}": (48, 64, 72, 96, 128)
        for op in ("det", "cofactor")
        for numbers in NUMBERS
    }
    unrolled = [
        ("float32", 8),
        ("float32", 11),
        ("float32", 14),
        ("complex64", 6),
        ("complex64", 9),
    ]
    by_unrolling = tuple(
        case(s, "lane", op, numbers, n) for op in ("det", "cofactor") for numbers, n in unrolled
    )
    grouped = tuple(
        case(s, "rows", op, "float32", packs * width)
        for op in ("det", "cofactor")
        for packs in (1, 2, 3, 4)
    )
    panels = tuple(
        case(s, "blocked", "cofactor", numbers, n)
        for numbers in ("float64", "complex128")
        for n in (96, 160, 256, 384, 512)
    )
    keeping = [(numbers, n) for numbers in NUMBERS for n in (13, 16, 17, 20, 24, 33, 40, 64)]
    return [
        crossover(s, "lane_orders", "lane", "rows", lane),
        crossover(s, "row_orders", "rows", "blocked", rows),
        Question("unrolled_orders", "tuning.h", function("UnrolledOrders unrolled_orders"), tuple(
            Alternative(name, by_unrolling, f"int) {{\n  return {{{most}, {most}}};\n}}")
            for name, most in (("unrolled", 22), ("not unrolled", 0)))),
        Question("row_group", "tuning.h", function("int row_group"), tuple(
            Alternative(str(count), grouped, f"int, int) {{\n  return {count};\n}}")
            for count in (1, 2, 3, 4))),
        Question("kPanelWidths", "tuning.h", r"(?s)(?<=kPanelWidths\[\] = ).*?(?=;)", tuple(
            Alternative(str(columns), panels, "{{std::numeric_limits<int64_t>::max(), "
                        f"{columns}, {columns}}}}}") for columns in (16, 32, 64))),
        Question("kLeastKept", "select.h", r"(?<=kLeastKept = )\d+", tuple(
            Alternative(name, tuple(both_passes(s, numbers, n, name == "kept")
                                    for numbers, n in keeping))
            for name in ("kept", "from A"))),
    ]  # fmt: skip


def program(instruction_set: str, alternative: Alternative) -> str:
    """The C++ source."""
    begin = (
        '#include "cpu/targets/standard_headers.h"\n#define TORCHDET_CAPABILITY portable'
        if instruction_set == "portable"
        else f'#include "cpu/targets/begin_{instruction_set}.h"'
    )
    timed = "\n".join(
        f'  time_case<{pack(instruction_set, c.numbers)}>("{c.name}", {c.n}, Op::{c.op}, '
        f"[](auto& batch) {{ {c.body} }});"
        for c in alternative.cases
    )
    end = "" if instruction_set == "portable" else '#include "cpu/targets/end_target.h"\n'
    return (
        f"#include <chrono>\n#include <cstdio>\n#include <random>\n{begin}\n"
        f'#include "time_kernels.h"\n'
        f"int main() {{\n  using namespace torchdet;\n{timed}\n}}\n{end}"
    )


def compile_program(instruction_set: str, question: Question, alternative: Alternative) -> Path:
    """The program of one alternative.

    Raises:
        ValueError: The constant is not where the question expects it.
    """
    folder = BUILD / f"{question.constant}_{alternative.value}".replace(" ", "_")
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(CSRC, folder / "csrc", ignore=shutil.ignore_patterns("cuda"))
    header = folder / "csrc" / question.file
    text = header.read_text()
    if len(re.findall(question.pattern, text)) != 1:
        raise ValueError(f"{question.constant} is not defined once in csrc/{question.file}")
    if alternative.overwrite:
        header.write_text(re.sub(question.pattern, alternative.overwrite, text))
    source = folder / "program.cpp"
    source.write_text(program(instruction_set, alternative))
    include = [f"-I{folder / 'csrc'}", f"-I{ROOT / 'tools'}"]
    flags = [flag for flag in setup.cxx_flags() if not flag.startswith("-DTORCH")]
    scratch = str(folder / "csrc/cpu/dispatch/scratch.cpp")
    command = [*shlex.split(os.environ.get("CXX", "c++")), *flags, *include, str(source), scratch]
    subprocess.run([*command, "-o", str(folder / "program")], check=True)
    return folder / "program"


def least(programs: dict[str, Path], rounds: int) -> dict[str, dict[str, float]]:
    """By alternative and case, nanoseconds of a matrix."""
    times: dict[str, dict[str, float]] = {value: {} for value in programs}
    for _ in range(rounds):
        for value, path in programs.items():
            output = subprocess.run([str(path)], capture_output=True, text=True, check=True).stdout
            for line in output.splitlines():
                name, ns = line.split("\t")
                times[value][name] = min(float(ns), times[value].get(name, float("inf")))
    return times


def answer(question: Question, times: dict[str, dict[str, float]]) -> dict:
    """What is written down: all times, and the fastest alternative of each case."""
    names = list(next(iter(times.values())))
    fastest = {name: min(times, key=lambda value: times[value][name]) for name in names}
    return {"file": f"csrc/{question.file}", "fastest": fastest, "nanoseconds": times}


def measure(instruction_set: str, only: list[str], rounds: int, jobs: int) -> dict:
    """All answers."""
    asked = [q for q in questions(instruction_set) if not only or q.constant in only]
    work = [(q, a) for q in asked for a in q.alternatives]
    with ThreadPoolExecutor(jobs) as pool:
        paths = pool.map(lambda pair: compile_program(instruction_set, *pair), work)
        compiled = dict(zip(work, track(paths, "compiling", len(work)), strict=True))
    return {
        q.constant: answer(q, least({a.value: compiled[q, a] for a in q.alternatives}, rounds))
        for q in track(asked, "measuring")
    }


def file_name(cpu: str, instruction_set: str) -> str:
    """Of the results on a processor."""
    return re.sub(r"[^a-z0-9]+", "-", f"{cpu} {instruction_set}".lower()).strip("-") + ".json"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--instruction-set", choices=VECTOR_BYTES, help="default: the best one here"
    )
    parser.add_argument("--only", action="append", default=[], help="a constant; may be repeated")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--jobs", type=int, default=1, help="compilers side by side")
    parser.add_argument("--busy", action="store_true", help="other programs run meanwhile: say so")
    arguments = parser.parse_args()
    compiler = os.environ.get("CXX", "c++")
    instruction_set = arguments.instruction_set or setup.native_instruction_set(compiler)
    start = time.monotonic()
    facts = machine.facts()
    result = {
        "machine": facts,
        "instruction_set": instruction_set,
        "busy machine": arguments.busy,
        "constants": measure(instruction_set, arguments.only, arguments.rounds, arguments.jobs),
        "not measured": NOT_MEASURED,
        "seconds": round(time.monotonic() - start),
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / file_name(facts["cpu"], instruction_set)
    path.write_text(json.dumps(result, indent=1) + "\n")
    Console().print(f"{path.relative_to(ROOT)}, {result['seconds']} s")


if __name__ == "__main__":
    main()
