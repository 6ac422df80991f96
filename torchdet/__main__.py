"""`python -m torchdet` describes the installed build; `python -m torchdet check` tests it."""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import torch

import torchdet

from . import _check, _ops


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
        help="info (default): facts of the build; check: values and derivatives of every size "
        "class, per device and dtype, against exact answers, in seconds",
    )
    parser.add_argument("--full", action="store_true", help="check every order, in minutes")
    chosen = parser.parse_args(arguments)
    if chosen.command == "info":
        _print_table(["", ""], _facts())
        return 0
    rows = list(_check.run_all(chosen.full))
    _print_table(["device", "dtype", *_check.CHECKS], rows)
    return 0 if all(cell == "ok" for row in rows for cell in row[2:]) else 1


if __name__ == "__main__":
    sys.exit(main())
