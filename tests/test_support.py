"""Helpers of tests: each stands in one place, and no test file imports another."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

import pytest

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
