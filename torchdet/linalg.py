"""The public functions: determinants, cofactors, and how they behave at singular matrices."""

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from ._autograd_det import Cofactor, Det, DetKeep
from ._autograd_frexp import DetFrexp
from ._autograd_slogdet import Slogdet, SlogdetKeep
from ._kept import keeps
from ._reference import check_square, dtype_name
from ._torch_internals import handle_torch_function, has_torch_function_unary
from ._torch_modes import made_of_sequence

if TYPE_CHECKING:

    class LinalgSlogdet(tuple[Tensor, Tensor]):
        """torch.return_types.linalg_slogdet, of which torch's type stubs do not know."""

        sign: Tensor
        logabsdet: Tensor
else:
    LinalgSlogdet = torch.return_types.linalg_slogdet


def det(
    A: Tensor | None = None, *, input: Tensor | None = None, out: Tensor | None = None
) -> Tensor:
    r"""Determinant of every matrix in a batch.

    Args:
        A: (*, n, n), float16, bfloat16, float32, float64, complex64 or complex128, any strides.
            n = 0 gives 1. float16 and bfloat16 compute in float32; under autocast they return it.
        input: The name of A in torch.det; one of the two is given.
        out: Written to and returned, if given: (*) or empty (then resized), dtype and device of
            the result. Cannot be combined with gradients.

    Returns:
        (*), dtype and device of A.

    Gradient:
        grad[..., None, None] * conj(C) with the cofactor matrix C, defined for every A: of rank
        one where A has rank n-1, zero (to rounding) where the rank is lower. It is not
        det(A) * inv(A).mT, which fails there. Derivatives of every order exist, in forward and
        reverse mode, with the same accuracy.

    Accuracy:
        det(A + E) for some E with \|E\| about n * eps * \|L\| \|U\| (backward error of LU with
        pivoting: Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., ch. 9 and 14).
        It overflows or underflows only where the true determinant does.

    Singular matrices:
        The determinant is zero to rounding. A matrix with NaN or inf gives NaN, for it alone.

    Memory:
        Saved for backward: A itself, and of each larger matrix (on a CPU from n = 33, complex
        ones from 21 on, on CUDA beyond shared memory) as many bytes again and at most 4 (3 n + 2)
        more. A thread of a CPU keeps at most 32 MB of work space between calls.

    Raises:
        RuntimeError: "det: expected A of shape (*, n, n), got (3, 4, 5)"; likewise for dtype,
            layout, and the shape, dtype and device of out.
        TypeError: A is not a Tensor.

    Reference:
        Jacobi's formula: Giles, An extended collection of matrix derivative results for forward
        and reverse mode algorithmic differentiation (2008), section 2.2.4, with C in place of
        det(A) * inv(A).mT.

    Example:
        >>> A = torch.tensor([[1.0, 2.0], [2.0, 4.0]], requires_grad=True)  # singular
        >>> torchdet.det(A).backward()
        >>> A.grad
        tensor([[ 4., -2.],
                [-2.,  1.]])
    """
    if A is None or input is not None:
        A = _given("det", A, input)
    if has_torch_function_unary(A):
        return handle_torch_function(det, (A,), A, out=out)
    A = argument("det", A)
    result = DetKeep.call(A)[0] if A.requires_grad and keeps(A) else Det.call(A)
    return result if out is None else _written("det", A, {"out": (result, out)})[0]


def slogdet(
    A: Tensor | None = None,
    *,
    input: Tensor | None = None,
    out: tuple[Tensor, Tensor] | None = None,
) -> LinalgSlogdet:
    r"""Sign and logarithm of the modulus of the determinant of every matrix in a batch.

    det(A) = sign * exp(logabsdet), also where det(A) itself is out of range.

    Args:
        A: (*, n, n), dtypes and strides as for `det`. n = 0 gives (1, 0).
        input: The name of A in torch.slogdet; one of the two is given.
        out: A pair (sign, logabsdet) to be written to and returned, as for `det`. Where one of
            them does not fit, none is written to.

    Returns:
        Named tuple (sign, logabsdet), each (*): sign in the dtype of A (for complex A a number of
        modulus 1), logabsdet real.

    Gradient:
        Of logabsdet: grad[..., None, None] * conj(inv(A).mT). Of sign: none for real A, where it
        is constant; for complex A it turns with the imaginary part of trace(inv(A) dA).
        Derivatives of every order exist at nonsingular A.

    Accuracy:
        logabsdet to a few eps * max(1, \|logabsdet\|) beyond the backward error of LU.

    Singular matrices:
        (0, -inf) and a gradient of inf or NaN where the computed determinant is exactly 0. Else
        rounding has made the matrix slightly regular: logabsdet and its gradient are large numbers
        without a meaning. Use `det` where matrices may be singular. A matrix with NaN or inf gives
        NaN, for it alone.

    Memory:
        As `det`; the sign of a complex matrix is saved, too. The gradient, where it is recorded
        itself, keeps one inverse as large as A.

    Raises:
        RuntimeError: "slogdet: expected A of shape (*, n, n), got (3, 4, 5)"; likewise for dtype,
            layout, and the shape, dtype and device of out.
        TypeError: A is not a Tensor.

    Reference:
        Giles (2008), section 2.2.4, divided by the determinant.

    Example:
        >>> torchdet.slogdet(-1e30 * torch.eye(3))
        torch.return_types.linalg_slogdet(
        sign=tensor(-1.),
        logabsdet=tensor(207.2327))
    """
    if A is None or input is not None:
        A = _given("slogdet", A, input)
    if has_torch_function_unary(A):
        return handle_torch_function(slogdet, (A,), A, out=out)
    A = argument("slogdet", A)
    function = SlogdetKeep if A.requires_grad and keeps(A) else Slogdet
    result: tuple[Tensor, ...] = function.call(A)[:2]
    if out is not None:
        if not isinstance(out, (tuple, list)) or len(out) != 2:
            raise TypeError("slogdet: expected out to be a pair of Tensors (sign, logabsdet)")
        pairs = zip(result, out, strict=True)
        result = _written("slogdet", A, {f"out[{i}]": pair for i, pair in enumerate(pairs)})
    return LinalgSlogdet(result)


def logdet(A: Tensor | None = None, *, input: Tensor | None = None) -> Tensor:
    r"""Logarithm of the determinant of every matrix in a batch.

    Args:
        A: (*, n, n), dtypes and strides as for `det`. n = 0 gives 0.
        input: The name of A in torch.logdet; one of the two is given.

    Returns:
        (*), dtype of A: log(det(A)) for a positive determinant, NaN for a negative one, -inf for
        zero; the principal value for complex A.

    Gradient:
        grad[..., None, None] * conj(inv(A).mT), with derivatives of every order, at nonsingular
        A; zero where the result is NaN because the determinant is negative (as torch.logdet).

    Accuracy:
        That of `slogdet`.

    Singular matrices, Raises:
        As `slogdet`.

    Example:
        >>> torchdet.logdet(2 * torch.eye(3))
        tensor(2.0794)
    """
    if A is None or input is not None:
        A = _given("logdet", A, input)
    if has_torch_function_unary(A):
        return handle_torch_function(logdet, (A,), A)
    A = _square("logdet", A)
    function = SlogdetKeep if A.requires_grad and keeps(A) else Slogdet
    sign, logabsdet = function.call(A)[:2]
    if sign.is_complex():
        return sign.log() + logabsdet
    return logabsdet.masked_fill(sign < 0, math.nan)


@made_of_sequence
class MantissaAndExponent(NamedTuple):
    """det(A) = mantissa * 2**exponent."""

    mantissa: Tensor
    exponent: Tensor


def det_frexp(A: Tensor) -> MantissaAndExponent:
    r"""Determinant of every matrix in a batch as mantissa and exponent, as torch.frexp gives them.

    det(A) = mantissa * 2**exponent, whatever its size.

    Args:
        A: (*, n, n), dtypes and strides as for `det`. n = 0 gives 0.5 and 1.

    Returns:
        Named tuple (mantissa, exponent), each (*): mantissa in the dtype of A, of modulus in
        [1/2, 1) (of a complex one, its larger part), or zero; exponent int32. Where the determinant
        is zero, the exponent is that of s**n, s a power of two above the largest entry.

    Gradient:
        Of the mantissa, the exponent being constant: grad[..., None, None] * conj(C) * 2**-exponent
        with the cofactor matrix C, in range and defined for every A, as are derivatives of every
        order. The mantissa jumps by a factor of 2 where the exponent changes; together they do not.

    Accuracy, singular matrices:
        Those of `det`; nothing overflows or underflows. A matrix with NaN or inf gives NaN and 0.

    Raises:
        RuntimeError, TypeError: As `cofactor`.

    Example:
        >>> torchdet.det_frexp(1e30 * torch.eye(3))
        MantissaAndExponent(mantissa=tensor(0.9818), exponent=tensor(299, dtype=torch.int32))
    """
    if has_torch_function_unary(A):
        return handle_torch_function(det_frexp, (A,), A)
    mantissa, exponent = DetFrexp.call(argument("det_frexp", A))
    return MantissaAndExponent(mantissa, exponent.to(torch.int32))


def cofactor(A: Tensor) -> Tensor:
    r"""Cofactor matrix of every matrix in a batch: the gradient of the determinant.

    Entry (i, j) is (-1)^(i+j) times the determinant of A without row i and column j; for
    invertible A that is det(A) * inv(A).mT.

    Args:
        A: (*, n, n), dtypes and strides as for `det`. n = 1 gives 1.

    Returns:
        (*, n, n), dtype and device of A, contiguous.

    Gradient:
        conj(H[conj(grad)]) with the second derivative H of the determinant, defined for every A.
        Derivatives of every order exist.

    Accuracy:
        The cofactors of A + E for some E of about n * eps, row and column scales of A respected,
        at matrices of every rank. No entry is divided by a pivot.

    Singular matrices:
        Of rank one where A has rank n-1, zero (to rounding) below. A matrix with NaN or inf gives
        NaN, for it alone.

    Raises:
        RuntimeError: "cofactor: expected A of shape (*, n, n), got (3, 4, 5)"; likewise for dtype
            and layout.
        TypeError: A is not a Tensor.

    Reference:
        Definition and rank: Horn and Johnson, Matrix Analysis, 2nd ed. (2013), section 0.8.2.
        Computation from a factorisation of any rank: Stewart, On the adjugate matrix, Linear
        Algebra and its Applications 283 (1998). Gradient: Jacobi's formula, differentiated again.

    Example:
        >>> torchdet.cofactor(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
        tensor([[ 4., -3.],
                [-2.,  1.]])
    """
    if has_torch_function_unary(A):
        return handle_torch_function(cofactor, (A,), A)
    A = argument("cofactor", A)
    return Cofactor.call(A)


def adjugate(A: Tensor) -> Tensor:
    r"""Adjugate of every matrix in a batch: adj(A) @ A = A @ adj(A) = det(A) * I for every A.

    Args:
        A: (*, n, n), dtypes and strides as for `det`.

    Returns:
        (*, n, n), dtype and device of A: a transposed view of cofactor(A).

    Gradient, accuracy, singular matrices:
        Those of `cofactor`.

    Raises:
        RuntimeError, TypeError: As `cofactor`.

    Reference:
        As `cofactor`; Horn and Johnson call it the classical adjoint as well.

    Example:
        >>> torchdet.adjugate(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
        tensor([[ 4., -2.],
                [-3.,  1.]])
    """
    if has_torch_function_unary(A):
        return handle_torch_function(adjugate, (A,), A)
    return Cofactor.call(_square("adjugate", A)).mT


def _given(op: str, A: Tensor | None, input: Tensor | None) -> Tensor:
    # torch names the matrix A in torch.linalg and input in torch.
    if A is not None and input is not None:
        raise TypeError(f"{op}: expected one matrix, got both A and input; leave one of them out")
    given = input if A is None else A
    if given is None:
        raise TypeError(f"{op}: expected A to be a Tensor, got None; pass A, or input=A")
    return given


def argument(op: str, A: Tensor) -> Tensor:
    """Return A, in float32 where autocast runs determinants so; TypeError if A is no Tensor."""
    if not isinstance(A, Tensor):
        raise TypeError(
            f"{op}: expected A to be a Tensor, got {type(A).__name__}; "
            "convert it first, e.g. torch.as_tensor(A)"
        )
    dtype = A.dtype
    if (dtype is torch.float16 or dtype is torch.bfloat16) and _autocasts(A.device.type):
        return A.to(torch.float32)
    return A


def _autocasts(device: str) -> bool:
    # Devices that autocast does not know, such as meta, may not be asked whether it is on.
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


def _square(op: str, A: Tensor) -> Tensor:
    # For functions without an operator of their own, which would look at A in its own name.
    A = argument(op, A)
    check_square(op, A)
    return A


# ---- out=


def _written(op: str, A: Tensor, results: dict[str, tuple[Tensor, Any]]) -> tuple[Tensor, ...]:
    # results: each result with what it goes to, by name. All are checked before one is written to.
    for name, (result, out) in results.items():
        _check_out(op, name, A, result, out)
    for result, out in results.values():
        if out.shape != result.shape:
            out.resize_(result.shape)
    return tuple(out.copy_(result) for result, out in results.values())


def _check_out(op: str, name: str, A: Tensor, result: Tensor, out: Any) -> None:
    # torch.linalg would cast to a wider dtype and resize (with a warning) an out of a wrong shape.
    if not isinstance(out, Tensor):
        raise TypeError(f"{op}: expected {name} to be a Tensor, got {type(out).__name__}")
    if torch.is_grad_enabled() and (A.requires_grad or out.requires_grad):
        raise RuntimeError(
            f"{op}: functions with out= do not support automatic differentiation, but A or {name} "
            "requires grad; call without out=, or under torch.no_grad()"
        )
    if out.dtype != result.dtype:
        expected, got = dtype_name(result.dtype), dtype_name(out.dtype)
        raise RuntimeError(
            f"{op}: expected {name} of dtype {expected}, got {got}; allocate it with "
            f"dtype=torch.{expected}, or call without out="
        )
    if out.device != result.device:
        raise RuntimeError(
            f"{op}: expected {name} on the device of A, {result.device}, got {out.device}; "
            f"allocate it with device='{result.device}', or call without out="
        )
    if out.shape != result.shape and out.numel() != 0:
        raise RuntimeError(
            f"{op}: expected {name} of shape {tuple(result.shape)} or empty, "
            f"got {tuple(out.shape)}; allocate it with torch.empty({tuple(result.shape)}), "
            "or call without out="
        )
    if reason := _not_writable(out, result.shape):
        raise RuntimeError(
            f"{op}: expected {name} to be writable, got {reason}; allocate it with "
            f"torch.empty({tuple(result.shape)}), or call without out="
        )


def _not_writable(out: Tensor, shape: torch.Size) -> str | None:
    # What torch would refuse only when it writes, one result perhaps written already.
    if out.layout != torch.strided:
        return f"a Tensor of layout {out.layout}"
    if any(size > 1 and stride == 0 for size, stride in zip(out.shape, out.stride(), strict=True)):
        return "an expanded Tensor"
    if out.shape != shape and not out.untyped_storage().resizable():
        return "an empty Tensor that cannot be resized"
    if out.is_inference() and not torch.is_inference_mode_enabled():
        return "an inference Tensor outside of inference mode"
    return None
