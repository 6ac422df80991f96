"""What is exact where others fail: torch's answer, torchdet's answer and the truth, row by row.

Both libraries run the same code. Exits with 1 if an answer of torchdet is wrong; what torch answers
is reported as found, so where another version of it is right, its row says so.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import Tensor
from torch.func import grad, hessian, jacfwd, jvp, vmap

import torchdet
from common import exact_cofactor, exact_det, to_fractions


@dataclass(frozen=True)
class Library:
    """The functions that a question may use."""

    name: str
    det: Callable[[Tensor], Tensor]
    slogdet: Callable[[Tensor], Any]  # a named tuple (sign, logabsdet)


TORCH = Library("torch", torch.linalg.det, torch.linalg.slogdet)
TORCHDET = Library("torchdet", torchdet.det, torchdet.slogdet)
TIME_LIMIT = 30.0  # seconds; the call that may hang takes milliseconds where it does not


@dataclass(frozen=True)
class Answer:
    """An answer as shown, and whether it is right."""

    text: str
    right: bool


@dataclass(frozen=True)
class Row:
    """A question, its true answer, and how a library is asked."""

    question: str
    truth: str
    ask: Callable[[Library], Answer]
    ask_other: Callable[[], Answer] | None = None  # where the comparison is not with torch


def rational(A: Tensor) -> Tensor:
    """Exact cofactors of a float matrix, rounded to float64 once."""
    cofactors = exact_cofactor(to_fractions(A))
    return torch.tensor([[float(c) for c in row] for row in cofactors], dtype=torch.float64)


def relative_error(got: Tensor, truth: Tensor) -> float:
    """Norm of the error over the norm of the truth; infinite if anything is not finite."""
    if not bool(torch.isfinite(got).all()):
        return math.inf
    return ((got.double() - truth).norm() / truth.norm()).item()


def compact(values: Tensor) -> str:
    """A small tensor on one line; zeros without their sign."""
    return str((values.detach().double() + 0.0).round(decimals=4).tolist()).replace(".0", "")


def judge(got: Tensor, truth: Tensor, bound: float = 1e-12) -> Answer:
    """Shows a small tensor as it is."""
    return Answer(compact(got), relative_error(got, truth) <= bound)


def judge_items(got: Tensor, truth: Tensor) -> Answer:
    """Counts the right items of a batch."""
    right = sum(relative_error(g, t) <= 1e-12 for g, t in zip(got, truth, strict=True))
    return Answer(f"{right} of {len(truth)} right", right == len(truth))


# --- questions ----------------------------------------------------------------------------------

DOUBLE = torch.float64
SINGULAR = torch.tensor([[1.0, 2.0], [2.0, 4.0]], dtype=DOUBLE)
REGULAR = torch.tensor([[2.0, 1.0], [1.0, 3.0]], dtype=DOUBLE)
BATCH = torch.stack([REGULAR, torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=DOUBLE), 2 * REGULAR])
# det = a d - b c has the same second derivatives at every 2x2 matrix.
HESSIAN_2X2 = torch.zeros(2, 2, 2, 2, dtype=DOUBLE)
HESSIAN_2X2[0, 0, 1, 1] = HESSIAN_2X2[1, 1, 0, 0] = 1
HESSIAN_2X2[0, 1, 1, 0] = HESSIAN_2X2[1, 0, 0, 1] = -1
# log det([[2 + t, 1], [1, 3]]) = log(5 + 3 t), whose second derivative at t = 0 is -9/25.
CURVATURE = torch.tensor(-9 / 25, dtype=DOUBLE)


def gradient(library: Library, A: Tensor, create_graph: bool = False) -> Tensor:
    """Gradient of det by reverse mode."""
    A = A.clone().requires_grad_()
    return torch.autograd.grad(library.det(A), A, create_graph=create_graph)[0]


def integers_of_rank_11() -> Tensor:
    """A 12x12 integer matrix whose first column is the difference of the next two."""
    A = torch.randint(-4, 5, (12, 12), generator=torch.Generator().manual_seed(0)).to(DOUBLE)
    A[:, 0] = A[:, 1] - A[:, 2]
    return A


def ask_both_gradients(library: Library) -> Answer:
    """Without and with create_graph, which should not matter."""
    answers = [judge(gradient(library, SINGULAR, c), rational(SINGULAR)) for c in (False, True)]
    plain, graph = (answer.text for answer in answers)
    text = plain if plain == graph else f"{plain}, but {graph} with create_graph=True"
    return Answer(text, all(answer.right for answer in answers))


def ask_gradient_of_rank_11(library: Library) -> Answer:
    """Relative error at a larger singular matrix."""
    A = integers_of_rank_11()
    error = relative_error(gradient(library, A), rational(A))
    return Answer(f"{error:.1g}", error <= 1e-12)


def ask_hessian_at_identity(library: Library) -> Answer:
    """Shows two of the 16 entries, judges all."""
    H = hessian(library.det)(torch.eye(2, dtype=DOUBLE))
    shown = torch.stack([H[0, 0, 1, 1], H[0, 1, 1, 0]])
    return Answer(compact(shown), relative_error(H, HESSIAN_2X2) <= 1e-12)


def ask_batch_of_hessians(library: Library) -> Answer:
    """The Hessian of det, item by item."""
    return judge_items(vmap(hessian(library.det))(BATCH), HESSIAN_2X2.expand(3, 2, 2, 2, 2))


def log_det_along_line(library: Library) -> Callable[[Tensor], Tensor]:
    """The function t -> log |det(REGULAR + t E)|, E = [[1, 0], [0, 0]]."""
    direction = torch.tensor([[1.0, 0.0], [0.0, 0.0]], dtype=DOUBLE)
    return lambda t: library.slogdet(REGULAR + t * direction).logabsdet


def ask_forward_over_forward(library: Library) -> Answer:
    """The second derivative along a line, as jvp of jvp."""
    f = log_det_along_line(library)
    zero, one = torch.zeros((), dtype=DOUBLE), torch.ones((), dtype=DOUBLE)
    second = jvp(lambda s: jvp(f, (s,), (one,))[1], (zero,), (one,))[1]
    return judge(second, CURVATURE)


def ask_reverse_over_forward(library: Library) -> Answer:
    """The second derivative along a line, as grad of jvp."""
    f = log_det_along_line(library)
    zero, one = torch.zeros((), dtype=DOUBLE), torch.ones((), dtype=DOUBLE)
    return judge(grad(lambda s: jvp(f, (s,), (one,))[1])(zero), CURVATURE)


def ask_batch_of_jacobians(library: Library) -> Answer:
    """vmap(jacfwd(det)) is the matrix of cofactors of each item."""
    truth = torch.stack([rational(A) for A in BATCH])
    return judge_items(vmap(jacfwd(library.det))(BATCH), truth)


def ask_batch_of_log_jacobians(library: Library) -> Answer:
    """vmap(jacfwd(log|det|)) is the transposed inverse of each item."""
    truth = torch.stack([rational(A) / float(exact_det(to_fractions(A))) for A in BATCH])
    return judge_items(vmap(jacfwd(lambda A: library.slogdet(A).logabsdet))(BATCH), truth)


def ask_float32_gradient(library: Library) -> Answer:
    """A float32 gradient while float64 is the default dtype, as scientific codes have it."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        return judge(gradient(library, REGULAR.float()), rational(REGULAR), 1e-6)
    finally:
        torch.set_default_dtype(before)


def ask_range(*entries: float) -> Callable[[Library], Answer]:
    """The float32 determinant of a diagonal matrix whose partial products leave the range."""

    def ask(library: Library) -> Answer:
        A = torch.diag(torch.tensor(entries, dtype=torch.float32))
        truth = exact_det(to_fractions(A))
        got = library.det(A).item()
        return Answer(
            f"{got:g}", math.isfinite(got) and abs(Fraction(got) / truth - 1) <= Fraction(1, 10**6)
        )

    return ask


# A = (I + u v^T) P with u, v of +-1 and a permutation P: det A = det P (1 + v.u), a whole number.
THREADED = """
import sys, torch
torch.set_num_threads(2)
det = torch.linalg.det
if sys.argv[1] == "torchdet":
    import torchdet
    det = torchdet.det
generator = torch.Generator().manual_seed(0)
def signs(*shape):
    return torch.randint(0, 2, shape, generator=generator).double() * 2 - 1
u, v, n = signs(4, 200, 1), signs(4, 1, 200), 200
A = (torch.eye(n, dtype=torch.float64) + u @ v).roll(1, dims=1)
truth = (1 + (v @ u).flatten()) * (-1) ** (n - 1)
print("ready", flush=True)
sys.stdin.readline()  # what is printed with the line before may be lost
print("right:", torch.isclose(det(A), truth, rtol=1e-9).sum().item())
"""


def ask_threads(library: Library) -> Answer:
    """A batch of four 200x200 matrices on two threads, in a process that can be stopped."""
    command = [sys.executable, "-c", THREADED, library.name]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, text=True, **pipes) as run:
        assert run.stdout
        run.stdout.readline()  # torch is imported: the limit is for the determinants alone
        try:
            output, _ = run.communicate("go\n", timeout=TIME_LIMIT)
        except subprocess.TimeoutExpired:
            run.kill()
            return Answer(f"none in {TIME_LIMIT:.0f} s", False)
    return count_right(output) if run.returncode == 0 else Answer("no answer", False)


def count_right(output: str) -> Answer:
    """Reads what THREADED prints; MKL writes its complaints to the same place, also before it."""
    found = re.search(r"^right: (\d+)$", output, re.MULTILINE)
    if found is None:
        return Answer("no answer", False)
    return Answer(f"{found[1]} of 4 right", found[1] == "4")


ZERO_FIRST = torch.diag(torch.tensor([0.0, 1.0, 1.0, 1.0], dtype=DOUBLE))


def judge_zero_first(got: Tensor) -> Answer:
    """Only the cofactor of the zero is not 0."""
    return Answer(f"{got[0, 0].item():g}", relative_error(got, rational(ZERO_FIRST)) <= 1e-12)


def ask_zero_first(library: Library) -> Answer:
    """The gradient at diag(0, 1, 1, 1), where the pivot that vanishes is not the last."""
    return judge_zero_first(gradient(library, ZERO_FIRST))


def ask_jax_zero_first() -> Answer:
    """The same question put to JAX, in double precision."""
    import jax  # not a requirement: its row is there where JAX is

    jax.config.update("jax_enable_x64", True)
    got = jax.grad(jax.numpy.linalg.det)(jax.numpy.asarray(ZERO_FIRST.tolist()))
    return judge_zero_first(torch.tensor(got.tolist(), dtype=DOUBLE))


def rows() -> list[Row]:
    """The table."""
    table = [
        Row("gradient of det at [[1, 2], [2, 4]]", "[[4, -2], [-2, 1]]", ask_both_gradients),
        Row(
            "gradient of det at a 12×12 integer matrix of rank 11: relative error",
            "0",
            ask_gradient_of_rank_11,
        ),
        Row("gradient of det at diag(0, 1, 1, 1): first entry", "1", ask_zero_first),
        Row(
            "`hessian(det)` at the 2×2 identity: derivative by (a₁₁, a₂₂) and by (a₁₂, a₂₁)",
            "[1, -1]",
            ask_hessian_at_identity,
        ),
        Row(
            "second derivative of log det([[2 + t, 1], [1, 3]]) at t = 0: `jvp` of `jvp`",
            "-0.36",
            ask_forward_over_forward,
        ),
        Row("the same: `grad` of `jvp`", "-0.36", ask_reverse_over_forward),
        Row("`vmap(jacfwd(det))` of 3 regular matrices", "3 of 3 right", ask_batch_of_jacobians),
        Row(
            "`vmap(hessian(det))` of 3 regular matrices",
            "3 of 3 right",
            ask_batch_of_hessians,
        ),
        Row(
            "`vmap(jacfwd(slogdet))` of 3 regular matrices",
            "3 of 3 right",
            ask_batch_of_log_jacobians,
        ),
        Row(
            "det of 4 matrices 200×200 on 2 threads",
            "4 of 4 right",
            ask_threads,
        ),
        Row(
            "float32 gradient at [[2, 1], [1, 3]] while the default dtype is float64",
            "[[3, -1], [-1, 2]]",
            ask_float32_gradient,
        ),
        Row(
            "float32 det(diag(1e30, 1e30, 1e-30, 1e-30))", "1", ask_range(1e30, 1e30, 1e-30, 1e-30)
        ),
        Row(
            "float32 det(diag(1e-30, 1e-30, 1e30, 1e30))", "1", ask_range(1e-30, 1e-30, 1e30, 1e30)
        ),
    ]
    if importlib.util.find_spec("jax"):
        question = "jax: gradient of det at diag(0, 1, 1, 1): first entry"
        table.append(Row(question, "1", ask_zero_first, ask_jax_zero_first))
    return table


# --- output -------------------------------------------------------------------------------------


def attempt(ask: Callable[[], Answer]) -> Answer:
    """Asks; an exception is an answer too."""
    try:
        return ask()
    except (RuntimeError, ValueError) as error:
        return Answer(f"raises {type(error).__name__}", False)


def results() -> Iterator[tuple[Row, Answer, Answer]]:
    """Every row with the answers of torch (or whom the row names) and of torchdet."""
    for row in rows():
        theirs = attempt(row.ask_other or partial(row.ask, TORCH))
        yield row, theirs, attempt(partial(row.ask, TORCHDET))


def markdown(answered: list[tuple[Row, Answer, Answer]]) -> str:
    """The table as the README shows it."""
    lines = [
        f"| | torch {torch.__version__.split('+')[0]} | torchdet | truth |",
        "|---|---|---|---|",
    ]
    for row, theirs, ours in answered:
        lines.append(f"| {row.question} | {mark(theirs)} | {mark(ours)} | {row.truth} |")
    return "\n".join(lines)


def mark(answer: Answer) -> str:
    """An answer behind a sign that says whether it is right."""
    return f"{'✓' if answer.right else '✗'} {answer.text}"


def insert(text: str, path: Path) -> None:
    """Replaces what stands between the markers in a file."""
    begin, end = "<!-- exactness: begin -->", "<!-- exactness: end -->"
    head, rest = path.read_text().split(begin)
    tail = rest.split(end)[1]
    path.write_text(f"{head}{begin}\n{text}\n{end}{tail}")


def main() -> int:
    """Asks every question of both libraries."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--markdown", action="store_true", help="print a Markdown table")
    parser.add_argument("--json", action="store_true", help="print torch's answers, by question")
    parser.add_argument("--insert", type=Path, metavar="FILE", help="put it between FILE's markers")
    arguments = parser.parse_args()

    answered = list(results())
    if arguments.json:
        print(json.dumps({row.question: mark(theirs) for row, theirs, _ in answered}))
    elif arguments.markdown or arguments.insert:
        text = markdown(answered)
        print(text)
        if arguments.insert:
            insert(text, arguments.insert)
    else:
        table = Table(title="What is exact where others fail", show_lines=True)
        for heading in ("", f"torch {torch.__version__}", "torchdet", "truth"):
            table.add_column(heading)
        for row, theirs, ours in answered:
            answers = [Text(a.text, "green" if a.right else "red") for a in (theirs, ours)]
            table.add_row(Text(row.question), *answers, Text(row.truth))
        Console().print(table)
    wrong = [row.question for row, _, ours in answered if not ours.right]
    for question in wrong:
        print(f"torchdet is wrong: {question}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
