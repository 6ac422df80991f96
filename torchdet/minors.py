"""Principal minors of one matrix by lists of rows, for determinantal point processes."""

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from ._function import is_plain
from ._reference import broadcast_batches, check_dense, check_device, check_square, dtype_name
from .linalg import argument, det, logdet

_OP = "principal_minors"


def principal_minors(A: Tensor, index: Tensor, *, log: bool = False) -> Tensor:
    r"""Determinants of principal submatrices A[S, S] for many sets S of rows, of different sizes.

    All of them are one call of `det`: a smaller submatrix is filled up with rows and columns of the
    identity, which change no determinant. In a determinantal point process with kernel A they
    are the weights of subsets, and det(A + I) is their sum over all subsets.

    Args:
        A: (\*, N, N), dtypes and strides as for `det`; it need not be symmetric.
        index: The sets, of shape (\*, m, k), as integers: row numbers from 0 to N-1 and, in places
            that are not used, -1 or any other negative number. Or as a mask, of shape (\*, m, N)
            and dtype bool. The empty set has determinant 1. Batch dimensions broadcast with those
            of A. A row that is listed twice in a set makes two equal rows: determinant 0.
        log: Return the logarithm, as `logdet` does: NaN for a negative determinant, -inf for 0.

    Returns:
        (\*, m), dtype of A.

    Gradient:
        With respect to A: the cofactors of each submatrix, times grad, added at the rows and
        columns of its set. Defined for every submatrix without log, at singular ones too;
        derivatives of every order exist.

    Accuracy, singular matrices:
        Those of `det`, or of `logdet` with log=True, for each submatrix.

    Memory:
        m k^2 numbers for the submatrices, k being the size of the largest set of all, and as many
        for the gradient. A mask is turned into row numbers, for which the size of the largest set
        is looked up; under torch.compile and torch.func.vmap pass row numbers.

    Raises:
        RuntimeError: "principal_minors: expected A of shape (\*, n, n), got (3, 4)"; likewise for
            the dtype of index and its shape.
        IndexError: "principal_minors: expected row numbers below 3, ..", on a CPU; elsewhere and
            under transforms the error is that of torch's indexing.
        TypeError: A or index is not a Tensor.

    Reference:
        Kulesza and Taskar, Determinantal point processes for machine learning (2012), section 2.2.
        Gradient: Jacobi's formula, as for `det`.

    Example:
        >>> L = torch.tensor([[2.0, 1.0, 0.0], [1.0, 2.0, 1.0], [0.0, 1.0, 2.0]])
        >>> torchdet.principal_minors(L, torch.tensor([[0, -1], [0, 1], [0, 2]]))
        tensor([2., 3., 4.])
    """
    if has_torch_function((A, index)):
        result: Tensor = handle_torch_function(principal_minors, (A, index), A, index, log=log)
        return result
    A = argument(_OP, A)
    check_square(_OP, A)
    check_dense(_OP, "index", index)
    check_device(_OP, "index", index, A)
    S = _row_numbers(A, index)
    used = S >= 0
    both = used.unsqueeze(-1) & used.unsqueeze(-2)
    row = S.new_ones(S.shape[-1]).cumsum(0)  # a DTensor where S is one
    identity = (row.unsqueeze(-1) == row).to(A.dtype)
    submatrices = torch.where(both, _submatrices(A, S.clamp(min=0)), identity)
    return logdet(submatrices) if log else det(submatrices)


def _row_numbers(A: Tensor, index: Tensor) -> Tensor:
    N = A.shape[-1]
    if index.dtype == torch.bool:
        if index.dim() < 2 or index.shape[-1] != N:
            raise RuntimeError(
                f"{_OP}: expected a mask of shape (*, m, {N}) for A of shape {tuple(A.shape)}, "
                f"got {tuple(index.shape)}"
            )
        most = int(index.sum(-1).max()) if index.numel() else 0
        # Rows of the set first, in their order.
        rows = (~index).byte().argsort(dim=-1, stable=True)[..., :most]
        return torch.where(index.gather(-1, rows), rows, -1)
    if index.dtype.is_floating_point or index.dtype.is_complex:
        raise RuntimeError(
            f"{_OP}: expected index of an integer dtype or bool, got {dtype_name(index.dtype)}; "
            "convert it first, e.g. index.long()"
        )
    if index.dim() < 2:
        raise RuntimeError(
            f"{_OP}: expected index of shape (*, m, k), got {tuple(index.shape)}; "
            "a single set is index.unsqueeze(0), m = 1"
        )
    index = index.long()  # torch compares no unsigned integers but uint8
    is_seen = index.is_cpu and type(index) is Tensor and is_plain(index)
    if is_seen and (beyond := index[index >= N]).numel():
        raise IndexError(
            f"{_OP}: expected row numbers below {N}, or negative ones in places that are not used, "
            f"got {int(beyond[0])}"
        )
    return index


def _submatrices(A: Tensor, S: Tensor) -> Tensor:
    # A[S_i, S_j] as (*, m, k, k).
    batch = broadcast_batches(_OP, A, "index", S)
    N = A.shape[-1]
    if N == 0:  # no set has a member, and there is nothing to gather
        return A.new_zeros(*batch, *S.shape[-2:], S.shape[-1])
    i, j = S.unsqueeze(-1), S.unsqueeze(-2)
    # A row beyond A must not be a place in another one: torch's own check is to see it.
    places = torch.where((i < N) & (j < N), i * N + j, N * N)
    places = places.expand(*batch, *S.shape[-2:], S.shape[-1])
    flat = A.flatten(-2).expand(*batch, N * N)
    return flat.gather(-1, places.flatten(-3)).unflatten(-1, places.shape[-3:])
