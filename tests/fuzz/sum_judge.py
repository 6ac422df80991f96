"""Whether an answer of slogsumdet, or of its Laplacian, is right.

The sums and their derivatives are computed once more from exact determinants, in arithmetic that
carries the allowed errors along (balls.py). The logarithm has Re(d psi / psi) as derivatives, and
Re(lap psi / psi - sum (d psi / psi)^2) as Laplacian.
"""

from __future__ import annotations

import math
from itertools import combinations
from typing import Any

import mpmath
import torch
from torch import Tensor

from sum_oracles import numbers

from . import judge
from .balls import Ball, Determinant, exactly, product, total
from .judge import Wrong

LISTS = ("matrices", "jacobians", "laplacians")
OPS = ("slogsumdet", "slogsumdet_laplacian")
LARGEST_EXACT = 6


class Answer:
    """A legal call and its results: sign, logabsdet and maybe derivatives and laplacian."""

    def __init__(
        self, case: dict[str, Any], built: dict[str, Any], results: tuple[Tensor, ...]
    ) -> None:
        self.case, self.built, self.results = case, built, results
        self.lists = [built[name] for name in LISTS if name in built]
        self.w = built["weights"]
        self.shape = torch.broadcast_shapes(*(A.shape[:-2] for A in built["matrices"]))
        K, w = self.shape[-1], self.w
        self.columns = w is not None and w.dim() == 2 and w.shape[0] == K
        self.count = math.prod(self.shape[:-1])
        self.dtype = built["matrices"][0].dtype
        self.half = self.dtype in (torch.float16, torch.bfloat16)
        self.eps = torch.finfo(torch.float32 if self.half else self.dtype).eps

    def judge(self) -> None:
        self._judge_shapes()
        if all(A.shape[-1] <= LARGEST_EXACT for A in self.lists[0]):
            for b in sorted({0, self.count - 1} if self.count else ()):
                self._judge_sum(b)

    def _judge_shapes(self) -> None:
        m = [self.w.shape[1]] if self.columns else []
        shape = [*self.shape[:-1], *m]
        shapes = [shape, shape]
        if len(self.lists) == 3:
            J = self.lists[1][0]
            d = [J.shape[-3]]
            if self.case["rows"]:
                d = [sum(A.shape[-1] for A in self.lists[0]), J.shape[-2]]
            shapes += [[*shape, *d], shape]
        dtypes = (self.dtype, *[torch.zeros((), dtype=self.dtype).real.dtype] * 3)
        for x, expected, dtype in zip(self.results, shapes, dtypes, strict=False):
            if list(x.shape) != expected or x.dtype != dtype:
                raise Wrong(
                    f"expected shape {expected} and {dtype}, got {list(x.shape)} and {x.dtype}"
                )

    # ---- one sum

    def _one(self, X: Tensor, b: int) -> Tensor:
        """What belongs to sum number b: (K, ..)."""
        inner = X.shape[self._dims(X) :]
        X = X.expand(*self.shape, *inner).resolve_conj().resolve_neg()
        one = X.reshape(self.count, self.shape[-1], *inner)[b]
        return one.to(torch.float32) if self.half else one

    def _dims(self, X: Tensor) -> int:
        """How many dimensions of X are (*, K)."""
        for Xs in self.lists:
            for A, Y in zip(self.lists[0], Xs, strict=True):
                if Y is X:
                    return A.dim() - 2
        return X.dim()

    def _judge_sum(self, b: int) -> None:
        lists = [[self._one(X, b) for X in Xs] for Xs in self.lists]
        m = self.w.shape[1] if self.columns else 1
        for column in range(m):
            w = None
            if self.w is not None:
                w = self.w[:, column] if self.columns else self._one(self.w, b)
                w = (w.to(torch.float32) if self.half else w).resolve_conj().resolve_neg()
                if not bool(w.isfinite().all()):
                    return
            last = len(self.shape) - 1 + self.columns
            flat = (x.reshape(self.count, m, *x.shape[last:]) for x in self.results)
            self._judge_column(lists, w, [x[b, column] for x in flat])

    def _judge_column(self, lists: list[list[Tensor]], w: Tensor | None, got: list[Tensor]) -> None:
        finite = [all(bool(X.isfinite().all()) for X in Xs) for Xs in lists]
        if not finite[0]:
            if not bool(got[0].isnan()) or not bool(got[1].isnan()):
                raise Wrong(f"expected NaN of a sum with NaN or inf, got {got}"[:400])
            return
        matrices, K = lists[0], self.shape[-1]
        each = [[Determinant(A[k], self.eps, judge.BUDGET) for A in matrices] for k in range(K)]
        if not all(judge.feasible(A[k], 24, 12) for A in matrices for k in range(K)):
            return
        det = [[x.det() for x in row] for row in each]
        one = exactly(mpmath.mpc(1), self.eps)
        weights = [one] * K if w is None else [exactly(x, self.eps) for x in numbers(w)]
        zero = exactly(mpmath.mpc(0), self.eps)
        granule = torch.finfo(w.dtype).smallest_normal * self.eps if w is not None else 0
        terms = [product(row, x) for row, x in zip(det, weights, strict=True)]
        # A weight below the normal range times a mantissa of at least 2^-S is a multiple of
        # the smallest number, in units of the determinants.
        psi = total([zero, *(
            Ball(t.value, t.radius + 2 * granule * abs(product(row, one).value), self.eps)
            for t, row in zip(terms, det, strict=True)
        )])  # fmt: skip
        self._judge_logarithm(psi, complex(got[0]), float(got[1]))
        if len(lists) == 3 and all(finite):
            self._judge_derivatives(each, det, weights, lists, psi, got)

    def _out(self, value: Any) -> Any:
        """What rounding to the dtype of the result, or its smallest number, may do."""
        info = torch.finfo(self.dtype)
        return 2 * info.eps * abs(value) + info.smallest_normal * info.eps

    def _judge_logarithm(self, psi: Ball, sign: complex, log: float) -> None:
        size, shown = abs(psi.value), f"got ({sign}, {log!r})"
        if psi.radius == 0 == size:
            if (sign, log) != (0, -math.inf):
                raise Wrong(f"{shown}, expected (0, -inf)")
            return
        if math.isnan(log) or math.isnan(abs(sign)) or (sign == 0) != (log == -math.inf):
            raise Wrong(f"{shown}, which do not go together")
        most = mpmath.log(size + psi.radius)
        if 4 * psi.radius < size:
            exact, relative = mpmath.log(size), psi.radius / size
            allowed = 2 * relative + self._out(exact) + 4 * self.eps * (1 + abs(exact))
            if not abs(log - exact) <= allowed:
                raise Wrong(f"{shown}, expected log {float(exact)!r} to {float(allowed):.3g}")
            allowed = 2 * relative + self._out(1)
            if not abs(mpmath.mpc(sign) - psi.value / size) <= allowed:
                raise Wrong(f"{shown}, expected sign {complex(psi.value / size)}")
        elif not log <= most + self._out(most) + 4 * self.eps * (1 + abs(most)):
            raise Wrong(f"{shown}, expected log of at most {float(most)!r}")

    def _judge_derivatives(
        self,
        each: list[list[Determinant]],
        det: list[list[Ball]],
        weights: list[Ball],
        lists: list[list[Tensor]],
        psi: Ball,
        got: list[Tensor],
    ) -> None:
        if 4 * psi.radius >= abs(psi.value):
            return
        finite = all(bool(x.isfinite().all()) for x in got[2:])
        if not finite and any(
            self._leaves_range(x, d, *(Xs[s][k] for Xs in lists[1:]))
            for k, (row, of_row) in enumerate(zip(each, det, strict=True))
            for s, (x, d) in enumerate(zip(row, of_row, strict=True))
        ):
            return
        zero = exactly(mpmath.mpc(0), self.eps)
        S, rows = len(lists[0]), self.case["rows"]
        orders = [A.shape[-1] for A in lists[0]]
        d = lists[1][0].shape[-2 if rows else -3]
        count = sum(orders) * d if rows else d
        first, lap = [zero] * count, zero
        for k, row in enumerate(each):

            def others(*left_out: int, k: int = k) -> Ball:
                rest = (x for s, x in enumerate(det[k]) if s not in left_out)
                return product(rest, weights[k])

            along: list[list[Ball]] = []
            for s, (x, J, L) in enumerate(zip(row, lists[1], lists[2], strict=True)):
                lap = lap + others(s) * x.first(L[k])
                if rows:
                    C, before = x.cofactors(), sum(orders[:s])
                    for r in range(orders[s]):
                        for i in range(d):
                            line = Ball(C.value[r], C.radius[r], self.eps)
                            g = (line * exactly(numbers(J[k, r, i]), self.eps)).sum()
                            at = (before + r) * d + i
                            first[at] = first[at] + others(s) * g
                    continue
                along.append([x.first(J[k, i]) for i in range(d)])
                for i in range(d):
                    first[i] = first[i] + others(s) * along[s][i]
                    lap = lap + others(s) * x.second(J[k, i])
            if not rows:
                for s, t in combinations(range(S), 2):
                    for i in range(d):
                        lap = lap + (others(s, t) * along[s][i] * along[t][i]).scaled(2)
        ratios = [x.over(psi) for x in first]
        result = total([lap.over(psi), *(-(x * x) for x in ratios)])
        for x, ball in zip(got[2].flatten(), ratios, strict=True):
            self._judge_number("derivative", float(x), ball)
        self._judge_number("laplacian", float(got[3]), result)

    def _leaves_range(self, x: Determinant, det: Ball, J: Tensor, L: Tensor) -> bool:
        """Whether derivatives are beyond the range beside their determinant: a limit, documented.

        Of one that is not known to be 0 to the last bit.
        """
        size = max(abs(det.value), det.radius)
        n = x.A.shape[-1]
        C = abs(x.cofactors().value)
        largest = (C * abs(numbers(L))).max(initial=0)
        for direction in J.unbind(-2 if self.case["rows"] else -3):
            largest = max(largest, (C * abs(numbers(direction))).max(initial=0))
            if not self.case["rows"]:
                largest = max(largest, abs(x.second(direction).value))
        return size > 0 and n * n * largest > size * torch.finfo(self.dtype).max / 4

    def _judge_number(self, what: str, got: float, ball: Ball) -> None:
        true = ball.value.real
        allowed = ball.radius + self._out(true)
        if abs(true) + allowed < torch.finfo(self.dtype).max and not abs(got - true) <= allowed:
            raise Wrong(f"{what}: got {got!r}, expected {float(true)!r} to {float(allowed):.3g}")
