r"""Sums of products of determinants as logarithms: the Slater determinants of a wave function."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from ._autograd_frexp import DetFreedom, DetFrexp, DetRelative
from ._autograd_logsum import Logsum, LogsumShares
from ._function import is_plain, may_look
from ._reference import check_dense, check_device, check_same, check_square, dtype_name
from ._reference_numbers import HALF
from .linalg import LinalgSlogdet, argument

_OP = "slogsumdet"
# So many mantissas, each of modulus from 1/2 to sqrt(2), have a product in the range of float32.
_IN_RANGE = 64


def slogsumdet(*matrices: Tensor, weights: Tensor | None = None) -> LinalgSlogdet:
    r"""Sign and logarithm of the modulus of a weighted sum of products of determinants.

    sign * exp(logabsdet) = psi = sum_k w_k prod_s det(A_sk), also where psi or one of its terms is
    out of range. In a wave function s counts the spins and k the determinants.

    Args:
        matrices: A_1, A_2, .., each (\*, K, n_s, n_s), of one dtype and device, dtypes and strides
            as for `det`. The orders n_s may differ; (\*, K) broadcast.
        weights: w, of shape (K,) or (\*, K), or (K, m) for m sums of the same terms; 1 if not
            given. In the dtype of the matrices, or real.

    Returns:
        Named tuple (sign, logabsdet) as that of `slogdet`, each (\*); with weights (K, m), (\*, m).

    Gradient:
        With respect to matrices and weights wherever psi is not zero, also if some of the
        determinants are zero, or all but one, or if matrices have rank n-2 or less. Derivatives of
        every order exist, in forward and reverse mode.

    Accuracy:
        Of each determinant that of `det`; the errors of the sum are small beside the sum of the
        moduli of its terms. Each term is a mantissa and an exponent, and the terms are combined
        under the largest exponent, so that no scale of the matrices is out of range.

    Singular matrices:
        Their terms are zero and have the right derivatives. Where the computed psi is exactly
        0: (0, -inf), with a gradient of inf or NaN, as log|psi| has none there. A matrix with NaN
        or inf gives NaN, for the sums alone that it belongs to.

    Raises:
        RuntimeError: "slogsumdet: expected A of shape (\*, n, n), got (3, 4, 5)"; likewise for
            dtype, layout and device, and for the shape and dtype of weights.
        TypeError: No matrix is given, or something that is not a Tensor.

    Reference:
        d psi = sum_k w_k sum_s (prod_{t != s} det A_tk) sum(C(A_sk) * dA_sk) with the cofactor
        matrix C, by Jacobi's formula: Giles (2008), section 2.2.4. The exponents: LAPACK Users'
        Guide, 3rd ed., and every log-sum-exp.

    Example:
        >>> A = torch.stack([2 * torch.eye(3), torch.ones(3, 3)])  # K = 2, the second is singular
        >>> torchdet.slogsumdet(A, A)
        torch.return_types.linalg_slogdet(
        sign=tensor(1.),
        logabsdet=tensor(4.1589))
    """
    given = matrices if weights is None else (*matrices, weights)
    if has_torch_function(given):
        result: LinalgSlogdet = handle_torch_function(slogsumdet, given, *matrices, weights=weights)
        return result
    if not matrices:
        raise TypeError(f"{_OP}: expected at least one Tensor of shape (*, K, n, n), got none")
    matrices = tuple(argument(_OP, A) for A in matrices)
    shape = check_matrices(_OP, matrices)
    dtype = matrices[0].dtype
    half = dtype in HALF
    columns = weights is not None and has_columns(_OP, weights, matrices[0], shape)
    if half:
        matrices = tuple(A.to(torch.float32) for A in matrices)
    w = None if weights is None else mantissas(weights, columns)
    if is_plain(*matrices, *(w or ())):
        terms, E = _weighted([DetFrexp.call(A) for A in matrices], w, columns)
    else:
        _, terms, E = relative_to_sum(matrices, w, columns)
    sign, logabsdet = Logsum.call(terms, E)
    if half:
        sign, logabsdet = sign.to(dtype), logabsdet.to(dtype)
    return LinalgSlogdet((sign, logabsdet))


def _product(parts: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """The product of numbers that are given as mantissa and exponent, in the same form."""
    (terms, E), *others = parts
    for i, (mantissa, exponent) in enumerate(others, 1):
        if i % _IN_RANGE == 0:
            terms, own = _split(terms)
            E = E + own
        terms, E = terms * mantissa, E + exponent
    return terms, E


def _split(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mantissas and exponents of numbers, which are determinants of order 1."""
    mantissa, exponent = DetFrexp.call(x[..., None, None])
    return mantissa, exponent


def mantissas(weights: Tensor, columns: bool) -> tuple[Tensor, Tensor]:
    """Weights as mantissas and exponents, both (*, K), or (m, K) for columns."""
    w = weights.to(torch.float32) if weights.dtype in HALF else weights
    return _split(w.mT if columns else w)


def _weighted(
    parts: Sequence[tuple[Tensor, Tensor]], w: tuple[Tensor, Tensor] | None, columns: bool
) -> tuple[Tensor, Tensor]:
    """Terms and their exponents, both (*, K), or (*, m, K) for columns."""
    terms, E = _product(parts)
    if w is None:
        return terms, E
    if columns:
        terms, E = terms.unsqueeze(-2), E.unsqueeze(-2)
    mantissa, own = w
    terms = terms * mantissa
    return terms, (E + own).expand(terms.shape)


def relative_to_sum(
    matrices: Sequence[Tensor], w: tuple[Tensor, Tensor] | None, columns: bool
) -> tuple[Sequence[tuple[Tensor, Tensor]], Tensor, Tensor]:
    """Determinants as (m_s, e_s), each (*, K), and terms and exponents, both (*, K) or (*, m, K).

    A term is 2^x times psi and has S determinants. Where x is far below 0 the term is tiny, but its
    derivatives may be as large as those of psi. They are products of the derivatives of the m_s,
    which are 2^-e_s times those of the determinants. So each determinant takes a share h of x: m_s
    becomes m_s 2^h, and e_s becomes e_s - h. One that is not 0 takes x / S, if x < 0. One that is 0
    may have any exponent: the zeros of a term take the rest in equal parts, also where x > 0.
    Matrices of zeros, from order 3 on, take all that zeros would: their first and second
    derivatives are 0.
    Where x is far above 0, a share may take derivatives out of the range, and infinity times
    another 0 is NaN. So the ratio to psi keeps a part of x (`LogsumShares`). A matrix that serves
    several terms or sums has one e_s: there the largest share decides.
    """
    looks = may_look(*matrices, *(w or ()))
    has_one = max(A.shape[-3] for A in matrices) == 1  # the term is psi
    parts = [DetFrexp.call(A if looks or has_one else A.detach()) for A in matrices]
    terms, E = _weighted(parts, w, columns)
    if has_one or E.numel() == 0:
        return parts, terms, E
    with torch.no_grad():
        freedom = [DetFreedom.call(A, m) for A, (m, _) in zip(matrices, parts, strict=True)]
        freedom = [x.unsqueeze(-2) if columns else x for x in freedom]
        freedom = [x if x.shape == terms.shape else x.expand(terms.shape) for x in freedom]
        share = LogsumShares.call(terms, E, torch.stack(freedom, -1))
        if looks and not share.any():  # nothing to share, as nearly always
            return parts, terms, E
        share = share.amax(-3) if columns else share
    parts = [
        DetRelative.call(A, m.detach(), e, _largest(x, e.shape))
        for A, (m, e), x in zip(matrices, parts, share.unbind(-1), strict=True)
    ]
    return parts, *_weighted(parts, w, columns)


def _largest(x: Tensor, shape: torch.Size) -> Tensor:
    """The largest x over the terms and sums that share a matrix; shape: (*, K) of the matrices."""
    first = x.dim() - len(shape)
    dims = [i for i in range(x.dim()) if i < first or shape[i - first] != x.shape[i]]
    return x.amax(dims, keepdim=True).view(shape) if dims else x


def check_matrices(op: str, matrices: Sequence[Tensor]) -> torch.Size:
    """Return (*, K) of all matrices; RuntimeError unless they go together."""
    first, *others = matrices
    for A in matrices:
        check_square(op, A)
        if A.dim() < 3:
            raise RuntimeError(
                f"{op}: expected A of shape (*, K, n, n), got {tuple(A.shape)}; "
                "a single determinant is A.unsqueeze(-3), K = 1"
            )
    for A in others:
        check_same(op, "A", A, first, A.shape)
    shapes = [A.shape[:-2] for A in matrices]
    if all(shape == shapes[0] for shape in shapes):
        return shapes[0]
    try:
        return torch.broadcast_shapes(*shapes)
    except RuntimeError:
        got = ", ".join(str(tuple(shape)) for shape in shapes)
        raise RuntimeError(
            f"{op}: expected matrices whose shapes (*, K) broadcast, got {got}"
        ) from None


def has_columns(op: str, weights: Tensor, A: Tensor, shape: torch.Size) -> bool:
    """Whether weights are (K, m); RuntimeError unless they are, or (K,) or (*, K)."""
    check_dense(op, "weights", weights)
    check_device(op, "weights", weights, A)
    real = A.real.dtype if A.is_complex() else A.dtype
    if weights.dtype not in (A.dtype, real):
        raise RuntimeError(
            f"{op}: expected weights of the dtype of A, {dtype_name(A.dtype)}, or real, "
            f"got {dtype_name(weights.dtype)}; convert it first, e.g. weights.to(A.dtype)"
        )
    K = shape[-1]
    columns = weights.dim() == 2 and weights.shape[0] == K
    rows = weights.dim() >= 1 and weights.shape[-1] == K
    if rows and weights.dim() > 1:
        try:
            rows = torch.broadcast_shapes(weights.shape, shape) == shape
        except RuntimeError:
            rows = False
    if columns and rows:
        raise RuntimeError(
            f"{op}: weights of shape {tuple(weights.shape)} may be (*, K) or (K, m), both fit; "
            "give the matrices and, for (*, K), the weights one more dimension in front: "
            "unsqueeze(0)"
        )
    if not (rows or columns):
        raise RuntimeError(
            f"{op}: expected weights of shape (K,), (*, K) or (K, m) for (*, K) = {tuple(shape)}, "
            f"got {tuple(weights.shape)}"
        )
    return columns
