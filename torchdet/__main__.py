"""`python -m torchdet` describes the installed build; `python -m torchdet check` tests it."""

import argparse
import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

import torchdet

from . import _ops

_DTYPES = (torch.float32, torch.float64, torch.complex64, torch.complex128)
# Integer matrices, whose determinants and cofactors are exact integers: regular, of rank n-1 with
# a zero pivot first, of rank n-2, and of rank n-1 at n = 6, by a repeated row.
_MATRICES = (
    ((2, 1, 0), (1, 3, 1), (0, 1, 4)),
    ((0, 1, 2), (0, 3, 4), (0, 5, 7)),
    ((1, 2, 3, 4), (2, 4, 6, 8), (1, 0, 1, 0), (3, 4, 7, 8)),
    tuple(tuple((i * j + i + 2 * j) % 7 for j in range(6)) for i in (0, 1, 2, 3, 4, 4)),
)


def _facts() -> list[tuple[str, str]]:
    rows = [("torchdet", torchdet.__version__), ("torch", torch.__version__)]
    if _ops.HAS_EXTENSION:
        from . import _C

        rows.append(("kernels", "compiled extension"))
        rows += [(key.replace("_", " "), _text(value)) for key, value in _C.build_info().items()]
    else:
        rows.append(("kernels", "plain PyTorch (right, but slower): no compiled extension"))
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return [*rows, ("CUDA devices", _text(devices))]


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(str(x) for x in value.values())
    return (", ".join(map(_text, value)) or "none") if isinstance(value, list) else str(value)


# ---- the check


def _exact(rows: Sequence[Sequence[int]]) -> Fraction:
    """Determinant by elimination in rational numbers."""
    U = [[Fraction(x) for x in row] for row in rows]
    result = Fraction(1)
    for k in range(len(U)):
        pivot = next((i for i in range(k, len(U)) if U[i][k]), None)
        if pivot is None:
            return Fraction(0)
        if pivot != k:
            U[k], U[pivot], result = U[pivot], U[k], -result
        result *= U[k][k]
        for i in range(k + 1, len(U)):
            factor = U[i][k] / U[k][k]
            U[i] = [x - factor * y for x, y in zip(U[i], U[k], strict=True)]
    return result


def _exact_cofactors(rows: Sequence[Sequence[int]]) -> list[list[float]]:
    def minor(i: int, j: int) -> list[list[int]]:
        return [[*row[:j], *row[j + 1 :]] for k, row in enumerate(rows) if k != i]

    n = range(len(rows))
    return [[float((-1) ** (i + j) * _exact(minor(i, j))) for j in n] for i in n]


def _close(result: Tensor, expected: Any, A: Tensor) -> bool:
    expected = torch.as_tensor(expected, dtype=result.dtype, device=result.device)
    scale = float(A.detach().abs().sum(-1).prod())  # bounds every minor of an integer matrix
    tolerance = 10 * torch.finfo(A.dtype).eps * max(scale, 1.0)
    return bool(((result - expected).abs() <= tolerance).all())


def _check_values(device: str, dtype: torch.dtype) -> bool:
    right = True
    for rows in _MATRICES:
        A = torch.tensor(rows, dtype=dtype, device=device, requires_grad=True)
        exact, cofactors = _exact(rows), _exact_cofactors(rows)
        det = torchdet.det(A)
        (grad,) = torch.autograd.grad(det, A, torch.ones_like(det))
        right &= _close(det, float(exact), A)
        right &= _close(torchdet.cofactor(A), cofactors, A) and _close(grad, cofactors, A)
        if exact:
            sign, logabsdet = torchdet.slogdet(A)
            right &= _close(sign * logabsdet.exp(), float(exact), A)
    return right


def _check_gradients(device: str, dtype: torch.dtype) -> bool:
    wide = torch.complex128 if dtype.is_complex else torch.float64
    generator = torch.Generator().manual_seed(0)
    regular = torch.randn(2, 3, 3, dtype=wide, generator=generator) + 3 * torch.eye(3, dtype=wide)
    singular = regular.clone()
    singular[0, 2], singular[1] = singular[0, 0], 0  # ranks 2 and 0
    check = _finite_differences if dtype == wide else _second_order_of_both
    return all(
        check(f, A.to(device), dtype)
        for f, A in (
            (torchdet.det, regular),
            (torchdet.det, singular),
            (torchdet.cofactor, singular),
            (lambda A: torchdet.slogdet(A).logabsdet, regular),
        )
    )


def _finite_differences(f: Callable[[Tensor], Tensor], A: Tensor, dtype: torch.dtype) -> bool:
    A = A.clone().requires_grad_()
    return torch.autograd.gradcheck(
        f, A, check_forward_ad=True, fast_mode=True
    ) and torch.autograd.gradgradcheck(f, A, fast_mode=True)


def _second_order_of_both(f: Callable[[Tensor], Tensor], A: Tensor, dtype: torch.dtype) -> bool:
    # Single precision is too coarse for finite differences, so double precision is the measure.
    results: list[Tensor] = []
    for X in (A.to(dtype), A.to(dtype).to(A.dtype)):
        X.requires_grad_()
        y = f(X)
        (grad,) = torch.autograd.grad(y, X, torch.ones_like(y), create_graph=True)
        results += torch.autograd.grad(grad, X, torch.ones_like(grad))
    error = (results[0].to(A.dtype) - results[1]).abs().max()
    scale = 1 + results[1].abs().max()
    return bool(error < 1000 * torch.finfo(dtype).eps * scale)


_CHECKS = {"values": _check_values, "gradients": _check_gradients}


def _run_checks() -> Iterator[tuple[str, ...]]:
    devices = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    for device, dtype in itertools.product(devices, _DTYPES):
        outcomes = []
        for check in _CHECKS.values():
            try:
                outcomes.append("ok" if check(device, dtype) else "WRONG")
            except Exception as error:
                first_line = str(error).strip().splitlines()[:1]
                outcomes.append(" ".join(["FAILED:", type(error).__name__, *first_line]))
        yield device, str(dtype).removeprefix("torch."), *outcomes


def _print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        for row in [header, *rows] if any(header) else rows:
            print("  ".join(f"{cell:<14}" for cell in row).rstrip())
        return
    table = Table(*header, show_header=any(header), box=None)
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m torchdet", description=__doc__)
    parser.add_argument(
        "command",
        nargs="?",
        choices=["info", "check"],
        default="info",
        help="info (default): facts of the build; check: values and gradients per device and dtype",
    )
    command = parser.parse_args(arguments).command
    if command == "info":
        _print_table(["", ""], _facts())
        return 0
    rows = list(_run_checks())
    _print_table(["device", "dtype", *_CHECKS], rows)
    return 0 if all(cell == "ok" for row in rows for cell in row[2:]) else 1


if __name__ == "__main__":
    sys.exit(main())
