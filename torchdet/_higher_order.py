"""D^m C(A)[Z_1..Z_m], the m-th derivative of the cofactors, in plain PyTorch: exact at every rank.

With the factorisation of _reference.py the derivative is taken at the diagonal D in the directions
W_i = G Z_i F. It is the coefficient of e_1 ... e_m in C(D + N), N = sum_i e_i W_i, where the e_i
commute and e_i^2 = 0. An element of this algebra is a list of 2^m tensors: x[S] the coefficient of
the product of the e_i with i in S, the set S written as a bit mask.

Each term holds a product of all pivots but m+1, so let the t = m+1 smallest pivots stand apart,
D = diag(D_s, D_l), with delta the smallest pivot of D_l. The m-th derivative of C is homogeneous in
the pivots, of degree n-1-m = n-t, the order of D_l. So D may be divided by delta and the power of
delta returned with det D_l:

    D^m C(D)[W_1..W_m] = det(D_l) * (D^m C(D / delta)[W_1..W_m] / det(D_l / delta)).           (1)

Writing D for D / delta from here on, D_l^-1 and D_s hold quotients of modulus about 1 at most, and
with the blocks of N named alike

    Y = (D_l + N_ll)^-1,   V = Y N_ls,   U = N_sl Y,   T = D_s + N_ss - N_sl Y N_ls,           (2)
    theta = det(D_l + N_ll) / det D_l,
    adj(D + N) / det D_l = theta [[adj T, -adj(T) U], [-V adj T, det(T) Y + V adj(T) U]].      (3)

All of this is polynomial in D_l^-1, D_s and N: no small pivot is divided by. Where the rank of A is
below n-t, det(D_l) = 0 makes the result exactly 0.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import reduce

import torch
from torch import Tensor

from ._reference import check_same, check_square
from ._reference_lu import (
    carry_back,
    compute,
    direction,
    equilibrate,
    factor,
    unexpand,
    unscale,
)
from ._reference_numbers import exponents, matmul, quotient, scaled_product, sum_last, times

Element = list[Tensor]
Product = Callable[[Tensor, Tensor], Tensor]


def _subsets(S: int) -> Iterator[int]:
    T = S
    while T:
        yield T
        T = (T - 1) & S
    yield 0


def _members(S: int) -> Iterator[int]:
    return (i for i in range(S.bit_length()) if S >> i & 1)


def _sum(terms: Iterable[Tensor], like: Tensor) -> Tensor:
    return reduce(torch.add, terms, torch.zeros_like(like))


def _trace(X: Tensor) -> Tensor:
    return sum_last(X.diagonal(dim1=-2, dim2=-1))[..., None, None]


def _trace_of_product(X: Tensor, Y: Tensor) -> Tensor:
    return sum_last(times(X, Y.mT).flatten(-2))[..., None, None]


def _product_at(S: int, x: Element, y: Element, product: Product) -> Tensor:
    return reduce(torch.add, (product(x[T], y[S ^ T]) for T in _subsets(S)))


def _product(x: Element, y: Element, product: Product) -> Element:
    return [_product_at(S, x, y, product) for S in range(len(x))]


def _inverse(Q: Tensor, N: Sequence[Tensor]) -> Element:
    # Y = Q - Q N Y, set by set: Y_S = -Q sum_{i in S} N_i Y_{S - i}.
    Y = [torch.diag_embed(Q)]
    for S in range(1, 1 << len(N)):
        NY = _sum((matmul(N[i], Y[S ^ 1 << i]) for i in _members(S)), N[0])
        Y.append(-times(Q.unsqueeze(-1), NY))
    return Y


def _determinant_ratio(Y: Element, N: Sequence[Tensor]) -> Element:
    # Jacobi's formula d theta / d e_i = theta tr(Y N_i), with i the last member of S:
    # theta_S = sum_{T in S - i} theta_T tr(Y_{S - i - T} N_i).
    theta = [torch.ones_like(_trace(Y[0]))]
    for S in range(1, len(Y)):
        i = S.bit_length() - 1
        rest = S ^ 1 << i
        jacobi = (times(theta[T], _trace_of_product(Y[rest ^ T], N[i])) for T in _subsets(rest))
        theta.append(reduce(torch.add, jacobi))
    return theta


def _adjugate_of_order_3(T: Element) -> tuple[Element, Element]:
    # By minors; cyclic neighbours carry the sign. Powers of T would cancel more.
    def shifted(i: int, j: int) -> Element:
        return [x.roll((-i, -j), (-2, -1)) for x in T]

    plus = _product(shifted(1, 1), shifted(2, 2), times)
    minus = _product(shifted(1, 2), shifted(2, 1), times)
    C = [x - y for x, y in zip(plus, minus, strict=True)]
    rows = _product([x[..., :1, :] for x in T], [c[..., :1, :] for c in C], times)
    return [c.mT for c in C], [sum_last(x).unsqueeze(-1) for x in rows]


def _adjugate(T: Element) -> tuple[Element, Element]:
    if T[0].shape[-1] == 3:
        return _adjugate_of_order_3(T)
    # Faddeev-LeVerrier, which divides by 2..t only: X_1 = I, c_k = -tr(T X_k) / k,
    # X_{k+1} = T X_k + c_k I; adj T = (-1)^(t-1) X_t and det T = (-1)^t c_t.
    t = T[0].shape[-1]
    eye = torch.eye(t, dtype=T[0].dtype, device=T[0].device)
    TX = T
    c = [-_trace(x) for x in TX]
    X = [eye] + [torch.zeros_like(eye)] * (len(T) - 1)
    for k in range(2, t + 1):
        X = [x + times(shift, eye) for x, shift in zip(TX, c, strict=True)]
        TX = _product(T, X, matmul)
        c = [-_trace(x) / k for x in TX]
    sign = (-1) ** t
    return [-sign * x for x in X], [sign * x for x in c]


def _diagonal_derivative(d: Tensor, W: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return K and e with D^m C(diag(d))[W_1..W_m] = K 2^e; m < n, |d| in ascending order."""
    m = len(W)
    t = m + 1
    det_l, e = scaled_product(d[..., t:])
    delta = d[..., t : t + 1] if d.shape[-1] > t else torch.ones_like(d[..., :1])
    W_ss, W_sl = [w[..., :t, :t] for w in W], [w[..., :t, t:] for w in W]
    W_ls, W_ll = [w[..., t:, :t] for w in W], [w[..., t:, t:] for w in W]

    # (2). The sums over i are products with N, whose coefficients stand at sets of one member.
    Y = _inverse(quotient(delta, d[..., t:]), W_ll)
    sets = range(1 << m)
    V = [_sum((matmul(Y[S ^ 1 << i], W_ls[i]) for i in _members(S)), W_ls[0]) for S in sets]
    U = [_sum((matmul(W_sl[i], Y[S ^ 1 << i]) for i in _members(S)), W_sl[0]) for S in sets]
    T = [-_sum((matmul(W_sl[i], V[S ^ 1 << i]) for i in _members(S)), W_ss[0]) for S in sets]
    T[0] = T[0] + torch.diag_embed(quotient(d[..., :t], delta))
    for i in range(m):
        T[1 << i] = T[1 << i] + W_ss[i]

    # (3), of which only the coefficient at the set of all m members is wanted.
    theta = _determinant_ratio(Y, W_ll)
    adj_T, det_T = _adjugate(T)
    adj_T, det_T = _product(theta, adj_T, times), _product(theta, det_T, times)
    adj_T_U = _product(adj_T, U, matmul)
    top = sets[-1]
    ls = _product_at(top, V, adj_T, matmul)
    ll = _product_at(top, det_T, Y, times) + _product_at(top, V, adj_T_U, matmul)
    adj = torch.cat([torch.cat([adj_T[top], -adj_T_U[top]], -1), torch.cat([-ls, ll], -1)], -2)
    return times(det_l[..., None, None], adj.mT), e


def _largest_exponents(Zs: Sequence[Tensor]) -> Tensor:
    # The exponents of all Z_i in one matrix, each Z_i counted relative to its largest entry.
    e = [exponents(compute(Z)[0]) for Z in Zs]
    return reduce(torch.maximum, (x - x.amax((-2, -1), keepdim=True) for x in e))


def cofactor_derivative(A: Tensor, Zs: Sequence[Tensor]) -> Tensor:
    """Return D^m C(A)[Z_1..Z_m], m = len(Zs): multilinear, symmetric, holomorphic (no conjugate).

    Args:
        A: (*, n, n).
        Zs: at least one direction, each (*, n, n), of dtype and device of A. Batch dimensions
            broadcast; a matrix that many directions share is factored once.

    Returns:
        (*, n, n), dtype of A. Exactly zero for m >= n, since C is a polynomial of degree n-1. NaN
        for every matrix that meets a NaN or inf in A or its directions.
    """
    check_square("cofactor_derivative", A)
    for Z in Zs:
        check_same("cofactor_derivative", "Z", Z, A, Z.shape[:-2] + A.shape[-2:])
    A = unexpand(A)
    if len(Zs) == A.shape[-1] - 1:
        # C has degree n-1, so A drops out: its NaN must enter, its rounding and scaling must not.
        scale, R = equilibrate(_largest_exponents(Zs))
        f = factor(A * 0)._replace(scale=scale, shift=R)
    else:
        f = factor(A)
    W, shifts, finite = zip(*(direction(f, Z) for Z in Zs), strict=True)
    if len(Zs) < A.shape[-1]:
        K, e = _diagonal_derivative(f.d, W)
        X = times(f.sign[..., None, None], carry_back(f, K))
    else:
        X, e = torch.zeros_like(W[0]), f.shift
    exponent = reduce(torch.add, shifts, e + f.shift)[..., None, None] - f.scale
    valid = reduce(torch.logical_and, finite, f.finite)
    shape = torch.broadcast_shapes(A.shape, *(Z.shape for Z in Zs))
    return unscale(X.expand(shape), exponent, valid, A.dtype)
