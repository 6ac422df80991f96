"""slogdet_solve: values by residuals in extended precision, derivatives, shapes and errors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vmap
from torch.library import opcheck
from torch.utils._python_dispatch import TorchDispatchMode

import cases
import torchdet
import units
from support import OPS, same_bits

DTYPES = (torch.float32, torch.float64, torch.complex64, torch.complex128)
WIDE = {torch.float32: np.longdouble, torch.complex64: np.clongdouble}
WIDE |= {torch.float64: np.longdouble, torch.complex128: np.clongdouble}
# Scalars, and panels with a last pack that is full or not.
ORDERS = (1, 2, 3, 8, 16, 17, 33, 64, 65, 129)


def matrices(kind: str, n: int, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(n)
    A = torch.randn(2, n, n, generator=generator, dtype=dtype)
    if kind == "graded":  # rows and columns of sizes 2^-20 to 2^20
        scale = torch.linspace(-20, 20, n).round().to(A.real.dtype).exp2()
        return scale[:, None] * A * scale.flip(0)
    if kind == "ill-conditioned":  # condition 1 / (100 n eps): 1 / eps is beyond the promise
        U, _, Vh = torch.linalg.svd(A)
        eps = torch.finfo(dtype).eps
        S = torch.logspace(0, float(np.log10(100 * n * eps)), n, dtype=A.real.dtype)
        return U * S @ Vh
    return A


def backward_error(A: Tensor, B: Tensor, X: Tensor) -> float:
    """Largest |B - A X| in units of eps (|A| |X| + |B|), entry by entry, in extended precision."""
    a, b, x = (y.detach().numpy().astype(WIDE[y.dtype]) for y in (A, B, X))
    size = np.abs(a) @ np.abs(x) + np.abs(b)
    # Norms of columns of X: what is true of both ways to solve.
    size = size.max(-2, keepdims=True)
    return float((np.abs(b - a @ x) / size).max() / torch.finfo(A.dtype).eps)


# The scales of the rows differ, and so do their errors: the largest row stands for all.
@pytest.mark.parametrize("kind", ("normal", "ill-conditioned", "graded"))
@pytest.mark.parametrize("dtype", DTYPES, ids=cases.name)
@pytest.mark.parametrize("n", ORDERS)
def test_residuals_are_those_of_a_stable_solver(kind, n, dtype):
    A = matrices(kind, n, dtype)
    for k in (1, 9):  # columns one by one, and together
        B = torch.randn(2, n, k, generator=torch.Generator().manual_seed(k), dtype=dtype)
        sign, logabsdet, X = torchdet.slogdet_solve(A, B)
        # |E| <= 3 gamma_n |L| |U| (Higham, theorem 9.4). The sums of n roundings of random signs
        # are of order sqrt(n), and the entries of |L| |U| a few times those of A: together below n.
        assert backward_error(A, B, X) < n + 2, k
        assert X.shape == B.shape and X.is_contiguous()
    for a, s, log in zip(A, sign, logabsdet, strict=True):
        expected = torchdet.slogdet(a)
        # Both are right for a matrix that differs by n eps from A.
        tolerance = 2 * n * torch.finfo(dtype).eps * units.condition(a)
        assert abs(log - expected.logabsdet) <= tolerance
        assert abs(s - expected.sign) <= tolerance


GROWING = ("wilkinson_growth",)  # |L| |U| is 2^n |A|: partial pivoting is as bad as it can be


NAMED = [
    (name, n)
    for name in cases.FAMILIES
    for n in (2, 5, 9, 13)
    if cases.exists(name, n) and name not in GROWING
]


@pytest.mark.parametrize("dtype", (torch.float32, torch.complex128), ids=cases.name)
@pytest.mark.parametrize(("family", "n"), NAMED)
def test_residuals_of_named_matrices(family, n, dtype):
    A = cases.matrices(family, n, dtype)
    B = torch.randn(len(A), n, 2, generator=torch.Generator().manual_seed(n), dtype=dtype)
    sign, _, X = torchdet.slogdet_solve(A, B)
    for a, b, x, s in zip(A, B, X, sign, strict=True):
        if not a.isfinite().all() or s == 0:
            assert not x.isfinite().any()
            continue
        # R A C, and B and X in its scale.
        rows, columns = (np.ldexp(np.longdouble(1), -e) for e in units.frame_exponents(a))
        r, c = rows.reshape(-1, 1), columns.reshape(-1, 1)
        matrix, right, left = (y.numpy().astype(WIDE[dtype]) for y in (a, b, x))
        if not x.isfinite().all():  # singular to working precision, or X is out of range
            largest = np.abs(right * r).max() * units.condition(a) * c.max()
            is_singular = units.condition(a) > 0.01 / (n * torch.finfo(dtype).eps)
            assert is_singular or largest >= torch.finfo(dtype).max / 4
            continue
        size = np.abs(matrix * r * c.T).max() * np.abs(left / c).max(0) + np.abs(right * r).max(0)
        residual = np.abs(right - matrix @ left) * r / size
        assert residual.max() < (n + 2) * torch.finfo(dtype).eps


@pytest.mark.parametrize("n", (4, 40, 140))
def test_a_small_solution_of_an_ill_conditioned_system_is_as_good_as_its_matrix(n):
    # With B = A X and entries of X of size 1, |A^-1| |B| is 1e10 |X|: a product with the inverse
    # alone would have a residual of 1e10 eps.
    A = matrices("normal", n, torch.float64)
    A[..., -1] = A[..., 0] + 1e-10 * A[..., -1]
    B = A @ torch.ones(n, 1, dtype=torch.float64)
    X = torchdet.slogdet_solve(A, B).X
    assert backward_error(A, B, X) < n + 2


def test_an_integer_system_with_determinant_1():
    # Unit triangular factors with small integers: det = 1, and every number is exact.
    L = torch.tensor([[1.0, 0, 0], [2, 1, 0], [-1, 3, 1]], dtype=torch.float64)
    A, X = L @ L.mT, torch.tensor([[1.0, 2], [3, -4], [5, 6]], dtype=torch.float64)
    sign, logabsdet, got = torchdet.slogdet_solve(A, A @ X)
    # n eps cond(A), with a condition of 2e4
    torch.testing.assert_close(got, X, rtol=0, atol=3 * 2.3e-16 * 2e4 * 6)
    assert sign == 1
    assert abs(logabsdet) < 3 * 2.3e-16 * 2e4


def hadamard(n: int, dtype: torch.dtype) -> Tensor:
    """Sylvester's matrix: A A^T = n 1, but the factors of A have entries of up to n."""
    A = torch.ones(1, 1, dtype=dtype)
    while len(A) < n:
        A = torch.cat([torch.cat([A, A], 1), torch.cat([A, -A], 1)])
    return A


@pytest.mark.parametrize("dtype", DTYPES, ids=cases.name)
@pytest.mark.parametrize("n", (2, 8, 16, 64, 128))
@pytest.mark.parametrize("k", (2, 10))
def test_each_column_has_a_scale_of_its_own(n, k, dtype):
    # With a power of two for each column all is the same, bit for bit, up to the largest numbers:
    # X = A^-1 B and the gradient A^-H G.
    A = hadamard(n, dtype)
    generator = torch.Generator().manual_seed(n)
    parts = 1 + torch.rand(2, n, k, generator=generator, dtype=A.real.dtype)
    parts *= 1 - 2 * torch.randint(2, parts.shape, generator=generator)
    B = torch.complex(*parts) if dtype.is_complex else parts[0]
    smallest, largest = (-100, 127) if torch.finfo(dtype).bits == 32 else (-1000, 1023)
    e = torch.linspace(smallest, largest, k).round().int()
    powers = torch.ldexp(torch.ones(k, dtype=A.real.dtype), e)
    got, expected = (b.requires_grad_() for b in (B * powers, B.clone()))
    X, Y = (torchdet.slogdet_solve(A, b).X for b in (got, expected))
    assert torch.equal(X, Y * powers)
    X.backward(B * powers)
    Y.backward(B)
    assert torch.equal(got.grad, expected.grad * powers)


# ---- derivatives


def outputs(A: Tensor, B: Tensor) -> tuple[Tensor, ...]:
    return torchdet.slogdet_solve(A, B)[1:]


@pytest.mark.parametrize("dtype", (torch.float64, torch.complex128), ids=cases.name)
@pytest.mark.parametrize("n", (1, 3))
def test_first_and_second_derivatives_in_both_modes(n, dtype):
    A = matrices("normal", n, dtype).requires_grad_()
    B = torch.randn(2, n, 1, dtype=dtype, requires_grad=True)
    assert torch.autograd.gradcheck(
        outputs, (A, B), check_forward_ad=True, check_batched_grad=True,
        check_batched_forward_grad=True,
    )  # fmt: skip
    assert torch.autograd.gradgradcheck(
        outputs, (A, B), check_fwd_over_rev=True, check_rev_over_rev=True
    )


@pytest.mark.parametrize("n", (40, 140))
def test_derivatives_of_larger_systems(n):
    A = matrices("normal", n, torch.float64)[0].requires_grad_()
    B = torch.randn(n, 9, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(outputs, (A, B), fast_mode=True, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(outputs, (A, B), fast_mode=True)


def likelihood(A: Tensor, b: Tensor) -> Tensor:
    """Of a normal distribution with covariance A + A^T, twice and without constants."""
    _, logabsdet, x = torchdet.slogdet_solve(A + A.mT, b)
    return logabsdet + b @ x


def reference_likelihood(A: Tensor, b: Tensor) -> Tensor:
    S = A + A.mT
    return torch.linalg.slogdet(S)[1] + b @ torch.linalg.solve(S, b)


def test_transforms_agree_with_torch_at_regular_matrices():
    A = torch.randn(3, 3, dtype=torch.float64) + 3 * torch.eye(3, dtype=torch.float64)
    b = torch.randn(3, dtype=torch.float64)
    for transform in (grad, jacrev, jacfwd, hessian):
        for argnums in (0, 1):
            got = transform(likelihood, argnums=argnums)(A, b)
            # torch.func's second forward-mode derivatives of torch.linalg are wrong: closed forms
            # by autograd stand for them.
            expected = {
                hessian: torch.autograd.functional.hessian,
            }.get(transform, torch.autograd.functional.jacobian)(
                (lambda x: reference_likelihood(x, b)) if argnums == 0
                else (lambda x: reference_likelihood(A, x)),
                (A, b)[argnums],
            )  # fmt: skip
            torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)


def test_vmap_over_either_argument_and_nested_transforms():
    A = torch.randn(4, 3, 3, dtype=torch.float64) + 3 * torch.eye(3, dtype=torch.float64)
    b = torch.randn(4, 3, dtype=torch.float64)
    for dims, args in (((0, 0), (A, b)), ((0, None), (A, b[0])), ((None, 0), (A[0], b))):
        got = vmap(grad(likelihood), dims)(*args)
        each = [
            grad(likelihood)(args[0][i] if dims[0] == 0 else A[0], b[i] if dims[1] == 0 else b[0])
            for i in range(4)
        ]
        torch.testing.assert_close(got, torch.stack(each), rtol=1e-12, atol=1e-12)
    direction = torch.randn(3, 3, dtype=torch.float64)
    value, second = jvp(
        lambda x: jvp(lambda y: likelihood(y, b[0]), (x,), (direction,))[1], (A[0],), (direction,)
    )
    along = torch.autograd.functional.hessian(lambda x: reference_likelihood(x, b[0]), A[0])
    expected = torch.einsum("ij,ijkl,kl", direction, along, direction)
    torch.testing.assert_close(second, expected, rtol=1e-10, atol=1e-10)
    assert value.shape == ()


def test_compiled_without_a_break():
    A = (torch.randn(2, 3, 3) + 3 * torch.eye(3)).requires_grad_()
    b = torch.randn(2, 3)
    f = torch.compile(outputs, fullgraph=True, backend="aot_eager")
    for got, expected in zip(f(A, b), outputs(A, b), strict=True):
        assert torch.equal(got, expected)
    (got,) = torch.autograd.grad(f(A, b)[1].sum(), A)
    (expected,) = torch.autograd.grad(outputs(A, b)[1].sum(), A)
    assert torch.equal(got, expected)


class Called(TorchDispatchMode):
    """The operators of torchdet that run, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        namespace, name = func._schema.name.split("::")
        self.names += [name] if namespace == "torchdet" else []
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("n", (5, 40, 140))
def test_one_factorisation_serves_both_passes(n):
    A = matrices("normal", n, torch.float64).requires_grad_()
    B = torch.randn(2, n, 2, dtype=torch.float64, requires_grad=True)
    with Called() as mode:
        _, logabsdet, X = torchdet.slogdet_solve(A, B)
        (logabsdet.sum() + X.square().sum()).backward()
    inside = {"slogdet_backward", "_slogdet_backward_kept"}  # called by the operators
    assert sorted(set(mode.names) - inside) == [
        "_slogdet_backward_factored", "_slogdet_factor", "_solve_adjoint_factored",
        "_solve_factored",
    ]  # fmt: skip
    assert mode.names.count("_slogdet_factor") == 1


@pytest.mark.parametrize("dtype", (torch.float64, torch.complex64), ids=cases.name)
@pytest.mark.parametrize("n", (0, 3, 20))
def test_operators_keep_their_contract_with_torch(n, dtype):
    A = torch.randn(2, n, n, dtype=dtype, requires_grad=True)
    B = torch.randn(2, n, 2, dtype=dtype, requires_grad=True)
    grad = torch.randn(2, dtype=dtype, requires_grad=True)
    left = OPS._slogdet_factor(A.detach())[2:]
    for name, args in (
        ("_slogdet_factor", (A,)),
        ("_slogdet_backward_factored", (grad, A, *left)),
        ("_solve_factored", (A, B, *left)),
        ("_solve_adjoint_factored", (A, B, *left)),
    ):
        opcheck(getattr(OPS, name).default, args)


# ---- shapes, dtypes, and matrices that have no solution


@pytest.mark.parametrize(
    ("a", "b"),
    (
        ((3, 3), (3,)), ((3, 3), (3, 2)), ((4, 3, 3), (3,)), ((4, 3, 3), (4, 3)),
        ((4, 3, 3), (3, 2)), ((4, 3, 3), (4, 3, 2)), ((2, 1, 3, 3), (4, 3, 2)),
        ((3, 3), (5, 3, 2)), ((0, 3, 3), (0, 3, 2)), ((2, 0, 0), (2, 0, 4)), ((0, 0), (0,)),
        ((3, 3, 3), (3, 3)), ((2, 3, 3), (2, 3, 0)), ((200, 200), (200,)),
        ((200, 200), (3, 200, 20)),
    ),
)  # fmt: skip
def test_shapes_are_those_of_torch_linalg_solve(a, b):
    A, B = torch.randn(a, dtype=torch.float64), torch.randn(b, dtype=torch.float64)
    sign, logabsdet, X = torchdet.slogdet_solve(A, B)
    expected = torch.linalg.solve(A, B)
    assert sign.shape == logabsdet.shape == A.shape[:-2]
    assert X.shape == expected.shape
    torch.testing.assert_close(X, expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("n", (6, 40, 140))
def test_any_strides_give_the_same_bits(n):
    A, B = matrices("normal", n, torch.complex128), torch.randn(2, n, 2, dtype=torch.complex128)
    expected = torchdet.slogdet_solve(A, B).X
    for X, Y in (
        (A.mT.contiguous().mT, B),
        (A, B.mT.contiguous().mT),
        (A.conj().resolve_conj().conj(), B),
    ):
        got = torchdet.slogdet_solve(X, Y).X
        assert same_bits(got, expected)
    assert same_bits(torchdet.slogdet_solve(A, B.flip(0).flip(0)).X, expected)


@pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16), ids=cases.name)
def test_half_types_compute_in_float32(dtype):
    A, B = torch.randn(4, 4).to(dtype).requires_grad_(), torch.randn(4).to(dtype)
    sign, logabsdet, X = torchdet.slogdet_solve(A, B)
    wide = torchdet.slogdet_solve(A.float(), B.float())
    for got, expected in zip((sign, logabsdet, X), wide, strict=True):
        assert got.dtype == dtype
        assert torch.equal(got, expected.to(dtype))
    assert torch.autograd.grad(X.sum(), A)[0].dtype == dtype


def test_autocast_computes_in_float32():
    A, B = torch.randn(4, 4), torch.randn(4, 9)
    expected = torchdet.slogdet_solve(A, B)
    with torch.autocast("cpu", torch.bfloat16):
        got = torchdet.slogdet_solve(A, B)
        assert torchdet.slogdet_solve(A.bfloat16(), B.bfloat16()).X.dtype == torch.float32
    for x, y in zip(got, expected, strict=True):
        assert torch.equal(x, y)


@pytest.mark.parametrize("n", (3, 40, 140))
@pytest.mark.parametrize("k", (1, 9))
def test_what_has_no_solution_stays_in_its_matrix(n, k):
    A = matrices("normal", n, torch.float64)[[0, 1, 0]]
    B = torch.randn(3, n, k, dtype=torch.float64)
    expected = torchdet.slogdet_solve(A, B)
    for spoil in (0.0, torch.nan, torch.inf):
        spoilt = A.clone()
        spoilt[1] = spoil
        sign, logabsdet, X = torchdet.slogdet_solve(spoilt, B)
        assert not X[1].isfinite().any()
        assert spoil != 0 or (sign[1] == 0 and logabsdet[1] == -torch.inf)
        for i in (0, 2):
            assert same_bits(X[i], expected.X[i])
            assert same_bits(logabsdet[i], expected.logabsdet[i])


def test_errors_say_what_was_expected():
    A, B = torch.eye(3), torch.ones(3, 2)
    for args, error, text in (
        ((torch.ones(3, 4), B), RuntimeError, r"expected A of shape \(\*, n, n\), got \(3, 4\)"),
        ((A.long(), B.long()), RuntimeError, "expected A of dtype"),
        ((A, torch.ones(4, 2)), RuntimeError, r"expected B of shape .* got \(4, 2\)"),
        ((A, torch.tensor(1.0)), RuntimeError, r"expected B of shape .* got \(\)"),
        (
            (A.expand(2, 3, 3), torch.ones(5, 3, 1)),
            RuntimeError,
            "expected batch dimensions .* broadcast",
        ),
        ((A, B.double()), RuntimeError, "expected B of the dtype of A, float32, got float64"),
        ((A, B.to("meta")), RuntimeError, "expected B on the device of A"),
        ((A, [1.0]), TypeError, "expected B to be a Tensor, got list"),
        (([1.0], B), TypeError, "expected A to be a Tensor, got list"),
        ((A.to_sparse(), B), RuntimeError, "expected a dense"),
    ):
        with pytest.raises(error, match=f"slogdet_solve: {text}"):
            torchdet.slogdet_solve(*args)


@pytest.mark.skipif(not cases.EXTENSION, reason="the reference keeps no factors")
def test_operators_take_any_integers_for_factors():
    n = 129
    A, B = torch.randn(n, n, dtype=torch.float64), torch.randn(n, 2, dtype=torch.float64)
    factors = OPS._slogdet_factor(A)[2]
    generator = torch.Generator().manual_seed(0)
    for high in (2, n, 1 << 14, 1 << 31):
        integers = torch.randint(-high, high, (3 * n + 2,), generator=generator).int()
        for columns in (B, B.repeat(1, 9)):
            for solve in (OPS._solve_factored, OPS._solve_adjoint_factored):
                assert solve(A, columns, factors, integers).isnan().all()
    for wrong in (torch.zeros(n + 1).int(), torch.zeros(3 * n + 2), torch.zeros(2, 0).int()):
        with pytest.raises(RuntimeError, match="integers"):
            OPS._solve_factored(A, B, factors, wrong)
    with pytest.raises(RuntimeError, match="expected B of shape"):
        OPS._solve_factored(A, B[:4], factors, OPS._slogdet_factor(A)[3])
