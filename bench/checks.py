"""Whether a result is right: compared with torch in double precision."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.linalg import matrix_norm

from bench.cases import Case

CHECKED = 4096  # matrices of a batch that are compared


class Truth:
    """The right results for some matrices of a batch, and how far off a result may be."""

    def __init__(self, case: Case, A: Tensor, Z: Tensor | None) -> None:
        self.case = case
        self.stride = max(1, (case.batch or 1) // CHECKED)
        # In front of a single matrix this adds the batch dimension that the others have.
        wide = torch.complex128 if case.dtype.is_complex else torch.float64
        A = A.reshape(-1, case.n, case.n)[:: self.stride].to(wide)
        inverse = torch.linalg.inv_ex(A).inverse  # of a singular matrix: anything
        det = torch.linalg.det(A)
        condition = matrix_norm(A) * matrix_norm(inverse)
        self.unit = 4 * case.n * torch.finfo(case.dtype).eps * condition
        X = inverse.mT
        self.Z = A[:0]
        if Z is not None:
            Z = Z.reshape(-1, case.n, case.n)[:: self.stride].to(wide)
            self.Z = Z
            inner = (X * Z).sum((-2, -1))
        if case.hvp and case.slogdet:
            self.result = -X @ Z.mT @ X
            self.size = matrix_norm(X) ** 2 * matrix_norm(Z)
        elif case.hvp:
            # d(det X) in direction Z. Its two terms may cancel, so their size measures the error.
            self.result = det[:, None, None] * (inner[:, None, None] * X - X @ Z.mT @ X)
            self.size = det.abs() * matrix_norm(X) ** 2 * matrix_norm(Z)
        elif case.directional:
            scale = 1 if case.slogdet else det
            self.result = scale * inner
            self.size = abs(scale) * matrix_norm(X) * matrix_norm(Z)
        elif case.backward:
            self.result = X.conj() if case.slogdet else (det[:, None, None] * X).conj()
            self.size = matrix_norm(self.result)
        else:
            self.result = det.abs().log() if case.slogdet else det
            self.size = 1 + self.result.abs() if case.slogdet else det.abs()

    def fault(self, got: Tensor) -> str | None:
        """What is wrong with a result beyond the condition of each matrix; None if right."""
        if not bool(torch.isfinite(got).all()):
            return "a result is not finite"
        if got.dim() == 5:  # Hessians: one product of each
            got = torch.einsum("bijkl,bkl->bij", got[:: self.stride].to(self.Z), self.Z)
        matrices = self.result.dim() == 3
        got = got.reshape(-1, *got.shape[-2:]) if matrices else got.reshape(-1)
        difference = got[:: self.stride] - self.result
        error = (matrix_norm(difference) if matrices else difference.abs()) / self.size
        # Beyond this the bound says nothing: the matrix is as good as singular at this precision.
        ratio = torch.where(self.unit < 0.1, error / self.unit, 0.0)
        if (worst := ratio.max().item()) > 1:
            index = ratio.argmax().item() * self.stride
            return f"matrix {index} is wrong by {worst:.3g} units"
        return None
