"""Seeded training of models of other packages, with torch's determinants and with torchdet's.

`python jobs.py normflows-glow --out result.json` trains one model many times from the same seeds:
with each of both in turn, which is timed, and with torch's determinants of matrices that are moved
by rounding (`determinants.Rounded`). tools/packages.py compares the curves.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy
import torch
from determinants import Rounded, counted

import torchdet

CONTROLS = 6
REPEATS = 5
Losses = Iterator[float]
Mode = AbstractContextManager  # one that can be entered often


def by_adam(
    mode: Mode, parameters, loss: Callable[[], torch.Tensor], steps: int, rate: float
) -> Losses:
    """Plain training on all data at once. Only the loss is computed in the mode."""
    optimizer = torch.optim.Adam(parameters, lr=rate)
    for _ in range(steps):
        optimizer.zero_grad()
        with mode:
            value = loss()
        value.backward()
        optimizer.step()
        yield value.item()


def normflows_affine(mode: Mode, steps: int = 40) -> Losses:
    """normflows: two moons; 6 x (coupling, InvertibleAffine without LU)."""
    import normflows

    with torch.no_grad():
        data = normflows.distributions.TwoMoons().sample(512)
    flows = []
    for _ in range(6):
        network = normflows.nets.MLP([1, 32, 32, 2], init_zeros=True)
        flows += [normflows.flows.AffineCouplingBlock(network),
                  normflows.flows.InvertibleAffine(2, use_lu=False)]  # fmt: skip
    model = normflows.NormalizingFlow(normflows.distributions.DiagGaussian(2), flows)
    yield from by_adam(mode, model.parameters(), lambda: model.forward_kld(data), steps, 2e-3)


def normflows_glow(mode: Mode, steps: int = 10) -> Losses:
    """normflows: images 48 x 2 x 2; 8 GlowBlocks with 1 x 1 convolutions without LU."""
    import normflows

    mixed = torch.randn(48, 48) / 7
    images = torch.tanh(torch.einsum("ij,bjhw->bihw", mixed, torch.randn(32, 48, 2, 2)))
    flows = [normflows.flows.GlowBlock(48, 16, use_lu=False) for _ in range(8)]
    base = normflows.distributions.DiagGaussian((48, 2, 2))
    model = normflows.NormalizingFlow(base, flows)
    yield from by_adam(mode, model.parameters(), lambda: model.forward_kld(images), steps, 1e-3)


def nflows_naive_linear(mode: Mode, steps: int = 12) -> Losses:
    """nflows: 256 correlated numbers; 4 x (NaiveLinear, leaky ReLU)."""
    from nflows import distributions, flows, transforms

    n = 256
    data = torch.randn(64, n) @ (torch.eye(n) + torch.randn(n, n) / 32)
    layers = []
    for _ in range(4):
        layers += [transforms.NaiveLinear(n), transforms.LeakyReLU(0.5)]
    layers.append(transforms.NaiveLinear(n))
    base = distributions.StandardNormal([n])
    model = flows.Flow(transforms.CompositeTransform(layers), base)
    yield from by_adam(mode, model.parameters(), lambda: -model.log_prob(data).mean(), steps, 1e-3)


def kornia_cameras(mode: Mode, steps: int = 25) -> Losses:
    """kornia: 1000 camera poses refined by Sampson's distance; nine 4 x 4 determinants for each."""
    from kornia.geometry import epipolar

    batch, points = 1000, 16
    first = torch.eye(3, 4).expand(batch, 3, 4)
    R = torch.linalg.qr(torch.eye(3) + 0.1 * torch.randn(batch, 3, 3)).Q
    R = R * R.diagonal(dim1=-2, dim2=-1).sign()[:, None]
    P = torch.cat([R, torch.tensor([1.0, 0.2, 0.1]).expand(batch, 3)[..., None]], -1)
    world = 2 * torch.rand(batch, points, 3) - 1 + torch.tensor([0.0, 0.0, 5.0])
    image = world @ P[..., :3].mT + P[..., 3][:, None]
    x1, x2 = world[..., :2] / world[..., 2:], image[..., :2] / image[..., 2:]
    guess = (P + 0.02 * torch.randn_like(P)).requires_grad_()

    def loss() -> torch.Tensor:
        F = epipolar.fundamental_from_projections(first, guess)
        return epipolar.sampson_epipolar_distance(x1, x2, F).mean()

    yield from by_adam(mode, [guess], loss, steps, 2e-3)


def qmctorch_lih(mode: Mode, steps: int = 8) -> Losses:
    """QMCTorch: LiH by variational Monte Carlo; Jastrow factor, single(2,2)."""
    from qmctorch.sampler import Metropolis
    from qmctorch.scf import Molecule
    from qmctorch.solver import Solver
    from qmctorch.utils import set_torch_double_precision
    from qmctorch.wavefunction.jastrows.elec_elec import JastrowFactor, PadeJastrowKernel
    from qmctorch.wavefunction.slater_jastrow import SlaterJastrow

    set_torch_double_precision()
    molecule = Molecule(
        atom="Li 0 0 0; H 0 0 3.015", unit="bohr", calculator="pyscf", basis="sto-3g"
    )
    jastrow = JastrowFactor(molecule, PadeJastrowKernel)
    wave_function = SlaterJastrow(
        molecule, kinetic="jacobi", configs="single(2,2)", include_all_mo=False, jastrow=jastrow
    )
    sampler = Metropolis(
        nwalkers=200, nstep=40, step_size=0.2, ndim=wave_function.ndim,
        nelec=wave_function.nelec, init=molecule.domain("normal"),
        move={"type": "all-elec", "proba": "normal"},
    )  # fmt: skip
    optimizer = torch.optim.Adam(wave_function.parameters(), lr=0.01)
    solver = Solver(wf=wave_function, sampler=sampler, optimizer=optimizer)
    solver.configure(track=["local_energy"], loss="energy", grad="auto")
    with mode:
        energies = solver.run(steps).energy
    yield from map(float, energies)


JOBS: dict[str, Callable[[Mode], Losses]] = {
    "normflows-affine": normflows_affine,
    "normflows-glow": normflows_glow,
    "nflows-naive-linear": nflows_naive_linear,
    "kornia-cameras": kornia_cameras,
    "qmctorch-lih": qmctorch_lih,
}


def train(job: Callable[[Mode], Losses], mode: Mode) -> tuple[list[float], float]:
    """The losses of one training in float64, and its seconds."""
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    numpy.random.seed(0)  # noqa: NPY002  QMCTorch draws from this generator
    started = time.process_time()
    losses = list(job(mode))
    return losses, time.process_time() - started


def measure(job: Callable[[Mode], Losses]) -> dict:
    """All trainings of one model."""
    # The first training of a process fills caches: it is not timed.
    with counted(rerouted=True) as (made, reached_torch):
        rerouted, _ = train(job, nullcontext())
    modes = {"stock": nullcontext, "rerouted": torchdet.accelerate}
    seconds: dict[str, list[float]] = {name: [] for name in modes}
    curves: dict[str, list[float]] = {}
    for _ in range(REPEATS):
        for name, mode in modes.items():
            curves[name], duration = train(job, mode())
            seconds[name].append(duration)
    if curves["rerouted"] != rerouted:
        raise RuntimeError("two trainings from the same seeds differ: nothing can be compared")
    controls = [Rounded(seed) for seed in range(CONTROLS)]
    return {
        "about": (job.__doc__ or "").rstrip("."), **curves,
        "controls": [train(job, control)[0] for control in controls],
        "order": max(control.order for control in controls), "seconds": seconds,
        "made": made.calls, "reached_torch": reached_torch.calls,
    }  # fmt: skip


def main() -> None:
    """Runs one job."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("job", choices=JOBS)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.out.write_text(json.dumps(measure(JOBS[arguments.job])))


if __name__ == "__main__":
    main()
