"""Steps of a program that are made of torch.func, forward mode and torch.autograd.functional.

A chain of transforms is a list of names, the outermost first. Each makes one real number of a
matrix from such a function, so that any chain can be built.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import forward_ad

Scalar = Callable[[Tensor], Tensor]
CHAINED = ("grad", "jvp", "vjp", "vmap", "jacrev", "jacfwd")


@cache
def _seeded(seed: int, shape: tuple[int, ...], is_complex: bool) -> np.ndarray:
    # No Tensor: one that is made under a transform belongs to its level, and dies with it.
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(shape)
    if is_complex:
        x = x + 1j * rng.standard_normal(shape)
    return np.asarray(x / math.sqrt(max(x.size, 1)))


def seeded(seed: int, shape: Any, dtype: torch.dtype, narrow: torch.dtype) -> Tensor:
    """Random numbers of norm about 1, the same in every machine: those that `narrow` holds."""
    if dtype.is_complex != narrow.is_complex:
        narrow = narrow.to_real() if narrow.is_complex else narrow.to_complex()
    numbers = _seeded(seed, tuple(shape), dtype.is_complex)
    return torch.from_numpy(numbers.copy()).to(narrow).to(dtype)


def scalar(function: Callable[[Tensor], Any], seed: int, narrow: torch.dtype) -> Scalar:
    """A real number made of what a function gives for a matrix or a batch of them."""

    def f(a: Tensor) -> Tensor:
        out = function(a)
        parts = out if isinstance(out, tuple) else (out,)
        terms = [
            (x * seeded(seed + i, x.shape, x.dtype, narrow)).sum() for i, x in enumerate(parts)
        ]
        return sum(t.real if t.is_complex() else t for t in terms)  # type: ignore[return-value]

    return f


def chain(names: list[str], f: Scalar, seed: int, narrow: torch.dtype) -> Scalar:
    """The nested transforms of f."""
    for k, name in enumerate(reversed(names)):
        f = _transformed(name, f, seed + 7 * k, narrow)
    return f


def _transformed(name: str, f: Scalar, seed: int, narrow: torch.dtype) -> Scalar:
    def direction(a: Tensor) -> Tensor:
        return seeded(seed, a.shape, a.dtype, narrow)

    def contracted(a: Tensor, x: Tensor) -> Tensor:
        y = (x * direction(a)).sum()
        return y.real if y.is_complex() else y

    def vmapped(a: Tensor) -> Tensor:
        return torch.vmap(f)(a).sum() if a.dim() > 2 else f(a)

    rules: dict[str, Scalar] = {
        "grad": lambda a: contracted(a, torch.func.grad(f)(a)),
        "jvp": lambda a: torch.func.jvp(f, (a,), (direction(a),))[1],
        "vjp": lambda a: contracted(a, _pull(f, a)),
        "vmap": vmapped,
        "jacrev": lambda a: contracted(a, torch.func.jacrev(f)(a)),
        "jacfwd": lambda a: contracted(a, torch.func.jacfwd(f)(a)),
    }
    return rules[name]


def _pull(f: Scalar, a: Tensor) -> Tensor:
    value, pull = torch.func.vjp(f, a)
    return pull(torch.ones_like(value))[0]


def dual(
    function: Callable[[Tensor], Any], A: Tensor, seed: int, narrow: torch.dtype
) -> list[Tensor]:
    """Values and tangents of a function by plain forward mode."""
    results = []
    with forward_ad.dual_level():
        out = function(forward_ad.make_dual(A, seeded(seed, A.shape, A.dtype, narrow)))
        for x in out if isinstance(out, tuple) else (out,):
            value, tangent = forward_ad.unpack_dual(x)
            results.append(value)
            if tangent is not None and (
                x.is_complex() or not isinstance(out, tuple) or x is out[1]
            ):
                results.append(tangent)
    return results


def pulling(
    function: Callable[[Tensor], Any], A: Tensor, seed: int, narrow: torch.dtype
) -> tuple[Tensor, Callable[[], Tensor]]:
    """torch.func.vjp: the value, still part of the graph around it, and what gives the gradient."""
    value, pull = torch.func.vjp(scalar(function, seed, narrow), A)
    return value, lambda: pull(torch.ones_like(value))[0]


def jacobian(
    function: Callable[[Tensor], Any], A: Tensor, step: dict[str, Any], narrow: torch.dtype
) -> list[Tensor]:
    """torch.autograd.functional.jacobian or hessian, contracted to a number."""
    options = {"create_graph": step["create_graph"], "vectorize": step["vectorize"]}
    if step["hessian"]:
        J = torch.autograd.functional.hessian(scalar(function, 1, narrow), A, **options)
    else:

        def last(a: Tensor) -> Tensor:
            out = function(a)
            return out[-1] if isinstance(out, tuple) else out

        strategy = step.get("strategy", "reverse-mode")
        if strategy == "forward-mode":
            options = {"create_graph": False, "vectorize": True}
        J = torch.autograd.functional.jacobian(last, A, strategy=strategy, **options)
    return [(J * seeded(step["seed"], J.shape, J.dtype, narrow)).sum()]
