"""Sums of products of determinants: the strategy that draws calls, and what runs them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import hypothesis.strategies as st
import torch
from torch import Tensor

import torchdet

from . import answers, calls, judge, tensors
from .judge import Wrong
from .sum_judge import LISTS, OPS, Answer
from .tensors import Built, Spec

ORDERS = (2, 3, 4, 1, 2, 3, 4, 0, 5, 6, 8, 12, 16, 33)
OF_MATRICES = ("mixed", "normal", "integers", "mixed", "graded", "triangular", "equal_rows")
OF_DERIVATIVES = ("normal", "integers", "ones", "zeros")


# ---- the strategy


def _sizes(dtype: str) -> tuple[float, ...]:
    wide = dtype in ("float64", "complex128")
    reach = 500 if wide else 4 if dtype == "float16" else 50
    return (1, 1, 1, 3, 2.0**-4, 2.0**reach, 2.0**-reach)


@st.composite
def _spec(draw: st.DrawFn, shape: list[int], dtype: str, contents: tuple[str, ...]) -> Spec:
    spec = draw(tensors.specs(shape, dtype))
    if draw(st.integers(0, 9)) < 9:  # a sum of several matrices would seldom be finite
        spec.pop("plants", None)
    return {**spec, "content": draw(st.sampled_from(contents))}


@st.composite
def sums(draw: st.DrawFn) -> dict[str, Any]:
    """A call as JSON. Everything that belongs to one matrix has one scale."""
    target = draw(st.sampled_from(OPS[::-1]))
    dtype = draw(st.sampled_from(("float64", "float32", *tensors.LEGAL)))
    K = draw(st.sampled_from((2, 3, 1, 4, 2, 3, 0)))
    batch = draw(st.sampled_from(([], [2], [], [3], [2, 2], [], [2], [0])))
    rows = target == OPS[1] and draw(st.booleans())
    d = draw(st.sampled_from((2, 1, 3, 2, 1, 3, 0)))
    case: dict[str, Any] = {"kind": "sum", "target": target, "rows": rows}
    case |= {name: [] for name in LISTS if name == "matrices" or target == OPS[1]}
    for _ in range(draw(st.sampled_from((2, 1, 2, 3)))):
        n = draw(st.sampled_from(ORDERS))
        kept = draw(st.integers(0, len(batch))) if draw(st.integers(0, 4)) == 4 else 0
        outer = [*batch[kept:], K]  # broadcast where something has gone
        size = draw(st.sampled_from(_sizes(dtype)))
        shapes = {"matrices": [n, n], "jacobians": [d, n, n], "laplacians": [n, n]}
        if rows:
            shapes["jacobians"] = [n, d, n]
        for name in (x for x in LISTS if x in case):
            contents = OF_MATRICES if name == "matrices" else OF_DERIVATIVES
            spec = draw(_spec([*outer, *shapes[name]], dtype, contents))
            case[name].append({**spec, "size": size})
    case["weights"] = draw(st.one_of(_weights(batch, K, dtype), st.none()))
    if draw(st.integers(0, 7)) == 7:
        _break(draw, case)
    return case


def _break(draw: st.DrawFn, case: dict[str, Any]) -> None:
    """One argument of a wrong dtype, shape, layout or type, or a list of a wrong length."""
    name = draw(st.sampled_from([key for key in (*LISTS, "weights") if case.get(key)]))
    if name == "weights":
        case[name] = draw(calls.broken(case[name]))
    elif case["target"] == OPS[1] and draw(st.integers(0, 4)) == 4:
        case[name] = draw(st.sampled_from((case[name][0], [], [*case[name], case[name][0]])))
    else:
        place = draw(st.integers(0, len(case[name]) - 1))
        case[name][place] = draw(calls.broken(case[name][place]))


@st.composite
def _weights(draw: st.DrawFn, batch: list[int], K: int, dtype: str) -> dict[str, Any]:
    shape = draw(st.sampled_from(([K], [*batch, K], [K, 2], [1, K], [K, 0])))
    real = {"complex64": "float32", "complex128": "float64"}.get(dtype, dtype)
    spec = draw(_spec(shape, draw(st.sampled_from((dtype, real))), OF_DERIVATIVES))
    return {**spec, "size": draw(st.sampled_from((1, 3, 2.0**-10, 2.0**8)))}


# ---- whether a call is legal


def _legal(built: dict[str, Any], rows: bool) -> bool:
    lists = [built[name] for name in LISTS if name in built]
    if not all(isinstance(Xs, list) and Xs and len(Xs) == len(lists[0]) for Xs in lists):
        return False
    everything = [X for Xs in lists for X in Xs]
    if built["weights"] is not None:
        everything.append(built["weights"])
    if not all(isinstance(X, Tensor) and X.layout == torch.strided for X in everything):
        return False
    first = lists[0][0]
    if any(X.device != first.device for X in everything):
        return False
    if not all(answers.is_matrices(A) and A.dim() >= 3 for A in lists[0]):
        return False
    if any(X.dtype != first.dtype for Xs in lists for X in Xs):
        return False
    try:
        shape = torch.broadcast_shapes(*(A.shape[:-2] for A in lists[0]))
    except RuntimeError:
        return False
    if len(lists) == 3:
        at = -2 if rows else -3
        for A, J, L in zip(*lists, strict=True):
            if J.dim() != A.dim() + 1 or L.shape != A.shape:
                return False
            sizes = list(J.shape)
            del sizes[at]
            if sizes != list(A.shape) or J.shape[at] != lists[1][0].shape[at]:
                return False
    return built["weights"] is None or _legal_weights(built["weights"], first, shape)


def _legal_weights(w: Tensor, A: Tensor, shape: torch.Size) -> bool:
    if w.dtype not in (A.dtype, torch.zeros((), dtype=A.dtype).real.dtype) or w.dim() < 1:
        return False
    as_columns = w.dim() == 2 and w.shape[0] == shape[-1]
    try:
        fits = torch.broadcast_shapes(w.shape, shape) == shape
    except RuntimeError:
        fits = False
    return as_columns != (fits and w.shape[-1] == shape[-1])


# ---- the call


def run(case: dict[str, Any]) -> None:
    """Run a call; Wrong where the call, or its answer, is not as it must be."""
    try:
        made = {name: _built(case[name]) for name in (*LISTS, "weights") if name in case}
    except tensors.TooLarge:
        return
    built = {name: _tensors(x) for name, x in made.items()}
    legal = _legal(built, case["rows"])
    try:
        results = _call(case, built)
    except Exception as error:
        answers.judge_error(error)
        if legal:
            raise Wrong(f"refused: {type(error).__name__}: {error}") from error
        results = None
    for x in _flat(made):
        if isinstance(x, Built) and x.spoiled(False):
            raise Wrong("wrote over an argument")
    if results is None:
        return
    if not legal:
        raise Wrong("accepted: expected an error, got a result")
    if built["matrices"][0].is_meta:
        return
    Answer(case, built, results).judge()
    # torch's products of complex numbers are fused or not by their strides, and so are its sums.
    if case["target"] == OPS[0] and answers.COMPILED and not results[0].is_complex():
        _judge_bits(case, built, results)


def _built(spec: Any) -> Any:
    if isinstance(spec, list):
        return [_built(x) for x in spec]
    if isinstance(spec, dict) and "special" in spec:
        return calls.SPECIAL[spec["special"]]()
    return tensors.build(spec) if isinstance(spec, dict) else spec


def _tensors(x: Any) -> Any:
    if isinstance(x, list):
        return [_tensors(y) for y in x]
    return x.tensor if isinstance(x, Built) else x


def _flat(made: dict[str, Any]) -> Iterator[Any]:
    for x in made.values():
        yield from x if isinstance(x, list) else [x]


def _call(case: dict[str, Any], built: dict[str, Any]) -> tuple[Tensor, ...]:
    if case["target"] == OPS[0]:
        return tuple(torchdet.slogsumdet(*built["matrices"], weights=built["weights"]))
    lists = [built[name] for name in LISTS]
    return tuple(torchdet.slogsumdet_laplacian(*lists, built["weights"], rows=case["rows"]))


def _judge_bits(case: dict[str, Any], built: dict[str, Any], results: tuple[Tensor, ...]) -> None:
    """A contiguous copy of everything has the same bits."""

    def copy(x: Any) -> Any:
        return x.contiguous().clone() if isinstance(x, Tensor) else x

    plain = {
        name: [copy(X) for X in x] if isinstance(x, list) else copy(x) for name, x in built.items()
    }
    for x, y in zip(results, _call(case, plain), strict=True):
        if not answers.same_bits(x, y):
            raise Wrong(f"bits differ for a contiguous copy: {judge.shown(x)}")
