"""Plain PyTorch implementation of every operator, for any device and without the extension.

All operators come from one rank-revealing factorisation. Rows and columns of A are scaled by
powers of two, which is exact,

    B = 2^-r A 2^-c,   nonzero rows and columns of B have their largest entry in [1/2, 1),     (1)

and B is eliminated with complete pivoting, B = sum_k l_k d_k u_k^T. With the l_k as columns of L
and the u_k^T as rows of U (unit triangular up to a permutation, no entry above 1), G = L^-1 and
F = U^-1:

    G B F = D = diag(d),   det G det F = s = +-1.                                              (2)

Since C(XY) = C(X) C(Y) for cofactors, and C(G) = det(G) G^-T, every derivative of the cofactor
matrix is the one at the diagonal D carried back:

    C(B) = s G^T C(D) F^T,
    D^m C(B)[Z_1..Z_m] = s G^T D^m C(D)[W_1..W_m] F^T,   W_i = G Z_i F,                        (3)
    C(A)_ij = 2^(R - r_i - c_j) C(B)_ij,   R = sum r + sum c,   Z_B = 2^-r Z 2^-c.             (4)

At a diagonal the derivatives are products of all pivots but a few. They are formed from the
smallest pivots by quotients of modulus about 1 at most, so that no small or zero pivot is ever
divided by, and carried as mantissa and exponent. Exponents meet their mantissas once, at the very
end (`ldexp`). No branch depends on the data: zero pivots and NaN are handled by masks.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

_DTYPES = ("float16", "bfloat16", "float32", "float64", "complex64", "complex128")
_ZERO_EXPONENT = -(1 << 20)  # stands for the exponent of 0: below every exponent that occurs


# ---- argument checks, shared with the fake kernels: they read no data


def _check_strided(op: str, name: str, X: Tensor) -> None:
    if X.layout != torch.strided:
        raise RuntimeError(
            f"{op}: expected a dense (strided) {name}, got layout {X.layout}; "
            f"convert it first, e.g. {name}.to_dense()"
        )


def check_square(op: str, A: Tensor) -> None:
    """Raise RuntimeError unless A is dense, of a supported dtype and of shape (*, n, n)."""
    _check_strided(op, "A", A)
    if A.dim() < 2 or A.shape[-1] != A.shape[-2]:
        raise RuntimeError(f"{op}: expected A of shape (*, n, n), got {tuple(A.shape)}")
    dtype = str(A.dtype).removeprefix("torch.")
    if dtype not in _DTYPES:
        raise RuntimeError(
            f"{op}: expected A of dtype {', '.join(_DTYPES[:-1])} or {_DTYPES[-1]}, "
            f"got {dtype}; convert it first, e.g. A.to(torch.float64)"
        )


def check_same(op: str, name: str, X: Tensor, A: Tensor, shape: torch.Size | None = None) -> None:
    """Raise RuntimeError unless X has dtype and device of A, and the given shape (default: A's)."""
    shape = A.shape if shape is None else shape
    _check_strided(op, name, X)
    if X.shape != shape:
        raise RuntimeError(f"{op}: expected {name} of shape {tuple(shape)}, got {tuple(X.shape)}")
    for what, got, want in (("dtype", X.dtype, A.dtype), ("device", X.device, A.device)):
        if got != want:
            raise RuntimeError(
                f"{op}: expected {name} of the {what} of A, {want}, got {got}; "
                f"convert it first, e.g. {name}.to(A.{what})"
            )


def real_dtype(A: Tensor) -> torch.dtype:
    """Return the dtype of |a_ij|, which is the dtype of logabsdet."""
    return A.real.dtype if A.is_complex() else A.dtype


# ---- mantissas and exponents


def exponents(x: Tensor) -> Tensor:
    """Return e with |x| in [1/2, 1) * 2^e (larger of real and imaginary part); -2^20 for x = 0."""
    parts = torch.view_as_real(x) if x.is_complex() else x.unsqueeze(-1)
    return torch.frexp(parts).exponent.masked_fill(parts == 0, _ZERO_EXPONENT).amax(-1)


def _power_of_two(exponent: Tensor, dtype: torch.dtype) -> Tensor:
    # Written bit by bit: torch.ldexp goes through pow, whose rounding no device specifies.
    single = dtype == torch.float32
    bias, width, integer = (127, 23, torch.int32) if single else (1023, 52, torch.int64)
    return ((exponent.to(integer) + bias) << width).view(dtype)


def ldexp(x: Tensor, exponent: Tensor) -> Tensor:
    """Return x * 2^exponent, rounded once, also where 2^exponent alone is out of range."""
    if x.is_complex():
        return torch.view_as_complex(ldexp(torch.view_as_real(x), exponent.unsqueeze(-1)))
    mantissa, own = torch.frexp(x)
    largest = 252 if x.dtype == torch.float32 else 2044
    total = (exponent + own).clamp(-largest, largest)
    # |mantissa| >= 1/2: the first product is exact, unless the second vanishes altogether.
    half = total >> 1
    return mantissa * _power_of_two(half, x.dtype) * _power_of_two(total - half, x.dtype)


def split(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return x as mantissa, of modulus about 1, and exponent; 0, inf and NaN have exponent 0."""
    exponent = exponents(x).masked_fill((x == 0) | ~torch.isfinite(x), 0)
    return ldexp(x, -exponent), exponent


def scaled_product(x: Tensor) -> tuple[Tensor, Tensor]:
    """Multiply along the last dimension; mantissa and exponent are split after every product."""
    mantissa, exponent = split(x)
    total = exponent.sum(-1, dtype=torch.int32)
    while (length := mantissa.shape[-1]) > 1:
        half = length // 2
        pairs, exponent = split(mantissa[..., :half] * mantissa[..., half : 2 * half])
        mantissa = torch.cat([pairs, mantissa[..., 2 * half :]], -1)
        total = total + exponent.sum(-1, dtype=torch.int32)
    return mantissa.prod(-1), total  # of one factor, or of none: 1


def quotient(x: Tensor, d: Tensor) -> Tensor:
    """Return x / d for |x| of the order of |d| at most, and 0 where d = 0."""
    zero = d == 0
    d = d.masked_fill(zero, 1)
    if not d.is_complex():
        return (x / d).masked_fill(zero, 0)
    # Complex division spelt out in rounded products gives exactly 1 for x = d, so that equal or
    # proportional rows leave a pivot of exactly 0. Torch fuses some of the products and does not.
    d, e = split(d)
    x = ldexp(x, -e)
    square = d.real * d.real + d.imag * d.imag
    real = (x.real * d.real + x.imag * d.imag) / square
    imag = (x.imag * d.real - x.real * d.imag) / square
    return torch.complex(real, imag).masked_fill(zero, 0)


def matmul(X: Tensor, Y: Tensor) -> Tensor:
    """X @ Y as a sum of rank-one updates, out of reach of autocast and of TF32 settings."""
    total = X.new_zeros(X.shape[-2], Y.shape[-1])
    for k in range(X.shape[-1]):
        total = torch.addcmul(total, X[..., :, k : k + 1], Y[..., k : k + 1, :])
    return total


# ---- the factorisation


class Factors(NamedTuple):
    """Equations (1) and (2) for a batch of matrices, pivots in ascending order of modulus."""

    scale: Tensor  # (*, n, n) int32: r_i + c_j
    shift: Tensor  # (*) int32: R
    d: Tensor  # (*, n): pivots
    G: Tensor  # (*, n, n)
    F: Tensor  # (*, n, n)
    sign: Tensor  # (*): s, in the dtype of d
    finite: Tensor  # (*) bool: false where A holds NaN or inf; such a matrix is factored as zero


def _magnitude(x: Tensor) -> Tensor:
    # |Re| + |Im| orders pivots as well as the modulus does, and cannot underflow.
    return x.real.abs() + x.imag.abs() if x.is_complex() else x.abs()


def compute(X: Tensor) -> tuple[Tensor, Tensor]:
    """Return X in its dtype of computation, non-finite matrices zeroed, and which are finite."""
    if X.dtype in (torch.float16, torch.bfloat16):
        X = X.to(torch.float32)
    finite = torch.isfinite(X).flatten(-2).all(-1)
    return X.resolve_conj().masked_fill(~finite[..., None, None], 0), finite


def equilibrate(e: Tensor) -> tuple[Tensor, Tensor]:
    """Return r_i + c_j and R of (1) from the exponents of a matrix.

    r_i is the largest exponent in row i, c_j <= 0 the largest in column j of 2^-r A: scaling
    columns up lifts no entry above 1, so the rows stay scaled.
    """
    if e.shape[-1] == 0:
        return e, e.sum((-2, -1), dtype=torch.int32)
    r = e.amax(-1, keepdim=True)
    r = r.masked_fill(r < _ZERO_EXPONENT // 2, 0)
    c = (e - r).amax(-2, keepdim=True)
    c = c.masked_fill(c < _ZERO_EXPONENT // 2, 0)
    return r + c, (r.sum(-2) + c.sum(-1)).squeeze(-1).to(torch.int32)


def _odd(permutation: Tensor) -> Tensor:
    # Parity as the number of inversions modulo 2.
    inversions = permutation.unsqueeze(-1) > permutation.unsqueeze(-2)
    return inversions.triu(1).sum((-2, -1), dtype=torch.int32) & 1


def _take_row(X: Tensor, i: Tensor) -> Tensor:
    return X.gather(-2, i[..., None, None].expand(*i.shape, 1, X.shape[-1]))


def _take_column(X: Tensor, j: Tensor) -> Tensor:
    return X.gather(-1, j[..., None, None].expand(*j.shape, X.shape[-2], 1))


def factor(A: Tensor) -> Factors:
    """Equilibrate and eliminate with complete pivoting, without moving rows or columns.

    Step k takes the largest entry d = S_ij of the residual S outside the rows and columns of
    earlier pivots and subtracts l d u^T, l = S_:j / d, u^T = S_i: / d. The same row operations
    carry I to M, the same column operations I to N; row i of M is final then and is row k of
    G = L^-1, column j of N is column k of F = U^-1. Where the residual is exactly 0, d = 0 and
    l, u are unit vectors.
    """
    A, finite = compute(A)
    scale, R = equilibrate(exponents(A))
    S = ldexp(A, -scale)  # both exponents in one ldexp: denormals survive
    n = S.shape[-1]
    if n == 0:
        return Factors(scale, R, S.sum(-1), S, S, S.sum((-2, -1)) + 1, finite)
    index = torch.arange(n, device=S.device)
    used = torch.zeros_like(S, dtype=torch.bool)
    M = N = torch.eye(n, dtype=S.dtype, device=S.device).expand_as(S)
    pivots, rows, columns = [], [], []
    for _ in range(n):
        position = _magnitude(S).masked_fill(used, -1).flatten(-2).argmax(-1)
        i, j = position // n, position % n
        at_row = (index == i.unsqueeze(-1)).unsqueeze(-1)
        at_column = (index == j.unsqueeze(-1)).unsqueeze(-2)
        row, column = _take_row(S, i), _take_column(S, j)
        d = _take_column(row, j)
        l = quotient(column, d).masked_fill(at_row, 0)  # without its 1: row i stays in M
        u = quotient(row, d).masked_fill(at_column, 0)
        used = used | at_row | at_column
        S = torch.addcmul(S, l, row, value=-1).masked_fill(used, 0)
        M = torch.addcmul(M, l, _take_row(M, i), value=-1)
        N = torch.addcmul(N, _take_column(N, j), u, value=-1)
        pivots.append(d[..., 0, 0])
        rows.append(i)
        columns.append(j)
    d, i, j = torch.stack(pivots, -1), torch.stack(rows, -1), torch.stack(columns, -1)
    order = _magnitude(d).argsort(dim=-1, stable=True)
    d, i, j = d.gather(-1, order), i.gather(-1, order), j.gather(-1, order)
    G = M.gather(-2, i.unsqueeze(-1).expand(S.shape))
    F = N.gather(-1, j.unsqueeze(-2).expand(S.shape))
    return Factors(scale, R, d, G, F, (1 - 2 * (_odd(i) ^ _odd(j))).to(d.dtype), finite)


def unexpand(A: Tensor) -> Tensor:
    """Undo `expand` on batch dimensions: a matrix met with many directions is factored once."""
    stride = A.stride()[:-2]
    return A[tuple(slice(0, 1) if step == 0 else slice(None) for step in stride)]


def direction(f: Factors, Z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return W and e with W 2^e = G Z_B F of (3), Z_B scaled below 1, and which Z are finite."""
    Z, finite = compute(Z)
    if Z.shape[-1] == 0:
        return Z, f.shift, finite
    e = (exponents(Z) - f.scale).amax((-2, -1))
    e = e.masked_fill(e < _ZERO_EXPONENT // 2, 0)
    return matmul(matmul(f.G, ldexp(Z, -f.scale - e[..., None, None])), f.F), e, finite


def carry_back(f: Factors, K: Tensor) -> Tensor:
    """Return G^T K F^T of (3), without the sign."""
    return matmul(matmul(f.G.mT, K), f.F.mT)


def unscale(X: Tensor, exponent: Tensor, finite: Tensor, dtype: torch.dtype) -> Tensor:
    """Return X 2^exponent in the given dtype; NaN for the matrices that are not finite."""
    if X.is_complex():
        parts = torch.view_as_real(X)
        parts = unscale(parts, exponent.unsqueeze(-1), finite, parts.dtype)
        return torch.view_as_complex(parts)
    finite = finite.reshape(finite.shape + (1,) * (exponent.dim() - finite.dim()))
    return ldexp(X, exponent).masked_fill(~finite, math.nan).to(dtype).contiguous()


# ---- exclusive products


def _inverse_core(f: Factors) -> Tensor:
    # T = d_0 B^-T = G^T diag(d_0 / d_i) F^T: the common core of the cofactors and of the inverse.
    q = quotient(f.d[..., :1], f.d)
    q = torch.cat([torch.ones_like(q[..., :1]), q[..., 1:]], -1)
    return carry_back(f, torch.diag_embed(q))


def cofactor_scaled(f: Factors) -> tuple[Tensor, Tensor]:
    """Return X and e with C(A)_ij = X_ij 2^e_ij."""
    # C(D) = diag(a), a_i = prod_{k != i} d_k = m d_0 / d_i, m = a_0 all pivots but the smallest.
    m, e = scaled_product(f.d[..., 1:])
    X = (f.sign * m)[..., None, None] * _inverse_core(f)
    return X, (e + f.shift)[..., None, None] - f.scale


def inverse_transpose_scaled(f: Factors) -> tuple[Tensor, Tensor]:
    """Return X and e with A^-T_ij = X_ij 2^e_ij; X is not finite where A is singular (d_0 = 0)."""
    m, e = split(f.d[..., :1])
    return _inverse_core(f) / m.unsqueeze(-1), -e.unsqueeze(-1) - f.scale


def _pair_products(d: Tensor) -> tuple[Tensor, Tensor]:
    # rho_ij = prod_{k != i, j} d_k off the diagonal, 0 on it, as rho 2^e. With p = d_0, q = d_1 the
    # smallest pivots, m the product of the others, x_i = q / d_i and y_i = p / d_i:
    #   rho_01 = m,   rho_0j = m x_j,   rho_1j = m y_j,   rho_ij = m x_i y_j    (1 < i < j).
    n = d.shape[-1]
    m, e = scaled_product(d[..., 2:])
    x, y = quotient(d[..., :2][..., -1:], d), quotient(d[..., :1], d)
    x = torch.cat([torch.ones_like(x[..., :2]), x[..., 2:]], -1)
    x, y = x.unsqueeze(-2), y.unsqueeze(-2)
    rho = torch.cat([x, y, x[..., 2:].mT * y], -2)[..., :n, :].triu(1)
    return m[..., None, None] * (rho + rho.mT), e


# ---- the operators


def det(A: Tensor) -> Tensor:
    """Return det A = s 2^R prod d."""
    check_square("det", A)
    f = factor(A)
    m, e = scaled_product(f.d)
    return unscale(f.sign * m, e + f.shift, f.finite, A.dtype)


def slogdet(A: Tensor) -> tuple[Tensor, Tensor]:
    """Return sign and log|det A| from mantissa and exponent; (0, -inf) for singular A."""
    check_square("slogdet", A)
    f = factor(A)
    m, e = scaled_product(f.d)
    modulus = m.abs()
    # A mantissa in [sqrt(1/2), sqrt(2)) keeps log m and e log 2 from cancelling near |det A| = 1.
    small = modulus < math.sqrt(0.5)
    near_1 = torch.where(small, 2 * modulus, modulus)
    # e goes to floating point first: an integer tensor times a Python float is float32 in torch.
    e = (e + f.shift - small.to(e.dtype)).to(modulus.dtype)
    logabsdet = near_1.log() + e * math.log(2)
    sign = quotient(f.sign * m, modulus.to(m.dtype))
    zero = torch.zeros_like(f.shift)
    sign = unscale(sign, zero, f.finite, A.dtype)
    return sign, unscale(logabsdet, zero, f.finite, real_dtype(A))


def cofactor(A: Tensor) -> Tensor:
    """Return C(A), the cofactor matrix."""
    check_square("cofactor", A)
    f = factor(A)
    C, e = cofactor_scaled(f)
    return unscale(C, e, f.finite, A.dtype)


def det_backward(grad: Tensor, A: Tensor) -> Tensor:
    """Return grad conj(C(A)). Only the product need be representable: grad is split as well."""
    check_square("det_backward", A)
    check_same("det_backward", "grad", grad, A, A.shape[:-2])
    f = factor(A)
    C, e = cofactor_scaled(f)
    m, e_grad = split(grad.to(C.dtype).resolve_conj())
    X = m[..., None, None] * torch.conj_physical(C)
    return unscale(X, e + e_grad[..., None, None], f.finite, A.dtype)


def slogdet_backward(grad: Tensor, A: Tensor) -> Tensor:
    """Return grad conj(A^-T); without a finite entry where A is singular."""
    check_square("slogdet_backward", A)
    check_same("slogdet_backward", "grad", grad, A, A.shape[:-2])
    f = factor(A)
    X, e = inverse_transpose_scaled(f)
    m, e_grad = split(grad.to(X.dtype).resolve_conj())
    X = m[..., None, None] * torch.conj_physical(X)
    return unscale(X, e + e_grad[..., None, None], f.finite, A.dtype)


def det_hvp(A: Tensor, Z: Tensor) -> Tensor:
    """Return H(A)[Z], the derivative of C in direction Z: (3) with m = 1.

    C(D + W)_ij is the signed minor without row i and column j. To first order in W each minor
    replaces one pivot d_k by W_kk if i = j, and the pivots d_i, d_j by W_ji if not:

        K_ii = sum_{k != i} rho_ik W_kk,   K_ij = -rho_ij W_ji,   rho_ij = prod_{k != i, j} d_k.
    """
    check_square("det_hvp", A)
    check_same("det_hvp", "Z", Z, A)
    f = factor(unexpand(A))
    W, e_W, finite = direction(f, Z)
    rho, e = _pair_products(f.d)
    diagonal = matmul(rho, W.diagonal(dim1=-2, dim2=-1).unsqueeze(-1)).squeeze(-1)
    K = torch.diag_embed(diagonal) - rho * W.mT
    H = f.sign[..., None, None] * carry_back(f, K)
    exponent = (e + e_W + f.shift)[..., None, None] - f.scale
    if A.shape[-1] == 2:  # H = C(Z) whatever A, which spares the entries of Z any rounding
        sign = torch.tensor([[1, -1], [-1, 1]], device=Z.device)
        H, exponent = compute(Z)[0].flip((-2, -1)) * sign, torch.zeros_like(exponent)
    return unscale(H, exponent, f.finite & finite, A.dtype)
