"""Memory over many calls, after large ones, and where none is left; in processes of their own."""

from __future__ import annotations

import sys

import pytest

import cases
from support import MEMORY, run_script

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")


def test_a_hundred_thousand_calls_do_not_grow():
    """20 bytes lost in each would be 2 MB. Objects of Python are counted as well.

    Plain PyTorch, which takes a hundred times as long for small matrices, is called less often.
    """
    run_script(
        MEMORY
        + f"calls = {100_000 if cases.EXTENSION else 2_000}"
        + """
torch.set_num_threads(1)
inputs = [torch.randn(shape, requires_grad=True) for shape in ((3, 3), (2, 5, 5), (16, 16))]

def work(count):
    for i in range(count):
        A = inputs[i % 3]
        f = torchdet.det if i % 2 else torchdet.logdet
        torch.autograd.grad(f(A).sum(), A, create_graph=i % 10 == 0)

work(calls // 20)
memory, objects = status("VmRSS"), len(gc.get_objects())
work(calls)
grown = status("VmRSS") - memory
assert grown < 2, f"{grown} MB"
assert len(gc.get_objects()) - objects < 100
"""
    )
