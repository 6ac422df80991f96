"""Functions of one matrix that are made of sums of determinants, for programs.

They are those of psi(a) = |det a|^2 + det a + 2, the sum of three products of two determinants. Its
modulus is at least 7/4, so no logarithm of it is ill conditioned. Jacobians and Laplacians depend
on the matrix, so its derivatives pass through every argument.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

import torchdet

from . import reference
from .transforms import seeded

NAMES = ("det_frexp", "logsum", "laplacian", "laplacian_rows")
COORDINATES = 2
Function = Callable[[Tensor], Tensor]


def function(name: str, is_reference: bool, narrow: torch.dtype) -> Function:
    """A function of NAMES, of torchdet or of the reference; constants are numbers of `narrow`."""
    if name == "det_frexp":
        return reference.det if is_reference else _det_frexp
    if name == "logsum":
        return _reference_logsum if is_reference else _logsum

    def laplacian(a: Tensor) -> Tensor:
        return _laplacian(a, name == "laplacian_rows", is_reference, narrow)

    return laplacian


def _det_frexp(a: Tensor) -> Tensor:
    mantissa, exponent = torchdet.det_frexp(a)
    return mantissa * torch.exp2(exponent.to(a.real.dtype if a.is_complex() else a.dtype))


def _terms(a: Tensor) -> tuple[list[Tensor], Tensor]:
    eye = torch.eye(a.shape[-1], dtype=a.dtype).expand_as(a)
    matrices = [torch.stack([a, a, eye], -3), torch.stack([a.mH, eye, eye], -3)]
    return matrices, torch.tensor([1.0, 1.0, 2.0], dtype=a.dtype)


def _logsum(a: Tensor) -> Tensor:
    matrices, weights = _terms(a)
    # Times 1, so that what is changed in place is no output of a node with two.
    return torchdet.slogsumdet(*matrices, weights=weights).logabsdet * 1.0


def _reference_logsum(a: Tensor) -> Tensor:
    d = reference.det(a)
    return reference.logabs(d * d.conj() + d + 2)


def _derivatives(matrices: list[Tensor], narrow: torch.dtype) -> tuple[list[Tensor], list[Tensor]]:
    """Jacobians and Laplacians: the matrices themselves, entry by entry times constants."""
    jacobians, laplacians = [], []
    for s, A in enumerate(matrices):
        n = A.shape[-1]
        factors = n * seeded(s, (COORDINATES + 1, *A.shape[-3:]), A.dtype, narrow)
        jacobians.append(A.unsqueeze(-3) * factors[:-1].movedim(0, 1))
        laplacians.append(A * factors[-1])
    return jacobians, laplacians


def _laplacian(a: Tensor, rows: bool, is_reference: bool, narrow: torch.dtype) -> Tensor:
    """The logarithm, its derivatives and its Laplacian, added up with different factors."""
    matrices, weights = _terms(a)
    jacobians, laplacians = _derivatives(matrices, narrow)
    if rows:  # every row along coordinates of its own
        jacobians = [J.transpose(-3, -2) for J in jacobians]
    if is_reference:
        log, first, laplacian = reference.log_laplacian(
            matrices, jacobians, laplacians, weights, rows
        )
    else:
        out = torchdet.slogsumdet_laplacian(matrices, jacobians, laplacians, weights, rows=rows)
        log, laplacian = out.logabsdet, out.laplacian
        first = out.derivatives.flatten(-2) if rows else out.derivatives
    factors = torch.linspace(0.5, 1.5, first.shape[-1], dtype=log.dtype)
    return log + (first * factors).sum(-1) + 0.5 * laplacian
