"""The first warps of a kernel, run on usual matrices; their results are checked.

Its matrices are permutations plus noise: pivots differ from matrix to matrix, and nothing is near
what a kernel treats in a slow way. So the path of a warp is the usual one. Where a warp owns
matrices, the first warp stands for all of a block. Where a block or a cluster owns one, all its
warps run, each to its next barrier in turn: what they read of each other does not depend on who is
first, unless the kernel has a race.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from elftools.elf.elffile import ELFFile

from . import comparisons, floating_point, integers, lanes  # noqa: F401 (fill the table)
from .disassembly import Code, SassError
from .launches import LU, Launch, launch
from .memory import LANES, SHARED_WINDOW, Memory
from .operations import Bind, bind
from .warp import Arrival, Step, Warp

# Where the parameters of a kernel begin in constant bank 0, by architecture.
PARAMETERS = {"sm_90": 0x210}
# And where a kernel finds 1 if its blocks form clusters.
HAS_CLUSTERS = {"sm_90": 0x140}
MATRICES, OTHERS, RESULTS = 0x10_0000_0000, 0x20_0000_0000, 0x30_0000_0000
EPSILON = {"float32": 2.0**-23, "float64": 2.0**-52, "complex64": 2.0**-23, "complex128": 2.0**-52}


class Case(NamedTuple):
    """An operator on matrices of one kind."""

    op: str
    dtype: str
    n: int

    @property
    def name(self) -> str:
        """The key in the record."""
        return f"{self.op} {self.dtype} n={self.n}"

    def launch(self) -> Launch:
        """Of the kernel that serves it."""
        others = OTHERS if self.op not in ("det", LU) else 0
        return launch(self.op, self.dtype, self.n, MATRICES, others, RESULTS)


def usual_matrices(case: Case, count: int) -> np.ndarray:
    """P + noise, P a permutation: determinants near 1, a pivot near 1 in every column."""
    generator = np.random.default_rng(case.n)
    noise = generator.uniform(-0.25, 0.25, (count, case.n, case.n)) / case.n**0.5
    if case.dtype.startswith("complex"):
        noise = noise * (1 + 0.5j)
    rows = np.array([generator.permutation(case.n) for _ in range(count)])
    matrices = noise + (rows[:, :, None] == np.arange(case.n))
    return matrices.astype(case.dtype)


def constant_banks(cubin: Path, code: Code, how: Launch,
                   architecture: str) -> dict[int, bytes]:  # fmt: skip
    """Bank 0: sizes of the launch and its parameters; others as in the file."""
    launch = np.zeros(PARAMETERS[architecture] // 4, np.uint32)
    launch[:6] = how.threads, 1, 1, how.blocks, 1, 1
    launch[HAS_CLUSTERS[architecture] // 4] = how.cluster_size > 1
    banks = {0: launch.tobytes() + how.parameter}
    with cubin.open("rb") as file:
        for section in ELFFile(file).iter_sections():
            kind, _, kernel = section.name.removeprefix(".nv.constant").partition(".")
            if (
                section.name.startswith(".nv.constant")
                and kernel in ("", code.name)
                and kind != "0"
            ):
                banks[int(kind)] = section.data()
    return banks


def other_arguments(case: Case, count: int) -> np.ndarray:
    """Gradients, or directions as the matrices are."""
    if case.op.endswith("hvp"):
        return np.roll(usual_matrices(case, count), 1, axis=-1)
    return np.linspace(1, 2, count).astype(case.dtype)


def check(case: Case, matrices: np.ndarray, others: np.ndarray, found: np.ndarray) -> None:
    """Against LAPACK in double precision.

    A norm of the inverse is below 4 here and that of a matrix below 1.5, so no kernel can err by
    more than some n^2 units in the last place; what the model rounds twice is less. A trace of n
    terms makes n^3 of that for second derivatives.

    Raises:
        SassError: The instructions do not compute what they should: the model errs.
    """
    exact = matrices.astype(np.complex128 if np.iscomplexobj(matrices) else np.float64)
    expected = np.linalg.det(exact)
    if case.op == "det_backward":
        conjugate = np.linalg.inv(exact).conj().swapaxes(-1, -2) * expected.conj()[:, None, None]
        expected = others[:, None, None] * conjugate
    elif case.op == "slogdet_hvp":  # whose first argument is conj(A^-T)
        expected = -(exact.conj() @ others.swapaxes(-1, -2) @ exact.conj())
    elif case.op == "det_hvp":
        X, Z = np.linalg.inv(exact).swapaxes(-1, -2), others.astype(exact.dtype)
        trace = (X * Z).sum((-1, -2), keepdims=True)
        expected = expected[:, None, None] * (trace * X - X @ Z.swapaxes(-1, -2) @ X)
    scale = abs(expected).max(axis=tuple(range(1, expected.ndim)), keepdims=True)
    error = (abs(found - expected) / np.maximum(scale, EPSILON[case.dtype])).max()  # of n = 1, 0
    power = 3 if case.op == "det_hvp" else 2
    if not error <= 64 * case.n**power * EPSILON[case.dtype]:
        raise SassError(f"{case.name}: run by the model, the kernel's results err by {error:.1e}")


def check_lu(case: Case, columns: np.ndarray, factors: np.ndarray, exchanges: np.ndarray) -> None:
    """P A = L U, of the transpose of a matrix: columns lie one after the other.

    Raises:
        SassError: The instructions do not compute what they should: the model errs.
    """
    lu, permuted = factors.T.astype(np.complex128), columns.T.copy()
    for k, other in enumerate(exchanges - 1):  # LAPACK's, from 1 on
        permuted[[k, other]] = permuted[[other, k]]
    product = (np.tril(lu, -1) + np.eye(case.n)) @ np.triu(lu)
    error = abs(product - permuted).max()
    if not error <= 64 * case.n * EPSILON[case.dtype]:
        raise SassError(f"{case.name}: run by the model, L U errs by {error:.1e}")


def execute(case: Case, how: Launch, cubin: Path, code: Code, static_shared: int = 0,
            architecture: str = "sm_90") -> list[list[Step]]:  # fmt: skip
    """What warps of the first block do: the first, or all where they share a matrix.

    Of a cluster, those of its blocks one after the other.

    Raises:
        SassError: The model does not know the kernel's code, or errs.
    """
    warps = how.threads // LANES
    if how.matrices_per_block % warps == 0:
        warps, count = 1, how.matrices_per_block // warps
    elif how.matrices_per_block == 1:
        count = 1
    else:
        raise SassError("warps share some of the matrices")
    matrices = usual_matrices(case, count)
    others = other_arguments(case, count)
    shape = (count,) if case.op == "det" else matrices.shape
    results = np.full(shape, np.nan, case.dtype)
    if case.op == LU:
        results = np.zeros((count, case.n), np.int32)
    memories = [Memory(static_shared + how.shared_bytes, r) for r in range(how.cluster_size)]
    factors = memories[0].add("the matrices", MATRICES, matrices.copy(), case.op == LU)
    memories[0].add("the other arguments", OTHERS, others)
    written = memories[0].add("the results", RESULTS, results)
    for memory in memories:
        memory.regions[1:] = memories[0].regions[1:]
        memory.of_cluster = [of_block.shared for of_block in memories]
    constants = constant_banks(cubin, code, how, architecture)
    blocks = [
        [Warp(code, memory, constants, special_registers(w, rank)) for w in range(warps)]
        for rank, memory in enumerate(memories)
    ]
    with np.errstate(all="ignore"):
        run_blocks(blocks, bind)
    found = written.words.view(results.dtype).reshape(results.shape)
    if case.op == LU:
        check_lu(
            case, matrices[0], factors.words.view(case.dtype).reshape(case.n, case.n), found[0]
        )
    else:
        check(case, matrices, others, found)
    return [warp.steps for block in blocks for warp in block]


def special_registers(warp: int, block: int = 0) -> dict[str, np.ndarray]:
    """Those of a warp of the first blocks, whose number is their rank in the cluster."""
    lane = np.arange(LANES, dtype=np.uint32)
    return {
        "SR_TID.X": lane + np.uint32(LANES * warp),
        "SR_LANEID": lane,
        "SR_SWINHI": np.full(1, SHARED_WINDOW, np.uint32),
        **dict.fromkeys(("SR_CTAID.X", "SR_CgaCtaId"), np.full(1, block, np.uint32)),
        **dict.fromkeys(("SR_TID.Y", "SR_TID.Z", "SRZ"), np.zeros(1, np.uint32)),
    }


def run_blocks(blocks: Sequence[Sequence[Warp]], bind: Bind) -> None:
    """Runs the warps of a block, or of all blocks of a cluster, each to its next barrier in turn.

    Raises:
        SassError: Warps wait for each other for ever.
    """
    warps = [(number, warp.run(bind)) for number, block in enumerate(blocks) for warp in block]
    ready = list(range(len(warps)))
    at_block: dict[tuple[int, int], list[int]] = {}  # who waits, by block and barrier
    at_cluster: list[int] = []
    arrivals = [0] * len(warps)  # at the barrier of the cluster
    while ready:
        warp = ready.pop()
        block, path = warps[warp]
        if (barrier := next(path, None)) is None:
            continue
        if isinstance(barrier, Arrival):
            here = at_block.setdefault((block, barrier.barrier), [])
            here.append(warp)
            if len(here) == barrier.warps:
                ready += at_block.pop((block, barrier.barrier))
            continue
        if barrier.waits:
            at_cluster.append(warp)
        else:
            arrivals[warp] += 1
            ready.append(warp)
        met = min(arrivals)
        ready += [w for w in at_cluster if arrivals[w] <= met]
        at_cluster = [w for w in at_cluster if arrivals[w] > met]
    if at_cluster:
        raise SassError("warps wait at the barrier of the cluster for ever")
    if at_block:
        barriers = sorted(barrier for _, barrier in at_block)
        raise SassError(f"warps wait at the barriers {barriers} of the block for ever")
