"""Committed results: each is quoted by a page, each that is quoted is there, none is bulky."""

from __future__ import annotations

import json

import pytest

from bench import pages, publish
from bench.files import read_json, write_json

FILES = sorted(path.name for path in publish.RESULTS.iterdir())
MOST_BYTES = 300_000


def test_no_result_is_left_that_no_page_refers_to():
    assert publish.superseded() == []


def test_every_result_that_a_page_refers_to_is_there():
    assert FILES
    assert sorted(publish.references()) == FILES


@pytest.mark.parametrize("name", FILES)
def test_results_are_small(name):
    assert (publish.RESULTS / name).stat().st_size < MOST_BYTES


def test_pages_are_what_the_results_make_of_them():
    runs = publish.results(publish.RESULTS)
    assert publish.PAGE.read_text() == pages.measurements(runs)
    assert pages.readme_block(runs) in publish.README.read_text()


def test_numbers_keep_the_digits_of_a_time(tmp_path):
    path = tmp_path / "result.json"
    write_json({"cases": [{"n": 12345678, "t": 1.23456789e-5}, {"n": 1}], "none": None}, path)
    read = read_json(path)
    assert read == {"cases": [{"n": 12345678, "t": 1.235e-5}, {"n": 1}], "none": None}
    assert json.loads(path.read_text()) == read
    assert path.read_text().splitlines()[2] == '{"n":1}'  # a line for each case
