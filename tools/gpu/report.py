"""Makes files and tables of what the stages found: ``python -m tools.gpu.report RESULTS.jsonl ..``.

--json FILE: the cases of public functions, as `python -m bench` writes them (bench/results).
--markdown FILE: all else: what failed, times of kernels beside their predictions, single
instructions, counters. Without either, the tables are printed.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bench.files import write_json
from bench.report import duration, table, write_markdown
from tools.gpu import results as results_of
from tools.gpu.results import DONE, Row, of_stage

ROOT = Path(__file__).parents[2]
PREDICTIONS = ROOT / "tools" / "cuda_model.json"
_CASE = re.compile(r"(?P<operator>\w+) (?P<dtype>\w+) n=(?P<n>\d+)")
MAIN = "kernels"  # the library that is no variant
_STALL = re.compile(r".*stalled_(.+?)_per.*")
Key = tuple[str, str, int]
STALLS = 3  # of a kernel, the largest


def bench_result(rows: list[Row]) -> dict[str, Any] | None:
    """A run as bench/results has it; None where no case was timed. Of a case, the last time."""
    facts = next((row for row in of_stage(rows, "facts") if "machine" in row), None)
    timed = [row for row in of_stage(rows, "times", "repeats") if "verdict" in row]
    if facts is None or not timed:
        return None
    cases = {(row["op"], row["dtype"], row["n"], row["batch"]): row for row in timed}
    left = [row["stopped"] for row in of_stage(rows, "times") if "stopped" in row]
    built = next((row["build"] for row in of_stage(rows, "times") if "build" in row), None)
    commit = next((row for row in rows if row["stage"] == "run"), {})
    return {
        "machine": facts["machine"]
        | {"build": built, "commit": commit.get("commit"), "modified": commit.get("modified")},
        "peers": ["torchdet", "torch.linalg"],
        "threads": 1,
        "rounds": max(row["rounds"] for row in cases.values()),
        "quick": False,
        "seconds_per_measurement": facts["effort"]["seconds"],
        **facts["limits"],
        "stopped": left[-1] if left else None,
        "cases": [{k: v for k, v in row.items() if k != "stage"} for row in cases.values()],
    }


def predictions(path: Path = PREDICTIONS) -> dict[Key, float]:
    """Clocks of an SM for a matrix, by the model of the machine code; empty where it has no record.

    Under the name of a compiler the record has entries "det float32 n=8": {"clocks": 26.8}.
    """
    if not path.exists():
        return {}
    of_compilers = json.loads(path.read_text()).values()
    entries = {name: entry for of in of_compilers for name, entry in of.items()}
    keys = {name: _CASE.fullmatch(name) for name in entries}
    return {
        (key["operator"], key["dtype"], int(key["n"])): entries[name]["clocks"]
        for name, key in keys.items()
        if key
    }


def clocks_per_nanosecond(rows: list[Row]) -> float | None:
    """Of all SMs together, at the clock that they had while instructions were counted."""
    hertz = [row["hertz"] for row in of_stage(rows, "micro") if "hertz" in row]
    machines = [row["machine"] for row in of_stage(rows, "facts") if "machine" in row]
    if not hertz or not machines:
        return None
    return machines[-1]["device"]["multiprocessors"] * statistics.median(hertz) * 1e-9


def stages(rows: list[Row]) -> list[str]:
    """How each stage ended, the last time that it ran."""
    ended = {row["stage"]: row for row in rows if "status" in row}
    cells = [
        [name, row["status"], f"{row['seconds']:.0f} s" if "seconds" in row else row["reason"]]
        for name, row in ended.items()
    ]
    lines = table(["stage", "", "after"], cells)
    for name, row in ended.items():
        if row["status"] != DONE and (tail := row.get("tail")):
            last = "\n".join(tail.strip().splitlines()[-6:])
            lines += ["", f"{name}:", "", "```", last, "```"]
    return lines


def kernels(rows: list[Row], predicted: dict[Key, float]) -> list[str]:
    """A line for each kernel: measured, predicted, and the variants beside it."""
    measured: dict[Key, dict[str, Row]] = {}
    for row in of_stage(rows, "kernels"):
        if "ns" in row:
            of = measured.setdefault((row["operator"], row["dtype"], row["n"]), {})
            of[row["library"]] = row
    limits = next((row["limits"] for row in of_stage(rows, "facts") if "limits" in row), {})
    bandwidth, rate = limits.get("copy_bandwidth", {}).get("device"), clocks_per_nanosecond(rows)
    cells, ratios = [], {}
    for (operator, dtype, n), of in measured.items():
        main = of.get(MAIN) or next(iter(of.values()))
        ns = statistics.median(main["ns"])
        spread = (max(main["ns"]) - min(main["ns"])) / ns
        share = main["gigabytes_per_second"] * 1e9 / bandwidth if bandwidth else None
        clocks = ns * rate if rate else None
        model = predicted.get((operator, dtype, n))
        if clocks and model:
            ratios.setdefault((operator, dtype, main["size_class"]), []).append(clocks / model)
        medians = {name: statistics.median(row["ns"]) for name, row in of.items()}
        others = [f"{x} {t / ns:.2f}" for x, t in medians.items() if of[x] is not main]
        cells.append([operator, dtype, str(n), main["size_class"], duration(ns * 1e-9)])
        cells[-1] += [f"{spread:.0%}", f"{share:.0%}" if share else ""]
        cells[-1] += [f"{clocks:.4g}" if clocks else "", f"{model:.4g}" if model else ""]
        cells[-1] += [f"{clocks / model:.2f}" if clocks and model else "", ", ".join(others)]
    heads = ["kernel", "dtype", "n", "class", "measured", "spread", "of copy"]
    heads += ["clocks of an SM", "the model's", "ratio", "variants, of its time"]
    lines = table(heads, cells) if cells else []
    of_class = [
        [*key, str(len(of)), f"{statistics.mean(of):.2f}", f"{min(of):.2f} to {max(of):.2f}"]
        for key, of in ratios.items()
    ]
    heads = ["kernel", "dtype", "class", "orders", "measured over the model's, mean", "range"]
    return [*lines, "", *table(heads, of_class)] if of_class else lines


def instructions(rows: list[Row]) -> list[str]:
    """Clocks for each instruction of a warp, and how many blocks an SM holds."""
    by_warps: dict[tuple[str, str], dict[int, float]] = {}
    residents: dict[int, dict[int, int]] = {}
    for row in of_stage(rows, "micro"):
        if "clocks" in row:
            by_warps.setdefault((row["instruction"], row["what"]), {})[row["warps"]] = row["clocks"]
        else:
            residents.setdefault(row["shared_kb"], {})[row["carveout"]] = row["residents"]
    warps = sorted({x for of in by_warps.values() for x in of})
    cells = [
        [name, what, *(f"{of[x]:.2f}" if x in of else "" for x in warps)]
        for (name, what), of in by_warps.items()
    ]
    lines = table(["instruction", "", *(f"clocks, {x} warps" for x in warps)], cells)
    counted = [
        [str(size), *(str(of.get(carveout, "")) for carveout in (-1, 100))]
        for size, of in residents.items()
    ]
    heads = ["KB a block", "blocks on an SM, the driver's carve-out", "carve-out of 100 %"]
    return cells and [*lines, "", *table(heads, counted)]


def faults(rows: list[Row]) -> list[str]:
    """What the first look, the tests and the sanitizers found wrong."""
    seen = of_stage(rows, "smoke")
    lines = [f"- {len(seen)} kernels looked at (operator, order, dtype), "
             f"{sum(bool(r.get('faults') or r.get('errors')) for r in seen)} wrong"]  # fmt: skip
    for row in seen:
        if row.get("errors"):
            lines.append(f"- {row['check']}, n = {row['orders']}: {row['errors'][0]}")
        for check, text in row.get("faults", {}).items():
            where = f"{row['operator']} {row['dtype']} n = {row['n']} ({row['size_class']})"
            lines.append(f"- {where}, {check}: {text}")
    for row in of_stage(rows, "tests"):
        counts = ", ".join(f"{row[x]} {x}" for x in ("tests", "failures", "errors", "skipped"))
        lines.append(f"- pytest: {counts} in {row['seconds']:.0f} s")
        lines += [f"  - {name}" for name in row["failed"]]
    for row in of_stage(rows, "sanitizers"):
        last = row["output"].strip().splitlines()[-1:]
        lines.append(f"- {row['tool']}: exit status {row['exit']} after {row['seconds']} s {last}")
    errors = [row for row in of_stage(rows, "kernels", "times", "repeats") if "error" in row]
    lines += [f"- {row['stage']}: {row}" for row in errors]
    return lines


def _number(counters: dict[str, str], word: str) -> float | None:
    """Of the first counter whose name has the word."""
    column = next((name for name in counters if word in name), None)
    try:
        return float(counters[column].replace(",", "")) if column else None
    except ValueError:
        return None


def _share(counters: dict[str, str], word: str) -> str:
    value = _number(counters, word)
    return "" if value is None else f"{value:.0f} %"


def _waits(counters: dict[str, str]) -> str:
    """Why a warp does not issue, the most frequent reasons first."""
    named = [name for name in counters if "issue_stalled" in name and "ratio" in name]
    found = sorted(((_number(counters, name) or 0, name) for name in named), reverse=True)
    reasons = [_STALL.sub(lambda found: found[1].replace("_", " "), name) for _, name in found]
    values = zip(reasons, found, strict=True)
    return ", ".join(f"{reason} {value:.1f}" for reason, (value, _) in list(values)[:STALLS])


def counters(rows: list[Row]) -> list[str]:
    """Of each profiled kernel what limits it: use of the pipes, and why warps wait."""
    pipes = ("dram__throughput", "pipe_alu", "pipe_fma_cycles", "pipe_lsu", "warps_active")
    cells = []
    for row in of_stage(rows, "profile"):
        of = row["counters"]
        kernel = [row["operator"], row["dtype"], str(row["n"])]
        registers = f"{_number(of, 'registers_per_thread') or 0:.0f}"
        cells.append([*kernel, registers, *(_share(of, pipe) for pipe in pipes), _waits(of)])
    heads = ["kernel", "dtype", "n", "registers", "DRAM", "ALU", "FMA", "LSU", "warps"]
    lines = table([*heads, "warps wait for (clocks an instruction)"], cells) if cells else []
    for row in of_stage(rows, "large"):
        parts = [f"{p['us']:.0f} µs {p['kernel'][:60]} ({p['calls']})" for p in row["parts"][:6]]
        what = f"{row['operator']}, n = {row['n']}, {row['batch']} matrices"
        lines += ["", f"{what}: {'; '.join(parts)}"]
    return lines


def page(rows: list[Row], predicted: dict[Key, float]) -> str:
    """All tables."""
    runs = [row for row in rows if row["stage"] == "run"]
    machine = next((row["machine"] for row in of_stage(rows, "facts") if "machine" in row), {})
    of = ", ".join(sorted({f"commit {row.get('commit')}" for row in runs}))
    device = machine.get("device", {}).get("name", "no GPU")
    parts: Iterable[tuple[str, list[str]]] = (
        ("Stages", stages(rows)),
        ("What is wrong", faults(rows)),
        ("Kernels", kernels(rows, predicted)),
        ("Instructions", instructions(rows)),
        ("Counters", counters(rows)),
    )
    lines = [f"# {device}, {of}", "", f"{', '.join(row['date'] for row in runs)}."]
    for title, body in parts:
        lines += ["", f"## {title}", "", *(body or ["Not measured."])]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m tools.gpu.report", description=__doc__)
    parser.add_argument("results", type=Path, nargs="+", help="the first run first")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--predictions", type=Path, default=PREDICTIONS)
    options = parser.parse_args()
    rows = results_of.read(options.results)
    result = bench_result(rows)
    if options.json and result is None:
        parser.error("no case of a public function was timed")
    if options.json:
        write_json(result, options.json)
        write_markdown(result, options.json.with_suffix(".md"))
        print(f"wrote {options.json} and, beside it, the table as .md")
    text = page(rows, predictions(options.predictions))
    if options.markdown:
        options.markdown.write_text(text)
    elif not options.json:
        print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
