"""Linear systems and the determinant of their matrix, from one factorisation."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from ._autograd_solve import SlogdetFactor, Solve
from ._reference import broadcast_batches, check_dense, check_same, check_square
from ._reference_numbers import HALF
from ._torch_modes import made_of_sequence
from .linalg import argument

_OP = "slogdet_solve"


@made_of_sequence
class SlogdetSolve(NamedTuple):
    """det(A) = sign * exp(logabsdet), A @ X = B."""

    sign: Tensor
    logabsdet: Tensor
    X: Tensor


def slogdet_solve(A: Tensor, B: Tensor) -> SlogdetSolve:
    r"""Sign and logarithm of abs(det(A)), and the solution X of A X = B, from one factorisation.

    What the density of a multivariate normal distribution asks for, or a flow that is inverted.

    Args:
        A: (\*, n, n), dtypes and strides as for `det`.
        B: (\*, n, k), or (n,) or (\*, n) for one right-hand side a matrix; in the dtype of A. Batch
            dimensions broadcast. Which of the two a B is, torch.linalg.solve decides in the same
            way: a vector where it has one dimension, or the shape of A without the last dimension.

    Returns:
        Named tuple (sign, logabsdet, X): sign and logabsdet as those of `slogdet`, each (\*) with
        the batch dimensions of A; X of the shape of B after broadcasting.

    Gradient:
        Of X with respect to B: G_B = inv(A).mH @ G; with respect to A: -G_B @ X.mH. Of logabsdet as
        that of `slogdet`. Derivatives of every order exist at nonsingular A, in forward and reverse
        mode. The factorisation serves all of them.

    Accuracy:
        Of sign and logabsdet that of `slogdet`. X solves (A + E) X = B for some E of about n * eps
        times \|L\| \|U\|, by LU with partial pivoting; in plain PyTorch, also on CUDA, with
        complete pivoting. On a CPU torch's triangular solver serves a B of more than 8 columns:
        the last bits of a column may differ from those of the column alone.

    Singular matrices:
        Sign and logabsdet as for `slogdet`. X is inf or NaN where the computed determinant is
        exactly 0, without an error; where A is singular to working precision only, X is that, or
        large and meaningless. A matrix with NaN or inf gives NaN, for it alone.

    Memory:
        Saved for backward: A, X, on a CPU the factors, as many bytes as A and 4 (3 n + 2) more;
        in plain PyTorch twice as many.

    Raises:
        RuntimeError: "slogdet_solve: expected A of shape (\*, n, n), got (3, 4, 5)"; likewise for
            dtype, layout and device, and for the shape of B.
        TypeError: A or B is not a Tensor.

    Reference:
        Giles, An extended collection of matrix derivative results for forward and reverse mode
        algorithmic differentiation (2008), sections 2.2.4 and 2.3.1.

    Example:
        >>> A = torch.tensor([[2.0, 0.0], [0.0, -4.0]])
        >>> sign, logabsdet, X = torchdet.slogdet_solve(A, torch.tensor([2.0, 4.0]))
        >>> sign, X
        (tensor(-1.), tensor([ 1., -1.]))
    """
    if has_torch_function((A, B)):
        result: SlogdetSolve = handle_torch_function(slogdet_solve, (A, B), A, B)
        return result
    A = argument(_OP, A)
    check_square(_OP, A)
    check_dense(_OP, "B", B)
    B = argument(_OP, B)
    check_same(_OP, "B", B, A, B.shape)
    dtype = A.dtype
    if dtype in HALF:
        sign, logabsdet, X = slogdet_solve(A.to(torch.float32), B.to(torch.float32))
        return SlogdetSolve(sign.to(dtype), logabsdet.to(dtype), X.to(dtype))
    is_vector = B.dim() == 1 or B.shape == A.shape[:-1]
    columns = B.unsqueeze(-1) if is_vector else B
    sign, logabsdet, *factors = SlogdetFactor.call(A)
    X = Solve.call(*_broadcast(A, columns, *factors))
    return SlogdetSolve(sign, logabsdet, X.squeeze(-1) if is_vector else X)


def _broadcast(A: Tensor, B: Tensor, factors: Tensor, integers: Tensor) -> tuple[Tensor, ...]:
    # All with the same batch dimensions.
    n = A.shape[-1]
    if B.dim() < 2 or B.shape[-2] != n:
        raise RuntimeError(
            f"{_OP}: expected B of shape (*, {n}, k), (*, {n}) or ({n},) for A of shape "
            f"{tuple(A.shape)}, got {tuple(B.shape)}"
        )
    if A.shape[:-2] == B.shape[:-2]:
        return A, B, factors, integers
    batch = broadcast_batches(_OP, A, "B", B)
    return (
        A.expand(*batch, n, n),
        B.expand(*batch, *B.shape[-2:]),
        factors.expand(*batch, *factors.shape[-2:]),
        integers.expand(*batch, integers.shape[-1]),
    )
