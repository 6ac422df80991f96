"""python -m accuracy: search for the largest errors; write the table and the cases of the suite.

The number of matrices follows from --minutes and from what a matrix costs nominally, not from a
clock: the same seed, minutes, torch and processor give the same result.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import itertools
import os

import numpy as np
import torch
from rich.console import Console

from accuracy import report
from accuracy.measure import OPERATORS, Batch, exact_error, join
from accuracy.search import CHILDREN, Search

# Of every size class: in lanes, in rows above 22, blocked above 128; each to where it ends.
ORDERS = (2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 40, 48, 64, 130)
# Above, the truth takes so long that the search is short: few children of each matrix.
LARGEST_OF_MANY = 20
FEW_CHILDREN = 2
# Each of these takes n^3 minors in rational arithmetic.
LARGEST_OF_THIRD = 6
# So many are measured again in rational arithmetic; the worst of them counts.
CONFIRMED = 3


def orders_of(operator: str) -> tuple[int, ...]:
    if operator == "_cofactor_derivative":
        return tuple(n for n in ORDERS if 4 <= n <= LARGEST_OF_THIRD)
    return tuple(n for n in ORDERS if n >= (3 if operator == "det_hvp" else 2))


def microseconds(operator: str, n: int) -> float:
    """What a matrix costs nominally, all four dtypes: the truth in wider numbers, by far."""
    third = 12 if operator == "_cofactor_derivative" else 1
    return third * (400 + 8 * n**2.5)


def search(operator: str, n: int, matrices: int, seed: int) -> list[report.Case]:
    """The worst matrix of each dtype; those of the narrower formats are where the next begins."""
    torch.set_num_threads(1)
    op, found = OPERATORS[operator], []
    start = {kind: mended(operator, n, kind) for kind in "fc"}
    for name in report.DTYPES:
        dtype = np.dtype(name)
        children = CHILDREN if n <= LARGEST_OF_MANY else FEW_CHILDREN
        worst = Search(op, n, dtype, seed).run(matrices, start.get(dtype.kind), children)
        start[dtype.kind] = worst.batch
        confirmed = [
            (exact_error(op, worst.batch[k : k + 1]), k)
            for k in range(min(CONFIRMED, len(worst.error)))
        ]
        error, k = max(confirmed)
        one: Batch = worst.batch[k : k + 1]
        found.append(report.case(operator, report.BACKEND, error, worst.condition[k], one))
    return found


def mended(operator: str, n: int, kind: str) -> Batch | None:
    """The matrices of this order that were once beyond a bound: where every search begins, too."""
    stored = [c.batch for c in report.read_cases() if (c.operator, c.n) == (operator, n)
              and c.found == "mended" and np.dtype(c.dtype).kind == kind]  # fmt: skip
    return join(*stored) if stored else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m accuracy")
    parser.add_argument("--minutes", type=float, default=30, help="nominal, of all processes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--operators", nargs="*", default=list(OPERATORS), choices=OPERATORS)
    parser.add_argument("--orders", nargs="*", type=int, default=ORDERS)
    parser.add_argument("--dry", action="store_true", help="print only: no table, no cases")
    args = parser.parse_args()
    tasks = [(op, n) for op in args.operators for n in orders_of(op) if n in args.orders]
    share = args.minutes * 60e6 / len(tasks)
    least = [200 if n <= LARGEST_OF_MANY else 100 for _, n in tasks]
    counts = [max(int(share / microseconds(*x)), y) for x, y in zip(tasks, least, strict=True)]

    console = Console()
    console.print(f"{report.BACKEND}: {len(tasks)} searches, {4 * sum(counts)} matrices")
    with concurrent.futures.ProcessPoolExecutor(args.jobs) as pool:
        columns = zip(*tasks, strict=True)
        found = []
        for result in pool.map(search, *columns, counts, itertools.repeat(args.seed)):
            cells = (f"{c.dtype} {c.units:.2f} (condition {c.condition:.2g})" for c in result)
            console.print(f"{result[0].operator} n={result[0].n}: {', '.join(cells)}")
            found += result
    if not args.dry:
        what = f"{4 * sum(counts)} matrices, seed {args.seed}, torch {torch.__version__}"
        if report.BACKEND == "extension":
            what += f", instruction set {instruction_set()}"
        report.write_table(found, f"Of {what}:")
        report.write_cases(found)


def instruction_set() -> str:
    import torchdet._C as C

    return C.build_info()["active_instruction_set"]


if __name__ == "__main__":
    main()
