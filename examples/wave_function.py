"""Variational Monte Carlo: the energies of helium and beryllium from sums of Slater determinants.

psi = exp(J) sum_k w_k det U_k det D_k, with orbitals of Slater type in the rows of U_k (electrons
of spin up) and D_k (down), and a Jastrow factor of the distances between electrons, J = sum_{i<j}
a r / (1 + b r), a = 1/2 for unlike and 1/4 for like spins (Kato's cusps). Helium has two products
of exponentials; beryllium 1s^2 2s^2 and the three 1s^2 2p^2, whose mixture takes most of the
correlation of the outer electrons. Walkers are drawn from psi^2 by Metropolis's algorithm; the
energy is the mean of the local energy, with the Laplacian of torchdet.slogsumdet_laplacian; and
its gradient by the parameters is 2 <(E_L - <E_L>) grad log|psi|>.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from rich.progress import track
from torch import Tensor, nn

import torchdet
from common import BLUE, GREY, ORANGE, count, save

DOUBLE = torch.float64


@dataclass(frozen=True)
class Atom:
    """A nucleus at the origin, and as many electrons of each spin."""

    name: str
    charge: int
    step: float  # of a walker's electrons, in Bohr radii
    exact: float  # the nonrelativistic ground state, in hartree
    hartree_fock: float


# Nakashima and Nakatsuji, J. Chem. Phys. 127, 224104 (2007), and Chakravorty, Gwaltney, Davidson,
# Parpia and Froese Fischer, Phys. Rev. A 47, 3649 (1993). Hartree-Fock: Bunge, Barrientos and
# Bunge, At. Data Nucl. Data Tables 53, 113 (1993).
ATOMS = {
    "helium": Atom("helium", 2, 0.6, -2.903724, -2.861680),
    "beryllium": Atom("beryllium", 4, 0.28, -14.667356, -14.573023),
}


@dataclass
class Orbitals:
    """Orbitals at the electrons of one spin: (.., n, m), and their derivatives by coordinates."""

    value: Tensor
    gradient: Tensor  # (.., n, 3, m)
    laplacian: Tensor  # (.., n, m)

    def columns(self, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of configurations index (K, n): what slogsumdet_laplacian takes, K before the rows."""
        parts = (self.value, self.gradient, self.laplacian)
        return tuple(x[..., index].movedim(-2, 1) for x in parts)


class WaveFunction(nn.Module):
    """psi with its parameters."""

    def __init__(self, atom: Atom) -> None:
        super().__init__()
        self.atom = atom
        self.n = atom.charge // 2  # electrons of each spin
        Z = float(atom.charge)
        if self.n == 1:  # two s orbitals, which the electrons exchange
            exponents, self.has_p = [[Z, Z], [Z - 0.8, Z - 0.8]], False
            self.up, self.down = torch.tensor([[0], [1]]), torch.tensor([[1], [0]])
        else:  # 1s, 2s, and 2p in x, y and z
            exponents, self.has_p = [[Z, Z - 1.0], [1.0, 1.0]], True
            self.up = self.down = torch.tensor([[0, 1], [0, 2], [0, 3], [0, 4]])
        self.log_exponents = nn.Parameter(torch.tensor(exponents, dtype=DOUBLE).log())
        # R(r) = sum_m (mixing_m + slope_m r) exp(-zeta_m r)
        self.mixing = nn.Parameter(torch.tensor([[1.0, 0.1], [-0.4, 0.1]], dtype=DOUBLE))
        self.slope = nn.Parameter(torch.tensor([[0.0, 0.0], [1.0, 0.0]], dtype=DOUBLE))
        self.log_p_exponent = nn.Parameter(torch.zeros((), dtype=DOUBLE))
        K = len(self.up)
        self.weights = nn.Parameter(
            torch.cat([torch.ones(1), torch.full((K - 1,), 0.1)]).to(DOUBLE)
        )
        if self.n == 1:
            self.weights.data.fill_(1.0)
        self.log_range = nn.Parameter(torch.zeros(2, dtype=DOUBLE))  # b: unlike, like spins

    def orbitals(self, x: Tensor) -> Orbitals:
        """Of electrons at x, (.., n, 3)."""
        r = x.norm(dim=-1, keepdim=True)[..., None]  # (.., n, 1, 1)
        zeta = self.log_exponents.exp()
        e = (-zeta * r).exp()
        polynomial = self.mixing + self.slope * r
        R = (polynomial * e).sum(-1)
        R1 = ((self.slope - zeta * polynomial) * e).sum(-1)
        R2 = ((zeta.square() * polynomial - 2 * zeta * self.slope) * e).sum(-1)
        r = r[..., 0]
        value, laplacian = R, R2 + 2 * R1 / r
        gradient = x[..., None] / r[..., None] * R1[..., None, :]
        if not self.has_p:
            return Orbitals(value, gradient, laplacian)
        zeta = self.log_p_exponent.exp()
        e = (-zeta * r).exp()  # of x e, y e, z e
        p_gradient = torch.eye(3, dtype=x.dtype) * e[..., None]
        p_gradient = p_gradient - x[..., :, None] * x[..., None, :] * (zeta * e / r)[..., None]
        return Orbitals(
            torch.cat([value, x * e], -1),
            torch.cat([gradient, p_gradient], -1),
            torch.cat([laplacian, x * e * (zeta.square() - 4 * zeta / r)], -1),
        )

    def jastrow(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """J, its gradient by each electron, and its Laplacian."""
        N = 2 * self.n
        i, j = torch.triu_indices(N, N, 1)
        like = (i < self.n) == (j < self.n)
        a = torch.where(like, 0.25, 0.5).to(DOUBLE)
        b = self.log_range.exp()[like.long()]
        d = x[:, i] - x[:, j]
        r = d.norm(dim=-1)
        q = 1 / (1 + b * r)
        first = a * q.square()
        pull = d * (first / r)[..., None]
        gradient = torch.zeros_like(x).index_add(1, i, pull).index_add(1, j, -pull)
        laplacian = 2 * (-2 * b * first * q + 2 * first / r).sum(-1)  # two electrons each
        return (a * r * q).sum(-1), gradient, laplacian

    def log_psi(self, x: Tensor) -> Tensor:
        """log|psi| of walkers x, (walkers, 2n, 3)."""
        up, down = (self.orbitals(part).value for part in x.split(self.n, dim=1))
        U, D = (v[..., k].movedim(-2, 1) for v, k in ((up, self.up), (down, self.down)))
        return self.jastrow(x)[0] + torchdet.slogsumdet(U, D, weights=self.weights).logabsdet

    def local_energy(self, x: Tensor) -> Tensor:
        """(H psi) / psi of walkers x."""
        up, down = (self.orbitals(part) for part in x.split(self.n, dim=1))
        parts = (up.columns(self.up), down.columns(self.down))
        matrices, jacobians, laplacians = zip(*parts, strict=True)
        out = torchdet.slogsumdet_laplacian(
            matrices, jacobians, laplacians, self.weights, rows=True
        )
        _, gradient, laplacian = self.jastrow(x)
        gradient = gradient + out.derivatives
        kinetic = -(laplacian + out.laplacian + gradient.square().sum((-2, -1))) / 2
        return kinetic + self.potential(x)

    def potential(self, x: Tensor) -> Tensor:
        """Attraction by the nucleus, and repulsion of the electrons."""
        i, j = torch.triu_indices(x.shape[1], x.shape[1], 1)
        repulsion = (1 / (x[:, i] - x[:, j]).norm(dim=-1)).sum(-1)
        return repulsion - self.atom.charge * (1 / x.norm(dim=-1)).sum(-1)


@torch.no_grad()
def walk(psi: WaveFunction, x: Tensor, steps: int) -> tuple[Tensor, float]:
    """Metropolis steps of all walkers from psi^2; the walkers, and the share of moves accepted."""
    density, accepted = 2 * psi.log_psi(x), 0.0
    for _ in range(steps):
        proposal = x + psi.atom.step * torch.randn_like(x)
        new = 2 * psi.log_psi(proposal)
        moves = torch.rand_like(new).log() < new - density
        x = torch.where(moves[:, None, None], proposal, x)
        density = torch.where(moves, new, density)
        accepted += moves.double().mean().item() / steps
    return x, accepted


def clipped(energy: Tensor) -> Tensor:
    """Rare walkers near a node or a nucleus would dominate a gradient."""
    centre = energy.median()
    spread = 5 * (energy - centre).abs().mean()
    return energy.clamp(centre - spread, centre + spread)


def gradient_step(psi: WaveFunction, x: Tensor, optimizer: torch.optim.Optimizer) -> float:
    """One step down the gradient of the energy; the energy of the walkers before."""
    with torch.no_grad():
        energy = psi.local_energy(x)
    centred = clipped(energy)
    centred = centred - centred.mean()
    optimizer.zero_grad()
    (2 * centred * psi.log_psi(x)).mean().backward()
    optimizer.step()
    return energy.mean().item()


@dataclass
class Result:
    """An energy with its standard error, and how it was reached."""

    atom: Atom
    energy: float
    error: float
    accepted: float
    history: list[float]
    psi: WaveFunction
    walkers: Tensor


def optimise(atom: Atom, walkers: int, steps: int, measurements: int) -> Result:
    """Trains psi, then measures its energy."""
    psi = WaveFunction(atom)
    x = torch.randn(walkers, atom.charge, 3, dtype=DOUBLE)
    x, _ = walk(psi, x, 200)
    optimizer = torch.optim.Adam(psi.parameters(), lr=0.02)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, 0.001)
    history = []
    for _ in track(range(steps), f"{atom.name}: training"):
        x, _ = walk(psi, x, 10)
        history.append(gradient_step(psi, x, optimizer))
        schedule.step()
    means, accepted = [], 0.0
    x, _ = walk(psi, x, 200)
    for _ in track(range(measurements), f"{atom.name}: energy"):
        x, share = walk(psi, x, 20)
        accepted += share / measurements
        with torch.no_grad():
            means.append(psi.local_energy(x).mean().item())
    # Twenty blocks, each longer than the walkers' memory.
    blocks = torch.tensor(means, dtype=DOUBLE).tensor_split(min(20, measurements))
    means_of_blocks = torch.stack([block.mean() for block in blocks])
    error = means_of_blocks.std().item() / math.sqrt(len(blocks))
    energy = means_of_blocks.mean().item()
    return Result(atom, energy, error, accepted, history, psi, x)


# --- the same with torch.linalg -------------------------------------------------------------------


def log_psi_by_torch(psi: WaveFunction, x: Tensor) -> Tensor:
    """log|psi| as it is usually written: slogdet, then log-sum-exp with signs."""
    up, down = (psi.orbitals(part).value for part in x.split(psi.n, dim=1))
    U, D = (v[..., k].movedim(-2, 1) for v, k in ((up, psi.up), (down, psi.down)))
    (su, lu), (sd, ld) = torch.linalg.slogdet(U), torch.linalg.slogdet(D)
    logs = lu + ld
    top = logs.amax(-1, keepdim=True).detach()
    total = (psi.weights * su * sd * (logs - top).exp()).sum(-1)
    return psi.jastrow(x)[0] + top[..., 0] + total.abs().log()


def local_energy_by_torch(psi: WaveFunction, x: Tensor) -> Tensor:
    """The Laplacian as a sum of second derivatives, each by differentiating the gradient."""
    x = x.clone().requires_grad_()
    (g,) = torch.autograd.grad(log_psi_by_torch(psi, x).sum(), x, create_graph=True)
    laplacian = torch.zeros(len(x), dtype=x.dtype)
    for i in range(x.shape[1]):
        for c in range(3):
            (second,) = torch.autograd.grad(g[:, i, c].sum(), x, retain_graph=True)
            laplacian = laplacian + second[:, i, c]
    kinetic = -(laplacian + g.square().sum((-2, -1))) / 2
    return (kinetic + psi.potential(x)).detach()


def seconds(call: Callable[[], object], rounds: int = 7) -> float:
    """The shortest of some calls."""
    best = math.inf
    for _ in range(rounds):
        begin = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - begin)
    return best


def compare(result: Result) -> None:
    """Prints the time of a local energy and of a gradient, and what happens at a singular term."""
    psi, x = result.psi, result.walkers
    difference = (local_energy_by_torch(psi, x) - psi.local_energy(x)).abs().max().item()

    def gradient(log_psi: Callable[[Tensor], Tensor]) -> None:
        torch.autograd.grad(log_psi(x).sum(), list(psi.parameters()), allow_unused=True)

    with torch.no_grad():
        ours = seconds(lambda: psi.local_energy(x))
    times = {
        "local energy": (seconds(lambda: local_energy_by_torch(psi, x)), ours),
        "gradient by parameters": (
            seconds(lambda: gradient(lambda x: log_psi_by_torch(psi, x))),
            seconds(lambda: gradient(psi.log_psi)),
        ),
    }
    print(f"{result.atom.name}, {len(x)} walkers; both local energies agree to {difference:.0e}")
    for name, (theirs, ours) in times.items():
        print(f"  {name}: torch.linalg {1e3 * theirs:.1f} ms, torchdet {1e3 * ours:.1f} ms")
    if psi.has_p:
        plane = x[:1].clone()
        plane[:, :, 2] = 0.0  # all electrons in the plane z = 0: the terms with 2p_z vanish
        try:
            theirs = f"{local_energy_by_torch(psi, plane).item():.4f}"
        except RuntimeError as error:
            theirs = f"raises: {str(error).splitlines()[0]}"
        print(f"  local energy of a walker in the plane z = 0: torchdet "
              f"{psi.local_energy(plane).item():.4f}; torch.linalg {theirs}")  # fmt: skip


def plot(results: list[Result], path: Path) -> None:
    """Energies over the steps, beside the literature's."""
    figure, axes = plt.subplots(1, len(results), figsize=(5.2 * len(results), 3.8), squeeze=False,
                                layout="constrained")  # fmt: skip
    for ax, result in zip(axes[0], results, strict=True):
        atom = result.atom
        ax.plot(result.history, color=BLUE, lw=0.8, label="energy of the walkers")
        ax.axhline(atom.exact, color=ORANGE, lw=1.5, label=f"exact {atom.exact:.4f}")
        ax.axhline(
            atom.hartree_fock, color=GREY, ls="--", label=f"Hartree-Fock {atom.hartree_fock:.4f}"
        )
        span = atom.hartree_fock - atom.exact
        ax.set(title=f"{atom.name}: {result.energy:.4f} ± {result.error:.4f} hartree",
               xlabel="step", ylim=(atom.exact - 1.5 * span, atom.exact + 4 * span))  # fmt: skip
        ax.legend()
    axes[0, 0].set_ylabel("hartree")
    save(figure, path)


def main(arguments: list[str] | None = None) -> list[Result]:
    """Trains both wave functions."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs/images"), help="for the figure")
    parser.add_argument("--atoms", nargs="+", default=list(ATOMS), choices=ATOMS)
    parser.add_argument("--walkers", type=count, default=1000)
    parser.add_argument("--steps", type=count, default=400, help="steps of training")
    parser.add_argument(
        "--measurements", type=count, default=400, help="of the energy, after training"
    )
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    torch.manual_seed(given.seed)
    results = []
    for name in given.atoms:
        result = optimise(ATOMS[name], given.walkers, given.steps, given.measurements)
        atom = result.atom
        share = (atom.hartree_fock - result.energy) / (atom.hartree_fock - atom.exact)
        print(f"{atom.name}: {result.energy:.5f} +- {result.error:.5f} hartree, "
              f"{100 * share:.0f} % of the correlation energy (exact {atom.exact:.6f}); "
              f"{100 * result.accepted:.0f} % of moves accepted")  # fmt: skip
        results.append(result)
    for result in results:
        compare(result)
    plot(results, given.out / "wave_function.png")
    return results


if __name__ == "__main__":
    main()
