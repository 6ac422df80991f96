"""Describe the installed build (info), name the kernel of a matrix (explain), or test (check)."""

import argparse
import sys
from collections.abc import Sequence

import torch

import torchdet

from . import _check, _explain, _schemas

_LARGEST = 2**31 - 1  # no memory holds a larger matrix


def _facts() -> list[tuple[str, str]]:
    rows = [("torchdet", torchdet.__version__), ("PyTorch", torch.__version__)]
    if not _schemas.HAS_EXTENSION:
        rows.append(("kernels", "plain PyTorch (right, but slower): no compiled extension"))
    else:
        from . import _C

        build = _C.build_info()
        others = [x for x in build["instruction_sets"] if x != build["active_instruction_set"]]
        cuda = ", ".join(build["cuda_architectures"])
        unused = ", not used: the driver is too old" if build["cuda_driver_problem"] else ""
        rows += [
            ("kernels", f"compiled by {build['compiler']}"),
            ("instruction set", f"{build['active_instruction_set']} (also: {_words(others)})"),
            ("CUDA kernels", f"for compute capability {cuda}{unused}" if cuda else "not built"),
        ]
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return [*rows, ("CUDA devices", _words(devices))]


def _size_classes() -> list[tuple[str, str, str, str]]:
    from . import _C

    rows = []
    begin = {"cpu": 1, "cuda": 1}
    for row in _C.build_info()["size_classes"]:
        device, end = row["device"], row["largest_n"]
        orders = f"{begin[device]} to {end}" if end < 1 << 62 else f"from {begin[device]}"
        rows.append((device, row["name"], orders, row["owner"]))
        begin[device] = end + 1
    return rows


def _words(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"


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


def _info() -> None:
    _print_table(["", ""], _facts())
    if _schemas.HAS_EXTENSION:
        print("\nWho works on a matrix of order n (largest orders of any dtype):")
        _print_table(["device", "class", "n", "one matrix belongs to"], _size_classes())
    print(
        "\npython -m torchdet explain 40 float64    which kernel serves 40 x 40 in float64, and why"
    )
    print("python -m torchdet check                 values and derivatives against exact answers")


def _explained(n: int, dtype: str) -> None:
    for target in _explain.targets():
        print(f"{n} x {n} in {dtype} on {target}:")
        kernels = _explain.explain(n, dtype, target)
        for task, size_class, orders, file, _ in kernels:
            print(f"  {task:<30}{size_class:<15}{orders:<16}{file}")
        for size_class, reason in {kernel.size_class: kernel.reason for kernel in kernels}.items():
            print(f"  {size_class}: {reason}")
    print(_explain.saved(n, dtype))


def _order(text: str) -> int:
    if not (text.isdecimal() and 1 <= (n := int(text)) <= _LARGEST):
        raise argparse.ArgumentTypeError(f"expected an order from 1 to {_LARGEST}, got {text}")
    return n


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m torchdet", description=__doc__)
    commands = parser.add_subparsers(dest="command", metavar="command")
    commands.add_parser("info", help="facts of the build, and the size classes (the default)")
    explain = commands.add_parser(
        "explain", help="class, file and reason of the kernels of a matrix"
    )
    explain.add_argument("n", type=_order, help="the order of the matrix")
    dtypes = [*_explain.DTYPES, "float16", "bfloat16"]
    explain.add_argument("dtype", nargs="?", default="float32", choices=dtypes)
    check = commands.add_parser(
        "check",
        help="values and derivatives of every size class, per device and dtype, against exact "
        "answers, in seconds",
    )
    check.add_argument("--full", action="store_true", help="check every order, in minutes")
    chosen = parser.parse_args(arguments)
    if chosen.command == "check":
        rows = list(_check.run_all(chosen.full))
        _print_table(["device", "dtype", *_check.CHECKS], rows)
        return 0 if all(cell == "ok" for row in rows for cell in row[2:]) else 1
    if chosen.command == "explain":
        _explained(chosen.n, chosen.dtype)
    else:
        _info()
    return 0


if __name__ == "__main__":
    sys.exit(main())
