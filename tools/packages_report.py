"""What tools/packages.py has run: what must hold of it, and the page that users read.

How far may two curves of a training part by rounding? Torch's determinants and torchdet's are both
those of a matrix A + E, |E| at most n eps |L| |U|, and training amplifies the difference. Control
runs show by how much: they move every A by that E, with random signs. Two runs are rounded, not
one; and the n^2 signs of E may be alike, where n^2 random ones add up to n. So a curve may leave
torch's by 2 n times what the controls have left it by until then. Their first steps are compared
tightly in this way, and the last ones loosely. Rounding the loss itself is 4 eps of it: the sum of
a few terms.
"""

from __future__ import annotations

import statistics
from itertools import accumulate

from tools.versions import table

EPS = 2.0**-52
BUSY = " Other programs kept the\nprocessor busy meanwhile: read the times as rough ones."
# A job shows nothing unless training moves its loss by far more than rounding may.
LEAST_PROGRESS = 1000

# Why tests fail with both determinants, by what stands in their names. Nothing excuses a test that
# passes with one of them only.
EXPLAINED = {
    "nflows 0.14": {
        "NaiveLinearTest::test_forward_inverse_are_consistent": "`torch.solve` is no more in torch",
        "NaiveLinearTest::test_inverse_no_cache": "`torch.solve` is no more in torch",
    },
    "kornia 0.8.2": {
        "test_essential_matrices_are_decomposed_by_their_cofactors": (
            "`decompose_essential_matrix_no_svd` computes cofactors as inv(E) det(E), and the "
            "determinant of an essential matrix is 0: the result is made of rounding. With "
            "`torchdet.cofactor(E)` the same function is right, as the next test shows; kornia "
            "0.9 does without the inverse"
        ),
    },
    "zuko 1.6.0": {
        "test_univariate_transforms": (
            "inverts `GaussianizationTransform` in float32, and expects it to 1e-4"
        ),
    },
}  # fmt: skip


# ---- what must hold


def outcomes(package: str, stock: dict, rerouted: dict) -> list[str]:
    """What is wrong with the two runs of a package's tests."""
    for run in (stock, rerouted):
        if "problem" in run:
            return [run["problem"]]
    found = calls(package, rerouted)
    if not stock["outcomes"]:
        found.append(f"{package}: no tests were run")
    for test in sorted({**stock["outcomes"], **rerouted["outcomes"]}):
        pair = [run["outcomes"].get(test, "missing") for run in (stock, rerouted)]
        excused = pair == ["passed", "passed"] or explanation(package, test)
        if pair[0] != pair[1] or not excused:
            reason = rerouted["reasons"].get(test) or stock["reasons"].get(test, "")
            found.append(f"{package}: {test}: {pair[0]}, rerouted {pair[1]}: {reason}")
    return found


def explanation(package: str, test: str) -> str:
    """Why a test does not pass; empty where nobody has said so."""
    known = EXPLAINED.get(package, {})
    return next((reason for name, reason in known.items() if name in test), "")


def calls(what: str, run: dict) -> list[str]:
    """A run in which torchdet was not called proves nothing, nor do calls that torch has served."""
    left = sum(run["reached_torch"].values())
    if sum(run["made"].values()) - left == 0:
        return [f"{what}: no call was rerouted"]
    return [f"{what}: {left} calls were left to torch"] if left else []


def allowed(result: dict) -> list[float]:
    """By how much the rerouted curve may leave torch's, step by step."""
    stock = result["stock"]
    parted = [
        max(abs(control[step] - loss) for control in result["controls"])
        for step, loss in enumerate(stock)
    ]
    return [
        2 * result["order"] * most + 4 * EPS * abs(loss)
        for most, loss in zip(accumulate(parted, max), stock, strict=True)
    ]


def curves(job: str, result: dict) -> list[str]:
    """What is wrong with the curves of a training job."""
    if "problem" in result:
        return [result["problem"]]
    found = calls(job, result)
    stock, rerouted, limits = result["stock"], result["rerouted"], allowed(result)
    for step, (one, other, limit) in enumerate(zip(stock, rerouted, limits, strict=True)):
        if not abs(other - one) <= limit:  # NaN is no agreement
            found.append(
                f"{job}: step {step}: loss {one}, rerouted {other}: "
                f"they differ by {abs(other - one):.1e}, rounding explains {limit:.1e}"
            )
            break
    if not limits[-1] * LEAST_PROGRESS <= abs(stock[-1] - stock[0]):
        found.append(f"{job}: rounding may move its loss as training does: it shows nothing")
    return found


def problems(result: dict) -> list[str]:
    """All that is wrong with what was run of a package."""
    found = outcomes(result["package"], result["stock"], result["rerouted"])
    for name, job in result["jobs"].items():
        found += curves(name, job)
    return found


# ---- what is shown


def passed(run: dict) -> str:
    """How many tests passed, of how many."""
    if "problem" in run:
        return "FAILED"
    return f"{list(run['outcomes'].values()).count('passed')} of {len(run['outcomes'])}"


def rerouted_calls(run: dict) -> str:
    """How often torchdet was called, by function."""
    counts = {
        name: made - run.get("reached_torch", {}).get(name, 0)
        for name, made in run.get("made", {}).items()
    }
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count) or "none"


def parts(job: dict, step: int) -> str:
    """How far the curves are apart at a step, and how far they may be."""
    difference = abs(job["rerouted"][step] - job["stock"][step])
    return f"{difference:.1e} ≤ {allowed(job)[step]:.1e}"


def ratio(job: dict) -> str:
    """How many times as fast the rerouted job is: the median of pairs, with its quartiles."""
    pairs = zip(job["seconds"]["stock"], job["seconds"]["rerouted"], strict=True)
    low, middle, high = statistics.quantiles([a / b for a, b in pairs], n=4)
    return f"{middle:.2f} ({low:.2f}-{high:.2f})"


def summary(result: dict) -> list[str]:
    """A few lines for the terminal."""
    lines = [
        f"tests: {passed(result['stock'])} pass, rerouted {passed(result['rerouted'])}; "
        f"rerouted calls: {rerouted_calls(result['rerouted'])}"
    ]
    for name, job in result["jobs"].items():
        if "problem" not in job:
            lines.append(f"{name}: last step {parts(job, -1)}; {ratio(job)} times as fast")
    return lines


def job_rows(results: list[dict]) -> list[list[str]]:
    """The table of training jobs."""
    rows = []
    for result in results:
        for name, job in result["jobs"].items():
            if "problem" in job:
                rows.append([name, "FAILED", "", "", "", "", "", ""])
                continue
            times = [f"{statistics.median(job['seconds'][key]):.2f} s" for key in job["seconds"]]
            losses = f"{job['stock'][0]:.4g} to {job['stock'][-1]:.4g} in {len(job['stock'])} steps"
            rows.append([name, job["about"], losses, rerouted_calls(job), parts(job, 1),
                         parts(job, -1), *times, ratio(job)])  # fmt: skip
    return rows


def slower(results: list[dict]) -> str:
    """A sentence: how many jobs take longer."""
    jobs = [job for result in results for job in result["jobs"].values() if "problem" not in job]
    count = sum(
        statistics.median(job["seconds"]["stock"]) < statistics.median(job["seconds"]["rerouted"])
        for job in jobs
    )
    return f"Of {len(jobs)} jobs, {count} took longer with torchdet."


def failures(results: list[dict]) -> list[list[str]]:
    """The table of tests that fail in either run."""
    rows = []
    for result in results:
        runs = (result["stock"], result["rerouted"])
        if any("problem" in run for run in runs):
            rows.append([result["package"], "all", "", "FAILED to run", ""])
            continue
        for test in sorted({**runs[0]["outcomes"], **runs[1]["outcomes"]}):
            pair = [run["outcomes"].get(test, "missing") for run in runs]
            if pair != ["passed", "passed"]:
                why = explanation(result["package"], test) or "NOT EXPLAINED"
                rows.append([result["package"], f"`{test.rpartition('/')[2]}`", *pair, why])
    return rows


def different(results: list[dict]) -> str:
    """A sentence: how many tests give another outcome."""
    count = sum(row[2] != row[3] for row in failures(results))
    return f"{count or 'No'} test{'s have' if count > 1 else ' has'} another outcome with torchdet."


def suite_rows(results: list[dict]) -> list[list[str]]:
    """The table of suites."""
    rows = []
    for result in results:
        names = [f"`{file.rpartition('/')[2]}`" for file in result["files"]]
        if result["archive"]:
            what = f"its own {', '.join(names)}"
        else:
            what = ", ".join(f"[{n}](../tests/packages/{n.strip('`')})" for n in names)
        rows.append([result["package"], what, rerouted_calls(result["rerouted"]),
                     passed(result["stock"]), passed(result["rerouted"])])  # fmt: skip
    return rows


def page(results: list[dict]) -> str:
    """docs/packages.md."""
    torches = ", ".join(sorted({result["torch"] for result in results}))
    processors = "; ".join(sorted({result["cpu"] for result in results}))
    dates = sorted({result["date"] for result in results})
    busy = any(result["busy"] for result in results)
    suites = table(
        ["package", "tests", "rerouted calls", "pass with torch", "pass with torchdet"],
        suite_rows(results),
    )
    reached = table(
        ["package", "what calls a determinant"],
        [[result["package"], result["reached_by"]] for result in results],
    )
    jobs = table(
        ["job", "model", "loss", "rerouted calls", "second step: difference ≤ allowed",
         "last step", "torch", "torchdet", "times as fast"],
        job_rows(results),
    )  # fmt: skip
    return f"""# Other packages, with torchdet's determinants

[`torchdet.accelerate()`](../torchdet/_accelerate.py) gives programs that call `torch.det`,
`torch.slogdet` and `torch.logdet` the determinants of torchdet, without a change of these programs
([what it serves, and what differs](migration.md)):

```{{code-block}} python
with torchdet.accelerate():
    flow.log_prob(x)  # of a package that does not know about torchdet
```

`make test-packages` tries this with packages from PyPI, and writes this page. It runs their tests
and trains their models twice, with torch's determinants and with torchdet's, and compares. Torch is
{torches}; {", ".join(dates)}, {processors}.

## Tests

The tests are those files of a package's source archive that reach determinants. Where the archive
has none, they are ours: they ask for answers that are known beforehand, by singular values,
eigenvalues, finite differences or from the way the question was made. Every test starts from the
same seeds. The table counts the calls that torchdet has served; none is left to torch.

{suites}

{different(results)} These do not pass:

{table(["package", "test", "with torch", "with torchdet", "why"], failures(results))}

## Training

Each job trains from the same seeds in float64, on one thread. The two curves must agree step by
step, within what rounding explains. Control runs say how much that is: they use torch's
determinants, of matrices that are moved by the rounding error of Gaussian elimination
(|E| = n ε |L| |U| with random signs). The curves may be apart by 2 n times the largest distance of
a control run until that step; [tools/packages_report.py](../tools/packages_report.py) derives the
factor. Times are CPU times of a whole training, medians of five runs that take turns; the last
column is the median of the ratios, with its quartiles.{BUSY if busy else ""}

{jobs}

{slower(results)} Only the losses are computed inside of `accelerate()`; QMCTorch's solver runs in
it as a whole. Rerouting adds one to four microseconds to each other function of torch that is
called inside, so the optimizer is left outside.

## What calls determinants

{reached}

## Run it

```bash
make test-packages                                  # all: some minutes, and downloads of 0.5 GB
make test-packages PACKAGES_ARGS="--only kornia"    # one of them; the rest of the page stays
```

The programs are [tools/packages.py](../tools/packages.py) and
[tests/packages](../tests/packages); `build/packages` has the environment and the archives.
"""
