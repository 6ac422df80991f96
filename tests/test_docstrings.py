"""The examples of the public docstrings."""

from __future__ import annotations

import doctest
import sys

import pytest
import torch

import torchdet


@pytest.mark.parametrize("name", torchdet.__all__)
def test_the_example_gives_what_it_shows(name):
    finder = doctest.DocTestFinder(exclude_empty=False, recurse=False)
    function = getattr(torchdet, name)
    names = {"torch": torch, "torchdet": torchdet}
    (example,) = finder.find(function, name, sys.modules[function.__module__], names)
    assert example.examples, f"{name} has no example"
    result = doctest.DocTestRunner(verbose=False).run(example)
    assert result.failed == 0
