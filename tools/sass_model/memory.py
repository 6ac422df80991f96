"""Memory as a warp sees it: contents, and what an access costs.

Shared memory has 32 banks of four bytes. What an access costs there is counted in wavefronts: one
is what the banks deliver in a clock. A warp's access to words of 8 bytes takes half the lanes at a
time, to words of 16 bytes a quarter, unless each lane shares its word with the next one or the next
but one, or that one takes no part: then twice as many.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from .disassembly import SassError

LANES = 32
BANKS = 32
# Addresses of shared memory begin behind what the system keeps there.
SHARED_BASE = 0x400
# The upper half of a generic address of shared memory; no other memory of the model is there.
SHARED_WINDOW = 0x7F00


@dataclasses.dataclass
class Region:
    """Neighbouring words of memory, and which of them have been read or written."""

    name: str
    base: int
    words: np.ndarray  # uint32
    is_global: bool
    read: np.ndarray = dataclasses.field(init=False)
    written: np.ndarray = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        self.read = np.zeros(len(self.words), bool)
        self.written = np.zeros(len(self.words), bool)


@dataclasses.dataclass(frozen=True, slots=True)
class Cost:
    """What one access of a warp costs."""

    wavefronts: int  # of the pipe that all of the SM's memory instructions share
    new_bytes: int  # that have to come from global memory, or go there, for the first time


class Memory:
    """All regions."""

    def __init__(self, shared_bytes: int) -> None:
        self.shared = Region(
            "shared memory", SHARED_BASE, np.zeros(-(-shared_bytes // 4), np.uint32), False
        )
        self.regions = [self.shared]

    def add(self, name: str, base: int, values: np.ndarray) -> Region:
        """Global memory with these values in it, in their own format."""
        region = Region(name, base, np.ascontiguousarray(values).reshape(-1).view(np.uint32), True)
        self.regions.append(region)
        return region

    def access(self, addresses: np.ndarray, mask: np.ndarray | None, size: int,
               values: np.ndarray | None) -> tuple[np.ndarray, Cost]:  # fmt: skip
        """Reads `size` bytes per lane, or writes `values`: (words, lanes) either way.

        Raises:
            SassError: An address is not aligned, or nothing is there.
        """
        lanes = np.arange(LANES) if mask is None else np.flatnonzero(mask)
        at = np.broadcast_to(addresses, LANES)[lanes]
        region = self._region_of(int(at[0]))
        offsets = at - region.base
        if (at % size).any() or offsets.min() < 0 or offsets.max() + size > 4 * len(region.words):
            raise SassError(f"bad address in {region.name}: {[hex(a) for a in at]}, {size} bytes")
        parts = max(size // 4, 1)
        index = offsets // 4 + np.arange(parts)[:, None]
        result = np.zeros((parts, LANES), np.uint32)
        if values is None:
            result[:, lanes] = region.words[index]
            touched = region.read
        else:
            region.words[index] = np.broadcast_to(values, (parts, LANES))[:, lanes]
            touched = region.written
        if not region.is_global:
            return result, Cost(wavefronts(at, lanes, size), 0)
        before = np.count_nonzero(touched)
        touched[index] = True
        new = 4 * (np.count_nonzero(touched) - before)
        return result, Cost(-(-len(lanes) * size // 128), new)

    def _region_of(self, address: int) -> Region:
        if address >> 32 == SHARED_WINDOW:
            raise SassError("a generic access to shared memory")
        for region in self.regions:
            if 0 <= address - region.base < 4 * len(region.words):
                return region
        raise SassError(f"nothing is at address {address:#x}")


def wavefronts(addresses: np.ndarray, lanes: np.ndarray, size: int) -> int:
    """Of an access to shared memory by these lanes, `size` bytes each."""
    at_once = min(LANES, 128 // size)
    if at_once < LANES:
        everywhere = np.full(LANES, -1, np.int64)
        everywhere[lanes] = addresses
        for partner in (1, 2):
            other = everywhere[np.arange(LANES) ^ partner]
            if ((everywhere == other) | (everywhere < 0) | (other < 0)).all():
                at_once *= 2
                break
    count = 0
    for first in range(0, LANES, at_once):
        words = addresses[(lanes >= first) & (lanes < first + at_once)] // 4
        if size > 4:
            words = words + np.arange(size // 4)[:, None]
        different = np.unique(words)
        if len(different):
            count += int(np.bincount(different % BANKS).max())
    return count
