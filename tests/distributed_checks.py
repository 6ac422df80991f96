"""What test_distributed.py checks: calls on two processes are, bit for bit, those on one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import (
    DTensor,
    Partial,
    Placement,
    Replicate,
    Shard,
    distribute_tensor,
)
from torch.func import grad, hessian, jacfwd, jacrev, vmap

import cases
import torchdet
from support import OPS, logabsdet, same_bits
from torchdet import _ops, _schemas
from two_processes import BATCH, PROCESSES, check, compare, each

# ---- operators


def arguments(operator: str, batch: Sequence[int], n: int, dtype: torch.dtype) -> list[Tensor]:
    """Arguments of an operator, by their names."""
    own = {"grad": (), "grad_tangent": (), "mantissa": (), "A": (n, n), "B": (n, 2), "Z": (n, n)}
    own |= {"J": (4, n, n), "terms": (3,), "exponent": (3,) if "logsum" in operator else ()}
    own |= {"share": (), "freedom": (3, 2)}
    own |= {"Z": (2, n, n)} if operator.endswith("_derivative") else {}
    left = {  # by forward passes, numbers and integers
        "kept": OPS._det_keep if operator.startswith("_det") else OPS._slogdet_keep,
        "factors": OPS._slogdet_factor,
    }
    args: dict[str, Tensor] = {}
    for name in (argument.name for argument in _ops.operator(operator)._schema.arguments):
        if name in left and "A" in args:
            *_, args[name], args["integers"] = left[name](args["A"])
        elif name in ("exponent", "share", "freedom"):
            args[name] = torch.randint(-5, 5, (*batch, *own[name])).to(dtype.to_real())
        elif name != "integers":
            args[name] = torch.randn(*batch, *own[name], dtype=dtype)
    return list(args.values())


def batch(dtype: torch.dtype) -> int:
    """How many matrices: 5, which processes share unevenly, but 32 complex ones.

    torch's product of complex numbers rounds otherwise at the end of a vector, where it does not
    fill SIMD registers. In 16 matrices there is no such end.
    """
    return 32 if dtype.is_complex else 5


# What takes products of matrices by torch, whose order of summation may depend on their number.
# These are given numbers of which all sums are exact.
BY_PRODUCTS = ("_inverse_derivative", "solution")


def exact_matrices(A: Tensor) -> Tensor:
    """Matrices like A whose inverses are exact: 2 P, P a permutation."""
    order = torch.rand(A.shape[:-1]).argsort(-1)
    return 2 * nn.functional.one_hot(order, A.shape[-1]).to(A.dtype)


def integers(X: Tensor) -> Tensor:
    """Small whole numbers like X, with imaginary parts where X has them."""
    parts = torch.randint(-4, 5, (*X.shape, 2)).to(X.dtype.to_real())
    return torch.view_as_complex(parts) if X.is_complex() else parts[..., 0]


def operator(name: str, dtype: torch.dtype, n: int) -> None:
    args = arguments(name, (batch(dtype),), n, dtype)
    if name in BY_PRODUCTS:
        args = [exact_matrices(args[0]), *map(integers, args[1:])]
    compare(_ops.operator(name), *args)


OPERATORS = tuple(schema.partition("(")[0] for schema in _schemas.SCHEMAS)
# One of the orders where forward passes keep something for their backward pass.
KEPT = 35
ORDERS = (*((dtype, 3) for dtype in cases.DTYPES), (torch.float64, KEPT), (torch.complex128, KEPT))
for _name in OPERATORS:
    for _dtype, _n in ORDERS:
        check(f"operator-{_name}-{cases.name(_dtype)}-n{_n}", operator, _name, _dtype, _n)

# ---- functions and their derivatives

FUNCTIONS = {
    "det": torchdet.det,
    "slogdet": torchdet.slogdet,
    "logdet": torchdet.logdet,
    "cofactor": torchdet.cofactor,
    "adjugate": torchdet.adjugate,
    "mantissa": lambda A: torchdet.det_frexp(A).mantissa,
    "solution": lambda A: torchdet.slogdet_solve(A, A[..., :1]).X,
}


def vector_jacobian(f: Callable[[Tensor], Any]) -> Callable[..., Any]:
    """The gradient of f at A for weights of its results."""

    def gradient(A: Tensor, *weights: Tensor, **settings: Any) -> Any:
        A = A if settings else A.detach().requires_grad_()
        results = [x for x in each(f(A)) if x.requires_grad]
        return torch.autograd.grad(results, A, weights[: len(results)], **settings)[0]

    return gradient


def second(f: Callable[[Tensor], Any]) -> Callable[..., Any]:
    """The gradient, by A and by the weights, of the gradient of f in a direction Z."""

    def gradient(A: Tensor, Z: Tensor, *weights: Tensor) -> Any:
        inputs = [x.detach().requires_grad_() for x in (A, *weights)]
        first = vector_jacobian(f)(*inputs, create_graph=True)
        return [
            x for x in torch.autograd.grad(first, inputs, Z, allow_unused=True) if x is not None
        ]

    return gradient


def derivatives(name: str, dtype: torch.dtype, n: int) -> None:
    f = FUNCTIONS[name]
    A, Z = torch.randn(2, batch(dtype), n, n, dtype=dtype)
    weights = [torch.randn_like(x) for x in each(f(A))]
    if name in BY_PRODUCTS:
        A, Z, weights = exact_matrices(A), integers(Z), [integers(x) for x in weights]
    compare(f, A)
    # Parts of complex numbers are where torch gathers by itself: one number for each matrix.
    collectives = None if dtype.is_complex and "log" in name else 0
    compare(vector_jacobian(f), A, *weights, collectives=collectives)
    compare(second(f), A, Z, *weights, collectives=collectives)


for _name in FUNCTIONS:
    for _dtype, _n in ORDERS:
        check(f"derivatives-{_name}-{cases.name(_dtype)}-n{_n}", derivatives, _name, _dtype, _n)


def derivatives_of(f: Callable[..., Any]) -> Callable[..., Any]:
    """First and second derivatives of the real results of f, weighted by ones."""

    def all_of_them(*args: Tensor) -> Any:
        args = tuple(x.detach().requires_grad_() for x in args)
        results = [x for x in each(f(*args)) if x.requires_grad]
        ones = [torch.ones_like(x) for x in results]
        first = torch.autograd.grad(results, args, ones, create_graph=True)
        return *first, *torch.autograd.grad(first[0], args, torch.ones_like(first[0]))

    return all_of_them


def systems(*shape: int) -> None:
    A, B = torch.randn(5, 3, 3), torch.randn(shape)
    compare(torchdet.slogdet_solve, A, B)
    compare(derivatives_of(torchdet.slogdet_solve), A, B)


check("slogdet_solve", systems, 5, 3, 2)
check("slogdet_solve-vectors", systems, 5, 3)


def in_half_precision(dtype: torch.dtype, autocast: bool) -> None:
    with torch.autocast("cpu", torch.bfloat16, autocast):
        compare(torchdet.det, torch.randn(5, 3, 3).to(dtype))


check("float16", in_half_precision, torch.float16, False)
check("bfloat16", in_half_precision, torch.bfloat16, False)
check("autocast", in_half_precision, torch.bfloat16, True)


def into_out() -> None:
    compare(lambda A: torchdet.det(A, out=torch.empty_like(A[:, 0, 0])), torch.randn(5, 3, 3))


check("out", into_out)

# ---- placements

NONE = Replicate()


def placed(
    *shape: int,
    placements: Sequence[Placement] = (BATCH,),
    results: Sequence[Placement] | None = None,
    collectives: int = 0,
    mesh: tuple[int, ...] = (PROCESSES,),
) -> None:
    """det and its gradient, with results placed as the matrices are, or else as given."""
    A = torch.randn(*shape, dtype=torch.float64)
    results = placements if results is None else results
    compare(torchdet.det, A, placements=placements, results=results,
            collectives=collectives, shape=mesh)  # fmt: skip
    # The matrices are saved as they came, and gathered again.
    compare(vector_jacobian(torchdet.det), A, torch.randn(shape[:-2], dtype=A.dtype),
            placements=[placements, results], results=results,
            collectives=2 * collectives, shape=mesh)  # fmt: skip


def gathered(*shape: int, dim: int = 0) -> None:
    placed(*shape, placements=(Shard(dim),), results=(NONE,), collectives=1)


check("replicated", placed, 5, 3, 3, placements=(NONE,))
check("second-batch-dimension", placed, 4, 5, 3, 3, placements=(Shard(1),))
check("second-batch-dimension-kept", placed, 4, 5, KEPT, KEPT, placements=(Shard(1),))
check("rows-are-gathered", gathered, 4, 5, 4, 4, dim=2)
check("columns-are-gathered", gathered, 4, 5, 4, 4, dim=3)
check("rows-of-one-matrix-are-gathered", gathered, 4, 4)
# DTensor does not keep a dimension shorter than the mesh sharded.
check("a-batch-of-one-is-gathered", gathered, 1, 3, 3)
check("a-batch-of-none-is-gathered", gathered, 0, 3, 3)
for _mesh in ((1, 2), (2, 1)):
    for _p in ((Shard(0), Shard(1)), (Shard(1), Shard(0)), (NONE, Shard(1)), (Shard(0), NONE)):
        check(f"mesh-{_mesh}-{_p}", placed, 4, 5, 3, 3, mesh=_mesh, placements=_p)


def mixed(of_A: Placement, of_Z: Placement) -> None:
    """An argument that every process has is divided as the other one is."""
    compare(OPS.det_hvp, *torch.randn(2, 5, 3, 3), placements=[(of_A,), (of_Z,)])


check("sharded-and-replicated", mixed, BATCH, NONE)
check("replicated-and-sharded", mixed, NONE, BATCH)


def sums_that_are_still_to_be_taken(f: Callable[..., Any], *parts: Sequence[int]) -> None:
    """Partial placements: a rule that let one pass would give the sum of two results."""
    mesh = init_device_mesh("cpu", (PROCESSES,))
    torch.manual_seed(dist.get_rank())
    args = [DTensor.from_local(torch.randn(*shape), mesh, [Partial()]) for shape in parts]
    got, full = f(*args), [x.full_tensor() for x in args]
    assert not any(p.is_partial() for p in got.placements)
    assert same_bits(got.full_tensor(), f(*full))


check("partial-matrices", sums_that_are_still_to_be_taken, torchdet.det, (4, 3, 3))
check("partial-rows", sums_that_are_still_to_be_taken, torchdet.det, (3, 3))
check("partial-directions", sums_that_are_still_to_be_taken, OPS.det_hvp, (4, 3, 3), (4, 3, 3))
check("partial-gradients", sums_that_are_still_to_be_taken, OPS.det_backward, (4,), (4, 3, 3))

# ---- sums of determinants


def sum_of_determinants(up: Tensor, down: Tensor, weights: Tensor) -> Any:
    return torchdet.slogsumdet(up, down, weights=weights)


def sums() -> None:
    args = torch.randn(6, 4, 3, 3), torch.randn(6, 4, 2, 2), torch.randn(6, 4)
    compare(sum_of_determinants, *args)
    compare(derivatives_of(sum_of_determinants), *args)


check("slogsumdet", sums)


def members_of_sums() -> None:
    """Sharded over the members K of a sum: determinants stay, the numbers of their sum do not."""
    args = torch.randn(6, 4, 3, 3), torch.randn(6, 4, 2, 2), torch.randn(6, 4)
    compare(sum_of_determinants, *args, placements=(Shard(1),), results=(NONE,), collectives=2)


check("slogsumdet-sharded-over-members", members_of_sums)


def laplacians(rows: bool) -> None:
    def f(up: Tensor, down: Tensor, *others: Tensor) -> Any:
        J, L, w = others[:2], others[2:4], others[4]
        return torchdet.slogsumdet_laplacian([up, down], J, L, w, rows=rows)

    J = [(6, 4, n, 3, n) if rows else (6, 4, 5, n, n) for n in (3, 2)]
    A = [(6, 4, n, n) for n in (3, 2)]
    args = [torch.randn(*shape, dtype=torch.float64) for shape in (*A, *J, *A, (6, 4))]
    compare(f, *args)
    compare(derivatives_of(f), *args)


for _rows in (False, True):
    check(f"slogsumdet_laplacian-rows-{_rows}", laplacians, _rows)

# ---- transforms

TRANSFORMS = {
    "vmap": vmap(torchdet.det),
    "grad": grad(lambda A: torchdet.det(A).sum()),
    "vmap-grad": vmap(grad(torchdet.det)),
    "vmap-grad-logabsdet": vmap(grad(logabsdet)),
    "vmap-jacrev": vmap(jacrev(torchdet.cofactor)),
    "jacrev": lambda A: jacrev(torchdet.det)(A).movedim(1, 0),
    "jacfwd": jacfwd(torchdet.det),
    "vmap-jacfwd": vmap(jacfwd(torchdet.det)),
    "vmap-hessian": vmap(hessian(torchdet.det)),
}


def transform(f: Callable[..., Any], *shape: int, **settings: Any) -> None:
    compare(f, torch.randn(*shape, dtype=torch.float64), **settings)


for _name, _f in TRANSFORMS.items():
    check(f"func-{_name}", transform, _f, 5, 3, 3)
# The mapped dimension comes to the front, where results have it.
check("func-vmap-second-dimension", transform, vmap(torchdet.det, 1, 1), 4, 5, 3, 3,
      placements=(Shard(1),), results=(Shard(1),))  # fmt: skip


def many_gradients(A: Tensor) -> Tensor:
    A = A.detach().requires_grad_()
    d = torchdet.det(A)
    w = torch.stack([torch.ones_like(d), 2 * torch.ones_like(d)])
    return torch.autograd.grad(d, A, w, is_grads_batched=True)[0]


check("is_grads_batched", transform, many_gradients, 5, 3, 3, results=(Shard(1),))


def compiled() -> None:
    """Traced with its backward pass, and run without a compiler of machine code."""
    f = torch.compile(logabsdet, backend="aot_eager", fullgraph=True)
    # torch.compile takes no counter of collectives.
    compare(vector_jacobian(f), torch.randn(5, 3, 3), torch.randn(5), collectives=None)


check("compile", compiled)

# ---- errors


def says(message: str, f: Callable[..., Any], *args: Any) -> None:
    mesh = init_device_mesh("cpu", (PROCESSES,))
    with pytest.raises(RuntimeError) as caught:
        f(*(distribute_tensor(x, mesh, [BATCH]) for x in args))
    assert str(caught.value).startswith(message)


FLAT = torch.zeros(4, 3, 2)
check("error-shape", says, "det: expected A of shape (*, n, n), got (4, 3, 2)", torchdet.det, FLAT)
check("error-logdet", says, "logdet: expected A of shape (*, n, n), got (4, 3, 2)",
      torchdet.logdet, FLAT)  # fmt: skip
check("error-dtype", says, "cofactor: expected A of dtype", torchdet.cofactor, FLAT[:, :2].int())
check("error-grad", says, "det_backward: expected grad of shape (4,), got (3,)",
      OPS.det_backward, torch.zeros(3), torch.zeros(4, 3, 3))  # fmt: skip

# ---- models whose parameters or data are distributed


class Volume(nn.Module):
    """Determinants of a parameter, small and large, and of the data."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(n) + 0.1 * torch.randn(4, n, n))

    def forward(self, x: Tensor) -> Tensor:
        volumes = torchdet.slogdet(self.weight).logabsdet.sum() + torchdet.det(self.weight).sum()
        return volumes + torchdet.logdet(x @ self.weight[0] @ x.mT + torch.eye(len(x[0]))).mean()


def gradients(model: nn.Module, x: Tensor) -> list[Tensor]:
    model(x).backward()
    return [p.grad.full_tensor() if isinstance(p.grad, DTensor) else p.grad
            for p in model.parameters()]  # fmt: skip


def of_models(wrap: Callable[[nn.Module], nn.Module]) -> None:
    """The gradients that processes average are the mean of those that one process computes."""
    for n in (3, KEPT):
        torch.manual_seed(0)
        model = Volume(n)
        parts = (0.01 * torch.randn(2 * PROCESSES, n, n)).chunk(PROCESSES)
        expected = []
        for part in parts:
            model.zero_grad()
            expected.append([g.clone() for g in gradients(model, part)])
        model.zero_grad()
        got = gradients(wrap(model), parts[dist.get_rank()])
        # Halving is exact, and a sum of two numbers does not depend on their order.
        mean = [(a + b) / 2 for a, b in zip(*expected, strict=True)]
        assert all(same_bits(g, m) for g, m in zip(got, mean, strict=True))


check("DistributedDataParallel", of_models, nn.parallel.DistributedDataParallel)
check("fully_shard", of_models, fully_shard)
