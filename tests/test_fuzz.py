"""The fuzzer: its corpus is replayed, fresh cases run, faults put in on purpose are found."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import torchdet
from fuzz import answers, compare, composed, judge, reference, search, sums, tensors
from fuzz.child import Child
from fuzz.judge import Wrong


@pytest.fixture(scope="module")
def child() -> Iterator[Child]:
    with Child() as child:
        yield child


@pytest.mark.parametrize("path", [p for p, _ in search.stored()], ids=lambda p: p.stem)
def test_what_was_found_once_is_not_there_any_more(path: Path, child: Child) -> None:
    contents = dict(search.stored())[path]
    finding = child.run(contents["case"])
    assert finding is None, finding


def test_a_few_fresh_cases(child: Child) -> None:
    looking = search.Search(child)
    deadline = time.monotonic() + 60
    for seed in range(3):
        finding = looking.round(seed, deadline, examples=15)
        assert finding is None, finding
    assert looking.count.total() > 0


# ---- the fuzzer finds what is put in on purpose


def _program(*steps: dict[str, Any]) -> dict[str, Any]:
    leaf = {"do": "leaf", "seed": 1, "requires_grad": True}
    head = {"kind": "program", "n": 3, "batch": [2], "dtype": "float64", "singular": False}
    return {**head, "steps": [leaf, *steps]}


DET = {"do": "apply", "function": "det", "of": 0, "under": "none"}
GRAD = {"do": "grad", "of": 0, "wrt": 0, "create_graph": False, "retain": None, "batched": 0}


class _HalfGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, A: Tensor) -> Tensor:
        ctx.save_for_backward(A)
        return reference.det(A)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (A,) = ctx.saved_tensors
        return 0.5 * grad[..., None, None] * reference.cofactor(A)


@pytest.mark.parametrize(
    ("det", "text"),
    (
        (lambda A: reference.det(A) * 1.001, "wrong by"),
        (_HalfGradient.apply, "wrong by"),
        (lambda A: reference.det(A)[..., None], "shape"),
        (lambda A: A.no_such_attribute, "raised only by torchdet"),
    ),
    ids=("value", "gradient", "shape", "error"),
)
def test_a_program_finds_a_fault(det: Any, text: str) -> None:
    program = _program(DET, {**GRAD, "of": 1, "seed": 1})
    comparison = compare.Comparison(program)
    comparison.subject.functions = SimpleNamespace(det=det)
    with pytest.raises(Wrong, match=text):
        comparison.run()
    assert compare.run(program) == "3 steps"


def test_a_call_finds_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = {"shape": [4, 3, 3], "dtype": "float32", "content": "normal", "seed": 1}
    case = {"kind": "call", "target": "det", "args": {"A": spec}}
    answers.run(case)
    right = torch.ops.torchdet.det

    def overwriting(A: Tensor) -> Tensor:
        result = right(A)
        A.zero_()
        return result

    faults = {
        "units off": lambda A: right(A) * 1.001,
        "over its argument": overwriting,
        "refused": lambda A: (_ for _ in ()).throw(RuntimeError("no")),
        "shape": lambda A: right(A)[:1],
        "KeyError": lambda A: {}[A],
    }
    for text, fault in faults.items():
        monkeypatch.setattr(answers.torchdet, "det", fault)
        with pytest.raises(Wrong, match=text):
            answers.run(case)


def _doubled(result: Any, name: str) -> Any:
    return result._replace(**{name: 2 * getattr(result, name)})


def test_sums_find_faults(monkeypatch: pytest.MonkeyPatch) -> None:
    def spec(*shape: int, content: str = "normal") -> dict[str, Any]:
        return {"shape": [2, *shape], "dtype": "float64", "content": content, "seed": 1}

    A, J, L = spec(3, 3, content="mixed"), spec(2, 3, 3), spec(3, 3)
    case = {"kind": "sum", "rows": False, "weights": spec()}
    case |= {"matrices": [A, spec(2, 2)], "jacobians": [J, spec(2, 2, 2)]}
    case |= {"laplacians": [L, spec(2, 2)]}
    right = torchdet.slogsumdet_laplacian

    def overwriting(As: Any, *others: Any, **options: Any) -> Any:
        result = right(As, *others, **options)
        As[0].zero_()
        return result

    faults = {
        "derivative: got": lambda *a, **k: _doubled(right(*a, **k), "derivatives"),
        "laplacian: got": lambda *a, **k: _doubled(right(*a, **k), "laplacian"),
        "expected log": lambda *a, **k: _doubled(right(*a, **k), "logabsdet"),
        "wrote over": overwriting,
        "refused": lambda *a, **k: (_ for _ in ()).throw(RuntimeError("no")),
        "expected shape": lambda *a, **k: [x[None] for x in right(*a, **k)],
    }
    for rows in (False, True):
        case["rows"] = rows
        if rows:
            case["jacobians"] = [spec(3, 1, 3), spec(2, 1, 2)]
        sums.run({**case, "target": "slogsumdet_laplacian"})
        for text, fault in faults.items():
            with monkeypatch.context() as patch:
                patch.setattr(sums.torchdet, "slogsumdet_laplacian", fault)
                with pytest.raises(Wrong, match=text):
                    sums.run({**case, "target": "slogsumdet_laplacian"})
    illegal = {**case, "matrices": [A, {**spec(2, 2), "dtype": "float32"}]}
    monkeypatch.setattr(sums.torchdet, "slogsumdet", lambda *a, **k: None)
    monkeypatch.setattr(sums, "_call", lambda *a: ())
    with pytest.raises(Wrong, match="accepted"):
        sums.run({**illegal, "target": "slogsumdet"})


@pytest.mark.parametrize("name", composed.NAMES)
def test_programs_of_sums_find_faults(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program = _program({**DET, "function": name}, {**GRAD, "of": 1, "seed": 1})
    assert compare.run(program) == "3 steps"
    right = composed.torchdet

    def detached(f: Any, which: int) -> Any:
        def g(*args: Any, **options: Any) -> Any:
            out = f(*args, **options)
            return type(out)(*(x.detach() if i == which else x for i, x in enumerate(out)))

        return g

    faulty = SimpleNamespace(
        det_frexp=detached(right.det_frexp, 0),
        slogsumdet=lambda *a, **k: SimpleNamespace(logabsdet=right.slogsumdet(*a, **k)[1] * 1.001),
        slogsumdet_laplacian=detached(right.slogsumdet_laplacian, 3),
    )
    monkeypatch.setattr(composed, "torchdet", faulty)
    with pytest.raises(Wrong):
        compare.run(program)


def test_what_lies_around_an_argument_is_watched() -> None:
    spec = {"shape": [2, 3], "dtype": "float16", "content": "normal", "seed": 1}
    for is_written in (False, True):
        built = tensors.build(spec, is_written)
        assert not built.spoiled(is_written)
        built.tensor.add_(1)
        assert built.spoiled(False)
        assert built.spoiled(True) is False
        beyond = built.tensor.as_strided((1,), (1,), built.tensor.storage_offset() + 6)
        beyond.mul_(2) if is_written else beyond.zero_()
        assert built.spoiled(is_written)


def run(case: dict[str, Any]) -> None:
    """What the child runs for the test below: a process that dies."""
    if case["dies"]:
        os.abort()


def test_the_death_of_the_child_is_a_finding(child: Child) -> None:
    kind = "test_fuzz"
    harmless, deadly = ({"kind": kind, "dies": dies} for dies in (False, True))
    assert child.run(harmless) is None
    finding = child.run(deadly)
    assert finding is not None
    assert finding.case == deadly
    assert "SIGABRT" in finding.text


@pytest.mark.parametrize("name", ("solve", "solve_adjoint"))
def test_a_wrong_solution_is_found(name: str) -> None:
    A, B = torch.randn(5, 5, dtype=torch.complex128), torch.randn(5, 5, dtype=torch.complex128)
    X = torch.linalg.solve(A if name == "solve" else A.mH, B)
    getattr(judge, name)(A, X, B)
    for wrong in (X * (1 + 1e-9), X * torch.nan, torch.linalg.solve(A.mT, B)):
        with pytest.raises(Wrong, match="solve"):
            getattr(judge, name)(A, wrong, B)
