r"""Laplacians of sums of determinants: the kinetic energy of a wave function of Slater matrices.

Every matrix A_sk depends on coordinates x_1, x_2, ... Write D for its determinant, g_i for dD/dx_i
and q for sum_i d^2 D / dx_i^2. By the chain rule, with J_i = dA / dx_i and the cofactors C,

    g_i = sum(C * J_i),   q = sum(C * lap A) + sum_i D^2 det[J_i, J_i],                          (1)

and psi = sum_k w_k prod_s D_sk has the derivatives

    d_i psi = sum_k w_k sum_s g_ski prod_{t != s} D_tk,
    lap psi = sum_k w_k (sum_s q_sk prod_{t != s} D_tk
                         + 2 sum_{s < t} sum_i g_ski g_tki prod_{u != s, t} D_uk).               (2)

log|psi| = Re log psi has Re(d_i psi / psi) and Re(lap psi / psi - sum_i (d_i psi / psi)^2).    (3)

A coordinate that moves one row of one matrix gives that matrix a J_i of one row. Then D^2 det[J_i,
J_i] = 0, as det is linear in each row, and the sum over s < t is empty.

In floating point D_sk = m_sk 2^e_sk, and g and q are computed relative to 2^e_sk. A term k that is
tiny beside psi, as its D_sk are, may have derivatives beyond the range relative to them, which are
moderate relative to psi. So where the sum of the e_sk is far from the exponent of psi, they get
others, whose sum is near it (`relative_to_sum` in sums.py).
"""

from collections.abc import Sequence
from functools import reduce
from itertools import combinations
from operator import add, mul
from typing import NamedTuple

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from ._autograd_frexp import DetFrexpBackward, DetFrexpJet
from ._autograd_logsum import Logsum, LogsumRatios
from ._function import inner
from ._reference import check_dense, check_directions, check_same
from ._reference_numbers import HALF
from ._torch_modes import made_of_sequence
from .linalg import argument
from .sums import check_matrices, has_columns, mantissas, relative_to_sum

_OP = "slogsumdet_laplacian"


@made_of_sequence
class SlogsumdetLaplacian(NamedTuple):
    """What `slogsumdet_laplacian` returns."""

    sign: Tensor
    logabsdet: Tensor
    derivatives: Tensor
    laplacian: Tensor


def slogsumdet_laplacian(
    matrices: Sequence[Tensor],
    jacobians: Sequence[Tensor],
    laplacians: Sequence[Tensor],
    weights: Tensor | None = None,
    *,
    rows: bool = False,
) -> SlogsumdetLaplacian:
    r"""`slogsumdet` with the derivatives and the Laplacian of its logarithm along coordinates.

    Of psi = sum_k w_k prod_s det(A_sk), whose matrices depend on real coordinates x_i, from the
    derivatives of the matrices: one pass, in which every matrix serves all coordinates at once.

    Args:
        matrices: A_1, A_2, .., each (\*, K, n_s, n_s), as for `slogsumdet`.
        jacobians: dA_s / dx_i of each, (\*, K, d, n_s, n_s) for d coordinates that all matrices
            share. With rows=True (\*, K, n_s, d, n_s): d coordinates for each row, entry (r, i) the
            derivative of row r of A_s along them, where no other row depends on them.
        laplacians: sum_i d^2 A_s / dx_i^2 of each, (\*, K, n_s, n_s).
        weights: As for `slogsumdet`; they do not depend on the coordinates.
        rows: Whether a coordinate moves one row of one matrix, as one electron without backflow
            does. Then d is the number of its coordinates, three as a rule.

    Returns:
        Named tuple (sign, logabsdet, derivatives, laplacian). sign and logabsdet as of
        `slogsumdet`, (\*); derivatives of logabsdet, (\*, d), or (\*, N, d) with rows=True for the
        N = n_1 + n_2 + .. rows of all matrices in their order; its Laplacian, (\*). With weights
        (K, m) all have m after (\*). The local kinetic energy of a real psi is
        -(laplacian + s) / 2 with s = derivatives.square().sum(-1), or .sum((-2, -1)) if rows=True.

    Gradient:
        With respect to matrices, jacobians, laplacians and weights, in forward and reverse mode,
        of every order. Without rows=True a gradient with respect to the matrices takes third
        derivatives of determinants, in plain PyTorch: many times the time of the value.

    Accuracy:
        As `slogsumdet`: of each derivative of a determinant that of `det` and its derivatives; the
        errors of a sum are small beside the sum of the moduli of its terms. Where a term is tiny
        beside psi, the derivatives of its determinants are carried relative to equal shares of
        psi. So they may leave the range beside the term, as with diag(1, 2**-100) twice in float32
        and jacobians of ones. The results are inf or NaN where they leave it even so, and the
        laplacian where the squares of the derivatives leave it. They may be NaN where a derivative
        leaves the range beside its own determinant, which is not 0, and another one of the term is.

    Singular matrices:
        Their terms are zero and have the right derivatives. Where the computed psi is exactly 0:
        sign 0, logabsdet -inf, and inf or NaN for the rest. A matrix, jacobian or laplacian with
        NaN or inf gives NaN, for the sums alone that it belongs to.

    Raises:
        RuntimeError: "slogsumdet_laplacian: expected jacobians[0] of shape (\*, d, n, n) for A of
            shape (2, 3, 3), got (2, 3, 3)"; likewise for dtype, layout and device, and for the
            other arguments.
        TypeError: Something is not a sequence of Tensors, or there is none.

    Reference:
        Chain rule and Jacobi's formula; the second derivative of a determinant by minors as in
        `det`. Local energies: Foulkes, Mitas, Needs and Rajagopal, Quantum Monte Carlo simulations
        of solids, Rev. Mod. Phys. 73 (2001), section IV.

    Example:
        >>> x = torch.tensor([[0.5], [2.0]])  # two particles in one dimension, orbitals 1 and x^2
        >>> A = torch.cat([torch.ones(2, 1), x**2], -1)[None]  # psi = x_2^2 - x_1^2
        >>> J = torch.stack([torch.zeros(2, 1), 2 * x], -1)[None]
        >>> L = torch.tensor([[[0.0, 2.0], [0.0, 2.0]]])
        >>> torchdet.slogsumdet_laplacian([A], [J], [L], rows=True).derivatives
        tensor([[-0.2667],
                [ 1.0667]])
    """
    given = {"matrices": matrices, "jacobians": jacobians, "laplacians": laplacians}
    everything = [X for name, Xs in given.items() for X in _sequence(name, Xs)]
    everything += [] if weights is None else [weights]
    if has_torch_function(everything):
        result: SlogsumdetLaplacian = handle_torch_function(
            slogsumdet_laplacian, everything, matrices, jacobians, laplacians, weights, rows=rows
        )
        return result
    As, Js, Ls = ([argument(_OP, X) for X in Xs] for Xs in given.values())
    shape = check_matrices(_OP, As)
    _check_derivatives(As, Js, Ls, rows)
    columns = weights is not None and has_columns(_OP, weights, As[0], shape)
    dtype = As[0].dtype
    if dtype in HALF:
        As, Js, Ls = ([X.to(torch.float32) for X in Xs] for Xs in (As, Js, Ls))
    w = None if weights is None else mantissas(weights, columns)
    parts, terms, E = relative_to_sum(As, w, columns)
    sign, logabsdet = Logsum.call(terms, E)
    of_matrices = (
        _of_matrix(A, J, L, *part, rows) for A, J, L, part in zip(As, Js, Ls, parts, strict=True)
    )
    g, q = zip(*of_matrices, strict=True)
    D, lap = _of_products([m for m, _ in parts], g, q, rows)
    if columns:
        D, lap = D.unsqueeze(-3), lap.unsqueeze(-2)
    c = LogsumRatios.call(terms, E)
    c = c if w is None else c * w[0]
    d_log = (c.unsqueeze(-1) * D).sum(-2)
    lap_log = (c * lap).sum(-1) - (d_log * d_log).sum(-1)  # (3)
    derivatives, laplacian = d_log.real, lap_log.real
    if rows:
        coordinates = sum(A.shape[-1] for A in As), Js[0].shape[-2]
        derivatives = derivatives.unflatten(-1, coordinates)
    results = (sign, logabsdet, derivatives, laplacian)
    return SlogsumdetLaplacian(*(x.to(dtype) if dtype in HALF else x for x in results))


def _of_matrix(
    A: Tensor, J: Tensor, L: Tensor, m: Tensor, e: Tensor, rows: bool
) -> tuple[Tensor, Tensor]:
    """Return g and q relative to 2^e, both of shape (*, K, ..)."""
    C = DetFrexpBackward.call(torch.ones_like(m), A, e).conj()
    q = inner(C, L)
    if rows:
        return (C.unsqueeze(-2) * J).sum(-1), q
    g, along = DetFrexpJet.call(A, J, e)
    return g, q + along.sum(-1)


def _of_products(
    mantissas: Sequence[Tensor], g: Sequence[Tensor], q: Sequence[Tensor], rows: bool
) -> tuple[Tensor, Tensor]:
    """What (2) has beside w, for d_i psi and lap psi.

    (*, K, d) or, for rows, (*, K, (n_1 + n_2 + ..) d), and (*, K).
    """

    def times_others(x: Tensor, left_out: tuple[int, ...], coordinates: int = 0) -> Tensor:
        # x has so many dimensions of coordinates after (*, K).
        last = (..., *(None,) * coordinates)
        others = (m[last] for s, m in enumerate(mantissas) if s not in left_out)
        return reduce(mul, others, x)

    along = [times_others(x, (s,), 2 if rows else 1) for s, x in enumerate(g)]
    lap = reduce(add, (times_others(x, (s,)) for s, x in enumerate(q)))
    if rows:
        return torch.cat(along, -2).flatten(-2), lap
    pairs = (
        2 * times_others((g[s] * g[t]).sum(-1), (s, t)) for s, t in combinations(range(len(g)), 2)
    )
    return reduce(add, along), reduce(add, pairs, lap)


def _sequence(name: str, Xs: Sequence[Tensor]) -> Sequence[Tensor]:
    if isinstance(Xs, Tensor) or not isinstance(Xs, Sequence) or not Xs:
        got = "none" if isinstance(Xs, Sequence) else type(Xs).__name__
        raise TypeError(
            f"{_OP}: expected {name} to be a sequence of at least one Tensor, got {got}; "
            "one Tensor goes into a list"
        )
    return Xs


def _check_derivatives(
    As: Sequence[Tensor], Js: Sequence[Tensor], Ls: Sequence[Tensor], rows: bool
) -> None:
    for name, Xs in (("jacobians", Js), ("laplacians", Ls)):
        if len(Xs) != len(As):
            raise RuntimeError(
                f"{_OP}: expected as many {name} as matrices, {len(As)}, got {len(Xs)}"
            )
    for s, (A, J, L) in enumerate(zip(As, Js, Ls, strict=True)):
        name = f"jacobians[{s}]"
        if rows:
            _check_rows(name, J, A)
        else:
            check_directions(_OP, name, J, A)
        check_same(_OP, f"laplacians[{s}]", L, A)
        which = -2 if rows else -3
        if J.shape[which] != Js[0].shape[which]:
            raise RuntimeError(
                f"{_OP}: expected jacobians along the same number of coordinates, "
                f"got {Js[0].shape[which]} and {J.shape[which]}"
            )


def _check_rows(name: str, J: Tensor, A: Tensor) -> None:
    check_dense(_OP, name, J)
    if J.dim() != A.dim() + 1 or J.shape[:-2] + J.shape[-1:] != A.shape:
        raise RuntimeError(
            f"{_OP}: expected {name} of shape (*, n, d, n) for A of shape {tuple(A.shape)} and "
            f"rows=True, got {tuple(J.shape)}"
        )
    check_same(_OP, name, J, A, J.shape)
