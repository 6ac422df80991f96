"""Instruction counts: what fails, and what does not; and what examples and tools read of others."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
from rich.console import Console

from tools import instruction_counts, versions


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
