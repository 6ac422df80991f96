"""Random families of matrices, then hill climbing from the worst of them."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
from numpy import ndarray

from accuracy.measure import Batch, Operator, errors, frame, join

KEPT = 24  # matrices that survive a generation
CHILDREN = 24  # of each of them
PER_FAMILY = KEPT // 3  # of one ancestor, lest the first hill takes all


@dataclass(frozen=True)
class Population:
    """Matrices in falling order of their errors."""

    batch: Batch
    error: ndarray
    condition: ndarray
    ancestor: ndarray

    def best(self) -> Population:
        chosen, counts, last = [], {}, -1.0
        for k in np.argsort(-self.error, kind="stable"):
            if self.error[k] == last:  # the same matrix, most likely
                continue
            last = self.error[k]
            count = counts.get(self.ancestor[k], 0)
            if count < PER_FAMILY:
                counts[self.ancestor[k]] = count + 1
                chosen.append(k)
            if len(chosen) == KEPT:
                break
        index = np.array(chosen)
        return Population(
            self.batch[index], self.error[index], self.condition[index], self.ancestor[index]
        )


class Search:
    """The search for one operator, dtype and order; the same for the same seed."""

    def __init__(self, op: Operator, n: int, dtype: np.dtype, seed: int) -> None:
        self.op, self.n, self.dtype = op, n, np.dtype(dtype)
        name = f"{op.name} {n} {self.dtype.name}"
        self.rng = np.random.default_rng([seed, zlib.crc32(name.encode())])

    def run(
        self, matrices: int, start: Batch | None = None, children: int = CHILDREN
    ) -> Population:
        """A third of the matrices from the families, two thirds by climbing."""
        batch = self.families(max(matrices // 3, 64))
        if start is not None:
            batch = join(batch, _cast(start, self.dtype))
        best = self._evaluate(batch, np.arange(len(batch))).best()
        for _ in range(max(2 * matrices // 3 // (KEPT * children), 1)):
            parents = np.repeat(np.arange(len(best.error)), children)
            born = self.mutate(best.batch[parents])
            new = self._evaluate(born, best.ancestor[parents])
            best = Population(
                join(best.batch, new.batch),
                np.concatenate([best.error, new.error]),
                np.concatenate([best.condition, new.condition]),
                np.concatenate([best.ancestor, new.ancestor]),
            ).best()
        return best

    def _evaluate(self, batch: Batch, ancestor: ndarray) -> Population:
        # In pieces that stay in the cache.
        step = max(8, 60000 // self.n**2)
        parts = [errors(self.op, batch[k : k + step]) for k in range(0, len(batch), step)]
        error, condition = (np.concatenate(x) for x in zip(*parts, strict=True))
        return Population(batch, error, condition, ancestor)

    # ---- families

    def normal(self, *shape: int) -> ndarray:
        x = self.rng.standard_normal(shape)
        return x + 1j * self.rng.standard_normal(shape) if self.dtype.kind == "c" else x

    def powers(self, reach: int, *shape: int) -> ndarray:
        return 2.0 ** self.rng.integers(-reach, reach + 1, shape)

    def families(self, count: int) -> Batch:
        m, n, rng = count // 8 + 1, self.n, self.rng
        normal = lambda: self.normal(m, n, n)  # noqa: E731
        tiny = int(-np.log2(np.finfo(self.dtype).eps))
        rows = lambda reach: self.powers(reach, m, n, 1) * self.powers(reach, m, 1, n)  # noqa: E731
        few = self.powers(tiny + 4, m, 1, n) * (rng.random((m, 1, n)) < 0.4) + (
            rng.random((m, 1, n)) < 0.6
        )
        near = np.linalg.qr(normal())[0] * few @ np.linalg.qr(normal())[0]
        sign = lambda: np.sign(normal().real)  # noqa: E731
        noise = 1 + self.powers(tiny, m, 1, 1) * (rng.random((m, 1, 1)) < 0.5) * normal()
        L = np.tril(sign() * self.powers(1, m, n, n), -1) + np.eye(n)
        U = np.triu(sign() * self.powers(1, m, n, n), 1) + np.eye(n) * self.powers(8, m, 1, n)
        LU = np.take_along_axis(L @ U, rng.random((m, n)).argsort(1)[:, :, None], 1)
        members = [
            normal(),
            normal() * rows(2),  # on either side of 2^4 between rows and columns
            normal() * rows(5),
            normal() * self.powers(4, m, n, n),
            near,  # some singular values small
            near * rows(3),
            sign() * self.powers(4, m, n, n) * noise,
            LU * noise,  # large multipliers, small pivots
        ]
        A = np.concatenate(members) * 2.0 ** rng.choice([0, 0, 0, 11, 23, -23], (8 * m, 1, 1))
        A = A.astype(self.dtype)
        return Batch(A, tuple(self.direction(A) for _ in range(self.op.directions)))

    def direction(self, A: ndarray) -> ndarray:
        """Of the size of A's rows and columns, with zeros in a part of them."""
        rows, cols = frame(A)
        Z = self.normal(*A.shape) * (self.rng.random(A.shape) < self.rng.choice([1, 0.5]))
        return (Z * np.ldexp(1.0, rows[:, :, None] + cols[:, None, :])).astype(self.dtype)

    # ---- climbing

    def mutate(self, batch: Batch) -> Batch:
        """Every matrix changed in one way, or one of its directions."""
        rng, b, n = self.rng, len(batch), self.n
        wide = np.dtype("c16" if self.dtype.kind == "c" else "f8")
        changed = _cast(batch, wide)
        A, Zs = changed.A, changed.Zs
        i, j = rng.integers(0, n, b), rng.integers(0, n, b)
        of_direction = rng.random(b) < (0.4 if Zs else 0)
        kind = np.where(of_direction, -1, rng.integers(0, 8, b))

        def of(k: int) -> ndarray:
            return np.flatnonzero(kind == k)

        entries = self._change(b)
        for k in (0, 1, 2):  # entries by a relative change
            A[of(k)] *= 1 + entries[of(k)]
        k = of(3)  # entries by a change of the size of the largest
        A[k] += np.abs(A[k]).max((1, 2), keepdims=True) * entries[k]
        k = of(4)
        A[k, i[k]] *= self.powers(3, len(k), 1)
        k = of(5)
        A[k, :, j[k]] *= self.powers(3, len(k), 1)
        k = of(6)
        A[k, i[k], j[k]] *= rng.choice([0, 0.5, 1.5, 2, -1, -2], len(k))
        k = of(7)  # a row nearly a multiple of another
        near = A[k, j[k]] * self.powers(2, len(k), 1)
        A[k, i[k]] = near * (1 + self.powers(20, len(k), 1) * 2.0**-20 * self.normal(len(k), n))
        if Zs:
            which = rng.integers(0, len(Zs), b)
            for number, Z in enumerate(Zs):
                k = np.flatnonzero(of_direction & (which == number))
                Z[k] *= 1 + self._change(b)[k]
                zeros = rng.random((len(k), n, n)) < 1 / n**2
                Z[k] *= 1 - zeros * (rng.random((len(k), 1, 1)) < 0.3)
        return _cast(changed, self.dtype)

    def _change(self, b: int) -> ndarray:
        """Normal numbers of one size in some entries of each matrix: one, a third, or all."""
        rng, n = self.rng, self.n
        least = int(np.log2(np.finfo(self.dtype).eps))
        size = 2.0 ** rng.integers(least, 1, (b, 1, 1))
        share = rng.choice([1 / n**2, 0.3, 1.0], (b, 1, 1))
        return self.normal(b, n, n) * size * (rng.random((b, n, n)) < share)


def _cast(batch: Batch, dtype: np.dtype) -> Batch:
    with np.errstate(all="ignore"):
        return Batch(batch.A.astype(dtype), tuple(Z.astype(dtype) for Z in batch.Zs))
