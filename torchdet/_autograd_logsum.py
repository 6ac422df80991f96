"""Derivatives of the sign and the logarithm of psi = sum_k t_k 2^E_k, the E_k being constant.

With r_k = 2^E_k / psi:

    d log psi = sum_k r_k dt_k,   dr_k = -r_k sum_j r_j dt_j.
"""

from collections.abc import Sequence

from torch import Tensor

from . import _ops
from ._function import (
    Context,
    Gradient,
    Operator,
    Outputs,
    gradient_of_log,
    tangents_of_log,
)


class Logsum(Operator):
    """Sign and log|psi|. The sign is constant, not differentiable, where the terms are real."""

    operator = "_logsum"
    out_dims = (0, 0)

    @staticmethod
    def forward(terms: Tensor, exponent: Tensor) -> tuple[Tensor, Tensor]:
        return _ops.logsum(terms, exponent)

    @classmethod
    def saved(cls, inputs: Sequence[Tensor], outputs: Outputs) -> Sequence[Tensor]:
        return (*inputs, outputs[0]) if inputs[0].is_complex() else inputs

    @classmethod
    def constants(cls, inputs: Sequence[Tensor], outputs: Outputs) -> Sequence[Tensor]:
        return () if inputs[0].is_complex() else outputs[:1]

    @staticmethod
    def gradients(
        ctx: Context, grad_sign: Gradient, grad_log: Gradient
    ) -> tuple[Gradient, Gradient]:
        terms, exponent, *sign = ctx.saved_tensors
        grad = gradient_of_log(grad_sign, grad_log, sign, terms.dtype)
        if grad is None:
            return None, None
        return grad.unsqueeze(-1) * LogsumRatios.call(terms, exponent).conj(), None

    @staticmethod
    def tangent(saved: Sequence[Tensor], tangents: Sequence[Gradient]) -> tuple[Gradient, Gradient]:
        (terms, exponent, *sign), (dt, _) = saved, tangents
        if dt is None:
            return None, None
        return tangents_of_log((LogsumRatios.call(terms, exponent) * dt).sum(-1), sign)


class LogsumRatios(Operator):
    """r_k for every term."""

    operator = "_logsum_ratios"

    @staticmethod
    def forward(terms: Tensor, exponent: Tensor) -> Tensor:
        return _ops.logsum_ratios(terms, exponent)

    @staticmethod
    def gradients(ctx: Context, V: Gradient) -> tuple[Gradient, Gradient]:
        if V is None:
            return None, None
        r = LogsumRatios.call(*ctx.saved_tensors).conj()
        return -r * (r * V).sum(-1, keepdim=True), None

    @staticmethod
    def tangent(saved: Sequence[Tensor], tangents: Sequence[Gradient]) -> Gradient:
        dt = tangents[0]
        if dt is None:
            return None
        r = LogsumRatios.call(*saved)
        return -r * (r * dt).sum(-1, keepdim=True)
