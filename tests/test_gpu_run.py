"""What runs on a machine with a GPU, as far as it can be tried without: stages, objects, tables."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import emulated
import pytest
import torch

import bench.run
from bench.cases import OPS, Case
from bench.clocks import CpuClock
from tools.gpu import checks, kernels, objects, report, smoke, times, variants
from tools.gpu import results as results_of
from tools.gpu.library import KernelLibrary
from tools.gpu.results import DONE, FAILED, LEFT_OUT, TIMEOUT, Results
from tools.gpu.runner import SECONDS, WRITING, Stage, run

# Appends a row, as a stage does, and then what the test is about.
WRITES = """
import pathlib, sys
from tools.gpu.results import Results
Results(pathlib.Path(sys.argv[1])).add(sys.argv[2], seconds=float(sys.argv[3]))
"""
HANGS = """
import subprocess, time
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(99)"])
time.sleep(99)
"""


def stage(name: str, folder: Path, after: str = "", seconds: float = 20) -> Stage:
    command = [sys.executable, "-c", WRITES + after, str(folder), name, SECONDS]
    root = str(objects.ROOT)
    return Stage(name, seconds, command, {"PYTHONPATH": root, "OMP_NUM_THREADS": "1"})


def test_a_stage_that_fails_or_hangs_does_not_keep_the_next_from_its_turn(tmp_path):
    groups = [
        [stage("fails", tmp_path, "print('the reason'); sys.exit(3)")],
        [stage("hangs", tmp_path, HANGS, 1), stage("beside", tmp_path)],
        [stage("last", tmp_path)],
    ]
    started = time.monotonic()
    statuses = run(groups, Results(tmp_path), 60, set())
    assert statuses == {"fails": FAILED, "hangs": TIMEOUT, "beside": DONE, "last": DONE}
    assert time.monotonic() - started < 15
    rows = results_of.read([tmp_path / results_of.NAME])
    # What a stage is told that it may take: its limit, less what it needs for writing.
    assert [r["seconds"] for r in results_of.of_stage(rows, "last")] == [20 - WRITING]
    (failure,) = (r for r in rows if r.get("status") == FAILED)
    assert failure["exit"] == 3
    assert "the reason" in failure["tail"]
    assert "=== last: done" in (tmp_path / "log.txt").read_text()
    assert {p.name for p in tmp_path.iterdir()} == {"log.txt", results_of.NAME}


def test_a_second_run_does_what_is_left(tmp_path):
    first = [[stage("one", tmp_path)], [stage("two", tmp_path, "sys.exit(1)")]]
    run(first, Results(tmp_path), 60, set())
    with (tmp_path / results_of.NAME).open("a") as file:
        file.write('{"stage": "half')  # what ends a run ends it anywhere
    finished = results_of.finished(Results(tmp_path).rows())
    assert finished == {"one"}
    second = [[stage("one", tmp_path)], [stage("two", tmp_path)]]
    assert run(second, Results(tmp_path), 60, finished) == {"two": DONE}


def test_no_stage_is_begun_that_has_too_little_of_the_time_left(tmp_path):
    groups = [[stage("short", tmp_path, seconds=10)], [stage("long", tmp_path, seconds=1000)]]
    assert run(groups, Results(tmp_path), 10, set()) == {"short": DONE, "long": LEFT_OUT}
    assert "long" not in results_of.finished(Results(tmp_path).rows())


def test_an_object_is_compiled_again_when_a_file_that_it_includes_has_changed(tmp_path):
    (tmp_path / "a.cpp").write_text('#include "a.h"\n#include <torch/all.h>\n')
    (tmp_path / "a.h").write_text('#include "b.h"\nint f();\n')
    (tmp_path / "b.h").write_text("")
    assert objects.needs_torch(tmp_path / "a.cpp")
    (tmp_path / "a.cpp").write_text('#include "a.h"\nint f() { return 1; }\n')
    assert not objects.needs_torch(tmp_path / "a.cpp")
    unit = objects.Unit("a.cpp", root=tmp_path)
    folder = tmp_path / "objects"
    assert objects.bring_up_to_date([unit], folder, jobs=1) == ["a.cpp"]
    assert objects.bring_up_to_date([unit], folder, jobs=1) == []
    (tmp_path / "b.h").write_text("// changed")
    assert objects.stale([unit], folder) == [unit]
    (tmp_path / "b.h").write_text("wrong")
    with pytest.raises(objects.CompilationError, match="wrong"):
        objects.bring_up_to_date([unit], folder, jobs=1)
    assert objects.read_manifest(folder)["objects"] == {}


def test_all_kernels_are_compiled_beforehand_and_nothing_that_needs_torch():
    sources = objects.sources("portable")
    assert {Path(x).suffix for x in sources} == {".cpp", ".cu"}
    assert "csrc/cpu/targets/quick_portable_float.cpp" in sources
    cuda = {str(p.relative_to(objects.ROOT)) for p in (objects.ROOT / "csrc/cuda").rglob("*.cu")}
    assert cuda <= set(sources)
    assert not {"csrc/ops.cpp", "csrc/cuda/ops_cuda.cpp"} & set(sources)


def test_a_variant_has_the_kernels_that_are_named_and_no_others(tmp_path):
    text = variants.stubs(objects.ROOT, ["warp/float", "block/double"])
    tables = {p.parent.name for p in objects.ROOT.glob("csrc/cuda/*/table.h")}
    assert text.count(" asm(") == 4 * len(tables) - 2
    assert "add_warp_kernels_float(" not in text
    # They are what the compiler calls by these names.
    calls = [
        f"torchdet::add_{name}_kernels<torchdet::Dtype::{dtype}>(table);"
        for name in tables
        for dtype in ("kFloat", "kDouble", "kComplexFloat", "kComplexDouble")
    ]
    (tmp_path / "stubs.cpp").write_text(variants.stubs(objects.ROOT, []))
    (tmp_path / "calls.cpp").write_text(
        f'#include "{objects.ROOT}/csrc/cuda/kernels.h"\n'
        f"void call(torchdet::CudaKernelTable& table) {{ {' '.join(calls)} }}\n"
    )
    for name in ("stubs", "calls"):
        objects.Unit(f"{name}.cpp", root=tmp_path).compile(tmp_path)
    files = [str(tmp_path / f"{name}.o") for name in ("stubs", "calls")]
    linker = ["c++", "-shared", "-Wl,--no-undefined", "-o", str(tmp_path / "lib.so")]
    objects.run_tool([*linker, *files])


@pytest.fixture(scope="module")
def library() -> KernelLibrary:
    if (missing := emulated.missing()) is not None:
        pytest.skip(missing)
    return KernelLibrary(smoke.emulation(), "cpu")


def test_every_class_is_looked_at_to_its_last_order(library):
    for operator in ("det", "cofactor", "det_hvp", "slogdet_hvp"):
        ends = library.ends(operator, torch.float32)
        assert ends == sorted(set(ends))
        assert set(ends) <= set(smoke.orders(library, operator, torch.float32))
        assert library.size_class(operator, torch.float32, 1)[1] == ends[0]
        assert not library.serves(operator, torch.float32, ends[-1] + 1)


def test_the_first_look_at_the_kernels_finds_them_right(library, tmp_path):
    assert smoke.run(Results(tmp_path), library, (torch.float32, torch.complex128), (3, 5)) == 0
    rows = results_of.of_stage(Results(tmp_path).rows(), "smoke")
    assert {(row["n"], row["dtype"]) for row in rows} == {
        (n, dtype) for n in (3, 5) for dtype in ("float32", "complex128")
    }
    assert {row["operator"] for row in rows} >= {"det", "slogdet", "det_hvp", "slogdet_hvp"}


class Wrong:
    """A library whose results are off, or are not all written."""

    def __init__(self, library: KernelLibrary, fault: str) -> None:
        self.library, self.fault = library, fault

    def __getattr__(self, name: str) -> object:
        return getattr(self.library, name)

    def run(self, operator: str, *arguments: torch.Tensor) -> tuple[torch.Tensor, ...]:
        results = self.library.run(operator, *arguments)
        poisoned = self.library.results(operator, arguments[0])
        for x, poison in zip(results, poisoned, strict=True):
            flat = x.view(-1)
            if self.fault == "off":
                flat[0] *= 1 + 1e-3
            else:
                flat[-1] = poison.view(-1)[-1]
        return results


@pytest.mark.parametrize("fault", ("off", "not written"))
def test_the_first_look_at_the_kernels_finds_a_wrong_one(library, fault, tmp_path):
    wrong = Wrong(library, fault)
    assert smoke.run(Results(tmp_path), wrong, (torch.float32,), (5,)) > 0
    faults = [row["faults"] for row in results_of.of_stage(Results(tmp_path).rows(), "smoke")]
    assert any("right" in of for of in faults)


def test_a_case_that_raises_is_passed_over_and_none_is_timed_twice(tmp_path, monkeypatch):
    good, bad = (Case("small", OPS[0], n, torch.float32, 10) for n in (2, 3))
    monkeypatch.setattr(times, "cases", lambda: [bad, good])
    # The CPU in place of the GPU.
    clock = CpuClock(1)
    monkeypatch.setattr(times, "CudaClock", lambda device: clock)
    monkeypatch.setattr(times, "is_native", lambda case: False)
    for name in ("current_device", "synchronize", "empty_cache"):
        monkeypatch.setattr(torch.cuda, name, lambda: 0)

    def run_case(case, *arguments):
        if case is bad:
            raise ArithmeticError("wrong")
        return bench.run.run_case(case, *arguments)

    monkeypatch.setattr(times, "run_case", run_case)
    results = Results(tmp_path)
    with pytest.raises(RuntimeError, match="facts"):
        times.run(results, [], 60)
    limits = {"copy_bandwidth": {"cache": 1e10, "dram": 1e10}, "fma_peak": {"float32": 1e11}}
    results.add("facts", limits=limits)
    assert times.run(results, results.rows(), 60) == 1
    rows = [row for row in results_of.of_stage(results.rows(), "times") if "op" in row]
    assert [(row["n"], "error" in row) for row in rows] == [(3, True), (2, False)]
    assert "ArithmeticError" in rows[0]["error"]
    assert rows[1]["ratio"]["torch.linalg"]["median"] > 0
    before = len(results.rows())
    assert times.run(results, results.rows(), 60) == 0
    assert len(results.rows()) == before + 1  # which build it was
    late = Results(tmp_path / "late")
    assert times.run(late, results.rows()[:1], -1) == 0
    assert "2 of 2" in late.rows()[-1]["stopped"]


def test_kernels_are_timed_beside_their_variants(tmp_path, monkeypatch):
    main, variant = (tmp_path / f"lib{name}.so" for name in ("kernels", "wide"))

    class Library:
        """Has the order 8, of which the variant has the determinant only."""

        def __init__(self, path: Path, device: str) -> None:
            self.path = path

        def ends(self, *_: object) -> list[int]:
            return [8]

        def serves(self, operator: str, dtype: torch.dtype, n: int) -> bool:
            return n == 8 and (self.path == main or (operator, dtype) == ("det", torch.float32))

        def served_by(self, *_: object) -> str:
            return "warp"

    def measure(libraries, operator, n, dtype):
        if operator == "det_hvp":
            raise RuntimeError("out of memory")
        return {kernels.name_of(x): [1.0, 2.0, 4.0] for x in libraries}

    monkeypatch.setattr(kernels, "KernelLibrary", Library)
    monkeypatch.setattr(kernels, "measure", measure)
    results = Results(tmp_path / "out")
    hvps = len(kernels.DTYPES)
    assert kernels.run(results, [], main, [variant]) == hvps
    rows = results.rows()
    assert [row["library"] for row in rows[-2:]] == ["kernels", "wide"]  # those come last
    assert sum("error" in row for row in rows) == hvps
    again = Results(tmp_path / "again")
    kernels.run(again, rows, main, [variant])
    assert all("error" in row for row in again.rows())


def test_failing_tests_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(checks.importlib.util, "find_spec", lambda _: None)  # no workers
    monkeypatch.setenv("PYTEST_ADDOPTS", "")
    (tmp_path / "test_x.py").write_text("def test_good(): pass\ndef test_bad(): assert False\n")
    results = Results(tmp_path / "out")
    assert checks.suite(results, 60, (str(tmp_path / "test_x.py"),), "test") == 1
    (row,) = results.rows()
    assert (row["tests"], row["failures"]) == (2, 1)
    assert [name.endswith("test_x::test_bad") for name in row["failed"]] == [True]


# ---- tables


def spread(median: float) -> dict[str, float]:
    return {"median": median, "q25": median, "q75": 1.2 * median}


CASE = {
    "suite": "gpu-small", "op": "det forward", "n": 8, "dtype": "float32", "batch": 1000,
    "layout": "contiguous", "singular": False, "bytes_moved": 260000, "flops": 3.4e5, "rounds": 3,
    "seconds": {"torchdet": spread(1e-4), "torchdet, graph": spread(7e-5),
                "torch.linalg": spread(1e-3)},
    "ratio": {"torch.linalg": spread(10.0)}, "share": {"fma": 0.1, "copy": 0.9}, "memory": {},
    "input_bytes": 256000, "errors": {}, "must": 10.0, "must_share": 0.8, "verdict": "reached",
}  # fmt: skip
BUILD = {"cuda_architectures": ["9.0"], "active_instruction_set": "portable"}
MACHINE = {
    "date": "2026-01-01T00:00:00+00:00", "torchdet": "0", "torch": "2", "commit": None,
    "build": None,
    "device": {"name": "A GPU", "cuda": "13.0", "multiprocessors": 132, "nvidia_smi": {}},
}  # fmt: skip
LIMITS = {"copy_bandwidth": {"device": 4e12}, "fma_peak": {"float32": 6e13}}


def write_run(folder: Path) -> list[dict[str, object]]:
    rows = Results(folder)
    rows.add("run", date="2026-01-01", commit="abc", modified=False)
    rows.add("facts", machine=MACHINE, limits=LIMITS, effort={"rounds": 3, "seconds": 0.01})
    rows.add("smoke", operator="det", dtype="float32", n=8, size_class="warp",
             faults={"right": "off by 2"})  # fmt: skip
    rows.add("micro", instruction="shfl", what="", warps=4, clocks=2.0, hertz=2e9)
    rows.add("micro", residents=8, shared_kb=25, threads=64, carveout=-1)
    kernel = {"operator": "det", "dtype": "float32", "n": 8, "batch": 9, "size_class": "warp"}
    for library, ns in (("kernels", 0.10), ("wide", 0.05)):
        rows.add("kernels", library=library, **kernel, ns=[ns] * 3, gigabytes_per_second=2600.0)
    rows.add("kernels", operator="det", dtype="float32", n=9, batch=9, error="out of memory")
    rows.add("kernels", status=FAILED, seconds=3.0, exit=1, tail="Traceback\nout of memory\n")
    rows.add("times", build=BUILD)
    rows.add("times", **CASE)
    rows.add("times", op="det hvp", n=8, dtype="float32", batch=1000, error="wrong")
    rows.add("repeats", **CASE, again=True)
    rows.add("tests", tests=3, failures=1, errors=0, skipped=1, seconds=9.0, failed=["a::b"])
    rows.add("sanitizers", tool="memcheck", exit=0, seconds=9.0, output="0 errors\n")
    return rows.rows()


def test_a_run_becomes_a_file_as_bench_writes_it(tmp_path):
    result = report.bench_result(write_run(tmp_path))
    assert result["machine"]["commit"] == "abc"
    assert result["machine"]["build"] == BUILD
    assert [case["again"] for case in result["cases"]] == [True]
    path = tmp_path / "bench.json"
    report.write_json(result, path)
    report.write_markdown(json.loads(path.read_text()), path.with_suffix(".md"))
    assert "| 10.00 (10.00-12.00) |" in path.with_suffix(".md").read_text()
    assert report.bench_result([]) is None


def test_measured_times_stand_beside_their_predictions(tmp_path):
    path = tmp_path / "model.json"
    path.write_text(json.dumps({"nvcc, sm_90": {"det float32 n=8": {"clocks": 20.0}}}))
    predicted = report.predictions(path)
    assert predicted == {("det", "float32", 8): 20.0}
    assert report.predictions(tmp_path / "absent.json") == {}
    text = report.page(write_run(tmp_path), predicted)
    # 0.1 ns of 132 SMs at 2 GHz are 26.4 clocks.
    line = "| det | float32 | 8 | warp | 0.1 ns | 0% | 65% | 26.4 | 20 | 1.32 | wide 0.50 |"
    assert line in text
    assert "| det | float32 | warp | 1 | 1.32 | 1.32 to 1.32 |" in text
    for part in ("off by 2", "a::b", "out of memory", "| shfl |", "| 25 | 8 |  |", "memcheck"):
        assert part in text, part


def test_a_case_whose_rounds_disagree_is_measured_again():
    assert times.is_noisy(CASE)
    assert not times.is_noisy({**CASE, "seconds": {"torchdet": {"median": 1, "q25": 1, "q75": 1}}})
    keys = [times.key(case) for case in times.cases()]
    assert len(keys) == len(set(keys))
    assert times.key(CASE)[:3] in {key[:3] for key in keys}
