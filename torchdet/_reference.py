"""Plain PyTorch implementation of every operator, for any device and without the extension.

Determinants and cofactors come from elimination with partial pivoting, higher derivatives from the
rank-revealing factorisation G B F = D = diag(d) of the equilibrated matrix B = 2^-r A 2^-c
(_reference_lu.py).
Since C(XY) = C(X) C(Y) for cofactors, and C(G) = det(G) G^-T, every derivative of the cofactor
matrix is the one at the diagonal D carried back:

    C(B) = s G^T C(D) F^T,   s = det G det F = +-1,
    D^m C(B)[Z_1..Z_m] = s G^T D^m C(D)[W_1..W_m] F^T,   W_i = G Z_i F,
    C(A)_ij = 2^(R - r_i - c_j) C(B)_ij,   R = sum r + sum c,   Z_B = 2^-r Z 2^-c.

At a diagonal the derivatives are products of all pivots but a few. They are formed from the
smallest pivots by quotients of modulus about 1 at most, so that no small or zero pivot is ever
divided by, and carried as mantissa and exponent. Exponents meet their mantissas once, at the very
end (`unscale`).
"""

import math

import torch
from torch import Tensor

from ._reference_lu import (
    Factors,
    Inverse,
    Pivots,
    carry_back,
    compute,
    direction,
    factor,
    invert,
    pivots,
    scaled_direction,
    unexpand,
    unscale,
)
from ._reference_numbers import (
    divide,
    exponents,
    matmul,
    quotient,
    scaled_product,
    split,
    sum_last,
    times,
    without_zeros,
)

_DTYPES = ("float16", "bfloat16", "float32", "float64", "complex64", "complex128")


# ---- argument checks, shared with the fake kernels: they read no data. Texts and their order are
# those of csrc/checks.h (tests/test_errors.py).


def check_dense(op: str, name: str, X: Tensor) -> None:
    """Raise TypeError unless X is a Tensor, and RuntimeError unless it is dense."""
    if not isinstance(X, Tensor):  # torch takes None for a Tensor
        raise TypeError(f"{op}: expected {name} to be a Tensor, got {type(X).__name__}")
    if X.layout != torch.strided:
        raise RuntimeError(
            f"{op}: expected a dense (strided) {name}, got layout {X.layout}; "
            f"convert it first, e.g. {name}.to_dense()"
        )


def check_square(op: str, A: Tensor) -> None:
    """Raise RuntimeError unless A is dense, of a supported dtype and of shape (*, n, n)."""
    check_dense(op, "A", A)
    if A.dim() < 2 or A.shape[-1] != A.shape[-2]:
        raise RuntimeError(f"{op}: expected A of shape (*, n, n), got {tuple(A.shape)}")
    dtype = dtype_name(A.dtype)
    if dtype not in _DTYPES:
        remedy = "complex64" if A.dtype.is_complex else "float64"
        raise RuntimeError(
            f"{op}: expected A of dtype {', '.join(_DTYPES[:-1])} or {_DTYPES[-1]}, "
            f"got {dtype}; convert it first, e.g. A.to(torch.{remedy})"
        )


def check_same(op: str, name: str, X: Tensor, A: Tensor, shape: torch.Size | None = None) -> None:
    """Raise RuntimeError unless X has dtype and device of A, and the given shape (default: A's)."""
    shape = A.shape if shape is None else shape
    check_dense(op, name, X)
    if X.shape != shape:
        raise RuntimeError(
            f"{op}: expected {name} of shape {tuple(shape)}, got {tuple(X.shape)}; "
            "expand or reshape it first"
        )
    if X.dtype != A.dtype:
        raise RuntimeError(
            f"{op}: expected {name} of the dtype of A, {dtype_name(A.dtype)}, "
            f"got {dtype_name(X.dtype)}; convert it first, e.g. {name}.to(A.dtype)"
        )
    check_device(op, name, X, A)


def check_directions(op: str, name: str, X: Tensor, A: Tensor) -> None:
    """Raise RuntimeError unless X is (*, d, n, n) where A is (*, n, n), and has its dtype."""
    check_dense(op, name, X)
    if X.dim() != A.dim() + 1 or X.shape[:-3] + X.shape[-2:] != A.shape:
        raise RuntimeError(
            f"{op}: expected {name} of shape (*, d, n, n) for A of shape {tuple(A.shape)}, "
            f"got {tuple(X.shape)}; expand or reshape it first"
        )
    check_same(op, name, X, A, X.shape)


def broadcast_batches(op: str, A: Tensor, name: str, X: Tensor) -> torch.Size:
    """Return what the dimensions of A and X before their last two broadcast to, or RuntimeError."""
    try:
        return torch.broadcast_shapes(A.shape[:-2], X.shape[:-2])
    except RuntimeError:
        raise RuntimeError(
            f"{op}: expected batch dimensions of A and {name} that broadcast, got A of shape "
            f"{tuple(A.shape)} and {name} of shape {tuple(X.shape)}"
        ) from None


def check_device(op: str, name: str, X: Tensor, A: Tensor) -> None:
    """Raise RuntimeError unless X is on the device of A."""
    if X.device != A.device:
        raise RuntimeError(
            f"{op}: expected {name} on the device of A, {A.device}, got {X.device}; "
            f"move it first, e.g. {name}.to(A.device)"
        )


def dtype_name(dtype: torch.dtype) -> str:
    """Return the name without torch."""
    return str(dtype).removeprefix("torch.")


def real_dtype(A: Tensor) -> torch.dtype:
    """Return the dtype of |a_ij|, which is the dtype of logabsdet."""
    return A.real.dtype if A.is_complex() else A.dtype


# ---- results at B, before they are scaled back


def cofactor_scaled(f: Inverse) -> tuple[Tensor, Tensor]:
    """Return X and e with C(A)_ij = X_ij 2^e_ij."""
    m, e = scaled_product(f.d)
    X = times(times(f.sign, m)[..., None, None], f.core)
    return X, (e + f.shift)[..., None, None] - f.scale


def inverse_transpose_scaled(f: Inverse) -> tuple[Tensor, Tensor]:
    """Return X and e with A^-T_ij = X_ij 2^e_ij; X is not finite where A is singular."""
    m, e = split(f.last)
    return divide(f.core, m.unsqueeze(-1)), -e.unsqueeze(-1) - f.scale


def _pair_products(d: Tensor) -> tuple[Tensor, Tensor]:
    # rho_ij = prod_{k != i, j} d_k off the diagonal, 0 on it, as rho 2^e. With p = d_0, q = d_1 the
    # smallest pivots, m the product of the others, x_i = q / d_i and y_i = p / d_i:
    #   rho_01 = m,   rho_0j = m x_j,   rho_1j = m y_j,   rho_ij = m x_i y_j    (1 < i < j).
    n = d.shape[-1]
    m, e = scaled_product(d[..., 2:])
    x, y = quotient(d[..., :2][..., -1:], d), quotient(d[..., :1], d)
    x = torch.cat([torch.ones_like(x[..., :2]), x[..., 2:]], -1)
    x, y = x.unsqueeze(-2), y.unsqueeze(-2)
    rho = torch.cat([x, y, times(x[..., 2:].mT, y)], -2)[..., :n, :].triu(1)
    return times(m[..., None, None], rho + rho.mT), e


# ---- the operators


def _backward(grad: Tensor, X: Tensor, e: Tensor, finite: Tensor) -> Tensor:
    # grad conj(X) 2^e. Only the product need be representable: grad is split as well.
    m, e_grad = split(grad.to(X.dtype).resolve_conj())
    X = times(m[..., None, None], torch.conj_physical(X))
    return unscale(X, e + e_grad[..., None, None], finite, grad.dtype)


def det(A: Tensor) -> Tensor:
    """Return det A = s 2^R prod d."""
    check_square("det", A)
    p = pivots(A)
    m, e = scaled_product(p.d)
    return unscale(times(p.sign, m), e + p.shift, p.finite, A.dtype)


def slogdet(A: Tensor) -> tuple[Tensor, Tensor]:
    """Return sign and log|det A|; (0, -inf) for singular A."""
    check_square("slogdet", A)
    return slogdet_of(A, pivots(A))


def slogdet_of(A: Tensor, p: Pivots | Factors) -> tuple[Tensor, Tensor]:
    """Return sign and log|det A| of pivots, from mantissa and exponent of their product."""
    m, e = scaled_product(p.d)
    # Moduli of mantissas are about 1: the squares stay in range.
    modulus = (m.real * m.real + m.imag * m.imag).sqrt() if m.is_complex() else m.abs()
    # A mantissa in [sqrt(1/2), sqrt(2)) keeps log m and e log 2 from cancelling near |det A| = 1.
    small = modulus < math.sqrt(0.5)
    near_1 = torch.where(small, 2 * modulus, modulus)
    # e goes to floating point first: an integer tensor times a Python float is float32 in torch.
    e = (e + p.shift - small.to(e.dtype)).to(modulus.dtype)
    logabsdet = near_1.log() + e * math.log(2)
    # True quotients: the sign of a real number is exactly 1 or -1.
    size = modulus.masked_fill(m == 0, 1)
    unit = torch.complex(m.real / size, m.imag / size) if m.is_complex() else m / size
    sign = times(p.sign, unit)
    zero = torch.zeros_like(p.shift)
    sign = unscale(sign, zero, p.finite, A.dtype)
    return sign, unscale(logabsdet, zero, p.finite, real_dtype(A))


def det_frexp(A: Tensor) -> tuple[Tensor, Tensor]:
    """Return m and e, a whole number in floating point, with det A = m 2^e and |m| in [1/2, 1).

    Of a complex m the larger part is. For m = 0, e is that of s^n, s a power of two above the
    largest entry; where A is not finite, e is 0.
    """
    check_square("det_frexp", A)
    p = pivots(A)
    m, e = scaled_product(p.d)
    m, more = split(times(p.sign, m))
    e = torch.where(m == 0, exponent_of_zero(A), e + more + p.shift)
    mantissa = unscale(m, torch.zeros_like(e), p.finite, A.dtype)
    return mantissa, e.masked_fill(~p.finite, 0).to(real_dtype(m))


def det_jet(A: Tensor, J: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """Return the first and second derivatives of det(A + t J) 2^-shift at t = 0, both (*, d).

    With p = d_0 and q = d_1 the smallest pivots, m the product of the others, and f and g^T the
    first column of F and row of G (csrc/math/jet.h has the derivation)

        T = sum_{k > 0} F_k G_k^T q / d_k,   N = T J,   v^T = g^T J,   r = p / q,
        s m q (r tr N + sum_i f_i v_i),
        2 s m (r e(N) + sum_{i != j} (N_ii f_j v_j - N_ij f_j v_i)),

    e(N) being the sum of the principal minors of order 2. No term has two entries of one column of
    J, or of one row where a row stands out and all matrices are taken transposed.
    """
    n = A.shape[-1]
    if n == 0:
        return A.new_zeros(J.shape[:-2]), A.new_zeros(J.shape[:-2])
    a = factor(A.unsqueeze(-3))
    Z, e_Z, by_row, finite = scaled_direction(a, J)
    p, q = a.d[..., :1], a.d[..., 1:2] if n > 1 else torch.ones_like(a.d)
    x = torch.cat([torch.zeros_like(p), torch.ones_like(q), quotient(q, a.d[..., 2:])], -1)
    T = matmul(times(a.F, x[..., :n].unsqueeze(-2)), a.G)
    f, g = a.F[..., :1], a.G[..., :1, :]
    T, Z = (torch.where(by_row, X.mT, X) for X in (T, Z))
    f, g = torch.where(by_row, g.mT, f), torch.where(by_row, f.mT, g)
    N, P = matmul(T, Z), times(f, matmul(g, Z))
    traces = [sum_last(X.diagonal(dim1=-2, dim2=-1)) for X in (N, P)]
    r = quotient(p, q).squeeze(-1)
    m, e = scaled_product(a.d[..., 2:])
    first = times(times(a.sign, m), times(q.squeeze(-1), times(r, traces[0]) + traces[1]))
    second = times(times(2 * a.sign, m), times(r, _minors(N, N) / 2) + _minors(N, P))
    base = e + e_Z + a.shift - shift.unsqueeze(-1)
    finite = finite & a.finite
    return (
        unscale(first, base, finite, A.dtype),
        unscale(second, base + e_Z, finite, A.dtype),
    )


def _minors(N: Tensor, P: Tensor) -> Tensor:
    """Return sum_{i != j} (N_ii P_jj - N_ij P_ji)."""
    n, p = (X.diagonal(dim1=-2, dim2=-1) for X in (N, P))
    off_diagonal = 1 - torch.eye(n.shape[-1], dtype=n.real.dtype, device=n.device)
    minors = times(n.unsqueeze(-1), p.unsqueeze(-2)) - times(N, P.mT)
    return sum_last(times(minors, off_diagonal).flatten(-2))


def exponent_of_zero(A: Tensor) -> Tensor:
    """Return the exponent that det_frexp has for a determinant of 0."""
    wide, finite = compute(A)
    n = A.shape[-1]
    return n * without_zeros(exponents(wide).amax((-2, -1))) if n else torch.zeros_like(finite)


def cofactor(A: Tensor) -> Tensor:
    """Return C(A), the cofactor matrix."""
    check_square("cofactor", A)
    f = invert(A)
    C, e = cofactor_scaled(f)
    return unscale(C, e, f.finite, A.dtype)


def det_backward(grad: Tensor, A: Tensor) -> Tensor:
    """Return grad conj(C(A))."""
    check_square("det_backward", A)
    check_same("det_backward", "grad", grad, A, A.shape[:-2])
    f = invert(A)
    return _backward(grad, *cofactor_scaled(f), f.finite)


def slogdet_backward(grad: Tensor, A: Tensor) -> Tensor:
    """Return grad conj(A^-T); without a finite entry where A is singular."""
    check_square("slogdet_backward", A)
    check_same("slogdet_backward", "grad", grad, A, A.shape[:-2])
    f = invert(A)
    return _backward(grad, *inverse_transpose_scaled(f), f.finite)


def det_hvp(A: Tensor, Z: Tensor) -> Tensor:
    """Return H(A)[Z], the derivative of C in direction Z: m = 1.

    C(D + W)_ij is the signed minor without row i and column j. To first order in W each minor
    replaces one pivot d_k by W_kk if i = j, and the pivots d_i, d_j by W_ji if not:

        K_ii = sum_{k != i} rho_ik W_kk,   K_ij = -rho_ij W_ji,   rho_ij = prod_{k != i, j} d_k.
    """
    check_square("det_hvp", A)
    check_same("det_hvp", "Z", Z, A)
    f = factor(unexpand(A))
    W, e_W, finite = direction(f, Z)
    rho, e = _pair_products(f.d)
    diagonal = sum_last(times(rho, W.diagonal(dim1=-2, dim2=-1).unsqueeze(-2)))
    K = torch.diag_embed(diagonal) - times(rho, W.mT)
    H = times(f.sign[..., None, None], carry_back(f, K))
    exponent = (e + e_W + f.shift)[..., None, None] - f.scale
    if A.shape[-1] == 2:  # H = C(Z) whatever A, which spares the entries of Z any rounding
        sign = torch.tensor([[1, -1], [-1, 1]], device=Z.device)
        H, exponent = compute(Z)[0].flip((-2, -1)) * sign, torch.zeros_like(exponent)
    return unscale(H, exponent, f.finite & finite, A.dtype)
