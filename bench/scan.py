"""Cases drawn at random from all that users may ask for, to find where torchdet is slowest."""

from __future__ import annotations

import random

import torch

from bench.cases import HVP, LAYOUTS, OPS, RECORDED, Case

SEED = 1
DRAWS = 200
LARGEST_N = 1100
LARGEST_BATCH = 1_000_000
MOST_BYTES = 64 << 20  # of A
MOST_FLOPS = 4e9  # a fraction of a second

_DTYPES = (torch.float32, torch.float64, torch.complex64, torch.complex128)


def _log_uniform(source: random.Random, most: float) -> int:
    """As likely between 1 and 2 as between most / 2 and most."""
    return int(most ** source.random())


def scan_cases(draws: int, largest_n: int) -> list[Case]:
    """Orders, batches, dtypes, layouts, regular and singular matrices: always the same ones."""
    source = random.Random(SEED)
    cases: list[Case] = []
    while len(cases) < draws:
        n, dtype = _log_uniform(source, LARGEST_N), source.choice(_DTYPES)
        op = source.choice((*OPS, RECORDED, HVP))
        # The logarithm of a zero determinant has no derivative, and is itself infinite.
        singular = not op.startswith("slogdet") and source.random() < 0.3
        case = Case("scan", op, n, dtype, 1, source.choice(LAYOUTS), singular)
        most = min(LARGEST_BATCH, MOST_BYTES // case.input_bytes, MOST_FLOPS // case.flops)
        batch = _log_uniform(source, max(1, most))
        if n <= largest_n:
            cases.append(Case("scan", op, n, dtype, batch, case.layout, singular))
    return cases
