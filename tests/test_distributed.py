"""DTensors, DistributedDataParallel and FSDP2 on two processes; distributed_checks.py has what."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from filelock import FileLock
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor
from torch.testing._internal.distributed.fake_pg import FakeStore

import distributed_checks
import torchdet
from support import ENVIRONMENT, logabsdet, run_python, run_script, same_bits
from torchdet import _ops
from torchdet._sharding import sharding_rule, with_sharding_rule
from two_processes import CHECKS, each

EXAMPLE = Path(__file__).parents[1] / "examples" / "distributed.py"
LIMIT = 200
# One process imports torchdet before DTensor, the other one after it.
IMPORTS = ("import torchdet, torch.distributed.tensor", "import torch.distributed.tensor, torchdet")


def run_checks(folder: Path) -> dict[str, str]:
    """What failed in each check, by its name, on the two processes; nothing where all is well."""
    run = "import sys, distributed_checks, two_processes; two_processes.main(*sys.argv[1:])"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", f"{imports}; {run}", str(rank), str(folder)],
            env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank, imports in enumerate(IMPORTS)
    ]  # fmt: skip
    outputs = []
    for process in processes:
        try:
            outputs.append(process.communicate(timeout=LIMIT)[0])
        except subprocess.TimeoutExpired:
            process.kill()
            outputs.append(f"stopped after {LIMIT} s\n{process.communicate()[0]}")
    reports = []
    for rank, output in enumerate(outputs):
        report = folder / f"{rank}.json"
        found = json.loads(report.read_text()) if report.exists() else {}
        missing = f"process {rank} did not come to this check:\n{output}"
        reports.append({name: found.get(name, missing) for name in CHECKS})
    return {name: "\n".join(filter(None, (r[name] for r in reports))) for name in reports[0]}


@pytest.fixture(scope="module")
def failures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Run once, also where pytest-xdist has divided these tests among its workers."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    folder /= "distributed"
    folder.mkdir(exist_ok=True)
    result = folder / "failures.json"
    with FileLock(folder / "lock"):
        if not result.exists():
            result.write_text(json.dumps(run_checks(folder)))
    return json.loads(result.read_text())


@pytest.mark.parametrize("name", CHECKS)
def test_two_processes_compute_what_one_does(failures, name):
    if torch.__version__ < "2.13" and "aten.complex.default does not have" in failures[name]:
        pytest.xfail("DTensors of this torch know no aten.complex, which joins two parts")
    assert not failures[name], failures[name]


@pytest.mark.parametrize("name", distributed_checks.OPERATORS)
def test_the_rule_shards_batch_dimensions_and_no_others(name):
    args = distributed_checks.arguments(name, (5, 6), 3, torch.float64)
    op = _ops.operator(name)
    results = each(op(*args))
    assert sharding_rule(op)(*args) == [
        ([p] * len(results), [p] * len(args)) for p in (Replicate(), Shard(0), Shard(1))
    ]


@pytest.fixture
def four_processes() -> Iterator[None]:
    """This process as one of four, of which the others do not exist: nothing is communicated."""
    dist.init_process_group("fake", store=FakeStore(), rank=1, world_size=4)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize(
    ("shape", "placements"),
    (
        ((4,), (Shard(1),)),
        ((2, 2), (Shard(0), Shard(1))),
        ((2, 2), (Shard(1), Shard(0))),
        ((2, 2), (Shard(1), Shard(1))),
        ((2, 2), (Replicate(), Shard(1))),
    ),
)
@pytest.mark.parametrize("n", (3, distributed_checks.KEPT))
def test_four_processes_keep_what_is_sharded(four_processes, n, shape, placements):
    A = distribute_tensor(torch.randn(3, 8, n, n), init_device_mesh("cpu", shape), placements)
    w = torch.ones_like(A[..., 0, 0])
    gradient = distributed_checks.vector_jacobian(logabsdet)
    for got, expected in (
        (logabsdet(A), logabsdet(A.to_local())),
        (gradient(A, w), gradient(A.to_local(), w.to_local())),
    ):
        assert got.placements == placements
        assert same_bits(got.to_local(), expected)


@pytest.fixture
def one_process() -> Iterator[None]:
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("placement", (Replicate(), Shard(0)))
def test_principal_minors_of_dtensors(one_process, placement):
    mesh = init_device_mesh("cpu", (1,))
    A, sets = torch.randn(4, 5, 5), torch.tensor([[0, 1], [2, -1]])
    mask = torch.tensor([[True, True, False, False, False], [False, False, True, False, False]])
    expected = torchdet.principal_minors(A, sets)
    for index in (sets, mask):
        L = distribute_tensor(A, mesh, [placement]).requires_grad_()
        got = torchdet.principal_minors(L, distribute_tensor(index, mesh, [Replicate()]))
        assert same_bits(got.full_tensor(), expected)
        got.sum().backward()
        leaf = A.clone().requires_grad_()
        torchdet.principal_minors(leaf, sets).sum().backward()
        assert same_bits(L.grad.full_tensor(), leaf.grad)


def test_a_torch_that_takes_no_rules_serves_plain_tensors(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.distributed.tensor.experimental", None)
    kernel = with_sharding_rule(_ops.operator("det"), lambda A: A[..., 0, 0])
    assert kernel(torch.ones(2, 3, 3)).shape == (2,)


def test_who_has_no_dtensors_does_not_import_them():
    out = run_script("""
import sys, torch, torchdet

A = torch.randn(2, 3, 3, requires_grad=True)
torchdet.slogdet(A).logabsdet.sum().backward()
print("torch.distributed.tensor" in sys.modules)
""")
    assert out == "False\n"


def test_the_example_runs():
    out = run_python(
        "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
        str(EXAMPLE), "--quick",
    )  # fmt: skip
    assert "2 processes" in out
