"""Work space that threads keep, and allocations that fail: in processes of their own."""

from __future__ import annotations

import sys

import pytest

import cases
from support import MEMORY, run_script

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status"),
    pytest.mark.skipif(not cases.EXTENSION, reason="torch's own allocator, and nothing is kept"),
]


def test_a_thread_keeps_little_of_its_work_space():
    """A gradient of order 2048 works in three matrices of 32 MB."""
    run_script(
        MEMORY
        + """
torch.set_num_threads(1)
A = torch.randn(2048, 2048, dtype=torch.float64)
grad = torch.ones((), dtype=torch.float64)
torch.ops.torchdet.det_backward(grad[None], A[None, :9, :9])
before = status("VmRSS")
done, leave = threading.Barrier(2), threading.Barrier(2)

def work():
    torch.ops.torchdet.det_backward(grad, A)
    done.wait()
    leave.wait()

thread = threading.Thread(target=work)
thread.start()
done.wait()
kept = status("VmRSS") - before
leave.wait()
thread.join()
assert kept < 40, f"{kept} MB"
""",
        limit=600,
    )


@pytest.mark.parametrize("threads", (1, 2))
def test_an_allocation_that_fails_says_so_and_leaves_the_process_usable(threads):
    """Of a result, which is torch's allocation, and of work space, one for each thread."""
    out = run_script(
        MEMORY
        + f"""
import resource
torch.set_num_threads({threads})
"""
        + """
small = torch.randn(2000, 9, 9)
expected = torch.ops.torchdet.cofactor(small)
A = torch.randn(2, 1500, 1500)  # 18 MB
grad = torch.ones(2)
for room in (4, 24):  # MB: none for a result, none for work space
    limit = int((status("VmSize") + room) * 2**20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
    try:
        torch.ops.torchdet.det_backward(grad, A)
    except RuntimeError as error:
        print(error)
    assert torch.equal(torch.ops.torchdet.cofactor(small[:9]), expected[:9])
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
    assert torch.equal(torch.ops.torchdet.cofactor(small), expected)
    torch.ops.torchdet.det_backward(grad[:1], A[:1, :9, :9])
"""
    )
    texts = out.strip().splitlines()
    assert texts[0].startswith("torchdet: cannot allocate a result of 4500000 numbers;")
    assert texts[1].startswith("torchdet: cannot allocate ")
    assert "bytes of work space" in texts[1]
    assert len(texts) == 2
