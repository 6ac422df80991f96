"""What `python -m torchdet check` asks of every kernel: integer matrices with integer answers.

With u, v, w, x of signs (complex numbers: of 1, i, -1, -i), p = 1 + v . u, a = u . x, b = v . w and
c = w . x, at every order and whatever p is, p = 0 being singular,

    A = I + u v^T,   det A = p,   C(A) = p I - v u^T,   D C(A)[w v^T] = b I - v w^T,
    D^2 C(A)[w v^T, u x^T] = c I - x w^T - D C(A)[w x^T],
    D C(A)[w x^T] = (c p - a b) I - c v u^T - p x w^T + b x u^T + a v w^T.

The first line holds since C is linear in u there, the second by differentiating
C(I + (u + s w) (v + t x)^T) by s and t, and the third is p (sum(X * Z) X - X Z^T X) with Z = w x^T
and X = I - v u^T / p, multiplied out. The columns of A are then moved round by one, so that no
pivot lies where it ends up.

A backward stable method answers for A + E with |E| <= delta = n eps |A| (Frobenius norms). A minor
of A of order n - k is p less up to k signs, a sign, or 0. Counting those that are not 0,

    |error of det| <= delta |C|,    |error of an entry of C| <= delta sqrt(n ((|p| + 2)^2 + 2)),

the same with |b| for D C, and for D^2 C at most delta 24 n^3 (|p| + 4).
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from . import _schemas
from .linalg import cofactor, det, slogdet

DTYPES = (torch.float32, torch.float64, torch.complex64, torch.complex128)
_SMALL = (1, 2, 3, 4, 5, 8, 12)
_PLAIN = (1, 2, 3, 4, 5, 20)  # for the plain PyTorch implementation, one algorithm at every order
_SHARED = 320  # one matrix of this order is worth several threads
_THREADS = 4
_LARGEST_OF_FULL = 260
_LARGEST_THIRD = 5  # beyond, the bound of the error leaves no digit of float32


# ---- questions and answers


class Question(NamedTuple):
    """Matrices and two directions for each, with the exact answers."""

    A: Tensor
    Z: Tensor
    Y: Tensor
    det: Tensor
    cofactor: Tensor
    second: Tensor  # D C(A)[Z]
    third: Tensor  # D^2 C(A)[Z, Y]
    det_error: Tensor  # bounds of the errors, for each matrix
    cofactor_error: Tensor
    second_error: Tensor
    third_error: Tensor


def ask(batch: int, n: int, dtype: torch.dtype, device: str) -> Question:
    """Every second matrix singular; drawn on the CPU, so that all devices have the same."""
    generator = torch.Generator().manual_seed(n)
    wide = torch.complex128 if dtype.is_complex else torch.float64
    signs = torch.tensor([1, -1, 1j, -1j] if dtype.is_complex else [1, -1], dtype=wide)

    def draw() -> Tensor:
        return signs[torch.randint(len(signs), (batch, n), generator=generator)]

    u, v, w, x = draw(), draw(), draw(), draw()
    # Products v_k u_k of -1, 1, -1, .., with a 0 where n is even, add up to -1.
    products = 1 - 2 * (torch.arange(n) % 2 == 0).to(wide)
    products[n - 1] = -1 if n % 2 else 0
    order = torch.rand(batch, n, generator=generator).argsort(-1)
    v[1::2] = (products[order] * u.conj())[1::2]

    def outer(y: Tensor, z: Tensor) -> Tensor:
        return y[:, :, None] * z[:, None, :]

    def times(number: Tensor, matrix: Tensor) -> Tensor:
        return number[:, None, None] * matrix

    p, a, b, c = 1 + (v * u).sum(-1), (u * x).sum(-1), (v * w).sum(-1), (w * x).sum(-1)
    eye = torch.eye(n, dtype=wide)
    A = eye + outer(u, v)
    C = times(p, eye) - outer(v, u)
    second = times(b, eye) - outer(v, w)
    along_wx = (times(c * p - a * b, eye) - times(c, outer(v, u)) - times(p, outer(x, w))
                + times(b, outer(x, u)) + times(a, outer(v, w)))  # fmt: skip
    third = times(c, eye) - outer(x, w) - along_wx
    delta = n * torch.finfo(dtype).eps * torch.linalg.matrix_norm(A)

    def minors(middle: Tensor) -> Tensor:
        return (n * ((middle.abs() + 2) ** 2 + 2)).sqrt()

    sign = -1 if n % 2 == 0 else 1  # of the permutation that moves columns round
    matrices = (A, outer(w, v), outer(u, x), sign * C, sign * second, sign * third)
    A, Z, Y, *answers = (X.roll(1, -1) for X in matrices)
    errors = (
        delta * torch.linalg.matrix_norm(C),
        delta * minors(p),
        delta * minors(b),
        delta * 24 * n**3 * (p.abs() + 4),
    )
    return Question(
        *(X.to(device, dtype) for X in (A, Z, Y, sign * p, *answers)),
        *(X.to(device) for X in errors),
    )


def _within(got: Tensor, expected: Tensor, error: Tensor) -> bool:
    # NaN is not within anything.
    difference = (got.detach() - expected).abs().to(torch.float64)
    return bool((difference.flatten(1).amax(-1) <= error).all())


def _values(q: Question) -> bool:
    sign, logabsdet = slogdet(q.A)
    return (
        _within(det(q.A)[:, None], q.det[:, None], q.det_error)
        and _within((sign * logabsdet.exp())[:, None], q.det[:, None], 2 * q.det_error)
        and _within(cofactor(q.A), q.cofactor, q.cofactor_error)
    )


def _gradients(q: Question) -> bool:
    # Recorded calls, which keep what helps the backward pass where that is faster.
    A = q.A.clone().requires_grad_()
    d = det(A)
    (of_det,) = torch.autograd.grad(d, A, torch.ones_like(d))
    right = _within(d[:, None], q.det[:, None], q.det_error)
    right &= _within(of_det, q.cofactor.conj(), q.cofactor_error)
    regular = q.det != 0
    A = q.A[regular].requires_grad_()
    (of_log,) = torch.autograd.grad(slogdet(A).logabsdet.sum(), A)
    # d X = -X E^T X for the inverse X, at matrices that are regular as integers.
    X = (q.cofactor[regular] / q.det[regular][:, None, None]).conj()
    norm = torch.linalg.matrix_norm(X.to(torch.complex128))
    error = (q.det_error / torch.linalg.matrix_norm(q.cofactor.to(torch.complex128)))[regular]
    return right and (len(A) == 0 or _within(of_log, X, 2 * error * norm * norm))


def _second_derivatives(q: Question) -> bool:
    A = q.A.clone().requires_grad_()
    d = det(A)
    (grad,) = torch.autograd.grad(d, A, torch.ones_like(d), create_graph=True)
    (reverse,) = torch.autograd.grad(grad, A, q.Z)
    forward = torch.func.jvp(cofactor, (q.A,), (q.Z,))[1]
    return _within(reverse.conj(), q.second, q.second_error) and _within(
        forward, q.second, q.second_error
    )


def _third_derivatives(q: Question) -> bool:
    # Plain PyTorch on every device, so a few matrices are enough.
    q = Question(*(X[:19] for X in q))
    if q.A.shape[-1] > _LARGEST_THIRD:
        return True

    def second(A: Tensor) -> Tensor:
        return torch.func.jvp(cofactor, (A,), (q.Z,))[1]

    forward = torch.func.jvp(second, (q.A,), (q.Y,))[1]
    A = q.A.clone().requires_grad_()
    (reverse,) = torch.autograd.grad(second(A), A, q.Y.conj())
    return _within(forward, q.third, q.third_error) and _within(
        reverse.conj(), q.third, q.third_error
    )


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _all_results(q: Question) -> list[Tensor]:
    A = q.A.clone().requires_grad_()
    d = det(A)
    (grad,) = torch.autograd.grad(d, A, torch.ones_like(d))
    return [d.detach(), *slogdet(q.A), grad, torch.ops.torchdet.det_hvp(q.A, q.Z)]


def _same_with_threads(q: Question) -> bool:
    if q.A.device.type != "cpu" or not _schemas.HAS_EXTENSION:
        return True  # torch's own threads, if any
    results = []
    for count in (1, _THREADS):
        with _threads(count):
            results.append(_all_results(q))
    return all(torch.equal(one, many) for one, many in zip(*results, strict=True))


CHECKS: dict[str, Callable[[Question], bool]] = {
    "values": _values,
    "gradients": _gradients,
    "second derivatives": _second_derivatives,
    "third derivatives": _third_derivatives,
    "threads": _same_with_threads,
}


# ---- which orders and batches


def classes(device: str) -> dict[str, int]:
    """The size classes that serve a device, with their largest orders; none without extension."""
    if not _schemas.HAS_EXTENSION:
        return {}
    from . import _C

    rows = [row for row in _C.build_info()["size_classes"] if row["device"] == device]
    return {row["name"]: row["largest_n"] for row in rows}


def orders(device: str, dtype: torch.dtype, full: bool) -> Sequence[int]:
    """The orders at which something changes; with `full` all up to beyond the last of them."""
    if not classes(device):
        return range(1, 41) if full else _PLAIN
    from . import _C

    build = _C.build_info()
    edges = list(classes(device).values())
    if device == "cpu":
        edges += [build[f"least_{x}"] - 1 for x in ("kept", "kept_complex", "factors")]
    inside = [n for n in edges if n < _LARGEST_OF_FULL]
    chosen = {*_SMALL, *inside, *(n + 1 for n in inside), _SHARED}
    return sorted(chosen | set(range(1, _LARGEST_OF_FULL + 1)) if full else chosen)


def batches(n: int, device: str) -> Sequence[int]:
    """One matrix, and as many as go to several threads and fill no whole number of packs.

    Of the order at which threads share a matrix there is one that is regular and a singular one.
    """
    if not classes(device):
        return (5,)
    if n == _SHARED:
        return (2,)
    many = (1 << 19) // (n * n * (n + 8)) | 1 if device == "cpu" else 0
    return 1, max(many, 19 if n <= 64 else 5)


def run(device: str, dtype: torch.dtype, full: bool) -> list[str]:
    """For each check "ok", or where it went wrong."""
    kind = device.partition(":")[0]
    wrong: dict[str, list[str]] = {name: [] for name in CHECKS}
    for n in orders(kind, dtype, full):
        for batch in batches(n, kind):
            q = ask(batch, n, dtype, device)
            for check, found in zip(CHECKS.values(), wrong.values(), strict=True):
                outcome = _outcome(check, q)
                if outcome and (not found or not found[-1].endswith(f" {n}")):
                    found.append(f"{outcome} at n = {n}")
    return ["; ".join(found) or "ok" for found in wrong.values()]


def _outcome(check: Callable[[Question], bool], q: Question) -> str:
    try:
        return "" if check(q) else "WRONG"
    except Exception as error:
        first_line = str(error).strip().splitlines()[:1]
        return " ".join(["FAILED:", type(error).__name__, *first_line])


def run_all(full: bool) -> Iterator[tuple[str, ...]]:
    """A row for each device and dtype: both names, then the outcome of each check."""
    devices = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    for device, dtype in itertools.product(devices, DTYPES):
        yield device, str(dtype).removeprefix("torch."), *run(device, dtype, full)
