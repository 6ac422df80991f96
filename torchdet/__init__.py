"""Determinants of batches of matrices, with derivatives that are exact at every matrix."""

from ._accelerate import accelerate
from .laplacian import slogsumdet_laplacian
from .linalg import adjugate, cofactor, det, det_frexp, logdet, slogdet
from .sums import slogsumdet

__version__ = "0.1.0"

__all__ = [
    "accelerate",
    "adjugate",
    "cofactor",
    "det",
    "det_frexp",
    "logdet",
    "slogdet",
    "slogsumdet",
    "slogsumdet_laplacian",
]
