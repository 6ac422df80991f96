"""The operators torch.ops.torchdet.* by name and arguments; the extension registers its kernels."""

import torch

from . import _extension

SCHEMAS = (
    "det(Tensor A) -> Tensor",
    "slogdet(Tensor A) -> (Tensor sign, Tensor logabsdet)",
    "det_frexp(Tensor A) -> (Tensor mantissa, Tensor exponent)",
    # What derivatives of the mantissa take: grad conj(C(A)) 2^-exponent, H(A)[Z] 2^-exponent.
    "_det_frexp_backward(Tensor grad, Tensor A, Tensor exponent) -> Tensor",
    "_det_frexp_hvp(Tensor A, Tensor Z, Tensor exponent) -> Tensor",
    # The change of the first of these two with grad and A.
    "_det_frexp_backward_jvp(Tensor grad, Tensor A, Tensor exponent, Tensor grad_tangent, "
    "Tensor Z) -> Tensor",
    # 0 for a determinant that is not 0, 1 for one that is, 2 where its derivatives are 0 too.
    "_det_freedom(Tensor A, Tensor mantissa) -> Tensor",
    # det A = mantissa 2^exponent = relative 2^own, own being exponent - share.
    "_det_relative(Tensor A, Tensor mantissa, Tensor exponent, Tensor share) "
    "-> (Tensor relative, Tensor own)",
    # First and second derivatives of det(A + t J) 2^-exponent at t = 0, J of shape (*, d, n, n).
    "_det_frexp_jet(Tensor A, Tensor J, Tensor exponent) -> (Tensor first, Tensor second)",
    # Of sum_k terms_k 2^exponent_k, and what the derivatives of its logarithm are made of.
    "_logsum(Tensor terms, Tensor exponent) -> (Tensor sign, Tensor logabs)",
    "_logsum_ratios(Tensor terms, Tensor exponent) -> Tensor",
    # What each factor of a term takes of the exponent of the term less that of the sum. Of shape
    # (*, K, S), as freedom, which says how much it may take.
    "_logsum_shares(Tensor terms, Tensor exponent, Tensor freedom) -> Tensor",
    "cofactor(Tensor A) -> Tensor",
    "det_backward(Tensor grad, Tensor A) -> Tensor",
    "slogdet_backward(Tensor grad, Tensor A) -> Tensor",
    "det_hvp(Tensor A, Tensor Z) -> Tensor",
    "slogdet_hvp(Tensor A, Tensor Z) -> Tensor",
    # The same along Z and along grad Z, where the argument A holds conj(X), X being A^-T.
    "_slogdet_hvp_kept(Tensor A, Tensor Z) -> Tensor",
    "_slogdet_hvp_scaled(Tensor grad, Tensor A, Tensor Z) -> Tensor",
    # The gradient of the logarithm with conj(A^-T), which is the gradient for grad = 1.
    "_slogdet_backward_inverse(Tensor grad, Tensor A) -> (Tensor gradient, Tensor inverse)",
    # Determinants with what helps their backward passes, numbers and integers; and those passes.
    # The last one gives conj(A^-T) as well.
    "_det_keep(Tensor A) -> (Tensor det, Tensor kept, Tensor integers)",
    "_slogdet_keep(Tensor A) -> (Tensor sign, Tensor logabsdet, Tensor kept, Tensor integers)",
    "_det_backward_kept(Tensor grad, Tensor A, Tensor kept, Tensor integers) -> Tensor",
    "_slogdet_backward_kept(Tensor grad, Tensor A, Tensor kept, Tensor integers) -> Tensor",
    "_slogdet_backward_inverse_kept(Tensor grad, Tensor A, Tensor kept, Tensor integers) -> "
    "(Tensor gradient, Tensor inverse)",
    # Determinants with what is left of the factorisation, numbers and integers; the gradient of the
    # logarithm, A^-1 B and A^-H B from that.
    "_slogdet_factor(Tensor A) -> (Tensor sign, Tensor logabsdet, Tensor factors, Tensor integers)",
    "_slogdet_backward_factored(Tensor grad, Tensor A, Tensor factors, Tensor integers) -> Tensor",
    "_solve_factored(Tensor A, Tensor B, Tensor factors, Tensor integers) -> Tensor",
    "_solve_adjoint_factored(Tensor A, Tensor B, Tensor factors, Tensor integers) -> Tensor",
    # In PyTorch only: D^m C(A)[Z_1..Z_m] and D^m A^-T[Z_1..Z_m] for m >= 2, directions stacked in Z
    # of shape (*, m, n, n). As operators, is_grads_batched=True and torch.compile need not look in.
    "_cofactor_derivative(Tensor A, Tensor Z) -> Tensor",
    "_inverse_derivative(Tensor A, Tensor Z) -> Tensor",
)
# Registrations live as long as this object does.
library = torch.library.Library("torchdet", "DEF")
for _schema in SCHEMAS:
    library.define(_schema)
HAS_EXTENSION = _extension.load()
