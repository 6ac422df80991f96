"""Determinants of batches of matrices, with derivatives that are exact at every matrix."""

from ._accelerate import accelerate
from .laplacian import slogsumdet_laplacian
from .linalg import adjugate, cofactor, det, det_frexp, logdet, slogdet
from .minors import principal_minors
from .solve import slogdet_solve
from .sums import slogsumdet

__version__ = "0.2.0"

__all__ = [
    "accelerate",
    "adjugate",
    "cofactor",
    "det",
    "det_frexp",
    "logdet",
    "principal_minors",
    "slogdet",
    "slogdet_solve",
    "slogsumdet",
    "slogsumdet_laplacian",
]
