"""Whether an answer is right: by two oracles that are right at singular matrices, too.

A few matrices of a batch are done in arithmetic of many digits (bench/exact.py), as many as their
order allows. Many more, at every order, are done in double precision by A = U S V^H. Orthogonal
factors lose nothing, whatever the rank, and at the diagonal S every derivative is made of products
of singular values, in which nothing is divided: with f = det U det V^H,

    C(A) = f conj(U) C(S) conj(V^H),              C(S)_ii = prod_{k != i} s_k,
    H(A)[Z] = f conj(U) H(S)[U^H Z V] conj(V^H),  H(S)[W]_ij = -P_ij W_ji,
                                                  H(S)[W]_ii = sum_j P_ij W_jj,

where P_ij = prod_{k != i, j} s_k and P_ii = 0.

How far an answer may be off: a backward stable method returns the exact value at A + E with
|E| <= d = n eps s_1. The k-th derivative of det at a matrix with singular values s is at most
prod_{i <= n-k} s_i times its directions, so E moves it by at most

    u_k = prod (s_i + d) - prod s_i + n eps prod (s_i + d),   i <= n - k,

of which the last term is the rounding of the result: the unit of the library's tests. A product of
complex numbers is rounded by up to sqrt(5) times as much as one of real numbers, so eps is taken
as large there. Answers in double precision meet a truth in double precision: what the factors are
off by, as their product shows, adds to d, and with the rounding of the four products to n eps.

Derivatives of log|det| are quotients of these polynomials. They are checked multiplied by their
denominator, since that needs no bound on the inverse: of G = C / det, for instance,
|det G - C| <= u_1 + |G| u_0. The logarithm itself lies between those of |det| - u_0 and
|det| + u_0, but for the rounding of a sum of n logarithms.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bench import exact
from bench.cases import Case

# What the two oracles may cost for a case, in n^3 operations of their kind.
_EXACT_OPERATIONS, _MOST_EXACT = 14_000, 4
_MOST_OPERATIONS, _MOST, _LEAST = 4_000_000, 4096, 2


@dataclass(frozen=True)
class Reference:
    """The truth for some matrices of a batch, with u_0, u_1 and u_2."""

    indices: np.ndarray
    det: np.ndarray
    C: np.ndarray
    Z: np.ndarray | None
    H: np.ndarray | None
    u: tuple[np.ndarray, np.ndarray, np.ndarray]
    relative: np.ndarray  # n eps
    logs: np.ndarray  # sum of |log s_i|


def _norm(X: np.ndarray) -> np.ndarray:
    """Frobenius norm of each matrix; of a number its magnitude."""
    return np.sqrt((np.abs(X) ** 2).sum((-2, -1))) if X.ndim == 3 else np.abs(X)


def _transposed(X: np.ndarray) -> np.ndarray:
    return np.swapaxes(X, -1, -2)


def _products_of_others(s: np.ndarray) -> np.ndarray:
    """Over the last axis, for each entry the product of all others."""
    ones = np.ones_like(s[..., :1])
    before = np.cumprod(np.concatenate((ones, s[..., :-1]), -1), -1)
    after = np.cumprod(np.concatenate((ones, s[..., :0:-1]), -1), -1)[..., ::-1]
    return before * after


@dataclass(frozen=True)
class _Factors:
    """A = U S V^H of a batch, and how far the product is from A."""

    U: np.ndarray
    s: np.ndarray
    Vh: np.ndarray
    residual: np.ndarray

    @classmethod
    def of(cls, A: np.ndarray) -> _Factors:
        """By LAPACK in double precision, kept for the next operation on the same matrices."""
        return _factors(A.tobytes(), A.dtype.str, A.shape)

    @property
    def relative_residual(self) -> np.ndarray:
        """Residual / s_1, 0 where there is nothing to be off from."""
        return self.residual / np.where(self.s[:, 0] > 0, self.s[:, 0], 1)

    @property
    def phase(self) -> np.ndarray:
        """Det U det V^H, of magnitude 1."""
        f = np.linalg.det(self.U) * np.linalg.det(self.Vh)
        return f / np.abs(f)

    def det(self) -> np.ndarray:
        """The determinants."""
        return self.phase * self.s.prod(-1)

    def _back(self, D: np.ndarray) -> np.ndarray:
        return self.phase[:, None, None] * (self.U.conj() @ D @ self.Vh.conj())

    def cofactors(self) -> np.ndarray:
        """C(A)."""
        others = _products_of_others(self.s)
        return self._back(others[:, :, None] * np.eye(self.s.shape[-1]))

    def cofactors_along(self, Z: np.ndarray) -> np.ndarray:
        """H(A)[Z]."""
        eye = np.eye(self.s.shape[-1], dtype=bool)
        without = np.where(eye, 1.0, self.s[:, None, :])  # row i: all but s_i
        P = np.where(eye, 0.0, _products_of_others(without))
        W = _transposed(self.U).conj() @ Z @ _transposed(self.Vh).conj()
        diagonal = (P * np.diagonal(W, axis1=-2, axis2=-1)[:, None, :]).sum(-1)
        return self._back(np.where(eye, diagonal[:, :, None], -P * _transposed(W)))

    def units(
        self, d: np.ndarray, relative: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(u_0, u_1, u_2), with products one factor at a time: all terms are positive."""
        n = self.s.shape[-1]
        plain, moved, change = np.ones_like(d), np.ones_like(d), np.zeros_like(d)
        u = [np.zeros_like(d)] * 3
        for i in range(n + 1):
            if (k := n - i) <= 2:
                u[k] = change + relative * moved
            if i < n:
                change = change * (self.s[:, i] + d) + plain * d
                plain, moved = plain * self.s[:, i], moved * (self.s[:, i] + d)
        return u[0], u[1], u[2]


@functools.lru_cache(maxsize=32)  # the orders of a run, which come back with every operation
def _factors(data: bytes, dtype: str, shape: tuple[int, ...]) -> _Factors:
    A = np.frombuffer(data, dtype).reshape(shape)
    U, s, Vh = np.linalg.svd(A)
    eye = np.eye(shape[-1])
    residual = _norm(A - (U * s[:, None, :]) @ Vh)
    for Q in (U, Vh):
        residual = residual + s[:, 0] * _norm(_transposed(Q).conj() @ Q - eye)
    return _Factors(U, s, Vh, residual)


def _sample(count: int, most: int) -> np.ndarray:
    """At most this many indices, the first and the last among them."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(int))


class Truth:
    """What is right for a case with these inputs."""

    def __init__(self, case: Case, A: Tensor, Z: Tensor | None) -> None:
        self.case = case
        cubes = case.n**3 * (4 if case.dtype.is_complex else 1)
        exactly = min(_MOST_EXACT, _EXACT_OPERATIONS // cubes)
        many = max(_LEAST, min(_MOST, _MOST_OPERATIONS // cubes))
        self.references = [self._reference(A, Z, many, exactly=False)]
        if exactly:
            self.references.append(self._reference(A, Z, exactly, exactly=True))

    def _reference(self, A: Tensor, Z: Tensor | None, most: int, exactly: bool) -> Reference:
        indices = _sample(self.case.batch or 1, most)

        def chosen(X: Tensor) -> np.ndarray:
            wide = torch.complex128 if X.dtype.is_complex else torch.float64
            batch = X.reshape(-1, self.case.n, self.case.n)[torch.from_numpy(indices).to(X.device)]
            return batch.to("cpu", wide).numpy()

        B, D = chosen(A), None if Z is None else chosen(Z)
        factors = _Factors.of(B)
        rounding = self.case.n * (math.sqrt(5) if np.iscomplexobj(B) else 1)
        relative = np.full(len(B), rounding * torch.finfo(self.case.dtype).eps)
        d = relative * factors.s[:, 0]
        needs_H = self.case.hvp and D is not None
        H = None
        if exactly:
            det = np.array([exact.det(X) for X in B])
            C = np.array([exact.cofactors(X) for X in B])
            if needs_H:
                H = np.array([exact.cofactors_along(X, Y) for X, Y in zip(B, D, strict=True)])
        else:
            d = d + factors.residual
            relative = relative + 4 * rounding * np.finfo(float).eps + factors.relative_residual
            det, C = factors.det(), factors.cofactors()
            if needs_H:
                H = factors.cofactors_along(D)
        with np.errstate(divide="ignore"):
            logs = np.abs(np.log(factors.s)).sum(-1)
        return Reference(indices, det, C, D, H, factors.units(d, relative), relative, logs)

    def fault(self, got: Tensor) -> str | None:
        """What is wrong with an answer beyond what its format allows; None if it is right."""
        if not bool(torch.isfinite(got).all()):
            return "a result is not finite"
        for reference in self.references:
            answer = self._answer(got, reference)
            error, allowed = self._error(answer, reference)
            if (bad := ~(error <= allowed)).any():
                with np.errstate(divide="ignore"):
                    units = np.where(bad, error / allowed, 0)
                return (
                    f"{bad.sum()} of {len(bad)} matrices are wrong, "
                    f"number {reference.indices[units.argmax()]} by {units.max():.2g} units"
                )
        return None

    def _answer(self, got: Tensor, reference: Reference) -> np.ndarray:
        """For the matrices of a reference, in double precision."""
        n, indices = self.case.n, torch.from_numpy(reference.indices).to(got.device)
        matrices = self.case.backward or self.case.hvp
        hessians = got.dim() == 5
        shape = (n, n, n, n) if hessians else (n, n) if matrices else ()
        part = got.detach().resolve_conj().reshape(-1, *shape)[indices].cpu()
        wide = part.to(torch.complex128 if part.is_complex() else torch.float64).numpy()
        # Of Hessians, one product of each.
        return np.einsum("bijkl,bkl->bij", wide, reference.Z) if hessians else wide

    def _error(self, answer: np.ndarray, truth: Reference) -> tuple[np.ndarray, np.ndarray]:
        """How far each answer is off, and how far it may be."""
        case, (u_0, u_1, u_2) = self.case, truth.u
        size = _norm(truth.Z) if truth.Z is not None else np.ones_like(u_0)

        def quotient(value: np.ndarray, bound: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            """Answer = value / det, each of them off by its bound."""
            det = truth.det.reshape(-1, *[1] * (answer.ndim - 1))
            return _norm(det * answer - value), bound + _norm(answer) * u_0

        if case.hvp and truth.H is not None and truth.Z is not None:
            if not case.slogdet:
                return _norm(answer - truth.H), size * u_2
            # Of log|det| it is -C Z^T C / det^2.
            value = -truth.C @ _transposed(truth.Z) @ truth.C
            det = np.abs(truth.det)
            error = _norm(truth.det[:, None, None] ** 2 * answer - value)
            bound = size * u_1 * (2 * _norm(truth.C) + u_1)
            return error, bound + _norm(answer) * u_0 * (2 * det + u_0)
        if case.directional and truth.Z is not None:
            value = (truth.C * truth.Z).sum((-2, -1))
            u_1 = u_1 + truth.relative * _norm(truth.C)  # the sum is rounded, too
            if not case.slogdet:
                return _norm(answer - value), size * u_1
            if case.dtype.is_complex:  # the derivative of a real function
                value = (value / truth.det).real * truth.det
            return quotient(value, size * u_1)
        if case.backward:
            answer = answer.conj()  # autograd's gradient is the conjugate of the derivative
            return quotient(truth.C, u_1) if case.slogdet else (_norm(answer - truth.C), u_1)
        if case.slogdet:
            det = np.abs(truth.det)
            with np.errstate(divide="ignore"):
                low, high = np.log(np.maximum(det - u_0, 0)), np.log(det + u_0)
            return np.maximum(low - answer, answer - high).clip(0), truth.relative * truth.logs
        return _norm(answer - truth.det), u_0
