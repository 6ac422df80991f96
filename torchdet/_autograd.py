r"""Derivatives: one torch.autograd.Function for each operator, and every gradient formula.

Write C(A) for the cofactor matrix, H(A)[Z] = D C(A)[Z] for its derivative in direction Z, and
X = A^-T. All of them are holomorphic in A. In torch's convention, where the gradient G of a real
loss means dloss = Re sum(conj(G) * dA):

    d det A = sum(C(A) * dA),  so grad_A = grad conj(C(A))                                       (1)
    d log|det A| = Re t,  d sign = i sign Im t,  t = sum(X * dA)                                 (2)
    d D^m F(A)[Z_1..Z_m] = D^(m+1) F(A)[Z_1..Z_m, dA] + sum_i D^m F(A)[.., dZ_i, ..]             (3)
    d X = -X dA^T X                                                                              (4)

In (3), F is C or X, and sum(V * D^m F(A)[Z_1..Z_m]) is symmetric in V and the Z_i, since it is a
derivative of det or log det; so a cotangent V is one more direction.

The Functions form a family closed under (1) to (4): gradients and tangent of each are calls of
others. So derivatives of all orders exist, and a backward that is itself recorded
(create_graph=True) gives the same numbers as one that is not. The rules are in _autograd_det.py,
_autograd_slogdet.py and _autograd_frexp.py, what they share in _rules.py; this file gives them to
the operators.
"""

from torch import Tensor

from . import _ops, _torch_internals
from ._autograd_det import (
    Cofactor,
    Det,
    DetBackward,
    DetBackwardKept,
    DetHvp,
    DetKeep,
    HigherCofactorDerivative,
)
from ._autograd_frexp import (
    DetFrexp,
    DetFrexpBackward,
    DetFrexpBackwardJvp,
    DetFrexpHvp,
    DetFrexpJet,
)
from ._autograd_logsum import Logsum, LogsumRatios
from ._autograd_slogdet import (
    HigherInverseDerivative,
    Slogdet,
    SlogdetBackward,
    SlogdetBackwardKept,
    SlogdetHvp,
    SlogdetKeep,
)

# ---- what the public functions call


def det(A: Tensor) -> Tensor:
    """Determinants, with what helps the backward pass if there may be one."""
    return DetKeep.call(A)[0] if _ops.keeps(A) else Det.call(A)


def slogdet(A: Tensor) -> tuple[Tensor, Tensor]:
    """Sign and log|det A|, with what helps the backward pass if there may be one."""
    return SlogdetKeep.call(A)[:2] if _ops.keeps(A) else Slogdet.call(A)


def cofactor(A: Tensor) -> Tensor:
    """Cofactor matrices."""
    return Cofactor.call(A)


def det_frexp(A: Tensor) -> tuple[Tensor, Tensor]:
    """Mantissa m and exponent e, a whole number in floating point, with det A = m 2^e."""
    return DetFrexp.call(A)


def det_frexp_backward(grad: Tensor, A: Tensor, e: Tensor) -> Tensor:
    """One number times conj(C(A)) 2^-e, for each matrix; e is constant."""
    return DetFrexpBackward.call(grad, A, e)


def det_frexp_jet(A: Tensor, J: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
    """First and second derivatives of det(A + t J) 2^-e at t = 0; e is constant."""
    return DetFrexpJet.call(A, J, e)


def logsum(terms: Tensor, exponent: Tensor) -> tuple[Tensor, Tensor]:
    """Sign and logarithm of the modulus of sum_k terms_k 2^exponent_k."""
    return Logsum.call(terms, exponent)


def logsum_ratios(terms: Tensor, exponent: Tensor) -> Tensor:
    """2^exponent_k over that sum."""
    return LogsumRatios.call(terms, exponent)


# ---- the same gradients for the operators

for _function in (
    Det,
    DetFrexp,
    DetFrexpBackward,
    DetFrexpBackwardJvp,
    DetFrexpHvp,
    DetFrexpJet,
    DetKeep,
    DetBackward,
    DetBackwardKept,
    Cofactor,
    DetHvp,
    HigherCofactorDerivative,
    Slogdet,
    SlogdetKeep,
    SlogdetBackward,
    SlogdetBackwardKept,
    SlogdetHvp,
    HigherInverseDerivative,
    Logsum,
    LogsumRatios,
):
    _torch_internals.register_autograd(_function, _ops.library)
