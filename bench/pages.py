"""The README's table and docs/measurements-cpu.md, made of the runs that bench/publish.py lists."""

from __future__ import annotations

from collections.abc import Callable

from bench.cases import HVPS, OPS
from bench.report import MARKS, summary, table, tally, threads
from bench.sections import (
    IN_CACHE,
    Result,
    avx2,
    cell,
    chosen,
    energies,
    func,
    goals,
    latency,
    least,
    likelihoods,
    memory,
    others,
    plain,
    prose,
    slowest,
    speed,
    two_threads,
    waves,
    wrong,
)
from bench.wavefunction import OURS

README_ORDERS = (2, 3, 8, 16, 32, 64, 256, 1024)
README_OPS = {OPS[0]: "det", OPS[2]: "slogdet", OPS[1]: "det, gradient", HVPS[0]: "det, hvp"}
README_OPS[HVPS[1]] = "slogdet, hvp"


def _link(name: str) -> str:
    return f"[{name}](../bench/results/{name}.json)"


def _when(run: Result) -> str:
    machine = run["machine"]
    changed = " with changes" if machine["modified"] else ""
    return f"{machine['date'][:10]}, commit {machine['commit']}{changed}"


def _busy(run: Result) -> str:
    """A remark where other programs ran when the run began, or where nothing was to be measured."""
    if run.get("quick"):
        return ", a trial with tiny inputs: no measurement"
    load = run["machine"]["load_average"]
    return f", load average {load:.1f}: not an idle machine" if load > run["threads"] + 0.5 else ""


def readme_block(runs: dict[str, Result]) -> str:
    """One small table, and the smallest ratio of cases drawn at random."""
    if (run := runs.get("cpu-speed")) is None:
        return "Not measured.\n"
    cases, machine = chosen(run["cases"], suite=IN_CACHE), run["machine"]
    columns = [(dtype, op) for dtype in ("float32", "float64") for op in README_OPS]
    lines = [
        *table(
            ["n", *(f"{dtype} {README_OPS[op]}" for dtype, op in columns)],
            [
                [str(n), *(cell(cases, n=n, dtype=dtype, op=op) for dtype, op in columns)]
                for n in README_ORDERS
            ],
        ),
        "",
        *prose(
            f"{MARKS} {machine['cpu']}, {threads(run)}, torch {machine['torch']}, batches of 1 MB, "
            f"{_when(run)}{_busy(run)}."
        ),
    ]
    sentences = []
    if scan := runs.get("cpu-scan"):
        sentences.append(
            f"Of {len(scan['cases'])} cases drawn at random (orders, batches, strides, dtypes, "
            f"singular matrices): {tally(scan['cases'])} (reached: as fast as a case must be). The "
            f"smallest ratio where torch is right, with its quartiles: {least(scan['cases'])}."
        )
    if waves_run := runs.get("cpu-wavefunction"):
        sentences.append(_training(waves_run))
    sentences.append(
        "[docs/measurements-cpu.md](docs/measurements-cpu.md) has all that is measured."
    )
    lines += ["", *prose(" ".join(sentences))]
    return "\n".join(lines) + "\n"


def _training(run: Result) -> str:
    """What a user gets in a training step with sums of determinants."""

    def span(name: str) -> str:
        ratios = [step["ratio"][name]["median"] for step in run["training"]]
        return f"{min(ratios):.1f} to {max(ratios):.1f}"

    return (
        f"On {_processor(run)} a training step of variational Monte Carlo "
        f"({len(run['training'])} sizes, float64) is {span(OURS[0])} times as fast with "
        f"`slogsumdet` in place of slogdet and log-sum-exp, and {span(OURS[1])} times with the "
        f"energy by `slogsumdet_laplacian`."
    )


def _processor(run: Result) -> str:
    machine = run["machine"]
    capability = (machine["build"] or {}).get("active_instruction_set", "plain PyTorch")
    return f"{machine['cpu']} ({capability})"


def _overview(runs: dict[str, Result]) -> list[str]:
    """A line for each run, and which of them had too little time."""
    rows = []
    for name, run in runs.items():
        cases = run.get("cases", [])
        counted = [tally(cases), least(cases)] if cases else ["", ""]
        rows.append([_link(name), _when(run) + _busy(run), _processor(run), threads(run), *counted])
    stopped = [name for name, run in runs.items() if run.get("stopped") or run.get("failed")]
    return [
        *table(
            ["run", "of", "processor", "threads", "cases", "smallest ratio where torch is right"],
            rows,
        ),
        *(["", f"Not all cases were timed: {', '.join(stopped)}."] if stopped else []),
    ]


# Heading, run, and what makes the section of it.
_SECTIONS: tuple[tuple[str, str, Callable[[Result], list[str]]], ...] = (
    ("Speed", "cpu-speed", speed),
    ("Single matrices, and torch's transforms", "cpu-speed", others),
    ("Batches in DRAM", "cpu-dram", others),
    ("torch.func, and graphs that are used again", "cpu-func", func),
    ("Order by order: the slowest cases", "cpu-orders", slowest),
    ("Drawn at random: the slowest cases", "cpu-scan", slowest),
    ("Drawn at random, two threads: the slowest cases", "cpu-scan-2t", slowest),
    ("One small matrix", "cpu-latency", latency),
    ("Memory", "cpu-memory", memory),
    ("Wave functions", "cpu-wavefunction", waves),
    ("Likelihoods", "cpu-likelihood", likelihoods),
    ("Compiled energies", "cpu-fusion", energies),
    ("AVX2", "cpu-speed-avx2", avx2),
    ("AVX2, drawn at random: the slowest cases", "cpu-scan-avx2", slowest),
    ("Plain PyTorch, without the extension", "cpu-plain", plain),
)


def measurements(runs: dict[str, Result]) -> str:
    """The page."""
    none: Result = {"cases": []}
    # One run of each number of threads and instruction set tells of the machine.
    measured = [run for run in runs.values() if "copy_bandwidth" in run]
    machines = {
        (run["threads"], (run["machine"]["build"] or {}).get("active_instruction_set")): summary(
            run
        )
        for run in reversed(measured)
    }
    lines = [
        "# Measurements on a CPU",
        "",
        *prose(
            "Written by `make bench-results` (bench/publish.py); not to be edited. A ratio is the "
            "time of torch.linalg over torchdet's: above 1 torchdet is faster. Both sides call "
            "public functions, in turn, automatic differentiation and allocation included. Ratios "
            "are medians over rounds, in parentheses their quartiles. Answers of both sides are "
            "checked first, against exact arithmetic and singular values (bench/checks.py). "
            "*Reached* and *missed* tell of what a case must reach (bench/targets.py). A case in "
            f"which torch is wrong or fails is neither. {MARKS}"
        ),
        "",
        *(f"- {machine}" for machine in reversed(machines.values())),
        "",
        *_overview(runs),
    ]
    large = [case for name in ("cpu-speed", "cpu-dram") for case in runs.get(name, none)["cases"]]
    lines += ["", "## Goals", "", *goals(large)]
    for title, name, section in _SECTIONS:
        body = [f"Run {_link(name)}.", "", *section(runs[name])] if name in runs else []
        lines += ["", f"## {title}", "", *(body or ["Not measured."])]
    if run := runs.get("cpu-threads"):
        threaded = two_threads(run, runs.get("cpu-speed"))
        lines += ["", "## Threads", "", f"Run {_link('cpu-threads')}.", "", *threaded]
    lines += ["", "## Where torch is wrong or fails", "", *wrong(runs)]
    return "\n".join(lines) + "\n"
