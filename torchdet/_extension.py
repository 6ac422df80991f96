"""Loads the compiled extension, or says why the operators run in plain PyTorch."""

import importlib
import importlib.machinery
import os
import sys
import warnings
from pathlib import Path


def load() -> bool:
    """Register the schemas and the compiled kernels; whether that was possible."""
    if os.environ.get("TORCHDET_EXTENSION") == "0":
        return False
    try:
        extension = importlib.import_module("torchdet._C")
    except ImportError as error:
        warnings.warn(_reason(error), RuntimeWarning, stacklevel=3)
        return False
    if problem := extension.build_info()["cuda_driver_problem"]:
        warnings.warn(f"torchdet: {problem}.", RuntimeWarning, stacklevel=3)
    return True


def least_large() -> dict[str, int]:
    """By dtype the first order whose gradient the CUDA class "large" serves; {} without kernels."""
    extension = importlib.import_module("torchdet._C")
    build = extension.build_info()
    if not build["cuda_architectures"] or build["cuda_driver_problem"]:
        return {}

    def least(dtype: str, n: int = 1) -> int:
        choice = extension.select("det_backward", dtype, n, "cuda")
        return n if choice["size_class"] == "large" else least(dtype, choice["largest_n"] + 1)

    return {dtype: least(dtype) for dtype in ("float32", "float64", "complex64", "complex128")}


def _reason(error: ImportError) -> str:
    here = Path(__file__).resolve().parent
    start = (
        f"torchdet: the compiled extension torchdet._C cannot be loaded ({error}), so the "
        "operators run in plain PyTorch: results are right, but slower. "
    )
    end = " TORCHDET_EXTENSION=0 in the environment silences this warning."
    if installed := installed_elsewhere(here):
        return (
            f"{start}The package was imported from {here}, a source folder that Python looks into "
            f"first, while {installed} has the extension. Start Python in another folder, or as "
            f"python -P, or take that folder out of PYTHONPATH.{end}"
        )
    return (
        f"{start}To build it, reinstall torchdet with a C++ compiler at hand, e.g. "
        f"pip install --no-build-isolation -e . in its source folder.{end}"
    )


def installed_elsewhere(here: Path) -> Path | None:
    """Another torchdet on sys.path that has the extension; nothing is imported for that."""
    finder = importlib.machinery.PathFinder
    for entry in sys.path:
        folder = Path(entry or ".").resolve() / "torchdet"
        if folder != here and finder.find_spec("torchdet._C", [str(folder)]) is not None:
            return folder
    return None
