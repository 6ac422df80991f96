"""`python -m torchdet check`: its answers, what it covers, and that no wrong kernel passes it."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

import cases
import oracles
from torchdet import _check, _kept
from torchdet.__main__ import main
from torchdet._function import Operator

compiled = pytest.mark.skipif(not cases.EXTENSION, reason="the reference has no size classes")


@pytest.mark.parametrize("n", (1, 2, 3, 4, 5, 6))
def test_its_answers_are_those_of_exact_arithmetic(n, wide_dtype):
    q = _check.ask(4, n, wide_dtype, "cpu")
    for i, (A, Z, Y) in enumerate(zip(q.A, q.Z, q.Y, strict=True)):
        assert torch.equal(oracles.det(A).tensor(wide_dtype), q.det[i])
        assert torch.equal(oracles.cofactor(A).tensor(wide_dtype), q.cofactor[i])
        assert torch.equal(oracles.hvp(A, Z).tensor(wide_dtype), q.second[i])
        assert torch.equal(oracles.derivative(A, Z, Y).tensor(wide_dtype), q.third[i])
    assert (q.det[1::2] == 0).all(), "every second matrix is singular"


def test_its_tolerances_tell_one_from_zero(dtype):
    """Where an entry of the cofactors were wrong by the least that integers can differ."""
    for n in (n for n in _check.orders("cpu", dtype, False) if n <= 129):
        q = _check.ask(5, n, dtype, "cpu")
        assert (q.cofactor_error < 0.5).all(), n


@compiled
def test_it_covers_every_class_and_what_is_kept(dtype):
    edges = [0, *_check.classes("cpu").values()]
    chosen = _check.orders("cpu", dtype, False)
    for above, last in itertools.pairwise(edges):
        assert sum(above < n <= last for n in chosen) >= 2
    leaves = [torch.eye(n, dtype=dtype).requires_grad_() for n in chosen]
    kept = {_kept.kept_integers(A) for A in leaves if _kept.keeps(A)}
    assert len(kept) >= 4, "a gradient, and in two orders each half an elimination and factors"
    assert not all(_kept.keeps(A) for A in leaves)
    assert set(_check.orders("cpu", dtype, True)) >= set(range(1, 261)) | set(chosen)


OPERATORS = {
    "det": ("values",),
    "slogdet": ("values",),
    "cofactor": ("values",),
    "det_backward": ("gradients",),
    "slogdet_backward": ("gradients",),
    "det_hvp": ("second derivatives",),
    "_cofactor_derivative": ("third derivatives",),
}


def function(operator: str, cls: type = Operator) -> type:
    """The Function of an operator; its forward is the kernel."""
    found = [function(operator, sub) for sub in cls.__subclasses__()]
    return cls if vars(cls).get("operator") == operator else next(filter(None, found), None)


def wrong_in_one_entry(result: Tensor, by: int = 1) -> Tensor:
    result = result.clone()
    result.view(-1)[-1] += by
    return result


@pytest.mark.parametrize("n", (1, 3, 5, 33, 128))
@pytest.mark.parametrize("name", OPERATORS)
def test_one_entry_that_is_off_by_one_is_found(name, n, dtype, monkeypatch):
    checks = [_check.CHECKS[check] for check in OPERATORS[name]]
    if name == "_cofactor_derivative" and n > 5:
        pytest.skip("plain PyTorch, one algorithm at every order")
    if not cases.EXTENSION and n > 5:
        pytest.skip("one algorithm at every order")
    if name.endswith("backward") and _kept.keeps(torch.eye(n, dtype=dtype).requires_grad_()):
        name = f"_{name}_kept"
    right = function(name).forward

    def wrong(*args: Tensor) -> object:
        result = right(*args)
        if isinstance(result, tuple):  # sign and log(|det| + 1)
            sign, logabsdet = result
            return sign, (logabsdet.exp() + 1).log()
        # The bound of an inverse has its square: just above 1 in float32 at n = 128.
        return wrong_in_one_entry(result, 2 if "slogdet" in name else 1)

    q = _check.ask(5, n, dtype, "cpu")
    assert all(check(q) for check in checks)
    monkeypatch.setattr(function(name), "forward", staticmethod(wrong))
    assert not all(check(q) for check in checks)


@pytest.mark.parametrize("name", ("det", "cofactor"))
def test_nan_is_wrong(name, monkeypatch):
    right = function(name).forward
    wrong = staticmethod(lambda A: right(A) * float("nan"))
    monkeypatch.setattr(function(name), "forward", wrong)
    assert not _check.CHECKS["values"](_check.ask(5, 4, torch.float64, "cpu"))


@compiled
def test_results_that_depend_on_the_threads_are_found(monkeypatch):
    right = function("_det_keep").forward

    def wrong(A: Tensor) -> tuple[Tensor, ...]:
        d, *kept = right(A)
        return d * (1 + 1e-15 * (torch.get_num_threads() > 1)), *kept

    q = _check.ask(5, 40, torch.float64, "cpu")
    assert _check.CHECKS["threads"](q)
    monkeypatch.setattr(function("_det_keep"), "forward", staticmethod(wrong))
    assert not _check.CHECKS["threads"](q)


def test_the_exit_status_tells_and_the_table_says_where(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setattr(_check, "DTYPES", (torch.float64,))
    monkeypatch.setattr(_check, "orders", lambda *_: (3, 4))
    assert main(["check"]) == 0
    assert "WRONG" not in capsys.readouterr().out
    right = function("cofactor").forward
    wrong = staticmethod(lambda A: right(A) * (2 if A.shape[-1] == 4 else 1))
    monkeypatch.setattr(function("cofactor"), "forward", wrong)
    assert main(["check"]) == 1
    out = " ".join(capsys.readouterr().out.split())
    assert "WRONG at n = 4" in out
    assert "n = 3" not in out


def test_an_exception_is_told_and_fails(monkeypatch, capsys):
    def raises(A: Tensor) -> Tensor:
        raise RuntimeError("no such kernel")

    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setattr(_check, "DTYPES", (torch.float64,))
    monkeypatch.setattr(_check, "orders", lambda *_: (3,))
    monkeypatch.setattr(function("det"), "forward", staticmethod(raises))
    assert main(["check"]) == 1
    assert "RuntimeError no such kernel" in " ".join(capsys.readouterr().out.split())
