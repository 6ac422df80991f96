"""Instruction counts: what fails, and what does not; and what examples and tools read of others."""

from __future__ import annotations

import importlib
import os
import re
import shlex
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from rich.console import Console
from torch.utils.cpp_extension import include_paths

from tools import check_wheel, instruction_counts, show_build, tune, versions


@pytest.mark.parametrize(
    ("factor", "verdict", "slower"),
    (
        (1.0, "", 0),
        (1.02, "", 0),
        (1.04, "SLOWER", 1),
        (0.98, "", 0),
        (0.9, "fewer: record anew", 0),
    ),
)
def test_only_a_rise_beyond_the_tolerance_is_slower(factor, verdict, slower):
    recorded = {"avx2": {"det": 100.0, "det_backward": 300.0}}
    counted = {"avx2": {"det": 100.0 * factor, "det_backward": 300.0}}
    changed, same = instruction_counts.compare(recorded, counted)
    assert (changed.verdict, same.verdict) == (verdict, "")
    assert instruction_counts.report([changed, same], Console(quiet=True)) == slower


@pytest.mark.parametrize("recorded", ({}, {"avx2": {}}, {"avx512": {"det": 50.0}}))
def test_a_kernel_without_a_record_is_not_slower(recorded):
    (comparison,) = instruction_counts.compare(recorded, {"avx2": {"det": 100.0}})
    assert comparison.verdict == "not recorded"


@pytest.mark.parametrize("content", (None, '{"another compiler": {"avx2": {"det": 1.0}}}'))
def test_nothing_is_compared_where_the_compiler_has_no_record(
    content, tmp_path, monkeypatch, capsys
):
    record = tmp_path / "record.json"
    if content is not None:
        record.write_text(content)
    monkeypatch.setattr(instruction_counts, "RECORD", record)
    monkeypatch.setattr(instruction_counts, "count", lambda *_: pytest.fail("counted"))
    monkeypatch.setattr(sys, "argv", ["instruction_counts.py"])
    assert instruction_counts.main() == 0
    assert capsys.readouterr().out.startswith("no instructions are compared: ")


# ---- examples/exactness.py


def test_what_mkl_prints_is_no_part_of_an_answer(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "examples")
    exactness = importlib.import_module("exactness")
    complaint = "\nIntel oneMKL ERROR: Parameter 6 was incorrect on entry to DLASWP.\n"
    answer = exactness.count_right(f"{complaint * 3}right: 2\n")
    assert (answer.text, answer.right) == ("2 of 4 right", False)
    assert exactness.count_right("right: 4\n").right
    assert not exactness.count_right(complaint).right


# ---- tools/versions.py


def test_the_page_has_a_row_for_each_version_and_torchs_own_answers():
    results = [
        versions.Result("2.10.0", "2.10.0+cu128", "2026-01-02", {"check": "ok"}, {"q": "✗ 0"}),
        versions.Result("9.9", date="2026-01-03", cells={"install": "cannot be had: no such one"}),
        versions.Result("newest", "3.0.0", "2026-01-04", {"check": "FAILED: x"}, {"q": "✓ 1"}),
    ]
    assert [result.right for result in results] == [True, True, False]
    text = versions.page(results, Path("torchdet-0.1.0.whl"))
    assert "| 2.10.0+cu128 | 2.10.0 | 2026-01-02 | ok |  |" in text
    assert "| 9.9 | 9.9 | 2026-01-03 |  | cannot be had: no such one |" in text
    assert "| question | 2.10.0 | 3.0.0 |" in text
    assert "| q | ✗ 0 | ✓ 1 |" in text


# ---- tools/show_build.py


def test_a_line_for_each_compiled_file_and_nothing_else(tmp_path):
    lines = (
        "Collecting ninja",
        "  torchdet: kernels for avx2, portable",
        f"  [2/9] g++ -MMD -c {tmp_path}/csrc/ops.cpp -o csrc/ops.o -O3",
        "  g++ -shared csrc/ops.o -o torchdet/_C.so",
    )
    assert list(show_build.progress(lines, tmp_path, iter([12.3]))) == [
        "Compiling kernels for avx2, portable.",
        "[2/9] csrc/ops.cpp (12 s)",
    ]


def test_a_command_that_fails_shows_the_end_of_its_log(tmp_path, capsys):
    log = tmp_path / "folder" / "log"
    command = [sys.executable, "-c", "import sys; print('the reason'); sys.exit(3)"]
    assert show_build.run(log, command) == 3
    assert "the reason" in capsys.readouterr().out


# ---- tools/check_wheel.py

GOOD = 'extern "C" int aoti_torch_x(int); extern "C" int f() { return aoti_torch_x(1); }'
ABI = {"aoti_torch_x"}


@pytest.mark.skipif(sys.platform != "linux", reason="ELF is Linux's format")
@pytest.mark.parametrize(
    ("code", "flags", "problem"),
    (
        (GOOD, (), None),
        (GOOD, ("-Wl,-rpath,/somewhere/build",), "no RPATH or RUNPATH, got /somewhere/build"),
        (GOOD, ("-Wl,--disable-new-dtags,-rpath,/x",), "no RPATH or RUNPATH, got /x"),
        (GOOD, ("-z", "execstack"), "a stack that is not executable"),
        (GOOD.replace("_x", "_y"), (), "stable ABI as of 2.10, got also aoti_torch_y"),
        (
            "namespace at { void g(); } void f() { at::g(); }",
            (),
            "stable ABI as of 2.10, got also _ZN2at1gEv",
        ),
        (
            '#include <cstdlib>\nint f() { return getenv("x") != nullptr; }',
            (),
            "symbols of glibc 2.1 at most",
        ),
        (GOOD, ("-Wl,--no-as-needed", "-lresolv"), "the system's, got also libresolv.so.2"),
    ),
)
def test_a_library_that_would_not_run_elsewhere_is_found_out(code, flags, problem, tmp_path):
    source, library = tmp_path / "x.cpp", tmp_path / "torchdet" / "_C.so"
    source.write_text(code)
    library.parent.mkdir()
    compiler = [*shlex.split(os.environ.get("CXX", "c++")), "-shared", "-fPIC", "-nostartfiles"]
    subprocess.run([*compiler, source, "-o", library, *flags], check=True)
    # Code without a call of the C library asks for none; what calls one asks for 2.2.5 or newer.
    wheel = tmp_path / "torchdet-1-cp311-cp311-manylinux_2_1_x86_64.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(library, "torchdet/_C.so")
    found = check_wheel.check(wheel, ABI)
    if problem is None:
        assert found == []
    else:
        assert len(found) == 1
        assert problem in found[0]


@pytest.mark.skipif(sys.platform != "linux", reason="ELF is Linux's format")
def test_what_stands_for_a_newer_torch_in_its_headers_is_no_part_of_the_stable_abi(tmp_path):
    first, *others = (tmp_path / header for header in check_wheel.ABI_HEADERS)
    for header in (first, *others):
        header.parent.mkdir(parents=True)
        header.touch()
    first.write_text("""
        int aoti_torch_old(int);
        #if TORCH_TARGET_VERSION >= 0x020b000000000000
        int torch_new(void);
        #endif
    """)
    assert check_wheel.stable_abi(tmp_path) == {"aoti_torch_old"}
    real = check_wheel.stable_abi(Path(include_paths()[0]))
    assert {"torch_library_impl", "aoti_torch_get_dtype"} <= real
    assert "torch_exception_get_what" not in real  # of 2.13


@pytest.mark.parametrize(
    ("name", "glibc"),
    (
        ("x-1-cp311-cp311-manylinux_2_34_x86_64.whl", (2, 34)),
        ("x-1-cp311-cp311-manylinux_2_27_x86_64.manylinux_2_28_x86_64.whl", (2, 27)),
        ("x-1-cp311-cp311-linux_x86_64.whl", None),
        ("x-1-py3-none-any.whl", None),
    ),
)
def test_the_oldest_glibc_of_the_tag_is_what_counts(name, glibc):
    assert check_wheel.glibc_of_tag(name) == glibc
    if glibc is None:
        assert "expected a manylinux tag" in check_wheel.check(Path(name), set())[0]


# ---- tools/tune.py


@pytest.mark.parametrize("instruction_set", tuple(tune.VECTOR_BYTES))
def test_every_constant_that_is_tuned_is_where_it_is_overwritten(instruction_set):
    for question in tune.questions(instruction_set):
        text = (tune.CSRC / question.file).read_text()
        assert len(re.findall(question.pattern, text)) == 1, question.constant
        names = [[case.name for case in a.cases] for a in question.alternatives]
        assert all(len(set(x)) == len(x) and x == names[0] for x in names), question.constant
        programs = {
            tune.program(instruction_set, a)
            + re.sub(question.pattern, a.overwrite or r"\g<0>", text)
            for a in question.alternatives
        }
        assert len(programs) == len(question.alternatives), question.constant


def test_constants_that_are_not_tuned_are_those_that_are_there():
    text = "".join((tune.CSRC / name).read_text() for name in ("tuning.h", "select.h"))
    for name in ", ".join(tune.NOT_MEASURED).split(", "):
        assert re.search(rf"\b{name}\b", text), name
