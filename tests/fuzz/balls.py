"""Arithmetic with errors: exact numbers, and how far computed ones may be from them.

A ball is the set of all complex numbers within a radius of a value. The rules below give a ball
that holds every result of an operation on members of its operands, rounded to the precision eps.
So a formula, evaluated once in balls, has the exact value and the allowed error of what a kernel
computes by the same formula, whatever cancels in it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from operator import add, mul
from typing import Any

import mpmath
import numpy as np
from torch import Tensor

import oracles
from sum_oracles import numbers, of_exact
from units import frame_exponents, unit

# A complex product has an error of at most sqrt(5) eps, a quotient of less than 4 eps.
ROUNDING = 4


@dataclass(frozen=True, eq=False)
class Ball:
    """Numbers of mpmath, or arrays of them; eps is the precision of what is computed of them."""

    value: Any
    radius: Any
    eps: float

    def _rounded(self, steps: int = ROUNDING) -> Ball:
        most = self.radius + abs(self.value)
        return Ball(self.value, self.radius + steps * self.eps * most, self.eps)

    def __add__(self, other: Ball) -> Ball:
        value, radius = self.value + other.value, self.radius + other.radius
        return Ball(value, radius, self.eps)._rounded()

    def __mul__(self, other: Ball) -> Ball:
        # (a + da) (b + db) - a b = a db + b da + da db
        radius = abs(self.value) * other.radius + abs(other.value) * self.radius
        radius = radius + self.radius * other.radius
        return Ball(self.value * other.value, radius, self.eps)._rounded()

    def __neg__(self) -> Ball:
        return Ball(-self.value, self.radius, self.eps)

    def over(self, other: Ball) -> Ball:
        """The quotient by one number; of no bound where that may be zero."""
        # (a + da) / (b + db) - a / b = (da - db a / b) / (b + db)
        least = abs(other.value) - other.radius
        if least <= 0:
            return Ball(self.value, self.radius + mpmath.inf, self.eps)
        value = self.value / other.value
        radius = (self.radius + abs(value) * other.radius) / least
        return Ball(value, radius, self.eps)._rounded()

    def sum(self) -> Ball:
        """The sum of an array, whose additions round each in any order."""
        value, radius = np.sum(self.value), np.sum(self.radius)
        rounding = np.size(self.value) * self.eps * (np.sum(abs(self.value)) + radius)
        return Ball(value, radius + rounding, self.eps)

    def scaled(self, factor: Any) -> Ball:
        """The product by a power of two."""
        return Ball(self.value * factor, self.radius * factor, self.eps)


def total(balls: Iterable[Ball]) -> Ball:
    return reduce(add, balls)


def product(balls: Iterable[Ball], start: Ball) -> Ball:
    return reduce(mul, balls, start)


def exactly(x: Any, eps: float) -> Ball:
    """A number that is given, or an array of them."""
    return Ball(x, abs(x) * 0, eps)


class Determinant:
    """det A, its cofactors and derivatives of them, each within `budget` units of units.py."""

    def __init__(self, A: Tensor, eps: float, budget: float) -> None:
        self.A, self.eps, self.budget = A, eps, budget
        rows, columns = frame_exponents(A)
        self._total = int(rows.sum() + columns.sum())
        power = np.frompyfunc(lambda e: mpmath.ldexp(1, int(e)), 1, 1)
        self._scale = power(self._total - rows[:, None] - columns[None, :])

    def det(self) -> Ball:
        radius = mpmath.ldexp(self.budget * unit(self.A, 0), self._total)
        return Ball(of_exact(oracles.det(self.A))[()], radius, self.eps)

    def cofactors(self) -> Ball:
        radius = self.budget * unit(self.A, 1) * self._scale
        return Ball(of_exact(oracles.cofactor(self.A)), radius, self.eps)

    def first(self, J: Tensor) -> Ball:
        """D det(A)[J]."""
        return (self.cofactors() * exactly(numbers(J), self.eps)).sum()

    def second(self, J: Tensor) -> Ball:
        """D^2 det(A)[J, J]."""
        radius = self.budget * unit(self.A, 2, (J,)) * self._scale
        H = Ball(of_exact(oracles.hvp(self.A, J)), radius, self.eps)
        return (H * exactly(numbers(J), self.eps)).sum()
