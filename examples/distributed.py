"""Determinants on several processes: data in parallel, and a batch of matrices in parts.

    torchrun --nproc-per-node 2 examples/distributed.py
    python examples/distributed.py                              # one process

(a) Independent components by maximum likelihood. Signals s that are independent of each other and
    have Student's distribution p with 3 degrees of freedom are mixed: x = M s. With W in place of
    the inverse of M, x has the density

        |det W| prod_i p((W x)_i).

    Each process has all of W and a part of the data, and DistributedDataParallel averages their
    gradients. log|det W| does not depend on the data, so each process computes it.

(b) Normal distributions of many groups. A group with the covariance matrix S has the mean
    log-density

        log|det W| - trace(W S W^T) / 2 - n / 2 log(2 pi),

    which is largest where W S W^T = I. W and S of all groups are DTensors, sharded over the groups:
    each process has some groups, and computes theirs with no communication.

Both ascend by G W^T W, where G is the gradient: the natural gradient, for which all W are alike
(Amari, Natural gradient works efficiently in learning, Neural Computation 10, 1998). One process
does it alone, then all do it together; results and times are compared.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator

import torch
import torch.distributed as dist
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from torch.distributed.tensor.debug import CommDebugMode
from torch.nn.parallel import DistributedDataParallel

import torchdet

ON_GPUS = """
On a cluster of GPUs:
  torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))       first of all
  dist.init_process_group("nccl")                            in place of "gloo"
  torch.set_default_device("cuda")                           in place of torch.set_num_threads(1)
  init_device_mesh("cuda", (dist.get_world_size(),))         in place of "cpu"
and on each of, say, 4 machines with 8 GPUs
  torchrun --nnodes 4 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint HOST:29500 \\
      examples/distributed.py"""


def say(text: str) -> None:
    """Prints on the first process."""
    if dist.get_rank() == 0:
        print(text)


def steps(name: str, count: int) -> Iterator[None]:
    """As many steps, with a progress bar on the first process."""
    columns = (TextColumn(f"{name:46}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, disable=dist.get_rank() != 0) as progress:
        yield from progress.track((None for _ in range(count)), total=count)


def alone_and_together(
    name: str, alone: Callable[[str], Tensor], together: Callable[[str], Tensor]
) -> tuple[Tensor | None, Tensor]:
    """What the first process computes while the others wait (None there), and what all compute."""
    count = dist.get_world_size()

    def timed(compute: Callable[[str], Tensor], processes: int) -> tuple[Tensor | None, float]:
        dist.barrier()
        start = time.perf_counter()
        takes_part = dist.get_rank() < processes
        result = compute(f"{name}, {processes} of {count} processes") if takes_part else None
        dist.barrier()
        return result, time.perf_counter() - start

    (one, before), (all_, after) = timed(alone, 1), timed(together, count)
    say(f"    {before:.2f} s on 1, {after:.2f} s on {count}: {before / after:.2f} times as fast")
    return one, all_


# --- (a) --------------------------------------------------------------------------------------


class Components(nn.Module):
    """The density of mixed signals."""

    def __init__(self, W: Tensor) -> None:
        super().__init__()
        self.W = nn.Parameter(W.clone())

    def forward(self, x: Tensor) -> Tensor:
        """Mean log-density of the rows of x, without the constant."""
        log_p = -2 * torch.log1p((x @ self.W.mT).square() / 3)
        return torchdet.slogdet(self.W).logabsdet + log_p.sum(-1).mean()


def unmix(model: nn.Module, W: nn.Parameter, x: Tensor, count: int, name: str) -> Tensor:
    """The W of largest likelihood; the gradient of a model is the mean over all processes."""
    for _ in steps(name, count):
        W.grad = None
        model(x).backward()
        with torch.no_grad():
            W += W.grad @ W.mT @ W / 2
    return W.detach()


def purity(W: Tensor, M: Tensor) -> float:
    """How much of each component is one signal: 1 if W undoes the mixing, up to order and scale."""
    shares = (W @ M).square()
    return (shares.amax(-1) / shares.sum(-1)).mean().item()


def independent_components(n: int, samples: int, count: int) -> None:
    """Example (a)."""
    rank, processes = dist.get_rank(), dist.get_world_size()
    normal = torch.randn(4, samples // processes * processes, n, dtype=torch.float64)
    s = normal[0] / normal[1:].square().mean(0).sqrt()
    M = torch.randn(n, n, dtype=torch.float64)
    x = s @ M.mT
    W = torch.linalg.inv(torch.linalg.cholesky(torch.cov(x.mT)))  # uncorrelated, but not separate

    def alone(name: str) -> Tensor:
        model = Components(W)
        return unmix(model, model.W, x, count, name)

    def together(name: str) -> Tensor:
        model = Components(W)
        part = x.chunk(processes)[rank]
        return unmix(DistributedDataParallel(model), model.W, part, count, name)

    one, all_ = alone_and_together("(a) independent components", alone, together)
    say(f"    purity of the components {purity(W, M):.3f} -> {purity(all_, M):.3f}")
    if one is not None:
        difference = ((all_ - one).norm() / one.norm()).item()
        say(f"    relative difference to one process {difference:.0e}")
        # Sums over the data are taken in another order, and the ascent contracts what differs.
        assert difference <= samples * count * torch.finfo(x.dtype).eps


# --- (b) --------------------------------------------------------------------------------------


def log_densities(W: Tensor, S: Tensor) -> Tensor:
    """Mean log-density of each group, without the constant."""
    return torchdet.slogdet(W).logabsdet - (W @ S * W).sum((-2, -1)) / 2


def whiten(W: Tensor, S: Tensor, count: int, name: str) -> Tensor:
    """The W of largest likelihood of each group."""
    for _ in steps(name, count):
        W.requires_grad_()
        log_p = log_densities(W, S)
        (G,) = torch.autograd.grad(log_p, W, torch.ones_like(log_p))
        W = (W + G @ W.mT @ W / 2).detach()
    return W


def normal_distributions(n: int, groups: int, count: int) -> None:
    """Example (b)."""
    x = torch.randn(groups, 2 * n, n, dtype=torch.float64)
    S = x.mT @ x / (2 * n)
    trace = S.diagonal(dim1=-2, dim2=-1).sum(-1)
    W = torch.eye(n, dtype=S.dtype) * trace.rsqrt()[:, None, None]  # W S W^T <= I: all grow
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    parts = [distribute_tensor(X, mesh, [Shard(0)]) for X in (W, S)]

    def together(name: str) -> Tensor:
        return whiten(*parts, count, name)

    one, all_ = alone_and_together(
        "(b) normal distributions", lambda name: whiten(W, S, count, name), together
    )
    with CommDebugMode() as communication:
        log_p = log_densities(all_, parts[1])
    assert isinstance(all_, DTensor) and communication.get_total_counts() == 0
    all_, log_p = all_.full_tensor(), log_p.full_tensor()
    largest = -torchdet.slogdet(S).logabsdet / 2 - n / 2
    error = ((log_p - largest).abs() / largest.abs()).max().item()
    say(f"    largest error of a mean log-density {error:.0e}")
    if one is not None:
        say(f"    bit for bit what one process computes: {torch.equal(all_, one)}")
        assert torch.equal(all_, one)


def main() -> None:
    """Runs both parts on all processes that torchrun has started."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small, to see that it runs")
    parser.add_argument("--seed", type=int, default=0, help="seed of the data")
    arguments = parser.parse_args()

    if dist.is_torchelastic_launched():
        dist.init_process_group("gloo")
    else:
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    torch.set_num_threads(1)  # each process has one core
    torch.manual_seed(arguments.seed)  # all processes draw the same data
    if arguments.quick:
        independent_components(n=4, samples=1000, count=5)
        normal_distributions(n=4, groups=5, count=15)
    else:
        independent_components(n=24, samples=20000, count=100)
        normal_distributions(n=32, groups=2000, count=25)
    say(ON_GPUS)
    # No destroy_process_group: with torch 2.13 and gloo it sometimes aborts a process that ends.


if __name__ == "__main__":
    main()
