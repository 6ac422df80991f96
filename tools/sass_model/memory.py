"""Memory as a warp sees it: contents, and what an access costs.

Shared memory has 32 banks of four bytes. What an access costs there is counted in wavefronts: one
is what the banks deliver in a clock. Words of 8 bytes are served to half the lanes at a time, words
of 16 bytes to a quarter, or to twice as many where each of these lanes shares its word with the
next one, or each with the next but one, lanes that take no part left out.
"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from .disassembly import SassError

LANES = 32
BANKS = 32
# Addresses of shared memory begin behind what the system keeps there.
SHARED_BASE = 0x400
# That of the block with rank r in its cluster begins at r << RANK_SHIFT.
RANK_SHIFT = 24
# The upper half of a generic address of shared memory; no other memory of the model is there.
SHARED_WINDOW = 0x7F00
SECTOR = 32  # bytes that travel together from block to block, and from the L2 cache


@dataclasses.dataclass
class Region:
    """Neighbouring words of memory, and which of them have been read or written."""

    name: str
    base: int
    words: np.ndarray  # uint32
    is_global: bool
    is_cached: bool = False  # all of it is in the L2 cache, and stays there
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
    remote_bytes: int = 0  # of the shared memory of other blocks of the cluster
    cached_bytes: int = 0  # of the L2 cache


class Memory:
    """All regions that a block can reach: its shared memory first."""

    def __init__(self, shared_bytes: int, rank: int = 0) -> None:
        base = SHARED_BASE + (rank << RANK_SHIFT)
        words = np.zeros(-(-shared_bytes // 4), np.uint32)
        self.shared = Region("shared memory", base, words, False)
        self.regions = [self.shared]
        self.rank, self.of_cluster = rank, [self.shared]  # by rank

    def add(self, name: str, base: int, values: np.ndarray, is_cached: bool = False) -> Region:
        """Global memory with these values in it, in their own format."""
        words = np.ascontiguousarray(values).reshape(-1).view(np.uint32)
        region = Region(name, base, words, True, is_cached)
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
        if int(at[0]) >> 32 == SHARED_WINDOW:
            return self._access_cluster(at, lanes, size, values)
        region = self._region_of(int(at[0]))
        result = np.zeros((max(size // 4, 1), LANES), np.uint32)
        result[:, lanes] = _move(region, at, lanes, size, values)
        if not region.is_global:
            return result, Cost(wavefronts(at - region.base, lanes, size), 0)
        clocks = -(-len(lanes) * size // 128)
        if region.is_cached:
            return result, Cost(clocks, 0, cached_bytes=_sector_bytes(at))
        touched = region.read if values is None else region.written
        before = np.count_nonzero(touched)
        touched[(at - region.base) // 4 + np.arange(max(size // 4, 1))[:, None]] = True
        return result, Cost(clocks, 4 * (np.count_nonzero(touched) - before))

    def _access_cluster(self, addresses: np.ndarray, lanes: np.ndarray, size: int,
                        values: np.ndarray | None) -> tuple[np.ndarray, Cost]:  # fmt: skip
        """Shared memory by generic addresses, of any block of the cluster."""
        if len(self.of_cluster) == 1:
            raise SassError("a generic access to shared memory, where there is no cluster")
        at = addresses & 0xFFFFFFFF
        ranks = at >> RANK_SHIFT
        if ranks.max() >= len(self.of_cluster):
            raise SassError(f"the cluster has no block {ranks.max()}")
        result = np.zeros((max(size // 4, 1), LANES), np.uint32)
        for rank in np.unique(ranks):
            here = ranks == rank
            words = _move(self.of_cluster[rank], at[here], lanes[here], size, values)
            result[:, lanes[here]] = words
        remote = _sector_bytes(at[ranks != self.rank])
        return result, Cost(-(-len(lanes) * size // 128), 0, remote)

    def _region_of(self, address: int) -> Region:
        for region in self.regions:
            if 0 <= address - region.base < 4 * len(region.words):
                return region
        raise SassError(f"nothing is at address {address:#x}")


def _move(region: Region, at: np.ndarray, lanes: np.ndarray, size: int,
          values: np.ndarray | None) -> np.ndarray:  # fmt: skip
    """What these lanes read or write: (words, lanes)."""
    offsets = at - region.base
    if (at % size).any() or offsets.min() < 0 or offsets.max() + size > 4 * len(region.words):
        raise SassError(f"bad address in {region.name}: {[hex(a) for a in at]}, {size} bytes")
    cells = region.words.view({1: np.uint8, 2: np.uint16}.get(size, np.uint32))
    index = offsets // cells.itemsize + np.arange(max(size // 4, 1))[:, None]
    if values is not None:
        cells[index] = np.broadcast_to(values, (len(index), LANES))[:, lanes]
    return cells[index]


def _sector_bytes(at: np.ndarray) -> int:
    return SECTOR * len(np.unique(at // SECTOR))


def wavefronts(addresses: np.ndarray, lanes: np.ndarray, size: int) -> int:
    """Of an access to shared memory by these lanes, `size` bytes each."""
    everywhere = np.full(LANES, -1, np.int64)
    everywhere[lanes] = addresses - addresses.min() // 4 * 4  # turns the banks, no more
    return _wavefronts(everywhere.tobytes(), size)


@functools.cache  # loops repeat their patterns
def _wavefronts(pattern: bytes, size: int) -> int:
    """Of the addresses of all lanes, -1 where one takes no part."""
    everywhere = np.frombuffer(pattern, np.int64)
    part = min(LANES, 4 * BANKS // size)  # lanes that are served together
    count = first = 0
    while first < LANES:
        both = everywhere[first : first + 2 * part]
        joins = size > 4 and first % (2 * part) == 0 and _share_words(both)
        served = both if joins else both[:part]
        words = served[served >= 0] // 4 + np.arange(max(size // 4, 1))[:, None]
        different = np.unique(words)
        if len(different):
            count += int(np.bincount(different % BANKS).max())
        first += len(served)
    return count


def _share_words(addresses: np.ndarray) -> bool:
    """Whether each lane that takes part has the address of the next one, or the next but one."""
    for partner in (1, 2):
        other = addresses[np.arange(len(addresses)) ^ partner]
        if ((addresses == other) | (addresses < 0) | (other < 0)).all():
            return True
    return False
