"""Runs one call, and says whether it, and its answer, is as it must be.

A call ends in an error with a text, or in a right answer. It leaves its arguments and the memory
around them alone. Its bits depend on the values of the one matrix: not on strides, not on the
place in the batch, not on the neighbours.
"""

from __future__ import annotations

import math
import sys
from typing import Any

import torch
from torch import Tensor

import torchdet

from . import judge, tensors
from .calls import EXPONENTS, FACTOR, INVERSE, KEEPERS, PUBLIC, SPECIAL, STACKED, registered
from .judge import Wrong
from .tensors import Built, Spec

ERRORS = (RuntimeError, TypeError, ValueError)  # NotImplementedError is a RuntimeError
# Operators that take illegal arguments for an error, and legal ones for a right answer.
STRICT = {
    *("det", "slogdet", "cofactor", "det_backward", "slogdet_backward", "det_hvp"),
    *("slogdet_hvp", "_slogdet_hvp_kept", "_slogdet_hvp_scaled", INVERSE[0]),
    *("_det_frexp_backward", "_det_frexp_hvp"),
    *("det_frexp", "_det_frexp_backward_jvp", "_det_frexp_jet", "_det_relative"),
    "_det_freedom",
}
# Written in PyTorch: bits may depend on strides and place.
WITHOUT_BITS = {name.removeprefix("ops.") for name in STACKED}
# Many right-hand sides are left to torch's triangular solver.
WITH_SOLVER = {"_solve_factored", "_solve_adjoint_factored"}
COMPILED = "torchdet._C" in sys.modules


def run(case: dict[str, Any]) -> None:
    """Run a call; Wrong where the call, or its answer, is not as it must be."""
    target = case["target"]
    op = target.removeprefix("ops.")
    if op != target and op not in registered():
        return  # a stored call of an operator that is no more
    writes = _written(op) if target not in PUBLIC else set()
    try:
        built = _build(case, writes)
    except tensors.TooLarge:
        return
    arguments = {key: x.tensor if isinstance(x, Built) else x for key, x in built.items()}
    A = arguments["A"]
    if case.get("requires_grad") and isinstance(A, Tensor) and _can_require(A):
        A.requires_grad_()
    function = getattr(torchdet, op) if target in PUBLIC else getattr(torch.ops.torchdet, op)
    if case.get("out") and isinstance(A, Tensor) and A.is_cpu:
        if A.numel() or A.dim() < 30:  # torch makes no larger empty tensor for out
            _run_out(function, op, A, case["out"])
        return
    legal = _legal(op, arguments)
    try:
        results = _call(function, target, arguments)
    except Exception as error:
        judge_error(error)
        must = target in PUBLIC or op in STRICT or op in KEEPERS
        if legal and must and _fits(A):
            raise Wrong(f"refused: {type(error).__name__}: {error}") from error
        results = None
    for key, x in built.items():
        if isinstance(x, Built) and x.spoiled(key in writes):
            raise Wrong(f"wrote {'outside' if key in writes else 'over'} its argument {key}")
    if results is None:
        return
    if not legal:
        if target in PUBLIC or op in STRICT:
            raise Wrong("accepted: expected an error, got a result")
        return
    if A.is_meta or writes:
        return
    _judge_results(op, arguments, results, case)
    if COMPILED and op not in WITHOUT_BITS | WITH_SOLVER and A.numel():
        _judge_bits(function, target, arguments, results)


def _fits(A: Tensor) -> bool:
    # Whether a contiguous tensor of this shape has strides within int64; an empty one may not.
    return math.prod(max(size, 1) for size in A.shape) < 1 << 62


def _can_require(A: Tensor) -> bool:
    return (A.is_floating_point() or A.is_complex()) and A.layout == torch.strided


def _build(case: dict[str, Any], writes: set[str]) -> dict[str, Any]:
    built: dict[str, Any] = {}
    for key, spec in sorted(case["args"].items()):  # A comes first
        if not isinstance(spec, dict):
            built[key] = spec
        elif "special" in spec:
            built[key] = SPECIAL[spec["special"]]()
        elif "forward" in spec:
            built[key] = _forward(built["A"], spec)
        else:
            shape = [_count(case) if s == "count" else s for s in spec["shape"]]
            built[key] = tensors.build({**spec, "shape": shape}, key in writes)
    return built


def _forward(A: Any, spec: Spec) -> Any:
    # What a forward pass keeps; another tensor where it does not take A.
    try:
        return getattr(torch.ops.torchdet, spec["forward"])(A.tensor)[spec["result"]]
    except (*ERRORS, AttributeError):
        return torch.zeros(1)


def _count(case: dict[str, Any]) -> int:
    # How many integers a forward pass keeps of a matrix.
    spec = case["args"]["A"]
    if not isinstance(spec, dict) or not spec.get("shape"):
        return 1
    try:
        eye = torch.eye(spec["shape"][-1], dtype=getattr(torch, spec["dtype"]))
        forward = FACTOR if "factors" in case["args"] else KEEPERS[0]
        return getattr(torch.ops.torchdet, forward)(eye)[-1].numel()
    except (*ERRORS, AttributeError):
        return 1


def _written(op: str) -> set[str]:
    arguments = getattr(torch.ops.torchdet, op).default._schema.arguments
    return {a.name for a in arguments if a.alias_info is not None and a.alias_info.is_write}


def _call(function: Any, target: str, arguments: dict[str, Any]) -> tuple[Any, ...]:
    if target in PUBLIC:
        results = function(arguments["A"])
    else:
        results = function(**arguments)
    return tuple(results) if isinstance(results, (tuple, list)) else (results,)


def judge_error(error: Exception) -> None:
    text = str(error)
    if not isinstance(error, ERRORS) or not text.strip() or "INTERNAL ASSERT" in text:
        raise Wrong(f"raised {type(error).__name__}: {text or '(no text)'}") from error


def _dtype_name(x: Tensor) -> str:
    return str(x.dtype).removeprefix("torch.")


def is_matrices(A: Any) -> bool:
    return (
        isinstance(A, Tensor)
        and A.layout == torch.strided
        and _dtype_name(A) in tensors.LEGAL
        and A.dim() >= 2
        and A.shape[-1] == A.shape[-2]
    )


def _legal(op: str, arguments: dict[str, Any]) -> bool:
    A = arguments["A"]
    if not is_matrices(A):
        return False
    batch = A.shape[:-2]
    for name, x in arguments.items():
        if name == "A" or isinstance(x, bool):
            continue
        if not isinstance(x, Tensor) or x.layout != torch.strided or x.device != A.device:
            return False
        if name == "integers":
            continue
        if name in EXPONENTS:
            wide = A.dtype in (torch.float64, torch.complex128)
            if x.shape != batch or x.dtype != (torch.float64 if wide else torch.float32):
                return False
            continue
        expected = batch if name in ("grad", "grad_tangent", "mantissa") else A.shape
        if op in WITHOUT_BITS or name == "J":
            if x.dim() != A.dim() + 1:
                return False
            expected = (*batch, *x.shape[-3:-2], *A.shape[-2:])
        if x.shape != expected or x.dtype != A.dtype:
            return False
    return True


# ---- answers


def _flat(x: Tensor, dims: int) -> Tensor:
    # One batch dimension in front of the last `dims`; also where there are more than 64.
    tail = x.shape[x.dim() - dims :]
    if x.numel() == 0:  # a contiguous copy may have strides beyond int64
        return x.new_empty(min(math.prod(x.shape[: x.dim() - dims]), 1 << 20), *tail)
    return (
        x.detach()
        .resolve_conj()
        .resolve_neg()
        .clone(memory_format=torch.contiguous_format)
        .view(math.prod(x.shape[: x.dim() - dims]), *tail)
    )


def _judge_results(
    op: str, arguments: dict[str, Any], results: tuple[Tensor, ...], case: dict[str, Any]
) -> None:
    A = arguments["A"]
    if op == "_det_freedom":
        _judge_freedom(A, arguments["mantissa"], *results)
        return
    batch, n = A.shape[:-2], A.shape[-1]
    of_numbers = op in ("det", "slogdet", "logdet", "det_frexp", "_det_relative", FACTOR, *KEEPERS)
    main = results[: 2 if ("slogdet" in op and of_numbers) or op == "det_frexp" else 1]
    if op in INVERSE:
        main = results
    if op == "_det_frexp_jet":
        main, of_numbers, batch = results, True, arguments["J"].shape[:-2]
    for x in main:
        expected = batch if of_numbers else A.shape
        if x.shape != expected:
            raise Wrong(f"expected shape {tuple(expected)}, got {tuple(x.shape)}")
    kinds = [A.dtype, torch.zeros((), dtype=A.dtype).real.dtype]
    if op == "det_frexp" and kinds[1].itemsize == 2:
        kinds[1] = torch.float32  # a half type holds no large exponent
    if op in ("_det_frexp_jet", *INVERSE):
        kinds[1] = A.dtype
    elif case["target"] == "det_frexp":
        kinds[1] = torch.int32  # the operator has exponents that autograd takes
    for x, dtype in zip(main, kinds, strict=False):
        if x.dtype != dtype:
            raise Wrong(f"expected dtype {dtype}, got {x.dtype}")
    if op == "_det_frexp_jet" or (A.numel() == 0 and n > 0):
        return
    matrices = _flat(A, 2)
    flat = [_flat(x, 0 if of_numbers else 2) for x in main]
    others = {k: x for k, x in arguments.items() if k in ("grad", "Z", "B")}
    extra = {
        k: _flat(x, 0 if k == "grad" else 3 if op in WITHOUT_BITS else 2) for k, x in others.items()
    }
    for i in _chosen(len(matrices), n):
        one = {k: x[i] for k, x in extra.items()}
        _judge_one(op, matrices[i], [x[i] for x in flat], one, case)


def _judge_freedom(A: Tensor, mantissa: Tensor, freedom: Tensor) -> None:
    wide = A.dtype in (torch.float64, torch.complex128)
    if freedom.shape != mantissa.shape or freedom.dtype != (torch.float64, torch.float32)[not wide]:
        raise Wrong(f"got shape {tuple(freedom.shape)} and {freedom.dtype}")
    is_zero = _flat(mantissa, 0) == 0
    inert = (_flat(A, 2) == 0).flatten(-2).all(-1) & (A.shape[-1] > 2)
    if not torch.equal(_flat(freedom, 0), (is_zero.int() + (is_zero & inert)).to(freedom.dtype)):
        raise Wrong(f"got {judge.shown(freedom)} for mantissas {judge.shown(mantissa)}")


def _chosen(count: int, n: int) -> list[int]:
    some = {0, count - 1, count // 2} if n <= 20 else {count - 1}
    return sorted(i for i in some if 0 <= i < count)


def _judge_one(
    op: str, A: Tensor, results: list[Tensor], other: dict[str, Tensor], case: dict[str, Any]
) -> None:
    finite = bool(A.isfinite().all())
    if op in ("_slogdet_hvp_kept", "_slogdet_hvp_scaled") or "exponent" in case["args"]:
        return  # what was given, carried on; judged as slogdet_hvp and det_frexp
    if "factors" in case["args"] and not all(
        "forward" in case["args"][key] for key in ("factors", "integers")
    ):
        return  # numbers that no factorisation has left: any answer
    if not finite:
        partner = all(bool(x.isfinite().all()) and bool((x != 0).any()) for x in other.values())
        numbers = results[:1] if op == "det_frexp" else results  # the exponent is 0
        if partner and not all(bool(x.isnan().all()) for x in numbers):
            raise Wrong(f"expected NaN of a matrix with NaN or inf, got {results}"[:400])
        return
    if "kept" in case["args"] and "forward" not in case["args"]["kept"]:
        return  # numbers that no forward pass has written: any answer
    if "kept" in case["args"]:
        forward = case["args"]["kept"]["forward"]
        if ("slogdet" in forward) != ("slogdet" in op) or "forward" not in case["args"]["integers"]:
            return
    name = op.removeprefix("_").removesuffix("_keep").removesuffix("_kept")
    name = name.removesuffix("_factored").removesuffix("_factor")
    if name == "adjugate":
        judge.cofactor(A, results[0].mT)
    else:
        getattr(judge, name)(A, *results, *other.values())


# ---- bits


def same_bits(x: Tensor, y: Tensor) -> bool:
    if x.shape != y.shape or x.dtype != y.dtype:
        return False
    resolved = [z.resolve_conj() for z in (x, y)]
    parts = [torch.view_as_real(z) if z.is_complex() else z for z in resolved]
    nan = parts[0].isnan()
    if not torch.equal(nan, parts[1].isnan()):
        return False
    return torch.equal(*(tensors._bits(z.masked_fill(nan, 0)) for z in parts))


def _judge_bits(
    function: Any, target: str, arguments: dict[str, Any], results: tuple[Tensor, ...]
) -> None:
    A = arguments["A"]
    dims = A.dim() - 2
    if dims > 60:
        return

    def inner_dims(key: str) -> int:
        return arguments[key].dim() - dims

    def same(x: Any, key: str, i: int | None) -> Any:
        if not isinstance(x, Tensor):
            return x
        flat = _flat(x, inner_dims(key))
        out = flat.view(x.shape) if i is None else flat[i].clone()
        return out.requires_grad_(x.requires_grad)

    count = math.prod(A.shape[:-2])
    for i in (None, *_chosen(count, 21)):
        again = _call(function, target, {k: same(x, k, i) for k, x in arguments.items()})
        for x, y in zip(results, again, strict=True):
            x_ = _flat(x, x.dim() - dims)
            expected = x_.view(x.shape) if i is None else x_[i]
            if not same_bits(expected, y.detach().resolve_conj().contiguous()):
                what = "a contiguous copy" if i is None else f"matrix {i} alone"
                raise Wrong(f"bits differ for {what}: {judge.shown(expected)}, {judge.shown(y)}")


# ---- out=


def _out(how: str, x: Tensor, A: Tensor) -> Any:
    if how == "number":
        return 1.0
    if how == "alias":
        place = A.detach().real if A.is_complex() and not x.is_complex() else A.detach()
        return place[..., 0, 0] if A.shape[-1] else torch.empty_like(x)
    if how == "dtype":
        return torch.ones(
            x.shape, dtype=torch.float64 if x.dtype != torch.float64 else torch.float32
        )
    if how == "size":
        return torch.ones((*x.shape, 2), dtype=x.dtype)
    if how == "expanded":
        return torch.ones((), dtype=x.dtype).expand(x.shape)
    if how == "empty":
        return torch.empty(0, dtype=x.dtype)
    if how == "strided":
        return torch.ones((*x.shape, 3), dtype=x.dtype)[..., 1]
    return torch.ones(x.shape, dtype=x.dtype)


def _run_out(function: Any, op: str, A: Tensor, hows: list[str]) -> None:
    try:
        plain = function(A.detach().clone())
    except ERRORS as error:
        judge_error(error)
        return
    expected = (plain,) if isinstance(plain, Tensor) else tuple(plain)
    if math.prod(max(size, 1) for size in expected[0].shape) >= 2**62:
        return  # torch makes no empty tensor whose strides overflow
    outs = [_out(how, x, A) for how, x in zip(hows, expected, strict=True)]
    before = [x.clone() if isinstance(x, Tensor) else x for x in outs]
    good = {"right", "strided"}
    if all(x.numel() > 1 for x in expected):
        bad = {"dtype", "size", "number", "expanded"}
    else:
        bad = {"dtype", "number"}
    try:
        got = function(A, out=outs[0] if len(outs) == 1 else tuple(outs))
    except Exception as error:
        judge_error(error)
        if set(hows) <= good and not A.requires_grad:
            raise Wrong(f"refused out: {type(error).__name__}: {error}") from error
        for x, y in zip(outs, before, strict=True):
            if isinstance(x, Tensor) and not (x.shape == y.shape and same_bits(x, y)):
                raise Wrong("raised, but has written to out") from error
        return
    if set(hows) & bad:
        raise Wrong(f"accepted out {hows}")
    if hows.count("alias") > 1:
        return
    for x, y, z in zip(got if len(outs) > 1 else (got,), outs, expected, strict=True):
        plain = x.resolve_conj().resolve_neg().contiguous()
        if x is not y or not (x.shape == z.shape and same_bits(plain, z)):
            raise Wrong(f"out is {judge.shown(x)}, expected {judge.shown(z)}")
