"""The table of docs/comparison.md: one set of questions to several libraries, and to formulas.

Every cell is the largest error of an answer, relative to the largest entry of the truth, which is
computed in rational arithmetic (examples/common.py) or known in closed form. All are asked in
float64 unless a question says otherwise. A library that is not installed has no column.
"""

from __future__ import annotations

import importlib.util
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

import torchdet
from common import exact_cofactor, exact_det, to_fractions
from exactness import integers_of_rank_11

Array = np.ndarray


class Peer(ABC):
    """What is asked; matrices are numpy arrays."""

    name: str

    @abstractmethod
    def det(self, A: Array) -> Array:
        """Determinants, (*)."""

    @abstractmethod
    def gradient(self, A: Array) -> Array:
        """Of the sum of the determinants."""

    @abstractmethod
    def hessian(self, A: Array) -> Array:
        """Of the determinant of one matrix, (n, n, n, n)."""

    @abstractmethod
    def log_curvature(self, A: Array, Z: Array) -> float:
        """Second derivative of log|det(A + t Z)| at t = 0, forward mode over forward mode."""


class Torch(Peer):
    """Anything that is a function of torch Tensors."""

    def __init__(self, name: str, det: Callable, log: Callable | None = None) -> None:
        self.name, self._det = name, det
        self._log = log or (lambda A: det(A).abs().log())

    def det(self, A: Array) -> Array:
        return self._det(torch.from_numpy(A)).numpy()

    def gradient(self, A: Array) -> Array:
        x = torch.from_numpy(A).requires_grad_()
        return torch.autograd.grad(self._det(x).sum(), x)[0].numpy()

    def hessian(self, A: Array) -> Array:
        return torch.func.hessian(self._det)(torch.from_numpy(A)).numpy()

    def log_curvature(self, A: Array, Z: Array) -> float:
        x, z, one = torch.from_numpy(A), torch.from_numpy(Z), torch.ones((), dtype=torch.float64)

        def slope(t):
            return torch.func.jvp(lambda t: self._log(x + t * z), (t,), (one,))[1]

        return torch.func.jvp(slope, (torch.zeros_like(one),), (one,))[1].item()


class Jax(Peer):
    """jax.numpy.linalg."""

    def __init__(self) -> None:
        import jax

        jax.config.update("jax_enable_x64", True)
        self.jax, self.name = jax, f"jax {jax.__version__}"

    def det(self, A: Array) -> Array:
        return np.asarray(self.jax.numpy.linalg.det(A))

    def gradient(self, A: Array) -> Array:
        return np.asarray(self.jax.grad(lambda A: self.jax.numpy.linalg.det(A).sum())(A))

    def hessian(self, A: Array) -> Array:
        return np.asarray(self.jax.hessian(self.jax.numpy.linalg.det)(A))

    def log_curvature(self, A: Array, Z: Array) -> float:
        def value(t):
            return self.jax.numpy.linalg.slogdet(A + t * Z)[1]

        def slope(t):
            return self.jax.jvp(value, (t,), (1.0,))[1]

        return float(self.jax.jvp(slope, (0.0,), (1.0,))[1])


class TensorFlow(Peer):
    """tensorflow.linalg."""

    def __init__(self) -> None:
        import tensorflow

        self.tf, self.name = tensorflow, f"tensorflow {tensorflow.__version__}"

    def det(self, A: Array) -> Array:
        return self.tf.linalg.det(A).numpy()

    def gradient(self, A: Array) -> Array:
        x = self.tf.constant(A)
        with self.tf.GradientTape() as tape:
            tape.watch(x)
            y = self.tf.reduce_sum(self.tf.linalg.det(x))
        return tape.gradient(y, x).numpy()

    def hessian(self, A: Array) -> Array:
        x = self.tf.constant(A)
        with self.tf.GradientTape() as outer:
            outer.watch(x)
            with self.tf.GradientTape() as inner:
                inner.watch(x)
                y = self.tf.linalg.det(x)
            g = inner.gradient(y, x)
        return outer.jacobian(g, x).numpy()

    def log_curvature(self, A: Array, Z: Array) -> float:
        raise NotImplementedError("no forward mode over forward mode")


def by_hand(A: torch.Tensor) -> torch.Tensor:
    """Sarrus for n <= 3, and Laplace's expansion for n = 4."""
    n = A.shape[-1]
    if n > 4:
        raise NotImplementedError(f"{n}! products")
    if n == 2:
        return A[..., 0, 0] * A[..., 1, 1] - A[..., 0, 1] * A[..., 1, 0]
    total = torch.zeros_like(A[..., 0, 0])
    for j in range(n):
        rest = torch.cat([A[..., 1:, :j], A[..., 1:, j + 1 :]], -1)
        total = total + (-1) ** j * A[..., 0, j] * by_hand(rest)
    return total


class TimesInverse(Torch):
    """Jacobi's formula as it is written: det(A) A^-T."""

    def gradient(self, A: Array) -> Array:
        return np.linalg.det(A)[..., None, None] * np.linalg.inv(A).swapaxes(-1, -2)

    def hessian(self, A: Array) -> Array:
        X = np.linalg.inv(A).T
        return np.linalg.det(A) * (np.einsum("ij,kl->ijkl", X, X) - np.einsum("il,kj->ijkl", X, X))

    def log_curvature(self, A: Array, Z: Array) -> float:
        W = np.linalg.solve(A, Z)
        return float(-np.trace(W @ W))


def peers() -> list[Peer]:
    """Those that are installed, torchdet first."""
    version = torch.__version__.split("+")[0]
    found: list[Peer] = [
        Torch("torchdet", torchdet.det, lambda A: torchdet.slogdet(A).logabsdet),
        Torch(f"torch {version}", torch.linalg.det, lambda A: torch.linalg.slogdet(A).logabsdet),
    ]
    found += [Jax()] if importlib.util.find_spec("jax") else []
    found += [TensorFlow()] if importlib.util.find_spec("tensorflow") else []
    return [*found, Torch("products by hand", by_hand), TimesInverse("det(A) A⁻ᵀ by hand", by_hand)]


# --- questions ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Question:
    """A question in words, how it is asked, and the truth."""

    text: str
    ask: Callable[[Peer], object]
    truth: object
    scale: float = 1.0  # what errors are relative to where the truth is zero


def _cofactors(A: Array) -> Array:
    return np.array(
        [[float(x) for x in row] for row in exact_cofactor(to_fractions(torch.from_numpy(A)))]
    )


def _bound(A: Array) -> float:
    """Hadamard's bound of the cofactors."""
    return float(np.prod(np.sort(np.linalg.norm(A, axis=1))[1:]))


def _hessian(A: Array) -> Array:
    """Minors of order n - 2 with their signs."""
    n = len(A)
    H = np.zeros((n,) * 4)
    for i, j, k, l in np.ndindex(H.shape):
        if i != k and j != l:
            rows = [r for r in range(n) if r not in (i, k)]
            columns = [c for c in range(n) if c not in (j, l)]
            minor = exact_det(to_fractions(torch.from_numpy(A[np.ix_(rows, columns)])))
            sign = (-1) ** (i + j + k + l) * (1 if (i < k) == (j < l) else -1)
            H[i, j, k, l] = sign * float(minor)
    return H


def _integers(seed: int, n: int, rank: int) -> Array:
    """Small integers, of that rank as long as the product of two factors has it."""
    random = np.random.default_rng(seed)
    return (random.integers(-3, 4, (n, rank)) @ random.integers(-3, 4, (rank, n))).astype(float)


def questions() -> list[Question]:
    """The rows of the table."""
    near = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0 + 2.0**-40]])
    cancel = np.array([[1.0 + 2.0**-12, 1.0], [1.0 + 2.0**-11, 1.0 + 2.0**-12]], np.float32)
    rank2, rank3, full = _integers(1, 4, 2), _integers(2, 4, 3), _integers(3, 4, 4)
    rank11, rank10 = integers_of_rank_11().numpy(), _integers(6, 12, 10)
    line = (np.array([[2.0, 1.0], [1.0, 3.0]]), np.array([[1.0, 0.0], [0.0, 0.0]]))
    spread = np.diag([1e30, 1e30, 1e-30, 1e-30]).astype(np.float32)
    batch = np.random.default_rng(4).standard_normal((64, 4, 4))
    with_nan = batch.copy()
    with_nan[5, 1, 2] = math.nan
    without = [i for i in range(64) if i != 5]

    def gradient(text: str, A: Array, scale: float = 1.0) -> Question:
        return Question(f"gradient, {text}", lambda peer: peer.gradient(A), _cofactors(A), scale)

    def hessian(text: str, A: Array) -> Question:
        return Question(f"Hessian, {text}", lambda peer: peer.hessian(A), _hessian(A))

    def single(text: str, A: Array) -> Question:
        return Question(f"float32 det, {text}", lambda peer: peer.det(A[None]), _det(A))

    return [
        gradient("4 × 4, rank 4", full),
        gradient("4 × 4 of integers, rank 3", rank3),
        gradient("4 × 4 of integers, rank 2: zero", rank2, _bound(rank2)),
        gradient("12 × 12 of integers, rank 11", rank11),
        gradient("12 × 12 of integers, rank 10: zero", rank10, _bound(rank10)),
        gradient("diag(0, 1, 1, 1)", np.diag([0.0, 1.0, 1.0, 1.0])),
        gradient("3 × 3, det ≈ 3e-12", near),
        hessian("4 × 4, rank 4", full),
        hessian("4 × 4 of integers, rank 3", rank3),
        hessian("4 × 4 of integers, rank 2", rank2),
        hessian("3 × 3 identity", np.eye(3)),
        Question(
            "log det along a line, `jvp` of `jvp`", lambda peer: peer.log_curvature(*line), -0.36
        ),
        single("diag(1e30, 1e30, 1e-30, 1e-30)", spread),
        single("2 × 2 with cancellation", cancel),
        Question(
            "a NaN in one of 64 matrices: gradients of the others",
            lambda peer: peer.gradient(with_nan)[without],
            np.array([_cofactors(A) for A in batch[without]]),
        ),
    ]


def _det(A: Array) -> Array:
    return np.array([float(exact_det(to_fractions(torch.from_numpy(A.astype(float)))))])


def cell(peer: Peer, question: Question) -> str:
    """The error of an answer, or what happened instead; wrong ones are marked."""
    try:
        got = np.asarray(question.ask(peer), float)
    except NotImplementedError as error:
        return f"— ({error})"
    except (RuntimeError, np.linalg.LinAlgError) as error:
        return f"✗ raises {type(error).__name__}"
    truth = np.asarray(question.truth, float)
    if not np.isfinite(got).all():
        return "✗ inf" if np.isinf(got).any() else "✗ NaN"
    scale = np.abs(truth).max() or question.scale
    error = np.abs(got - truth).max() / scale
    # float32 carries seven digits and float64 sixteen; a few of them go by conditioning.
    bound = 1e-5 if "float32" in question.text else 1e-10
    text = "exact" if error == 0 else f"{error:.0e}".replace("e-0", "e-").replace("e+00", "")
    return f"{'✓' if error <= bound else '✗'} {text}"


def table() -> str:
    """In Markdown."""
    asked = peers()
    lines = [
        "| | " + " | ".join(peer.name for peer in asked) + " |",
        "|---" * (len(asked) + 1) + "|",
    ]
    for question in questions():
        cells = " | ".join(cell(peer, question) for peer in asked)
        lines.append(f"| {question.text} | {cells} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
