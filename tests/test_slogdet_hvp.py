"""-X Z^T X from conj(X): both products of what is given, by the kernels of every size class.

Integers of a few bits leave no rounding: then every bit of the result is known.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import Tensor

OPS = torch.ops.torchdet

# The classes' ends, with whole and broken words of 16 bytes, tiles and strips of columns; to the
# last orders in the shared memory of a block of an H200, which are 73, 110 and 160, and beyond.
ORDERS = (1, 2, 3, 4, 5, 7, 8, 9, 13, 16, 17, 29, 32, 33, 40, 63, 64, 65, 73, 74, 96, 97, 110, 111,
          128, 129, 160, 161)  # fmt: skip


def integers(*shape: int, dtype: torch.dtype) -> Tensor:
    """Of at most 2, in both parts: products to n = 161 stay below 2^24."""

    def draw() -> Tensor:
        return torch.randint(-2, 3, shape).double()

    return (draw() + 1j * draw() if dtype.is_complex else draw()).to(dtype)


def exact(X: Tensor, Z: Tensor) -> Tensor:
    """The result where every number in it is an integer below 2^53."""
    wide = torch.complex128 if X.is_complex() else torch.float64
    X = X.to(wide)
    return (-X @ (Z.to(wide).mT @ X)).to(Z.dtype)


def batch_of(n: int) -> int:
    """Neither whole warps nor whole blocks of small matrices."""
    return 37 if n <= 32 else 2


def unaligned(X: Tensor) -> Tensor:
    """A copy that does not begin with a word of 16 bytes."""
    memory = X.new_empty(X.numel() + 1)
    return memory[1:].view(X.shape).copy_(X)


LAYOUTS = {
    "rows": lambda X: X,
    "columns": lambda X: X.mT.contiguous().mT,
    "spaced": lambda X: X.repeat_interleave(2, -1).repeat_interleave(3, -2)[..., ::3, ::2],
    "unaligned": unaligned,
    "every second matrix": lambda X: X.repeat_interleave(2, 0)[::2],
}


@pytest.mark.parametrize("n", ORDERS)
def test_products_of_integers_are_exact(n, dtype, device):
    X, Z = (integers(batch_of(n), n, n, dtype=dtype) for _ in range(2))
    got = OPS._slogdet_hvp_kept(X.conj().to(device), Z.to(device))
    assert got.is_contiguous()
    assert torch.equal(got.cpu(), exact(X, Z))


@pytest.mark.parametrize("n", ORDERS)
def test_products_along_multiples_are_exact(n, dtype, device):
    """The result is linear in the factor: by 1.5, and by a power of two for each matrix."""
    X, Z = (integers(batch_of(n), n, n, dtype=dtype) for _ in range(2))
    factor = 1.5 * 2.0 ** torch.arange(-20, batch_of(n) - 20)
    grad = factor.to(dtype) * (1j if dtype.is_complex else 1)
    layouts = (grad, grad.repeat_interleave(2)[::2], grad[-1:].expand(batch_of(n)))
    for g in layouts:
        got = OPS._slogdet_hvp_scaled(g.to(device), X.conj().to(device), Z.to(device))
        expected = exact(X, Z).to(torch.complex128 if X.is_complex() else torch.float64)
        assert torch.equal(got.cpu(), (g[:, None, None].to(expected) * expected).to(dtype))


@pytest.mark.parametrize("n", (2, 3, 4, 6, 8, 15, 32, 33, 36))
@pytest.mark.parametrize("layout", LAYOUTS)
def test_products_of_integers_are_exact_in_every_layout(n, layout, dtype, device):
    X, Z = (integers(batch_of(n), n, n, dtype=dtype).to(device) for _ in range(2))
    move = LAYOUTS[layout]
    for given in ((move(X.conj().resolve_conj()), Z), (X.conj().resolve_conj(), move(Z))):
        assert torch.equal(OPS._slogdet_hvp_kept(*given).cpu(), exact(X, Z).cpu()), layout


@pytest.mark.parametrize("n", (1, 2, 4, 5, 12, 32, 33, 50))
def test_directions_share_a_matrix(n, dtype, device):
    """By strides of 0, in any dimension of the batch."""
    Z = integers(3, 5, n, n, dtype=dtype).to(device)
    for sizes in ((1, 1), (3, 1), (1, 5)):
        X = integers(*sizes, n, n, dtype=dtype).to(device).expand(Z.shape)
        got = OPS._slogdet_hvp_kept(X.conj().resolve_conj(), Z)
        assert torch.equal(got.cpu(), exact(X, Z).cpu()), sizes


@pytest.mark.parametrize("n", (1, 3, 4, 5, 8, 16, 30, 32, 33, 65))
@pytest.mark.parametrize("value", (float("nan"), float("inf")))
def test_nan_reaches_what_it_takes_part_in_and_nothing_else(n, value, dtype, device):
    X, Z = (integers(9, n, n, dtype=dtype) for _ in range(2))
    expected = exact(X, Z)
    row, column = n // 2, n - 1
    X[3, row, column] = Z[5, row, column] = value
    got = OPS._slogdet_hvp_kept(X.conj().to(device), Z.to(device)).cpu()
    met = torch.zeros(9, n, n, dtype=torch.bool)
    met[3, row] = met[3, :, column] = True  # (X Z^T X)_ij has row i and column j of X
    met[5] = True
    assert torch.equal(got[~met], expected[~met])
    assert not got[met].isfinite().any()  # nor is infinity times zero


SHIFT = 160


def scaled(X: Tensor) -> np.ndarray:
    """2^SHIFT X in integers; a complex matrix as a real one of twice the order."""
    if X.is_complex():
        re, im = scaled(X.real), scaled(X.imag)
        return np.block([[re, -im], [im, re]])

    def integer(x: float) -> int:
        numerator, denominator = x.as_integer_ratio()
        assert 2**SHIFT % denominator == 0
        return numerator * (2**SHIFT // denominator)

    return np.vectorize(integer, otypes=[object])(X.double().numpy())


@pytest.mark.parametrize("n", (1, 2, 3, 4, 5, 8, 13, 20, 33))
def test_every_number_is_within_its_own_bound(n, dtype, device):
    """A sum of m products is off by m eps / 2 of the sum of magnitudes at most, to first order, in
    any order of the sum. Rows and columns have scales of their own, which a norm would hide.
    """

    def draw() -> Tensor:
        rows, columns = (2.0 ** torch.randint(-8, 9, (n,)) for _ in range(2))
        return torch.randn(n, n, dtype=dtype) * rows[:, None] * columns

    X, Z = draw(), draw()
    got = OPS._slogdet_hvp_kept(X.conj()[None].to(device), Z[None].to(device))[0].cpu()
    x, zt = scaled(X), scaled(Z.mT)
    error = scaled(got) * 2 ** (2 * SHIFT) + x.dot(zt.dot(x))
    # Complex products may be rounded before the sum, which is two roundings more.
    terms = len(x) + 2
    one_product = terms * Fraction(torch.finfo(dtype).eps) / 2
    allowed = ((1 + one_product) ** 2 / (1 - one_product) ** 2 - 1) * abs(x).dot(
        abs(zt).dot(abs(x))
    )
    assert (abs(error) <= allowed).all()


@pytest.mark.parametrize("shape", ((0,), (3, 0), (0, 0), (2, 1)))
def test_nothing_to_multiply(shape, dtype, device):
    for n in (0, 1, 3, 40) if 0 in shape else (0,):
        X = torch.empty(*shape, n, n, dtype=dtype, device=device)
        assert OPS._slogdet_hvp_kept(X, X).shape == X.shape
        assert OPS.slogdet_hvp(X, X).shape == X.shape


@pytest.mark.parametrize("n", (2, 4, 5, 20, 33))
def test_the_second_derivative_is_exact_at_scaled_permutations(n, dtype, device):
    """X is one as well, so that its products with integers are exact."""
    A = torch.zeros(3, n, n, dtype=dtype)
    X = A.clone()
    for k in range(3):
        order, powers = torch.randperm(n), 2.0 ** torch.randint(-3, 4, (n,))
        units = 1j if dtype.is_complex else -1  # 1 / i is -i: the conjugate is of a different sign
        A[k, torch.arange(n), order] = (powers * units).to(dtype)
        X[k, torch.arange(n), order] = (1 / (powers * units)).to(dtype)
    Z = integers(3, 4, n, n, dtype=dtype)
    expected = exact(X[:, None], Z)
    A, Z = A.to(device), Z.to(device)
    shared = A[:, None].expand(Z.shape)
    assert torch.equal(OPS.slogdet_hvp(shared, Z).cpu(), expected)
    assert torch.equal(OPS.slogdet_hvp(shared.contiguous(), Z).cpu(), expected)
