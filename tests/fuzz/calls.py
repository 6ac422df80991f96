"""Single calls: of the public functions, and of every operator that is registered."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import torch

import torchdet  # noqa: F401  (registers the operators)

from . import tensors

EXPONENTS = ("exponent", "share")  # arguments with a whole number for each matrix

PUBLIC = ("det", "slogdet", "logdet", "cofactor", "adjugate", "det_frexp")
KEEPERS = ("_det_keep", "_slogdet_keep")
FACTOR = "_slogdet_factor"
INVERSE = ("_slogdet_backward_inverse", "_slogdet_backward_inverse_kept")
# In plain PyTorch, with directions stacked in Z.
STACKED = ("ops._cofactor_derivative", "ops._inverse_derivative")


def registered() -> dict[str, Any]:
    """The schemas of torch.ops.torchdet.*, private ones included, as they are now.

    Of those that take matrices: sums of numbers have their own tests (tests/test_logsum.py).
    """
    names = sorted(
        name.removeprefix("torchdet::")
        for name in torch._C._dispatch_get_all_op_names()
        if name.startswith("torchdet::")
    )
    schemas = {name: getattr(torch.ops.torchdet, name).default._schema for name in names}
    return {k: v for k, v in schemas.items() if any(a.name == "A" for a in v.arguments)}


# ---- the strategy


@st.composite
def calls(draw: st.DrawFn) -> dict[str, Any]:
    """A call as JSON."""
    operators = registered()
    name = draw(st.sampled_from((*PUBLIC, *(f"ops.{op}" for op in operators))))
    n = draw(tensors.orders())
    if name in STACKED:
        n = min(n, 24)  # in plain PyTorch, and slow
    batch = draw(tensors.batches(n))
    dtype = draw(st.sampled_from(("float32", *tensors.LEGAL)))
    case: dict[str, Any] = {"kind": "call", "target": name}
    arguments = {"A": draw(tensors.specs([*batch, n, n], dtype))}
    case["args"] = arguments
    if name in PUBLIC:
        case["requires_grad"] = draw(st.booleans()) and draw(st.booleans())
        if name in ("det", "slogdet") and draw(st.integers(0, 3)) == 3:
            count = 1 if name == "det" else 2
            case["out"] = [draw(st.sampled_from(OUTS)) for _ in range(count)]
    else:
        schema = operators[name.removeprefix("ops.")]
        for argument in schema.arguments:
            if argument.name != "A":
                arguments[argument.name] = draw(_argument(argument, name, n, batch, dtype))
        if "kept" in arguments and draw(st.booleans()):
            forward = draw(st.sampled_from(KEEPERS))
            arguments["kept"] = {"forward": forward, "result": -2}
            arguments["integers"] = {"forward": forward, "result": -1}
        if "factors" in arguments and draw(st.booleans()):
            arguments["factors"] = {"forward": FACTOR, "result": -2}
            arguments["integers"] = {"forward": FACTOR, "result": -1}
    if draw(st.integers(0, 4)) == 4:
        victim = draw(st.sampled_from(sorted(arguments)))
        arguments[victim] = draw(broken(arguments[victim]))
    return case


@st.composite
def _argument(
    draw: st.DrawFn, argument: Any, name: str, n: int, batch: list[int], dtype: str
) -> Any:
    kind = str(argument.type)
    if kind == "bool":
        return draw(st.booleans())
    if kind in ("int", "SymInt"):
        return draw(st.sampled_from((0, 1, -1, n, 1 << 40)))
    if kind == "float":
        return draw(st.floats())
    if argument.name in ("grad", "grad_tangent", "mantissa"):
        return draw(tensors.specs(batch, dtype))
    if argument.name in EXPONENTS:
        wide = dtype in ("float64", "complex128")
        return draw(tensors.specs(batch, "float64" if wide else "float32"))
    if argument.name == "integers":
        return draw(tensors.specs([*batch, "count"], "int32"))
    if name in STACKED or argument.name == "J":
        return draw(tensors.specs([*batch, draw(st.integers(0, 3)), n, n], dtype))
    return draw(tensors.specs([*batch, n, n], dtype))


@st.composite
def broken(draw: st.DrawFn, spec: Any) -> Any:
    """An argument of a wrong dtype, shape, layout or type."""
    how = draw(st.sampled_from(("dtype", "dtype", "drop", "add", "size", "special")))
    if how == "special" or not isinstance(spec, dict) or "shape" not in spec:
        return {"special": draw(st.sampled_from(sorted(SPECIAL)))}
    spec = dict(spec, shape=list(spec["shape"]))
    shape = spec["shape"]
    if how == "dtype":
        spec["dtype"] = draw(st.sampled_from((*tensors.ILLEGAL, *tensors.LEGAL)))
    elif how == "drop" and shape:
        del shape[draw(st.integers(0, len(shape) - 1))]
    elif how == "add":
        shape.insert(draw(st.integers(0, len(shape))), draw(st.integers(0, 3)))
    elif shape:
        place = draw(st.integers(0, len(shape) - 1))
        if isinstance(shape[place], int):
            shape[place] = draw(st.integers(0, 9))
    return spec


SPECIAL: dict[str, Callable[[], Any]] = {
    "none": lambda: None,
    "number": lambda: 3.5,
    "list": lambda: [[1.0, 2.0], [3.0, 4.0]],
    "array": lambda: torch.eye(3).numpy(),
    "sparse": lambda: torch.eye(3).to_sparse(),
    "csr": lambda: torch.eye(3).to_sparse_csr(),
    "mkldnn": lambda: torch.eye(3).to_mkldnn(),
    "meta": lambda: torch.empty(2, 3, 3, device="meta"),
    "scalar": lambda: torch.tensor(2.0),
}
OUTS = ("right", "empty", "alias", "strided", "dtype", "size", "expanded", "number")
