"""Programs: sequences of steps on one pool of values, and the strategy that draws them.

All matrices of a program have one shape. A value is a matrix that determinants may be taken of
(kind "A": it stays well conditioned, or it is exactly singular where the program says so), any
other matrix ("M": gradients), or numbers ("y"; "sign" those that slogdet has of complex matrices).
A step names values by positions, taken modulo the number of values that it could use: so every list
of steps is a program.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import hypothesis.strategies as st

from . import composed
from .transforms import CHAINED

ORDERS = (1, 2, 3, 4, 5, 8, 11, 12, 13, 14, 15, 16, 16, 17, 17, 20, 24, 32, 33, 40, 65, 70)
SINGULAR_ORDERS = (1, 2, 3, 5, 7, 11, 12)
LARGEST_COMPOSED = 4  # of Laplacians, whose references are power series
UNDER = (
    "none",
    "none",
    "none",
    "no_grad",
    "checkpoint",
    "checkpoint_reentrant",
    "save_on_cpu",
    "pack_clone",
    "vmap",
)
NUMBERS = ("det", "slogdet", "logdet", "det_frexp", "logsum")
HOOKS = ("scale", "record", "raise_once", "inner_grad")
INPLACE = ("mul", "neg", "add", "entry", "zero")

_place = st.integers(0, 7)
_seed = st.integers(0, 20)
_flag = st.booleans()
_retain = st.sampled_from((None, True, False))


def _affordable(step: dict[str, Any]) -> dict[str, Any]:
    # A Jacobian of a Jacobian takes fourth derivatives of Laplacians, which are in plain PyTorch,
    # along the square of the number of entries.
    chain = step["chain"]
    if step["function"].startswith("laplacian"):
        first = next((i for i, name in enumerate(chain) if name.startswith("jac")), len(chain))
        chain = [x for i, x in enumerate(chain) if i <= first or not x.startswith("jac")]
    return {**step, "chain": chain}


def _step(name: str, **fields: st.SearchStrategy) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({"do": st.just(name), **fields})


@cache
def _steps(n: int, functions: tuple[str, ...], is_complex: bool) -> st.SearchStrategy:
    function = st.sampled_from(functions)
    chained = [c for c in CHAINED if c != "jacfwd" or (n <= 5 and not is_complex)]
    depth = 3 if n <= 5 else 2 if n <= 17 else 1
    grad = _step(
        "grad",
        of=_place,
        wrt=_place,
        create_graph=_flag,
        retain=_retain,
        batched=st.sampled_from((0, 0, 0, 2)),
        seed=_seed,
    )
    apply = _step("apply", function=function, of=_place, under=st.sampled_from(UNDER))
    backward = _step(
        "backward",
        of=_place,
        create_graph=st.sampled_from((False, False, True)),
        retain=_retain,
        inputs=st.one_of(st.none(), _place),
        seed=_seed,
    )
    inplace = _step(
        "inplace",
        on=_place,
        how=st.sampled_from(INPLACE),
        guard=st.sampled_from(("no_grad", "detach", "plain")),
    )
    jacobian = _step(
        "jacobian",
        of=_place,
        function=st.sampled_from([f for f in functions if f in NUMBERS or n <= 3]),
        create_graph=_flag,
        vectorize=_flag,
        hessian=_flag if n <= 3 else st.just(False),
        strategy=st.sampled_from(("reverse-mode", "forward-mode")[: 2 if n <= 4 else 1]),
        seed=_seed,
    )
    return st.one_of(
        apply,
        apply,
        grad,
        grad,
        grad,
        backward,
        inplace,
        _step("leaf", seed=_seed, requires_grad=st.sampled_from((True, True, False))),
        _step("scale", of=_place, by=st.sampled_from((0.9, -1.1))),
        _step("transpose", of=_place),
        _step("nudge", of=_place, by=_place),
        _step("dot", of=_place, by=_place),
        _step("times", of=_place, by=_place),
        _step("take_grad", of=_place),
        _step("hook", on=_place, action=st.sampled_from(HOOKS), of=_place, wrt=_place),
        _step("node_hook", on=_place, action=st.sampled_from(HOOKS[1:]), of=_place, wrt=_place),
        _step(
            "func",
            of=_place,
            function=function,
            chain=st.lists(st.sampled_from(chained), min_size=1, max_size=depth),
            seed=_seed,
        ).map(_affordable),
        _step("vjp", of=_place, function=function, late=_flag, seed=_seed),
        _step("pull", of=_place),
        _step("dual", of=_place, function=function, seed=_seed),
        *([jacobian] if n <= 24 else []),
        _step("threads", of=_place, wrt=_place, count=st.integers(2, 4)),
    )


@st.composite
def programs(draw: st.DrawFn) -> dict[str, Any]:
    """A program as JSON."""
    singular = draw(st.integers(0, 4)) == 4
    n = draw(st.sampled_from(SINGULAR_ORDERS if singular else ORDERS))
    dtype = draw(st.sampled_from(("float64", "float64", "complex128", "float32", "complex64")))
    if singular:
        functions: tuple[str, ...] = ("det", "det", "cofactor", "adjugate")[: 4 if n <= 6 else 1]
    else:
        functions = ("slogdet", "det", "slogdet", "det", "logdet", "cofactor", "adjugate")
    if n <= LARGEST_COMPOSED:
        functions += composed.NAMES
    elif not singular:
        functions += ("det_frexp", "logsum")
    batch = draw(st.sampled_from(([], [2], [3], [2, 2]) if n <= 8 else ([], [2])))
    steps = draw(
        st.lists(_steps(n, functions, dtype.startswith("complex")), min_size=2, max_size=12)
    )
    start = [
        {"do": "leaf", "seed": draw(_seed), "requires_grad": True},
        {"do": "apply", "function": draw(st.sampled_from(functions)), "of": 0, "under": "none"},
    ]
    return {
        "kind": "program",
        "n": n,
        "batch": batch,
        "dtype": dtype,
        "singular": singular,
        "steps": start + steps,
    }
