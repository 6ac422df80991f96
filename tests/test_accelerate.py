"""accelerate: which calls it serves, with which results and errors, and in which code."""

from __future__ import annotations

import asyncio
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import cases
import support
import torchdet
from support import COFACTOR, SINGULAR, gradient_at_singular, singular_leaf
from torchdet import accelerate

# Of each function that is served: how it may be called, and torchdet's.
SERVED: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "torch.det": (torch.det, torchdet.det),
    "torch.det(input=)": (lambda A: torch.det(input=A), torchdet.det),
    "torch.det(x=), a name of NumPy": (lambda A: torch.det(x=A), torchdet.det),
    "torch.linalg.det": (torch.linalg.det, torchdet.det),
    "torch.linalg.det(A=)": (lambda A: torch.linalg.det(A=A), torchdet.det),
    "Tensor.det": (Tensor.det, torchdet.det),
    "A.det": (lambda A: A.det(), torchdet.det),
    "torch.slogdet": (torch.slogdet, torchdet.slogdet),
    "torch.slogdet(a=)": (lambda A: torch.slogdet(a=A), torchdet.slogdet),
    "torch.slogdet(input=)": (lambda A: torch.slogdet(input=A), torchdet.slogdet),
    "torch.linalg.slogdet": (torch.linalg.slogdet, torchdet.slogdet),
    "torch.linalg.slogdet(A=)": (lambda A: torch.linalg.slogdet(A=A), torchdet.slogdet),
    "A.slogdet": (lambda A: A.slogdet(), torchdet.slogdet),
    "torch.logdet": (torch.logdet, torchdet.logdet),
    "torch.logdet(input=)": (lambda A: torch.logdet(input=A), torchdet.logdet),
    "A.logdet": (lambda A: A.logdet(), torchdet.logdet),
}
det = torch.linalg.det
HIDDEN = Path(__file__).resolve().parents[1] / "tools" / "torch_without_private_names"


def serves(f: Callable[[Tensor], Tensor] = det) -> bool:
    """Whether this determinant, called just now, is torchdet's."""
    return "Linalg" not in f(singular_leaf()).grad_fn.__class__.__name__


def as_list(result: Any) -> list[Tensor]:
    return [result] if isinstance(result, Tensor) else list(result)


# ---- what is served


@pytest.mark.parametrize("name", SERVED)
def test_a_call_gives_the_numbers_of_torchdet_in_the_types_of_torch(name, dtype, device):
    function, own = SERVED[name]
    A = torch.randn(5, 4, 4, dtype=dtype, device=device)
    outside = function(A)
    with accelerate():
        inside = function(A)
    assert type(inside) is type(outside)
    for got, expected in zip(as_list(inside), as_list(own(A)), strict=True):
        assert support.same_bits(got, expected)


@pytest.mark.parametrize("name", [x for x in SERVED if "slog" not in x and "log" not in x])
def test_the_gradient_at_a_singular_matrix_is_right(name):
    function, _ = SERVED[name]
    with accelerate():
        assert torch.equal(gradient_at_singular(function), COFACTOR)
        assert serves(function)
        output = function(A := singular_leaf())
    output.backward()  # the context was left
    assert torch.equal(A.grad, COFACTOR)
    assert not serves(function)


def test_an_object_that_was_bound_before_is_served_too():
    """Unlike a function that is put in the place of torch's."""
    from functools import partial

    bound, method = partial(torch.linalg.det), torch.Tensor.det
    with accelerate():
        assert serves(bound) and serves(method) and serves(lambda A: getattr(torch, "det")(A))  # noqa: B009


def test_what_names_torchs_own_operator_is_left_alone():
    with accelerate():
        assert not serves(torch.ops.aten.linalg_det)


# ---- what torch takes it still takes, what torch refuses has its kinds of errors

ODD = {
    "1 x 1": torch.ones(1, 1),
    "0 x 0": torch.empty(0, 0),
    "no matrices": torch.empty(0, 3, 3),
    "0-dim": torch.tensor(2.0),
    "vector": torch.ones(3),
    "not square": torch.ones(2, 3),
    "empty, not square": torch.empty(0, 2, 1),
    "transposed": torch.randn(4, 4).mT,
    "expanded": torch.eye(3).expand(5, 3, 3),
    "conjugate": torch.randn(3, 3, dtype=torch.complex64).conj(),
    "negative": torch.randn(3, 3, dtype=torch.complex64).conj().imag,
    "meta": torch.empty(7, 3, 3, device="meta"),
    "NaN": torch.full((2, 2), float("nan")),
    "singular": torch.ones(3, 3),
    "sparse": torch.eye(3).to_sparse(),
    **{
        cases.name(x): torch.ones(2, 2).to(x)
        for x in (torch.bool, torch.uint8, torch.int64, torch.float8_e5m2)
    },
    "complex32": torch.empty(2, 2, dtype=torch.complex32),
    "parameter": torch.nn.Parameter(torch.eye(2)),
    "inference": torch.inference_mode()(torch.eye)(2),
}


def outcome(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """All that a caller can tell but the numbers: the type of an error, or types and shapes."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            result = function(*args, **kwargs)
        except Exception as error:
            return type(error)
    facts = [(x.shape, x.dtype, x.device, x.stride(), type(x)) for x in as_list(result)]
    return type(result), facts, [x.category for x in caught]


@pytest.mark.parametrize("name", [x for x in SERVED if "=" not in x])
@pytest.mark.parametrize("odd", ODD)
def test_the_outcome_is_of_the_same_kind_as_torchs(odd, name):
    function, _ = SERVED[name]
    expected = outcome(function, ODD[odd])
    with accelerate():
        assert outcome(function, ODD[odd]) == expected


@pytest.mark.parametrize("half", (torch.float16, torch.bfloat16), ids=cases.name)
def test_half_precision_which_torch_refuses_is_served(half):
    A = torch.eye(3, dtype=half)
    with accelerate():
        assert A.det().dtype == half
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert det(A).dtype == torch.float32
            assert det(A.float() @ A.float()).dtype == torch.float32


WRONG: dict[str, Callable[[], Any]] = {
    "a number": lambda: torch.det(3),
    "a list": lambda: torch.linalg.det([[1.0]]),
    "None": lambda: torch.logdet(None),
    "nothing": lambda: torch.linalg.slogdet(),
    "the other name": lambda: torch.linalg.det(input=SINGULAR),
    "the other name, of torch": lambda: torch.det(A=SINGULAR),
    "an unknown name": lambda: torch.slogdet(SINGULAR, upper=True),
    "a second argument": lambda: torch.det(SINGULAR, SINGULAR),
    "out of torch.det": lambda: torch.det(SINGULAR, out=SINGULAR),
    "out of a method": lambda: SINGULAR.det(out=SINGULAR),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_call_raises_what_torch_raises(wrong):
    with pytest.raises(TypeError) as outside:
        WRONG[wrong]()
    with pytest.raises(TypeError) as inside, accelerate():
        WRONG[wrong]()
    assert str(inside.value) == str(outside.value)


def test_an_error_is_torchs_alone():
    with pytest.raises(RuntimeError, match="Expected a floating point") as info, accelerate():
        det(SINGULAR.long())
    assert info.value.__cause__ is None and info.value.__context__ is None


def test_a_failure_of_torchdet_is_not_covered_up(monkeypatch):
    def fail(*_: Tensor) -> Tensor:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(torchdet.linalg.Det, "call", fail)
    with accelerate(), pytest.raises(RuntimeError, match="out of memory"):
        det(SINGULAR)


OUTS: dict[str, Callable[[], Tensor]] = {
    "fits": lambda: torch.empty(2, dtype=torch.float64),
    "empty": lambda: torch.empty(0, dtype=torch.float64),
    "resized with a warning": lambda: torch.empty(5, dtype=torch.float64),
    "strided": lambda: torch.empty(4, dtype=torch.float64)[::2],
    "wrong dtype": lambda: torch.empty(2),
    "wrong device": lambda: torch.empty(2, dtype=torch.float64, device="meta"),
    "expanded": lambda: torch.empty(1, dtype=torch.float64).expand(2),
    "requires grad": lambda: torch.empty(2, dtype=torch.float64, requires_grad=True),
}


@pytest.mark.parametrize("kind", OUTS)
def test_out_is_taken_as_torch_takes_it(kind):
    A = torch.randn(2, 3, 3, dtype=torch.float64)
    pairs = (OUTS["fits"], OUTS[kind])
    calls: list[Callable[[], Any]] = [
        lambda: torch.linalg.det(A, out=OUTS[kind]()),
        lambda: torch.linalg.slogdet(A, out=tuple(make() for make in pairs)),
        lambda: torch.slogdet(A, out=tuple(make() for make in pairs)),
    ]
    for call in calls:
        expected = outcome(call)
        with accelerate():
            assert outcome(call) == expected


def test_out_is_written_to_and_returned():
    A = torch.randn(2, 3, 3)
    for none in (torch.linalg.det, torch.slogdet, torch.linalg.slogdet):
        with accelerate():
            assert all(x.shape == (2,) for x in as_list(none(A, out=None)))
    sign, logabsdet, one = torch.empty(2), torch.empty(2), torch.empty(2)
    with accelerate():
        for function in (torch.slogdet, torch.linalg.slogdet):
            result = function(A, out=(sign.zero_(), logabsdet.zero_()))
            assert result.sign is sign and result.logabsdet is logabsdet
            for got, expected in zip(result, torchdet.slogdet(A), strict=True):
                assert support.same_bits(got, expected)
        assert torch.linalg.det(A, out=one) is one
    assert support.same_bits(one, torchdet.det(A))


# ---- where it holds


def test_contexts_nest_and_the_innermost_decides():
    context = accelerate()
    with context:
        assert serves()
        with accelerate(enable=False):
            assert not serves()
            with context, context:  # entered before
                assert serves()
                with accelerate(enable=False), accelerate(enable=False):
                    assert not serves()
            assert not serves()
        assert serves()
    assert not serves()
    with accelerate(enable=False):
        assert not serves()


def test_an_exception_leaves_the_context():
    with pytest.raises(ZeroDivisionError), accelerate(), accelerate(enable=False):
        raise ZeroDivisionError
    with pytest.raises(RuntimeError), accelerate(), accelerate(enable=False):
        det(torch.ones(2, 3))
    assert not serves()
    assert not torch.overrides._get_current_function_mode_stack()


def test_it_holds_for_one_thread():
    """Two threads enter and leave one object in another order than one thread could."""
    context, seen = accelerate(), {}
    first, second = threading.Event(), threading.Event()

    def other() -> None:
        seen["before"] = serves()
        with context:
            first.set()
            second.wait(10)
            seen["inside"] = serves()
        seen["after"] = serves()

    thread = threading.Thread(target=other)
    with context:
        thread.start()
        assert first.wait(10)
        assert serves()
    assert not serves()
    second.set()
    thread.join()
    assert seen == {"before": False, "inside": True, "after": False}


def test_it_decorates_functions_and_methods():
    class Model(torch.nn.Module):
        @accelerate()
        def forward(self, A: Tensor) -> Tensor:
            """Its text."""
            return det(A)

        @staticmethod
        @accelerate(enable=False)
        def plain(A: Tensor) -> Tensor:
            return det(A)

    model = Model()
    assert serves(model) and not serves(model.plain)
    with accelerate():
        assert not serves(model.plain)
    assert Model.forward.__name__ == "forward" and Model.forward.__doc__ == "Its text."


def test_a_generator_runs_inside_and_its_caller_does_not():
    closed = []

    @accelerate()
    def steps(first: bool) -> Iterator[object]:
        try:
            got = yield serves()
            try:
                yield got, serves()
            except KeyError:
                yield serves()
            return 3
        finally:
            closed.append(serves())

    def outer() -> Iterator[object]:
        return (yield from steps(True))

    run = outer()
    assert next(run) is True and not serves()
    assert run.send(5) == (5, True) and not serves()
    assert run.throw(KeyError) is True and not serves()
    with pytest.raises(StopIteration) as end:
        next(run)
    assert end.value.value == 3
    run = steps(False)
    next(run)
    run.close()
    assert closed == [True, True] and not serves()


def test_a_coroutine_runs_inside_and_others_do_not():
    @accelerate()
    async def inside() -> list[bool]:
        seen = [serves()]
        await asyncio.sleep(0)
        return [*seen, serves()]

    async def outside() -> list[bool]:
        seen = []
        for _ in range(4):
            seen.append(serves())
            await asyncio.sleep(0)
        return seen

    async def both() -> Any:
        return await asyncio.gather(inside(), outside(), inside())

    one, other, three = asyncio.run(both())
    assert one == three == [True, True]
    assert not any(other)


def test_what_cannot_be_decorated_is_refused():
    async def numbers() -> Any:
        yield 1

    for wrong in (numbers, torch.nn.Module, 3):
        with pytest.raises(TypeError, match=r"accelerate: expected a function.*; decorate"):
            accelerate()(wrong)
    with pytest.raises(TypeError):
        accelerate(det)  # without parentheses


# ---- a torch without its private names


def test_without_private_names_of_torch_it_serves_too():
    code = """
import torch
from torchdet import accelerate
def f(A): return torch.linalg.det(A)
def gradient(A): return torch.autograd.grad(f(A), A)[0].tolist()
A = torch.tensor([[1.0, 2.0], [2.0, 4.0]], requires_grad=True)
with accelerate():
    assert gradient(A) == [[4.0, -2.0], [-2.0, 1.0]]
    with accelerate(enable=False):
        assert "Linalg" in f(A).grad_fn.__class__.__name__
    assert "Linalg" not in f(A).grad_fn.__class__.__name__
"""
    paths = os.pathsep.join([str(HIDDEN), support.ENVIRONMENT["PYTHONPATH"]])
    done = support.python("-c", code, env={**support.ENVIRONMENT, "PYTHONPATH": paths})
    assert done.returncode == 0, done.stderr


def test_another_call_costs_one_call_of_python():
    x = torch.randn(3)
    with accelerate():
        assert support.calls_of_python(torch.relu, x) == ["__torch_function__"]
