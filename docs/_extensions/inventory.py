"""Where other projects document what this one names, for links to their pages.

Sphinx would fetch an index of all names from their sites. A build then needs the network, and
what it makes depends on the day. The names used here are few, so their index is written here.
"""

import zlib
from pathlib import Path

TORCH = "https://docs.pytorch.org/docs/stable/"
PYTHON = "https://docs.python.org/3/"
_FUNCTIONS = (
    "torch.det", "torch.logdet", "torch.slogdet",
    "torch.linalg.det", "torch.linalg.slogdet", "torch.linalg.inv", "torch.linalg.cholesky",
    "torch.linalg.matrix_rank", "torch.linalg.lu_factor", "torch.linalg.solve",
    "torch.func.grad", "torch.func.vmap", "torch.func.jvp", "torch.func.jacrev",
    "torch.func.jacfwd", "torch.func.hessian", "torch.compile", "torch.autograd.grad",
    "torch.vmap", "torch.frexp", "torch.ldexp",
)  # fmt: skip


def write(path: Path, project: str, rows: list[str]) -> str:
    """A Sphinx inventory: a header, and lines `name domain:role priority location title`."""
    header = f"# Sphinx inventory version 2\n# Project: {project}\n# Version: \n# zlib\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(header.encode() + zlib.compress(("\n".join(rows) + "\n").encode()))
    return str(path)


def mapping(folder: Path) -> dict[str, tuple[str, str]]:
    """What intersphinx wants to know."""
    torch = [f"{name} py:function 1 generated/{name}.html#$ -" for name in _FUNCTIONS]
    torch += [
        "torch.Tensor py:class 1 tensors.html#$ -",
        "torch.dtype py:class 1 tensor_attributes.html#$ -",
        "torch.autograd.Function py:class 1 autograd.html#$ -",
    ]
    names = {
        "bool": "functions", "complex": "functions", "float": "functions", "int": "functions",
        "str": "stdtypes", "tuple": "stdtypes", "list": "stdtypes", "dict": "stdtypes",
        "ValueError": "exceptions", "TypeError": "exceptions", "RuntimeError": "exceptions",
    }  # fmt: skip
    python = [f"{name} py:class 1 library/{page}.html#$ -" for name, page in names.items()]
    python += ["collections.abc.Sequence py:class 1 library/collections.abc.html#$ -"]
    python += ["None py:data 1 library/constants.html#$ -"]
    return {
        "torch": (TORCH, write(folder / "torch.inv", "PyTorch", torch)),
        "python": (PYTHON, write(folder / "python.inv", "Python", python)),
    }
