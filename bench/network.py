"""A small neural wave function of two spins with backflow, for the timing of training steps.

Its layers are written once and run on plain Tensors, or on `Carried`: a value with its derivatives
along all coordinates and its Laplacian, which every layer passes on (Li et al., A computational
framework for neural network-based variational Monte Carlo with forward Laplacian, Nature Machine
Intelligence 6, 2024). For a function f of entries x, and for a product,

    lap f(x) = f'(x) lap x + f''(x) sum_i (dx / dx_i)^2,
    lap(u v) = u lap v + v lap u + 2 sum_i (du / dx_i) (dv / dx_i).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

import torchdet

WIDTH = 32
LAYERS = 2
Function = Callable[[Tensor], Tensor]


@dataclass
class Carried:
    """x, of shape (*); dx / dx_i, (d, *); lap x, (*)."""

    value: Tensor
    first: Tensor
    second: Tensor

    @classmethod
    def of_coordinates(cls, r: Tensor) -> Carried:
        """The coordinates (B, N, 3) of N particles themselves."""
        d = r.shape[-2] * 3
        eye = torch.eye(d, dtype=r.dtype, device=r.device).view(d, 1, -1, 3)
        return cls(r, eye.expand(d, *r.shape), torch.zeros_like(r))

    def linear(self, f: Function) -> Carried:
        """A linear function of the last dimensions, without a constant."""
        return Carried(f(self.value), f(self.first), f(self.second))

    def entries(self, f: Function, first: Function, second: Function) -> Carried:
        """A function of every entry, with its derivatives as functions of its value."""
        y = f(self.value)
        d, dd = first(y), second(y)
        lap = d * self.second + dd * self.first.square().sum(0)
        return Carried(y, d * self.first, lap)

    def times(self, other: Carried) -> Carried:
        """The product, entry by entry."""
        u, v = self, other
        lap = u.value * v.second + v.value * u.second + 2 * (u.first * v.first).sum(0)
        return Carried(u.value * v.value, u.value * v.first + v.value * u.first, lap)


Array = Tensor | Carried


def linear(x: Array, f: Function) -> Array:
    """A linear function of the last dimensions."""
    return x.linear(f) if isinstance(x, Carried) else f(x)


def add_constant(x: Array, c: Tensor) -> Array:
    """X + c."""
    return Carried(x.value + c, x.first, x.second) if isinstance(x, Carried) else x + c


def tanh(x: Array) -> Array:
    """The hyperbolic tangent."""
    if isinstance(x, Tensor):
        return x.tanh()
    return x.entries(torch.tanh, lambda y: 1 - y * y, lambda y: -2 * y * (1 - y * y))


def exp_minus(x: Array) -> Array:
    """e^-x."""
    if isinstance(x, Tensor):
        return (-x).exp()
    return x.entries(lambda t: (-t).exp(), lambda y: -y, lambda y: y)


def distance(x: Array) -> Array:
    """The length of the last dimension, which stays, rounded off at the origin."""
    if isinstance(x, Tensor):
        return (x.square().sum(-1, keepdim=True) + 1e-4).sqrt()
    square = x.times(x).linear(lambda t: t.sum(-1, keepdim=True))
    return add_constant(square, square.value.new_tensor(1e-4)).entries(
        torch.sqrt, lambda y: 0.5 / y, lambda y: -0.25 / y**3
    )


def product(x: Array, y: Array) -> Array:
    """Entry by entry."""
    return x.times(y) if isinstance(x, Carried) and isinstance(y, Carried) else x * y


def join(x: Array, y: Array) -> Array:
    """Side by side in the last dimension."""
    if isinstance(x, Tensor) and isinstance(y, Tensor):
        return torch.cat([x, y], -1)
    pairs = ((x.value, y.value), (x.first, y.first), (x.second, y.second))
    return Carried(*(torch.cat(pair, -1) for pair in pairs))


class Network(torch.nn.Module):
    """log|psi| of N particles, the first half of one spin, with K determinants for each spin."""

    def __init__(self, particles: int, determinants: int, stock: bool) -> None:
        super().__init__()
        self.spins = (particles - particles // 2, particles // 2)
        self.determinants, self.stock = determinants, stock
        sizes = [4, *[WIDTH] * LAYERS]
        self.layers = torch.nn.ModuleList(torch.nn.Linear(3 * a, b) for a, b in pairwise(sizes))
        self.orbitals = torch.nn.ModuleList(
            torch.nn.Linear(WIDTH, n * determinants) for n in self.spins
        )
        self.weights = torch.nn.Parameter(torch.full((determinants,), 1 / determinants))

    def matrices(self, r: Array) -> list[Array]:
        """Of each spin (B, K, n, n), rows for particles, from coordinates (B, N, 3)."""
        length = distance(r)
        h, envelope = join(r, length), exp_minus(length)
        up, total = self.spins[0], sum(self.spins)

        def means(x: Tensor) -> Tensor:
            both = (x[..., :up, :], x[..., up:, :])
            own = [part.mean(-2, keepdim=True).expand_as(x) for part in both]
            return torch.cat([x, *own], -1)

        for layer in self.layers:
            weight, bias = layer.weight, layer.bias
            h = linear(h, lambda x, weight=weight: means(x) @ weight.mT)
            h = tanh(add_constant(h, bias))
        matrices = []
        for (begin, end), layer in zip(((0, up), (up, total)), self.orbitals, strict=True):
            weight, bias, n = layer.weight, layer.bias, end - begin

            def rows(x: Tensor, begin: int = begin, end: int = end) -> Tensor:
                return x[..., begin:end, :]

            def apart(x: Tensor, n: int = n) -> Tensor:
                return x.unflatten(-1, (self.determinants, n)).transpose(-3, -2)

            orbital = linear(h, lambda x, weight=weight, rows=rows: rows(x) @ weight.mT)
            orbital = product(add_constant(orbital, bias), linear(envelope, rows))
            matrices.append(linear(orbital, apart))
        return matrices

    def forward(self, r: Tensor) -> Tensor:
        """log|psi|, (B), of coordinates (B, N, 3)."""
        return logarithm(self.matrices(r), self.weights, self.stock)

    def kinetic_energy(self, r: Tensor) -> Tensor:
        """-(lap psi) / (2 psi), by differentiating log|psi| twice, coordinate by coordinate."""
        x = r.detach().requires_grad_()
        (g,) = torch.autograd.grad(self(x).sum(), x, create_graph=True)
        total = g.detach().square().sum((-2, -1))
        for i in range(x[0].numel()):
            (h,) = torch.autograd.grad(g.flatten(1)[:, i].sum(), x, retain_graph=True)
            total = total + h.flatten(1)[:, i]
        return -0.5 * total

    @torch.no_grad()
    def kinetic_energy_in_one_pass(self, r: Tensor) -> Tensor:
        """The same from matrices with their derivatives."""
        matrices = self.matrices(Carried.of_coordinates(r))
        out = torchdet.slogsumdet_laplacian(
            [A.value for A in matrices],
            [A.first.movedim(0, 2) for A in matrices],
            [A.second for A in matrices],
            self.weights,
        )
        return -0.5 * (out.laplacian + out.derivatives.square().sum(-1))


def logarithm(matrices: list[Tensor], weights: Tensor | None, stock: bool) -> Tensor:
    """log|psi|: by torch.linalg.slogdet as it is written by hand, or by torchdet.slogsumdet."""
    if not stock:
        return torchdet.slogsumdet(*matrices, weights=weights).logabsdet
    pairs = [torch.linalg.slogdet(A) for A in matrices]
    sign, log = pairs[0]
    for s, x in pairs[1:]:
        sign, log = sign * s, log + x
    top = log.amax(-1, keepdim=True)
    terms = sign * (log - top).exp()
    psi = terms.sum(-1) if weights is None else terms @ weights
    return psi.abs().log() + top.squeeze(-1)
