"""What a forward pass of the CUDA class "large" keeps: factors, with which backward takes no LU.

On the emulation, with LAPACK in the place of torch's LU: backward from what is kept has the bits of
backward from A at every matrix, and what is kept is only read. On a GPU: what is called, and that
it is right.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator

import emulated
import numpy as np
import pytest
import torch
from checks import assert_same_bits, expected
from problems import arguments
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import cases
import torchdet
from conftest import NO_CUDA
from support import OPS, draw, logabsdet, on_extension, operators_called, same_bits
from torchdet import _extension, _kept

MISSING = emulated.missing()


def on_emulation(test: Callable[..., None]) -> Callable[..., None]:
    test = pytest.mark.usefixtures("plain_schedule")(test)
    return pytest.mark.skipif(MISSING is not None, reason=str(MISSING))(test)


NAMES = ("det", "slogdet")
# Strips of 32 rows that are one, one and a bit, and three; rows of whole and of broken words.
ORDERS = (3, 8, 33, 68)
CASES = tuple(itertools.product(NAMES, ORDERS, emulated.DTYPES))
NOT_KEPT = np.iinfo(np.int32).min
FIRST_EXCHANGE = 5  # behind the state and four integers for the last pivot


def keep(name: str, A: np.ndarray) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
    """The determinant, and what is kept."""
    *determinant, numbers, integers = emulated.run(f"{name}_keep", A)
    return tuple(determinant), (numbers, integers)


def backward_from_A(name: str, A: np.ndarray, grad: np.ndarray) -> tuple[np.ndarray, ...]:
    return emulated.run(f"{name}_backward", A, grad, large=True)


def problem(n: int, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """Matrices of every kind, and grad: of ranks n - 1, n - 2 and 0, unbalanced, not finite."""
    A, grad = arguments("det_backward", n, dtype, 12)
    A[9, :2] = 0  # by the LDU
    A[10, :, -1] = A[10, :, 0]
    A[10, 0] = 0  # rank n - 1 or below, and the last pivot is not the one that is 0
    low, high = (-900, 900) if A.real.dtype == np.float64 else (-110, 110)
    exponents = np.random.default_rng(n).integers(low, high, n)
    A[11] *= (2.0 ** exponents.astype(A.real.dtype))[:, None]
    # The LDU is slow on the emulation: one matrix for it is enough at the largest order.
    return (A, grad) if n < ORDERS[-1] else (A[4:], grad[4:])


@on_emulation
@pytest.mark.parametrize(("name", "n", "dtype"), CASES)
def test_backward_from_what_is_kept_has_the_bits_of_backward_from_A(name, n, dtype):
    A, grad = problem(n, dtype)
    determinant, kept = keep(name, A)
    assert_same_bits(determinant, emulated.run(name, A, large=True), "determinant")
    before = [x.tobytes() for x in kept]
    right = backward_from_A(name, A, grad)
    for turn in ("first", "second"):
        assert_same_bits(emulated.run(f"{name}_backward", A, grad, kept), right, turn)
        assert [x.tobytes() for x in kept] == before, f"after the {turn}"
    alone, one = A[-4:-3], tuple(x[-4:-3] for x in kept)
    got = emulated.run(f"{name}_backward", alone, None, one)
    assert_same_bits(got, backward_from_A(name, alone, np.ones_like(grad[:1])), "no gradient")


@on_emulation
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", emulated.DTYPES)
def test_what_is_kept_is_never_written_to(name, dtype, tmp_path):
    """Not even what is there already: it lies in memory that may only be read, where a write would
    end this process."""
    A, grad = problem(8, dtype)
    _, kept = keep(name, A)
    read_only = []
    for i, x in enumerate(kept):
        x.tofile(tmp_path / str(i))
        read_only.append(np.memmap(tmp_path / str(i), x.dtype, "r", shape=x.shape))
    got = emulated.run(f"{name}_backward", A, grad, tuple(read_only))
    assert_same_bits(got, backward_from_A(name, A, grad), "")


@on_emulation
@pytest.mark.parametrize(("name", "n", "dtype"), CASES)
def test_where_the_factors_serve_A_is_not_looked_at(name, n, dtype):
    A, grad = (x[8:9] for x in arguments("det_backward", n, dtype, 9))
    _, kept = keep(name, A)
    right = backward_from_A(name, A, grad)
    assert_same_bits(
        emulated.run(f"{name}_backward", np.full_like(A, np.nan), grad, kept), right, ""
    )


@on_emulation
@pytest.mark.parametrize(("name", "n", "dtype"), CASES)
def test_nothing_that_is_kept_depends_on_neighbours_strides_or_threads(name, n, dtype):
    A, _ = problem(n, dtype)
    _, kept = keep(name, A)
    for b in (0, 1, len(A) - 1):
        _, alone = keep(name, A[b : b + 1].swapaxes(1, 2).copy().swapaxes(1, 2))
        assert_same_bits(alone, tuple(x[b : b + 1] for x in kept), f"matrix {b}")
    for order, seed, fill in (("reverse", 0, 0), ("random", 1, emulated.GPU_NAN)):
        emulated.schedule(order, seed, fill)
        assert_same_bits(keep(name, A)[1], kept, f"{order} {seed} {fill:#x}")


@on_emulation
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", ("float64", "complex128"))
def test_exponents_at_both_ends_of_the_format_are_kept(name, dtype):
    """The last column is 2^-2074 of the other entries of its rows."""
    A = np.eye(40, dtype=dtype) * 2.0**1000
    A[:, -1], A[0, -1] = 2.0**-1074, 2.0**1000
    A = np.stack([A, A.T, A * 2.0**-1000])
    _, kept = keep(name, A)
    grad = np.array([1, 2.0**-1000, -3], dtype)
    got = emulated.run(f"{name}_backward", A, grad, kept)
    assert_same_bits(got, backward_from_A(name, A, grad), "")


def wrong_integers(integers: np.ndarray, n: int) -> Iterator[np.ndarray]:
    """Of one matrix, that no forward pass of the same function writes."""
    whole, rng = np.iinfo(np.int32), np.random.default_rng(n)
    yield from (np.full_like(integers, x) for x in (0, 1, -1, NOT_KEPT, whole.max))
    for low, high in ((whole.min, whole.max), (-2, 3), (0, n), (-n, n)):
        yield rng.integers(low, high, integers.shape, np.int32)
    for place, index in itertools.product((0, n // 2, n - 1), (0, n + 1, 2**30, whole.min)):
        wrong = integers.copy()
        wrong[FIRST_EXCHANGE + place] = index
        yield wrong
    led_back = integers.copy()
    led_back[FIRST_EXCHANGE + n - 1] = n - 1
    yield led_back


@on_emulation
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("n", "dtype"), (*((5, x) for x in emulated.DTYPES), (33, "float32")))
def test_integers_that_no_forward_pass_writes_lead_to_the_ldu_of_A(name, n, dtype):
    """So the gradient is right, whatever the integers and numbers are."""
    A, grad = (x[:1] for x in expected(n, dtype)[f"{name}_backward"].arguments)
    right = expected(n, dtype)[f"{name}_backward"]
    _, (numbers, integers) = keep(name, A)
    other = keep("slogdet" if name == "det" else "det", A)[1]
    wrong = np.stack([other[1][0], *wrong_integers(integers[0], n)])
    batch = len(wrong)
    garbage = np.repeat(numbers, batch, 0)
    garbage[0], garbage[2::2] = other[0][0], np.nan
    same = (np.broadcast_to(A, garbage.shape), np.broadcast_to(grad, batch))
    (got,) = emulated.run(f"{name}_backward", *same, (garbage, wrong))
    inaccurate = (np.abs(got - right.results[0][:1]) > right.errors[0][:1]).any((1, 2))
    assert not inaccurate.any(), wrong[inaccurate]


@on_emulation
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", emulated.DTYPES)
def test_any_numbers_exchanges_and_exponents_within_their_range_are_safe(name, dtype):
    """Not right: nothing tells them from those of another matrix. See sanitized.py, too."""
    n = 34
    A, grad = problem(n, dtype)
    _, (numbers, integers) = keep(name, A)
    rng = np.random.default_rng(n)
    wild = integers.copy()
    wild[:, 1:] = rng.integers(-(2**31), 2**31, wild[:, 1:].shape)
    places = slice(FIRST_EXCHANGE, FIRST_EXCHANGE + n)
    wild[:, places] = rng.integers(np.arange(n) + 1, n + 1, (len(A), n))
    for x in (numbers, rng.bytes(numbers.nbytes)):
        kept = np.frombuffer(x, numbers.dtype).reshape(numbers.shape)
        with np.errstate(all="ignore"):
            emulated.run(f"{name}_backward", A, grad, (kept, wild), by_ldu=False)


# ---- who keeps


class _Build:
    """A build of the extension with CUDA kernels, as far as the choice of a class goes."""

    def __init__(self, driver_problem: str) -> None:
        from torchdet import _C

        self.select = _C.select
        self.driver_problem = driver_problem

    def build_info(self) -> dict[str, object]:
        return {"cuda_architectures": ["9.0"], "cuda_driver_problem": self.driver_problem}


@on_extension
def test_matrices_are_kept_whose_gradient_no_block_holds(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchdet._C", _Build("an old driver"))
    assert _extension.least_large() == {}
    monkeypatch.setitem(sys.modules, "torchdet._C", _Build(""))
    least = _extension.least_large()
    assert least == {x: emulated.largest_block("det_backward", x) + 1 for x in emulated.DTYPES}


@on_extension
@pytest.mark.parametrize("name", NAMES)
def test_the_choice_and_the_shapes_ask_for_no_device(name, dtype, monkeypatch):
    """So that torch.compile needs none to trace a program."""
    n = emulated.largest_block("det_backward", cases.name(dtype)) + 1
    monkeypatch.setattr(_kept, "_LEAST_ON_CUDA", {dtype: n})
    with FakeTensorMode():
        A = torch.empty(2, n, n, dtype=dtype, device="cuda")
        assert _kept.keeps(A)
        assert not _kept.keeps(torch.empty(2, n - 1, n - 1, dtype=dtype, device="cuda"))
        assert not _kept.keeps(torch.empty(2, n, n, dtype=torch.float16, device="cuda"))
        with torch.no_grad():
            assert not _kept.keeps(A)
        *_, numbers, integers = getattr(OPS, f"_{name}_keep")(A)
        assert numbers.shape == A.shape
        assert integers.shape == (2, 3 * n + 2)
        grad = torch.empty(2, dtype=dtype, device="cuda")
        gradient = getattr(OPS, f"_{name}_backward_kept")(grad, A, numbers, integers)
        assert (gradient.shape, gradient.dtype) == (A.shape, dtype)


# ---- on a GPU

N = 300  # in the class "large" on every device, and in every dtype where its kernels are there
on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason=NO_CUDA)


FUNCTIONS = pytest.mark.parametrize("f", (torchdet.det, logabsdet), ids=NAMES)


def leaf(dtype: torch.dtype) -> Tensor:
    A = draw(5, N, dtype, "cuda") / N**0.5
    if not _kept.keeps(A.requires_grad_()):
        pytest.skip("without CUDA kernels nothing is kept")
    return A


@on_gpu
@FUNCTIONS
def test_a_large_matrix_is_factored_once(f, dtype):
    A = leaf(dtype)
    name = "det" if f is torchdet.det else "slogdet"
    assert operators_called(f, A) == [f"_{name}_keep"]
    assert operators_called(f, A.detach()) == [name]
    assert operators_called(f, A[..., :60, :60]) == [name]
    out = f(A)
    with torch.profiler.profile() as profile:
        out.sum().backward()
    assert not any("linalg_lu_factor" in event.name for event in profile.events())


@on_gpu
@FUNCTIONS
def test_gradients_from_what_is_kept_are_those_from_A(f, dtype):
    """Both are backward stable: each is n eps cond(A), relative to its size, from the truth."""
    A = leaf(dtype)
    out = f(A)
    weights = torch.full_like(out, 0.5)
    twice = [torch.autograd.grad(out, A, weights, retain_graph=True)[0] for _ in range(2)]
    assert same_bits(*twice)
    name = "det_backward" if f is torchdet.det else "slogdet_backward"
    from_A = getattr(OPS, name)(weights.to(dtype), A.detach())
    condition = torch.linalg.cond(A.detach().cpu().to(torch.complex128)).to(from_A.device)
    bound = 50 * N * torch.finfo(dtype).eps * condition * torch.linalg.norm(from_A, dim=(-2, -1))
    assert (torch.linalg.norm(twice[0] - from_A, dim=(-2, -1)) <= bound).all()


@on_gpu
def test_compiled_programs_keep_the_same_shapes():
    A = leaf(torch.float32)

    def loss(A: Tensor) -> Tensor:
        return torchdet.slogdet(A).logabsdet.sum()

    (right,) = torch.autograd.grad(loss(A), A)
    (got,) = torch.autograd.grad(torch.compile(loss, fullgraph=True)(A), A)
    torch.testing.assert_close(got, right)
