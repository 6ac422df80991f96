"""What one call costs beside its kernel: calls of Python functions, and bytes that are saved."""

from __future__ import annotations

import pytest
import torch

import cases
import torchdet
from support import calls_of_python

compiled = pytest.mark.skipif(not cases.EXTENSION, reason="the reference is Python throughout")

# logdet and adjugate have no operator of their own, so they check their argument in Python.
MOST_CALLS = {"det": 7, "slogdet": 7, "cofactor": 7, "logdet": 11, "adjugate": 11}


@compiled
@pytest.mark.parametrize("name", MOST_CALLS)
@pytest.mark.parametrize("grad", (True, False), ids=("grad", "no_grad"))
def test_an_eager_call_makes_few_calls_of_python(grad, name):
    f, A = getattr(torchdet, name), torch.randn(3, 3)
    with torch.set_grad_enabled(grad):
        f(A)
        names = calls_of_python(f, A)
    assert names[0] == name
    assert len(names) <= MOST_CALLS[name], names


@pytest.mark.parametrize("n", (3, 20, 40, 80, 130))
@pytest.mark.parametrize("f", (torchdet.det, lambda A: torchdet.slogdet(A).logabsdet))
def test_what_is_saved_for_backward_is_as_small_as_documented(f, n, wide_dtype):
    A = torch.randn(2, n, n, dtype=wide_dtype, requires_grad=True)
    saved, *others = f(A).grad_fn.saved_tensors
    assert saved is A
    signs = 2 * A.element_size()  # of slogdet, complex
    assert sum(x.nbytes for x in others) <= A.nbytes + 2 * 4 * (3 * n + 2) + signs
