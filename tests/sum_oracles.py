"""Exact sums of determinants and their derivatives, for the tests of slogsumdet.

The terms of psi are T_k = w_k prod_s det A_sk. The first two derivatives of log psi are made of
psi, determinants, cofactors C and their derivatives H[Z]. Those come from rational numbers and are
combined in arithmetic of 60 digits with exponents of any size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import mpmath
import numpy as np
import torch
from torch import Tensor
from torch.func import grad, jvp

import oracles

mpmath.mp.dps = 60
K = 4
DERIVATIVES = 4  # coordinates


def of_exact(exact: oracles.Exact) -> np.ndarray:
    """Exact numbers as those of mpmath."""
    out = np.empty(exact.values.shape, dtype=object)
    for index in np.ndindex(*out.shape):
        re, im = oracles.parts(exact.values[index])
        e = int(np.asarray(exact.exponents)[index])
        out[index] = mpmath.mpc(mpmath.ldexp(re, e), mpmath.ldexp(im, e))
    return out


def numbers(x: Tensor) -> np.ndarray:
    return np.vectorize(mpmath.mpc, otypes=[object])(x.detach().resolve_conj().cpu().numpy())


class Truth:
    """Psi, and the derivatives of log psi, of one sum; and what rounding of each term may do."""

    def __init__(self, matrices: list[Tensor], w: Tensor) -> None:
        self.matrices, self.w = matrices, numbers(w)
        self.S, self.K = len(matrices), len(w)
        self.det = [[of_exact(oracles.det(a))[()] for a in A] for A in matrices]
        self.C = [[of_exact(oracles.cofactor(a)) for a in A] for A in matrices]
        self.psi = sum(self.term(k) for k in range(self.K))

    def others(self, k: int, *left_out: int) -> mpmath.mpc:
        return mpmath.fprod(self.det[s][k] for s in range(self.S) if s not in left_out)

    def term(self, k: int) -> mpmath.mpc:
        return self.w[k] * self.others(k)

    def gradient(self) -> tuple[list[list[np.ndarray]], list[mpmath.mpc]]:
        """D log psi with respect to the matrices and to w; holomorphic, no conjugate."""
        matrices = [
            [self.w[k] * self.others(k, s) / self.psi * self.C[s][k] for k in range(self.K)]
            for s in range(self.S)
        ]
        return matrices, [self.others(k) / self.psi for k in range(self.K)]

    def hessian_product(self, Zs: list[Tensor], dw: Tensor) -> list[list[np.ndarray]]:
        """The derivative of the gradient with respect to the matrices in direction (Z, dw)."""
        dw_ = numbers(dw)
        along = [
            [(C * numbers(z)).sum() for C, z in zip(self.C[s], Zs[s], strict=True)]
            for s in range(self.S)
        ]
        d_psi = mpmath.mpc(0)
        for k in range(self.K):
            d_psi += dw_[k] * self.others(k)
            for s in range(self.S):
                d_psi += self.w[k] * self.others(k, s) * along[s][k]
        result = []
        for s in range(self.S):
            row = []
            for k in range(self.K):
                A, Z, rest = self.matrices[s][k], Zs[s][k], self.others(k, s)
                X = self.w[k] * rest * of_exact(oracles.hvp(A, Z)) + dw_[k] * rest * self.C[s][k]
                for t in range(self.S):
                    if t != s:
                        X = X + self.w[k] * self.others(k, s, t) * along[t][k] * self.C[s][k]
                gradient = self.w[k] * rest * self.C[s][k]
                row.append(X / self.psi - gradient * d_psi / self.psi**2)
            result.append(row)
        return result

    def along(
        self, Js: list[Tensor], Ls: list[Tensor]
    ) -> tuple[np.ndarray, mpmath.mpf, mpmath.mpf, mpmath.mpf]:
        """Derivatives and Laplacian of log|psi| for dA_s / dx_i = Js[s][:, i] and Laplacians Ls.

        And for both what their errors are measured by: the sums of the moduli of all terms.
        """
        d = Js[0].shape[1]
        first, lap = [mpmath.mpc(0)] * d, mpmath.mpc(0)
        largest_first, of_lap = mpmath.mpf(0), mpmath.mpf(0)
        for k in range(self.K):
            J = [[numbers(Js[s][k, i]) for i in range(d)] for s in range(self.S)]
            g = [[(self.C[s][k] * j).sum() for j in J[s]] for s in range(self.S)]
            g_size = [[abs(self.C[s][k] * j).sum() for j in J[s]] for s in range(self.S)]
            for s in range(self.S):
                rest = self.w[k] * self.others(k, s)
                L = numbers(Ls[s][k])
                q, q_size = (self.C[s][k] * L).sum(), abs(self.C[s][k] * L).sum()
                for i in range(d):
                    first[i] += rest * g[s][i]
                    largest_first = max(largest_first, abs(rest) * g_size[s][i])
                    H = of_exact(oracles.hvp(self.matrices[s][k], Js[s][k, i]))
                    q, q_size = q + (H * J[s][i]).sum(), q_size + abs(H * J[s][i]).sum()
                lap, of_lap = lap + rest * q, of_lap + abs(rest) * q_size
                for t in range(s):
                    both = 2 * self.w[k] * self.others(k, s, t)
                    for i in range(d):
                        lap += both * g[s][i] * g[t][i]
                        of_lap += abs(both) * g_size[s][i] * g_size[t][i]
        ratios = [x / self.psi for x in first]
        modulus = abs(self.psi)
        squares = sum(abs(x) ** 2 for x in ratios) + d * (largest_first / modulus) ** 2
        return (
            np.array([x.real for x in ratios]),
            (lap / self.psi - sum(x * x for x in ratios)).real,
            largest_first / modulus,
            of_lap / modulus + squares,
        )


Series = tuple[mpmath.mpf, mpmath.mpf, mpmath.mpf]  # in t, to t^2


def _times(x: Series, y: Series) -> Series:
    return x[0] * y[0], x[0] * y[1] + x[1] * y[0], x[0] * y[2] + x[1] * y[1] + x[2] * y[0]


def _det_of_series(A: list[list[Series]]) -> Series:
    """By expansion along the first row."""
    if not A:
        return mpmath.mpf(1), mpmath.mpf(0), mpmath.mpf(0)
    total = [mpmath.mpf(0)] * 3
    for j, first in enumerate(A[0]):
        minor = _det_of_series([[*row[:j], *row[j + 1 :]] for row in A[1:]])
        for i, x in enumerate(_times(first, minor)):
            total[i] += (-1) ** j * x
    return total[0], total[1], total[2]


def log_laplacian(
    matrices: list[np.ndarray], Js: list[np.ndarray], Ls: list[np.ndarray], w: np.ndarray
) -> tuple[mpmath.mpf, list[mpmath.mpf], mpmath.mpf]:
    """log|psi|, its derivatives and its Laplacian for any real numbers of mpmath.

    By power series along each coordinate; the coordinates share the Laplacians of the matrices,
    which have the coefficients L / (2 d) of t^2.
    """
    d = Js[0].shape[1]
    first, lap = [], mpmath.mpf(0)
    for i in range(d):
        psi = [mpmath.mpf(0)] * 3
        for k in range(len(w)):
            term = (w[k], mpmath.mpf(0), mpmath.mpf(0))
            for A, J, L in zip(matrices, Js, Ls, strict=True):
                entries = zip(A[k], J[k, i], L[k] / (2 * d), strict=True)
                term = _times(term, _det_of_series([list(zip(*x, strict=True)) for x in entries]))
            psi = [x + y for x, y in zip(psi, term, strict=True)]
        first.append(psi[1] / psi[0])
        lap += 2 * psi[2] / psi[0] - first[-1] ** 2
    return mpmath.log(abs(psi[0])), first, lap


def family_of(name: str, n: int, dtype: torch.dtype, seed: int) -> Tensor:
    """K integer matrices of order n, some of them singular."""
    generator = torch.Generator().manual_seed(seed)

    def of_rank(rank: int) -> Tensor:
        left = torch.randint(-2, 3, (n, rank), generator=generator).double()
        right = torch.randint(-2, 3, (rank, n), generator=generator).double()
        return left @ right + (3 * torch.eye(n) if rank == n else 0)

    def whole() -> Tensor:
        while True:
            A = of_rank(n)
            if abs(float(torch.linalg.det(A))) > 0.5:
                return A

    kinds: dict[str, Callable[[], list[Tensor]]] = {
        "regular": lambda: [whole() for _ in range(K)],
        "one singular": lambda: [whole(), of_rank(n - 1), whole(), whole()],
        "all but one": lambda: [of_rank(n - 1), of_rank(n - 1), whole(), of_rank(n - 1)],
        "rank n-2": lambda: [whole(), of_rank(n - 2), of_rank(n - 2), whole()],
        "a zero matrix": lambda: [whole(), torch.zeros(n, n).double(), whole(), whole()],
    }
    A = torch.stack(kinds[name]())
    if dtype.is_complex:  # a phase for each row, exact
        phase = torch.tensor([1, 1j, -1, -1j])[torch.arange(n) % 4].to(torch.complex128)
        A = A * phase[:, None] * (1 + 0.5j)
    return A.to(dtype)


FAMILIES = ("regular", "one singular", "all but one", "rank n-2", "a zero matrix")
SCALES = (0, 500, -500)  # of powers of two; in float32 a tenth of it


def scaled(A: Tensor, scale: int) -> Tensor:
    exponent = scale if A.dtype in (torch.float64, torch.complex128) else scale // 10
    return A * 2.0**exponent


def assert_blocks(got: Tensor, expected: list[np.ndarray], allowed: float, what: str) -> None:
    """Entries of all K blocks together, relative to the largest of them."""
    exact = np.stack(expected)
    largest = max(abs(x) for x in exact.ravel())
    difference = numbers(got) - exact
    error = max(abs(x) for x in difference.ravel())
    assert error <= allowed * largest, (what, float(error / largest), allowed)


def allowed_error(
    truth: Truth, derivatives: int, matrices: Sequence[Tensor] | None = None
) -> float:
    """A relative error for the largest block.

    Each factor of a term, that is det, C or H, has a relative error of n eps cond, with cond the
    quotient of the largest and the smallest singular value that is not zero; a term has at most one
    for each matrix and derivative. A quotient by psi adds the error of psi, larger by what cancels.
    Powers of two in rows and columns round nothing: `matrices` are those of truth without them.
    """
    matrices = truth.matrices if matrices is None else matrices
    eps, most = torch.finfo(matrices[0].dtype).eps, 1.0
    for A in matrices:
        for a in A:
            s = torch.linalg.svdvals(a.to(torch.complex128))
            s = s[s > 1e-9 * s[0]] if float(s[0]) > 0 else torch.ones(1)
            most = max(most, float(s[0] / s[-1]))
    n = max(A.shape[-1] for A in matrices)
    cancel = float(sum(abs(truth.term(k)) for k in range(truth.K)) / abs(truth.psi))
    factors = len(matrices) + derivatives + 1
    return factors * n * eps * most * cancel ** (1 + derivatives)


def directions(
    matrices: list[Tensor], scale: int, rows: bool
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Jacobians as they are given, the same ones for all coordinates, and Laplacians."""
    generator = torch.Generator().manual_seed(3)

    def draw(*shape: int) -> Tensor:
        X = torch.randn(shape, generator=generator, dtype=matrices[0].dtype)
        return scaled(X, scale)

    orders = [A.shape[-1] for A in matrices]
    if not rows:
        Js = [draw(K, DERIVATIVES, n, n) for n in orders]
        return Js, Js, [draw(K, n, n) for n in orders]
    Js, full, before = [draw(K, n, 2, n) for n in orders], [], 0
    for n, J in zip(orders, Js, strict=True):
        X = torch.zeros(K, sum(orders), 2, n, n, dtype=J.dtype)
        for r in range(n):
            X[:, before + r, :, r] = J[:, r]
        full.append(X.flatten(1, 2))
        before += n
    return Js, full, [draw(K, n, n) for n in orders]


def assert_gradients(
    slogsumdet_laplacian: Callable[..., Any], args: tuple[Tensor, ...], relative: float
) -> None:
    """Of two matrices, their Jacobians and Laplacians, and w; along random directions.

    Against differences of arithmetic with a hundred digits. Each block is a sum over the S + 2
    factors of a term, of which each is differentiated, and of as many terms, all with the relative
    error that is given.
    """
    weights = torch.linspace(0.5, 1.5, DERIVATIVES).to(args[0])

    def combined(log: Any, derivatives: Any, laplacian: Any, factors: Any) -> Any:
        return log + sum(x * y for x, y in zip(derivatives, factors, strict=True)) + laplacian / 2

    def ours(*args: Tensor) -> Tensor:
        out = slogsumdet_laplacian(args[:2], args[2:4], args[4:6], args[6])
        return combined(*out[1:], weights)

    def exact(args: list[np.ndarray]) -> mpmath.mpf:
        return combined(*log_laplacian(args[:2], args[2:4], args[4:6], args[6]), weights.tolist())

    real = np.vectorize(mpmath.mpf, otypes=[object])
    given = [real(X.cpu().numpy()) for X in args]
    gradients = grad(ours, tuple(range(len(args))))(*args)
    tangents = tuple(torch.randn_like(X) for X in args)
    total, allowed_total = mpmath.mpf(0), mpmath.mpf(0)
    for i, (gradient, tangent) in enumerate(zip(gradients, tangents, strict=True)):
        with mpmath.workdps(100):
            step = mpmath.mpf(10) ** -30  # the error of the difference is its square
            both = []
            for sign in (1, -1):
                moved = list(given)
                moved[i] = moved[i] + sign * step * real(tangent.cpu().numpy())
                both.append(exact(moved))
            difference = (both[0] - both[1]) / (2 * step)
        along = float((gradient * tangent).sum())
        allowed = 16 * relative * float(gradient.abs().max() * tangent.abs().sum())
        assert abs(along - difference) <= allowed, i
        total, allowed_total = total + difference, allowed_total + allowed
    assert abs(float(jvp(ours, args, tangents)[1]) - total) <= allowed_total


def case_of(family: str, scale: int, dtype: torch.dtype, device: str):
    matrices = [scaled(family_of(family, n, dtype, 7 * n), scale) for n in (3, 4)]
    w = torch.tensor([0.5, -1.25, 2.0, 0.75]).to(dtype)
    if dtype.is_complex:
        w = w * (1 - 0.5j)
    truth = Truth(matrices, w)
    return truth, [A.to(device) for A in matrices], w.to(device)
