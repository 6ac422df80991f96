"""`python -m torchdet explain` and the choice of kernels that it prints (csrc/select.h)."""

import itertools
from pathlib import Path

import pytest

from torchdet import _explain, _schemas
from torchdet.__main__ import main

ROOT = Path(__file__).resolve().parent.parent
TARGETS = ["avx512", "avx2", "portable", "cuda"]
CLASSES = [
    "lane",
    "rows",
    "blocked",
    "thread",
    "warp",
    "block",
    "cluster",
    "large",
]  # in the order of n
OPERATORS = [
    "det",
    "slogdet",
    "det_frexp",
    "cofactor",
    "det_backward",
    "slogdet_backward",
    "det_hvp",
    "slogdet_hvp",
    "_det_frexp_jet",
]

compiled = pytest.mark.skipif(not _schemas.HAS_EXTENSION, reason="the choice is compiled")


def select(operator, dtype, n, target):
    from torchdet import _C

    return _C.select(operator, dtype, n, target)


@compiled
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", _explain.DTYPES)
@pytest.mark.parametrize("operator", OPERATORS)
def test_classes_follow_each_other_and_end_where_they_say(operator, dtype, target):
    choices = [select(operator, dtype, n, target) for n in range(1, 300)]
    places = [CLASSES.index(choice["size_class"]) for choice in choices]
    assert places == sorted(places)
    for n, (choice, after) in enumerate(itertools.pairwise(choices), start=1):
        same = choice["size_class"] == after["size_class"]
        assert same == (n < choice["largest_n"])


@compiled
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("operator", OPERATORS)
def test_the_file_that_is_named_has_the_kernel(operator, target):
    names = {
        "det": "determinants",
        "slogdet": "determinants",
        "det_frexp": "determinants",
        "det_hvp": "hvp",
        "slogdet_hvp": "hvp",
        "_det_frexp_jet": "jet",
    }
    name = "frexp" if target == "cuda" and "frexp" in operator else names.get(operator, "cofactor")
    for n in (1, 3, 12, 40, 200, 400):
        file = ROOT / select(operator, "float64", n, target)["file"]
        assert name in file.read_text().lower()


@compiled
@pytest.mark.parametrize(
    ("arguments", "message"),
    (
        (("inverse", "float32", 3, "avx2"), "expected operator to be one of det, .* got inverse"),
        (("det", "int8", 3, "avx2"), "expected dtype to be one of float32, .* got int8"),
        (("det", "float32", 3, "sse"), "expected target to be one of avx512, .* got sse"),
    ),
)
def test_select_refuses_names_it_does_not_know(arguments, message):
    with pytest.raises(ValueError, match=message):
        select(*arguments)


@pytest.mark.parametrize("dtype", (*_explain.DTYPES, "float16", "bfloat16"))
@pytest.mark.parametrize("n", (1, 40, 300))
def test_explain_names_class_file_and_reason_of_every_task(n, dtype, capsys):
    assert main(["explain", str(n), dtype]) == 0
    printed = capsys.readouterr().out
    for task in _explain.TASKS:
        assert task in printed
    for row in _explain.explain(n, dtype, _explain.targets()[0]):
        assert (ROOT / row.file).exists()
        assert row.reason
    assert "saves A" in printed


@pytest.mark.parametrize("n", ("0", "-3", "1.5", "four", "99999999999999999999"))
def test_explain_refuses_what_is_no_order(n, capsys):
    with pytest.raises(SystemExit):
        main(["explain", n, "float32"])
    assert f"expected an order from 1 to 2147483647, got {n}" in capsys.readouterr().err


def test_info_shows_versions_and_who_works_on_a_matrix(capsys):
    assert main([]) == 0
    printed = capsys.readouterr().out
    for word in ["torchdet", "PyTorch", "kernels", "explain"]:
        assert word in printed
    if _schemas.HAS_EXTENSION:
        for name in CLASSES[:3]:
            assert name in printed
