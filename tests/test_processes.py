"""Copying, pickling, worker processes, fork and concurrent threads, each with a time limit."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor

import torchdet

LIMIT = 120
# The package under test also in a process whose working directory is another one.
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(torchdet.__file__).parents[1])}


def run(script: str) -> str:
    """The output of a Python script in a process of its own; a hang fails after LIMIT seconds."""
    return run_python("-c", script)


def run_python(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True, text=True, timeout=LIMIT, check=False, env=ENVIRONMENT,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


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
    out = run("""
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
    run("""
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
    script = tmp_path / "workers.py"
    script.write_text(f"""
import torch, torchdet
import torch.multiprocessing as mp

def work(k):
    torch.set_num_threads(1)
    return torchdet.det(k * torch.eye(3)).item()

if __name__ == "__main__":
    with mp.get_context({method!r}).Pool(2) as pool:
        assert pool.map(work, [1, 2, 3]) == [1.0, 8.0, 27.0]
""")
    run_python(str(script))


def test_concurrent_threads_get_the_results_of_one(dtype):
    sizes = (1, 2, 3, 5, 8, 16, 20, 33, 64, 150)
    batches = {n: torch.randn(200 if n < 10 else 20 if n < 64 else 2, n, n, dtype=dtype) / n**0.5
               for n in sizes}  # fmt: skip

    def work(n: int) -> list[Tensor]:
        A = batches[n].clone().requires_grad_()
        d = torchdet.det(A)
        (g,) = torch.autograd.grad(d.abs().sum(), A)
        return [d.detach(), g, torchdet.slogdet(A.detach()).logabsdet]

    expected = {n: work(n) for n in sizes}
    jobs = [n for _ in range(4) for n in sizes]
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(work, jobs, timeout=LIMIT))
    for n, result in zip(jobs, results, strict=True):
        for got, want in zip(result, expected[n], strict=True):
            assert torch.equal(got, want), n
