"""Helpers of tests: each stands in one place, and no test file imports another."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path
from unittest import mock

import pytest

import conftest

FOLDER = Path(__file__).parent
FILES = sorted(FOLDER.rglob("*.py"))
TREES = {file.relative_to(FOLDER).as_posix(): ast.parse(file.read_text()) for file in FILES}
Definition = ast.FunctionDef | ast.ClassDef


def definitions(name: str) -> list[Definition]:
    return [node for node in TREES[name].body if isinstance(node, Definition)]


def body(definition: Definition) -> str:
    """What the definition does, without its name and its docstring."""
    first, *rest = definition.body
    text = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    return ast.dump(ast.Module(rest if text and rest else definition.body, []))


@pytest.mark.parametrize("name", TREES)
def test_no_test_file_is_imported(name):
    imported = set()
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module)
    assert not {module for module in imported if module and module.startswith("test_")}


@pytest.mark.parametrize("name", [name for name in TREES if name.startswith("test_")])
def test_a_name_of_support_means_one_thing(name):
    shared = {definition.name for definition in definitions("support.py")}
    assert not shared & {definition.name for definition in definitions(name)}


def test_no_two_files_define_the_same_helper():
    places = defaultdict(set)
    for name in TREES:
        for definition in definitions(name):
            fixture = any("fixture" in ast.dump(x) for x in definition.decorator_list)
            if not fixture and not definition.name.startswith("test_"):
                places[body(definition)].add(f"{name}: {definition.name}")
    twice = [found for found in places.values() if len({x.partition(":")[0] for x in found}) > 1]
    assert not twice


@pytest.mark.parametrize("every", (1, 4))
def test_a_sample_has_the_first_case_of_each_test_and_one_in_k_others(every):
    grid = [f"test_a.py::test_grid[{n}-{dtype}]" for n in range(1000) for dtype in range(4)]
    items = [mock.Mock(nodeid=x) for x in (*grid, "test_a.py::test_plain", "test_b.py::test_grid")]
    config = mock.Mock(getoption={"every": every}.get)
    conftest.pytest_collection_modifyitems(config, items)
    names = [item.nodeid for item in items]
    assert names[0] == grid[0]
    assert names[-2:] == ["test_a.py::test_plain", "test_b.py::test_grid"]
    for dtype in range(4):
        count = sum(name.endswith(f"-{dtype}]") for name in names)
        # Binomial with 1000 draws: six standard deviations.
        p = 1 / every
        assert abs(count - 1000 * p) <= 1 + 6 * (1000 * p * (1 - p)) ** 0.5
