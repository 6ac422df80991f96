"""The comparison of instruction counts: what fails, what does not, and when there is none."""

from __future__ import annotations

import sys

import pytest
from rich.console import Console

from tools import instruction_counts


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
