"""Derivatives of the sign and the logarithm of psi = sum_k t_k 2^E_k, the E_k being constant.

With r_k = 2^E_k / psi:

    d log psi = sum_k r_k dt_k,   dr_k = -r_k sum_j r_j dt_j.
"""

from collections.abc import Sequence

from torch import Tensor

from ._function import Context, Gradient, Operator
from ._rules import Constant, Logarithm


class Logsum(Logarithm):
    """Sign and log|psi|."""

    operator = "_logsum"

    @staticmethod
    def pull_back(g: Tensor, terms: Tensor, exponent: Tensor) -> Tensor:
        return g.unsqueeze(-1) * LogsumRatios.call(terms, exponent).conj()

    @staticmethod
    def push_forward(dt: Tensor, terms: Tensor, exponent: Tensor) -> Tensor:
        return (LogsumRatios.call(terms, exponent) * dt).sum(-1)


class LogsumRatios(Operator):
    """r_k for every term."""

    operator = "_logsum_ratios"

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


class LogsumShares(Constant):
    """Shares of exponents."""

    operator = "_logsum_shares"
