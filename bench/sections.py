"""The sections of docs/measurements-cpu.md, each the lines that are made of one run."""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Callable
from typing import Any

from bench import fusion, likelihood
from bench.cases import OPS
from bench.report import WRONG_MARK, compact_table, duration, marked_ratio, table, tally
from bench.run import MISSED, REACHED
from bench.targets import GOALS, IN_FLOAT64
from bench.wavefunction import BY_HAND, OTHERS

Result = dict[str, Any]
Cases = list[dict[str, Any]]
TORCH = "torch.linalg"
IN_CACHE = ("small", "medium", "large", "hvp")
WORST = 12  # cases that are listed where a run asks for the slowest


def prose(text: str) -> list[str]:
    """A paragraph in lines."""
    return textwrap.wrap(text, 100, break_long_words=False, break_on_hyphens=False)


def chosen(cases: Cases, **wanted: Any) -> Cases:
    """Those whose fields have these values, or one of them where it is a tuple."""

    def fits(case: dict[str, Any]) -> bool:
        return all(
            case[key] in value if isinstance(value, tuple) else case[key] == value
            for key, value in wanted.items()
        )

    return [case for case in cases if fits(case)]


def cell(cases: Cases, **wanted: Any) -> str:
    """The ratio of the case that has these values, with its marks."""
    found = chosen(cases, **wanted)
    return marked_ratio(found[0], TORCH) if found else ""


def by_ratio(cases: Cases) -> Cases:
    """The slowest first; without those that have no ratio."""
    timed = [case for case in cases if TORCH in case["ratio"]]
    return sorted(timed, key=lambda case: case["ratio"][TORCH]["median"])


def place(case: dict[str, Any]) -> str:
    """What a case is of."""
    batch = case["batch"] or 1
    words = [
        case["dtype"],
        f"n = {case['n']}",
        "a single matrix" if batch == 1 else f"{batch} matrices",
    ]
    words += [case["layout"]] if case["layout"] != "contiguous" else []
    words += ["singular"] if case["singular"] else []
    return f"{case['op']}, {', '.join(words)}"


def least(cases: Cases) -> str:
    """The smallest ratio to a right answer of torch, with its quartiles and what it is of."""
    right = by_ratio(chosen(cases, verdict=(REACHED, MISSED)))
    if not right:
        return "none"
    return f"{marked_ratio(right[0], TORCH, True, 2)}: {place(right[0])}"


def goals(all_cases: Cases) -> list[str]:
    """For each range of orders: the goal, and the ratios at its orders."""
    headings = ["operation", *(f"{low} to {row[0]}" for low, row in _ranges())]
    rows, reached, total = [], 0, 0
    for dtype in ("float32", "float64"):
        for backward, op in enumerate(OPS[:2]):
            cells = []
            for low, row in _ranges():
                goal = row[1 + backward] * (IN_FLOAT64[backward] if dtype == "float64" else 1)
                suite = ("dram",) if row[0] == 4 else IN_CACHE
                cases = [
                    case
                    for case in chosen(all_cases, suite=suite, dtype=dtype, op=op)
                    if low <= case["n"] <= row[0] and TORCH in case["ratio"]
                ]
                total += len(cases)
                reached += sum(case["ratio"][TORCH]["median"] >= goal for case in cases)
                ratios = ", ".join(marked_ratio(case, TORCH) for case in cases)
                cells.append(f"{goal:.3g}: {ratios}" if ratios else f"{goal:.3g}")
            rows.append([f"{dtype} {op}", *cells])
    return [
        *prose(
            "Beside the least ratios that a case must reach, these are what the project wants of "
            "large batches on one thread: before the colon the goal, behind it what was measured "
            f"at the orders of the range. {reached} of {total} cases reach it."
        ),
        "",
        *table(headings, rows),
    ]


def _ranges() -> list[tuple[int, tuple[float, ...]]]:
    lows = [2, *(int(row[0]) + 1 for row in GOALS[:-1])]
    return list(zip(lows, GOALS, strict=True))


def _suite_table(cases: Cases, entry: Callable[..., str] = cell) -> list[str]:
    """Rows are orders; a column for each dtype and operation."""
    columns = list(dict.fromkeys((case["dtype"], case["op"]) for case in cases))
    return table(
        ["n", *(f"{dtype} {op}" for dtype, op in columns)],
        [
            [str(n), *(entry(cases, n=n, dtype=dtype, op=op) for dtype, op in columns)]
            for n in sorted({case["n"] for case in cases})
        ],
    )


def func(run: Result) -> list[str]:
    """Median and smallest ratio of each operation, by the batch."""
    batches = sorted({case["batch"] for case in run["cases"]})
    rows = []
    for op in dict.fromkeys(case["op"] for case in run["cases"]):
        row = [op]
        for batch in batches:
            cases = by_ratio(chosen(run["cases"], op=op, batch=batch))
            medians = [case["ratio"][TORCH]["median"] for case in cases]
            row.append(f"{statistics.median(medians):.1f}" if medians else "")
            row.append(marked_ratio(cases[0], TORCH, True, 2) if cases else "")
        rows.append(row)
    headings = [f"{what}, batch {batch}" for batch in batches for what in ("median", "smallest")]
    return [
        *prose(
            f"Orders {', '.join(map(str, sorted({case['n'] for case in run['cases']})))}. "
            f"{tally(run['cases'])}. The smallest ratio where torch is right: "
            f"{least(run['cases'])}."
        ),
        "",
        *table(["operation", *headings], rows),
    ]


def plain(run: Result) -> list[str]:
    """How many times torch.linalg's time the calls take, for one matrix and for batches."""

    def times(cases: Cases, **wanted: Any) -> str:
        ratios = {case["batch"] or 1: case["ratio"].get(TORCH) for case in chosen(cases, **wanted)}
        return ", ".join(
            f"{1 / ratio['median']:.0f}" for _, ratio in sorted(ratios.items()) if ratio
        )

    return [
        *prose(
            "`TORCHDET_EXTENSION=0`: the time of torchdet over that of torch.linalg, for a single "
            "matrix and for a batch of 1 MB."
        ),
        "",
        *_suite_table(run["cases"], times),
    ]


def slowest(run: Result) -> list[str]:
    """The cases with the smallest ratios, whatever came of them."""
    rows = [
        [marked_ratio(case, TORCH, True, 2), place(case), case["verdict"]]
        for case in by_ratio(run["cases"])[:WORST]
    ]
    return [f"{tally(run['cases'])}.", "", *table(["ratio (quartiles)", "case", "verdict"], rows)]


def latency(run: Result) -> list[str]:
    """Microseconds of one call."""
    rows = [[call, f"{1e6 * seconds:.1f}"] for call, seconds in run["seconds"].items()]
    return [
        "Microseconds for one 3 × 3 matrix in float32: the fastest of",
        f"{run['rounds']} measurements in turn.",
        "",
        *table(["call", "µs"], rows),
    ]


def two_threads(run: Result, one: Result | None) -> list[str]:
    """The ratio on two threads, and how much faster two are than one where both were timed."""
    alone = {}
    for case in one["cases"] if one else []:
        alone[case["suite"], case["dtype"], case["op"], case["n"], case["batch"]] = case
    rows = []
    for case in run["cases"]:
        other = alone.get((case["suite"], case["dtype"], case["op"], case["n"], case["batch"]))
        seconds = case["seconds"]["torchdet"]["median"]
        gain = f"{other['seconds']['torchdet']['median'] / seconds:.2f}" if other else ""
        rows.append([place(case), duration(seconds), gain, marked_ratio(case, TORCH, True, 2)])
    return table(["case", "torchdet", "one thread / two", "ratio to torch.linalg on two"], rows)


def memory(run: Result) -> list[str]:
    """Peaks of memory."""

    def peak(case: dict[str, Any], peer: str) -> str:
        bytes_ = case["memory"].get(peer)
        return f"{bytes_ / case['input_bytes']:.2f}" if bytes_ is not None else ""

    rows = [
        [case["dtype"], str(case["n"]), case["op"], peak(case, "torchdet"), peak(case, TORCH)]
        for case in run["cases"]
    ]
    return [
        "Peak during a call, divided by the size of the input, 64 MB of matrices.",
        "",
        *table(["dtype", "n", "operation", "torchdet", TORCH], rows),
    ]


def waves(run: Result) -> list[str]:
    """Sums of determinants and training steps."""

    def rows(entries: Cases) -> list[list[str]]:
        return [
            [
                *(str(entry[key]) for key in ("op", "n", "K", "walkers")),
                duration(entry["seconds"][BY_HAND]["median"])
                + (f" {WRONG_MARK}" if BY_HAND in entry["errors"] else ""),
                *(_own_ratio(entry, name) for name in OTHERS),
            ]
            for entry in entries
        ]

    headings = ["operation", "n", "K", "walkers", f"time of {BY_HAND}", *OTHERS]
    return [
        *prose(
            "Ratios to torch.linalg.slogdet with log-sum-exp, as it is written by hand, in "
            "float64; the answers for two walkers are compared with long double "
            "(bench/energies.py). Training steps of a small network with backflow "
            "(bench/network.py; n particles, K determinants for each spin): ten moves, energies, a "
            "gradient. In the last column the network passes derivatives and Laplacians on through "
            "its layers, so part of the gain is that way's."
        ),
        "",
        *table(headings, rows(run["training"])),
        "",
        "Sums of K determinants of order n alone:",
        "",
        *table(headings, rows(run["sums"])),
    ]


def likelihoods(run: Result) -> list[str]:
    """Log densities, and principal minors."""

    def rows(entries: Cases, keys: tuple[str, ...], peers: tuple[str, ...]) -> list[list[str]]:
        return [
            [
                *(str(entry[key]) for key in keys),
                duration(entry["seconds"][peers[0]]["median"])
                + (f" {WRONG_MARK}" if peers[0] in entry["errors"] else ""),
                *(_own_ratio(entry, name) for name in peers[1:]),
            ]
            for entry in entries
        ]

    of_densities = (likelihood.CHOLESKY, likelihood.LINALG, likelihood.OURS)
    of_minors = (likelihood.LOOP, likelihood.PADDED, likelihood.OURS)
    entries = sorted(run["densities"], key=lambda entry: (entry["op"], entry["n"], entry["batch"]))
    return [
        *prose(
            "Symmetric positive definite matrices in float64, ratios to torch.linalg.cholesky: "
            "log det by torchdet.slogdet, the log density of a normal distribution by "
            "torchdet.slogdet_solve (torch.linalg: slogdet and solve); the gradient by the matrix. "
            "The answers for two matrices are compared with long double."
        ),
        "",
        *table(
            ["operation", "n", "matrices", f"time of {of_densities[0]}", *of_densities[1:]],
            rows(entries, ("op", "n", "batch"), of_densities),
        ),
        "",
        *prose(
            f"log det of {likelihood.SETS} principal submatrices, of orders {likelihood.SMALLEST} "
            f"to {likelihood.LARGEST}, of one matrix of order {likelihood.KERNEL}, by "
            "torchdet.principal_minors; ratios to a loop of torch.logdet over the submatrices:"
        ),
        "",
        *table(
            ["operation", f"time of {of_minors[0]}", *of_minors[1:]],
            rows(run["minors"], ("op",), of_minors),
        ),
    ]


def energies(run: Result) -> list[str]:
    """Compiled energies of tetrahedra."""
    others = ("torchdet", fusion.OPERATORS, "torch.linalg", fusion.EAGER)

    def ratio(entry: dict[str, Any], side: str) -> str:
        wrong = entry["error"].get(side, 0) > 1
        return marked_ratio({**entry, "errors": {}}, side, True, 2) + f" {WRONG_MARK}" * wrong

    rows = [
        [
            entry["energy"],
            entry["dtype"],
            duration(entry["seconds"][fusion.BY_HAND]["median"]),
            *(ratio(entry, side) for side in others),
        ]
        for entry in run["energies"]
    ]
    return [
        *prose(
            f"The gradient of a sum over {fusion.TETRAHEDRA} tetrahedra of an energy of their "
            "deformation gradients F, by torch.compile (and, in the last column, without). Ratios "
            "to the same with the determinant of 3 x 3 matrices written out. Operators: torchdet "
            "without the pointwise code that inductor makes. Gradients at flat, inverted and "
            "regular elements are compared with rational arithmetic where the energy has one."
        ),
        "",
        *table(["energy", "dtype", f"time {fusion.BY_HAND}", *others], rows),
    ]


def _own_ratio(entry: dict[str, Any], name: str) -> str:
    """Of a run whose entries mark the peer that is wrong itself."""
    mark = f" {WRONG_MARK}" if name in entry["errors"] else ""
    return marked_ratio({**entry, "errors": {}}, name, True, 2) + mark


def wrong(runs: dict[str, Result]) -> list[str]:
    """By operation and matrices, how often torch was wrong or failed, with an example."""
    groups: dict[tuple[str, str], Cases] = {}
    for run in runs.values():
        for case in run.get("cases", []):
            if TORCH in case["errors"]:
                kind = "singular" if case["singular"] else "regular"
                groups.setdefault((case["op"], kind), []).append(case)
    rows = [
        [op, kind, str(len(cases)), f"{place(cases[0])}: {cases[0]['errors'][TORCH]}"]
        for (op, kind), cases in sorted(groups.items())
    ]
    return table(["operation", "matrices", "cases", "one of them"], rows) if rows else ["None."]


def speed(run: Result) -> list[str]:
    """Ratios, their plot, and what of the machine's multiply-adds torchdet uses."""
    inside = {**run, "cases": chosen(run["cases"], suite=IN_CACHE)}
    return [
        "Batches of 1 MB.",
        "",
        *compact_table(inside),
        "",
        "![Against n: ratio to torch.linalg, share of the limits, time](images/speed.png)",
        "",
        *prose(
            "Shares of the most multiply-adds that the core can do, of 2/3 n³ operations for a "
            "determinant and 2 n³ with its gradient:"
        ),
        "",
        *_fma_shares(inside["cases"]),
    ]


def _fma_shares(cases: Cases) -> list[str]:
    pairs = [(dtype, op) for dtype in ("float32", "float64") for op in OPS[:2]]
    rows = []
    for n in sorted({case["n"] for case in cases if case["n"] >= 8}):
        found = [chosen(cases, n=n, dtype=dtype, op=op) for dtype, op in pairs]
        rows.append([str(n), *(f"{case[0]['share']['fma']:.0%}" if case else "" for case in found)])
    return table(["n", *(f"{dtype} {op}" for dtype, op in pairs)], rows)


def others(run: Result) -> list[str]:
    """Tables of the suites that have no plot."""
    lines = []
    for suite, title in (
        ("latency", "A single matrix:"),
        ("dram", "Batches of 128 MB:"),
        ("transforms", "Batches of 1 MB under torch's transforms:"),
    ):
        if cases := chosen(run["cases"], suite=suite):
            lines += [*([""] if lines else []), title, "", *_suite_table(cases)]
    return lines


def avx2(run: Result) -> list[str]:
    """The same table with AVX2."""
    processor = (
        "A processor that has AVX2 and no more."
        if run["machine"]["torch_cpu_capability"] == "AVX2"
        else "`TORCHDET_CPU_CAPABILITY=avx2` on a processor with more; torch uses what it has."
    )
    return [
        *prose(
            f"{processor} {tally(run['cases'])}. The smallest ratio where torch is right: "
            f"{least(run['cases'])}."
        ),
        "",
        *compact_table(run),
    ]
