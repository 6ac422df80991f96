"""Copying, pickling, worker processes, fork, threads and interrupts, each with a time limit."""

from __future__ import annotations

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

import cases
import torchdet
from support import ENVIRONMENT, LIMIT, python, run_python, run_script


class LogVolume(torch.nn.Module):
    """A layer as in a normalizing flow; at module level, or it could not be pickled."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.eye(4) + 0.1 * torch.randn(4, 4))
        self.volume = torchdet.logdet

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.mT, self.volume(self.weight) + torchdet.det(self.weight)


@pytest.mark.parametrize("clone", (copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))),
                         ids=("deepcopy", "pickle"))  # fmt: skip
def test_a_copied_module_computes_and_trains_like_the_original(clone):
    module = LogVolume()
    twin = clone(module)
    x = torch.randn(3, 4)
    for original, copied in zip(module(x), twin(x), strict=True):
        assert torch.equal(original, copied)
    module(x)[1].backward()
    twin(x)[1].backward()
    assert torch.equal(module.weight.grad, twin.weight.grad)
    assert twin.weight is not module.weight


@pytest.mark.parametrize("name", torchdet.__all__)
def test_public_functions_pickle_by_name(name):
    f = getattr(torchdet, name)
    assert pickle.loads(pickle.dumps(f)) is f
    assert copy.deepcopy(f) is f


def test_a_result_with_a_graph_can_be_copied_once_detached():
    A = torch.randn(3, 3, requires_grad=True)
    d = torchdet.det(A)
    assert torch.equal(copy.deepcopy(d.detach()), d)
    result = torchdet.slogdet(A.detach())
    assert all(torch.equal(a, b) for a, b in zip(copy.deepcopy(result), result, strict=True))


def test_dataloader_workers_compute_determinants_and_gradients():
    out = run_script("""
import torch, torchdet

class Matrices(torch.utils.data.Dataset):
    def __len__(self):
        return 12

    def __getitem__(self, k):
        A = (torch.arange(9.0).reshape(3, 3) + k * torch.eye(3)).requires_grad_()
        d = torchdet.det(A)
        d.backward()
        return d.detach(), A.grad

torchdet.det(torch.randn(5000, 8, 8))  # the parent has used its thread pool
loader = torch.utils.data.DataLoader(Matrices(), batch_size=4, num_workers=2)
dets = torch.cat([d for d, _ in loader])
grads = torch.cat([g for _, g in loader])
# det(M + k I) = k^3 + 12 k^2 - 18 k for M = arange(9), whose determinant is 0
k = torch.arange(12.0)
assert torch.allclose(dets, k**3 + 12 * k**2 - 18 * k, rtol=1e-5, atol=1e-4), dets
assert grads.shape == (12, 3, 3) and grads.isfinite().all()
print("done")
""")
    assert out.strip() == "done"


def test_a_forked_child_computes():
    """The child runs on one thread, as the workers of a DataLoader do: a pool of threads that was
    started before a fork does not exist after it, for any operator of torch."""
    run_script("""
import os, torch, torchdet
A = torch.randn(4000, 8, 8, requires_grad=True)
expected = torchdet.det(A)
torch.autograd.grad(expected.sum(), A)
child = os.fork()
if child == 0:
    torch.set_num_threads(1)
    ok = torch.equal(torchdet.det(A.detach()), expected)
    big = torchdet.slogdet(torch.randn(3, 160, 160))
    os._exit(0 if ok and big.logabsdet.isfinite().all() else 1)
_, status = os.waitpid(child, 0)
assert os.waitstatus_to_exitcode(status) == 0
""")


@pytest.mark.parametrize("method", ("fork", "spawn"))
def test_worker_processes_send_results_back(method, tmp_path):
    """The parent has used its threads before, for a batch and for one matrix that they share."""
    script = tmp_path / "workers.py"
    script.write_text(f"""
import torch, torchdet
import torch.multiprocessing as mp

def work(k):
    torch.set_num_threads(1)
    big = torch.eye(320, dtype=torch.float64).requires_grad_()
    (grad,) = torch.autograd.grad(torchdet.det(k * big), big)
    assert torch.equal(grad.diagonal(), torch.full((320,), float(k) ** 320, dtype=torch.float64))
    return torchdet.det(k * torch.eye(3)).item()

if __name__ == "__main__":
    torch.set_num_threads(4)
    A = torch.randn(4000, 8, 8, requires_grad=True)
    torch.autograd.grad(torchdet.det(A).sum(), A)
    torchdet.cofactor(torch.randn(320, 320))
    with mp.get_context({method!r}).Pool(2) as pool:
        assert pool.map(work, [1, 2, 4]) == [1.0, 8.0, 64.0]
""")
    run_python(str(script))


def work(A: Tensor) -> list[Tensor]:
    """All that there is to compute of a batch: values, gradients, what is kept, a Hessian.

    Cotangents are constants: sums of torch over many numbers depend on the number of threads.
    """
    A = A.clone().requires_grad_()
    d = torchdet.det(A)
    (g,) = torch.autograd.grad(d, A, torch.ones_like(d), create_graph=True)
    (h,) = torch.autograd.grad(g, A, torch.ones_like(g))
    s = torchdet.slogdet(A).logabsdet
    (of_log,) = torch.autograd.grad(s, A, torch.ones_like(s))
    return [d.detach(), g.detach(), h, s.detach(), of_log]


def mixed_batches(dtype: torch.dtype) -> list[Tensor]:
    """Of every size class, small and large batches, and one matrix that torch's threads share."""
    sizes = (1, 2, 3, 5, 8, 16, 20, 33, 64, 66, 150, *((320,) if cases.EXTENSION else ()))
    if not cases.EXTENSION:
        sizes = sizes[:7]
    counts = [200 if n < 10 else 20 if n < 64 else 2 if n < 200 else 1 for n in sizes]
    return [torch.randn(count, n, n, dtype=dtype) / n**0.5
            for count, n in zip(counts, sizes, strict=True)]  # fmt: skip


def assert_all_equal(results: list[Tensor], expected: list[Tensor], label: object) -> None:
    for got, want in zip(results, expected, strict=True):
        assert torch.equal(got, want), label


@pytest.mark.parametrize("threads_of_torch", (1, 2))
def test_sixteen_threads_get_the_results_of_one(dtype, threads_of_torch):
    batches = mixed_batches(dtype)
    torch.set_num_threads(threads_of_torch)
    expected = [work(A) for A in batches]
    jobs = [k for _ in range(4) for k in range(len(batches))]
    with ThreadPoolExecutor(16) as pool:
        results = list(pool.map(lambda k: work(batches[k]), jobs, timeout=LIMIT))
    for k, result in zip(jobs, results, strict=True):
        assert_all_equal(result, expected[k], batches[k].shape)


def test_the_number_of_threads_may_change_between_calls(wide_dtype):
    batches = mixed_batches(wide_dtype)
    torch.set_num_threads(1)
    expected = [work(A) for A in batches]
    for threads in (4, 1, 3, 2):
        torch.set_num_threads(threads)
        for A, want in zip(batches, expected, strict=True):
            assert_all_equal(work(A), want, (threads, A.shape))


def test_it_may_change_between_forward_and_backward():
    for A in mixed_batches(torch.float64):
        gradients = []
        for before, after in ((1, 4), (4, 1)):
            leaf = A.clone().requires_grad_()
            torch.set_num_threads(before)
            d = torchdet.det(leaf).sum()
            torch.set_num_threads(after)
            gradients.append(torch.autograd.grad(d, leaf)[0])
        assert torch.equal(*gradients), A.shape


@pytest.mark.parametrize("threads", (1, 4))
def test_an_interrupt_during_a_long_call_is_raised_after_it(threads):
    """Python raises it when the kernel returns; nothing of the call is left behind."""
    out = run_script(f"""
import os, signal, threading, torch, torchdet
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
torch.set_num_threads({threads})
small, large = torch.randn(9, 20, 20), torch.randn(2, 400, 400)

def work(A):
    A = A.clone().requires_grad_()
    d = torchdet.slogdet(A).logabsdet
    return torch.autograd.grad(d.sum(), A)[0]

expected = [work(A) for A in (small, large)]
for A in (small, large, large):
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    try:
        while True:
            work(A)
    except KeyboardInterrupt:
        print("interrupted")
    assert all(torch.equal(work(A), want) for A, want in zip((small, large), expected))
""")
    assert out.split() == ["interrupted"] * 3


COMPILED = """
import torch, torchdet
A = torch.eye(3, dtype=torch.float64, requires_grad=True)
B = torch.ones(3, 1, dtype=torch.float64)

@torch.compile(fullgraph=True)
def f(A):
    return torchdet.slogdet_solve(A + A, B).X.sum()

f(A).backward()
# -2 (2 A)^-T G X^T with G = 1 and X = (2 A)^-1 B
assert torch.equal(A.grad, torch.full((3, 3), -0.5, dtype=torch.float64)), A.grad
"""


@pytest.mark.skipif(not cases.EXTENSION, reason="compares with the extension")
def test_code_that_was_compiled_for_another_torchdet_is_not_taken_from_torchs_caches(tmp_path):
    """With the extension and without, a factorisation leaves tensors of other shapes."""
    for extension in ("1", "0"):
        settings = {"TORCHDET_EXTENSION": extension, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
        done = python("-c", COMPILED, env=ENVIRONMENT | settings)
        assert done.returncode == 0, done.stderr
