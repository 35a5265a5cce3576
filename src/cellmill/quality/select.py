"""Exact order statistics of more values than fit into memory: per group, in a few passes over a scratch file.

Values become whole numbers of 64 bits in the same order. A value of a given rank lies between the least and the
greatest of its group; each pass counts the values in equal bins of what is left of that range, and goes on in the bin
with the rank. When few values are left between all ends, these are read and sorted.

Memory: ``BINS`` counters and at most ``CANDIDATES`` values, some 100 MB, for any number of values.
Disk: 12 bytes per value. Passes: three or four for 100 million values, and no more than 64 bits / bits of a bin.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numba
import numpy as np

BINS = 1 << 21
CANDIDATES = 1 << 21
CHUNK = 1 << 18
_SIGN = np.uint64(1 << 63)


class Spill:
    """Values with the code of their group, appended to two scratch files and read back in chunks."""

    def __init__(self, folder: Path, name: str, dtype: type[np.generic]) -> None:
        self.dtype = np.dtype(dtype)
        self._paths = folder / f"{name}.codes", folder / f"{name}.values"
        for path in self._paths:
            path.write_bytes(b"")

    def append(self, codes: np.ndarray, values: np.ndarray) -> None:
        """Add values (n,) of groups ``codes`` (n,), 0 and up."""
        for path, array, dtype in zip(self._paths, (codes, values), (np.dtype(np.int32), self.dtype), strict=True):
            with open(path, "ab") as stream:
                stream.write(np.ascontiguousarray(array, dtype).data)

    def chunks(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """All of them, in the order in which they came."""
        with open(self._paths[0], "rb") as codes, open(self._paths[1], "rb") as values:
            while len(some := np.fromfile(codes, np.int32, CHUNK)):
                yield some, np.fromfile(values, self.dtype, CHUNK)

    def close(self) -> None:
        """Give the disk space back."""
        for path in self._paths:
            path.unlink()


def sortable(values: np.ndarray) -> np.ndarray:
    """uint64 (n,) in the order of float64 values (n,) without NaN; ``-0.0`` is ``0.0``."""
    bits = (values.astype(np.float64) + 0.0).view(np.uint64)
    keys: np.ndarray = np.where(bits & _SIGN, ~bits, bits | _SIGN)
    return keys


def unsortable(keys: np.ndarray) -> np.ndarray:
    """The float64 values (n,) of :func:`sortable` keys (n,)."""
    bits = np.where(keys & _SIGN, keys ^ _SIGN, ~keys).astype(np.uint64)
    return bits.view(np.float64)


@numba.njit(cache=True, nogil=True)
def _extremes(codes: np.ndarray, keys: np.ndarray, n: np.ndarray, low: np.ndarray, high: np.ndarray) -> None:
    for i in range(len(codes)):
        g = codes[i]
        n[g] += 1
        low[g] = min(low[g], keys[i])
        high[g] = max(high[g], keys[i])


@numba.njit(cache=True, nogil=True)
def _count(
    codes: np.ndarray,
    keys: np.ndarray,
    first: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    shift: np.ndarray,
    heights: np.ndarray,
) -> None:
    """Add to ``heights`` (queries, bins) the values in the range of each query; those of group g begin at first[g]."""
    for i in range(len(codes)):
        for q in range(first[codes[i]], first[codes[i] + 1]):
            if low[q] <= keys[i] <= high[q]:
                heights[q, np.int64((keys[i] - low[q]) >> shift[q])] += 1


@numba.njit(cache=True, nogil=True)
def _gather(
    codes: np.ndarray,
    keys: np.ndarray,
    first: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    at: np.ndarray,
    out: np.ndarray,
) -> None:
    """Put the values of each query's range to ``out``, from ``at[q]`` on."""
    for i in range(len(codes)):
        for q in range(first[codes[i]], first[codes[i] + 1]):
            if low[q] < high[q] and low[q] <= keys[i] <= high[q]:
                out[at[q]] = keys[i]
                at[q] += 1


def group_sizes(spill: Spill, groups: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Per group: the number of values (int64), the least and the greatest key (uint64). One pass."""
    n = np.zeros(groups, np.int64)
    low, high = np.full(groups, 2**64 - 1, np.uint64), np.zeros(groups, np.uint64)
    for codes, keys in spill.chunks():
        _extremes(codes, keys, n, low, high)
    return n, low, high


def select(
    spill: Spill, groups: np.ndarray, ranks: np.ndarray, sizes: tuple[np.ndarray, np.ndarray, np.ndarray]
) -> np.ndarray:
    """The keys (queries,) of given ranks, from 0, within their groups; ``groups`` (queries,) must not fall.

    ``spill`` holds uint64 keys, ``sizes`` is what :func:`group_sizes` says of it.
    """
    n, least, greatest = sizes
    first = np.searchsorted(groups, np.arange(len(n) + 1)).astype(np.int64)
    low, high, left = least[groups], greatest[groups], n[groups]
    rank = ranks.astype(np.int64).copy()
    bits = max(1, (BINS // max(1, len(groups))).bit_length() - 1)
    while left[low < high].sum() > CANDIDATES:
        width = [int(h) - int(lo) for lo, h in zip(low, high, strict=True)]
        shift = np.array([max(0, w.bit_length() - bits) for w in width], np.uint64)
        heights = np.zeros((len(groups), 1 << bits), np.int64)
        for codes, keys in spill.chunks():
            _count(codes, keys, first, low, high, shift, heights)
        for q in range(len(rank)):
            reached = np.cumsum(heights[q])
            bin_ = int(np.searchsorted(reached, rank[q], side="right"))
            rank[q] -= reached[bin_] - heights[q, bin_]
            left[q] = heights[q, bin_]
            begins = int(low[q]) + (bin_ << int(shift[q]))
            low[q], high[q] = begins, min(int(high[q]), begins + (1 << int(shift[q])) - 1)
    wanted = np.where(low < high, left, 0)
    begin = np.concatenate([[0], np.cumsum(wanted)]).astype(np.int64)
    found, at = np.empty(begin[-1], np.uint64), begin[:-1].copy()
    if len(found):
        for codes, keys in spill.chunks():
            _gather(codes, keys, first, low, high, at, found)
    keys = low.copy()
    for query in np.flatnonzero(wanted):
        keys[query] = np.partition(found[begin[query] : begin[query + 1]], rank[query])[rank[query]]
    return keys


def medians(spill: Spill, groups: int) -> tuple[np.ndarray, np.ndarray]:
    """Number of values (int64) and median (float64) of each group, as numpy's; NaN where there is no value.

    ``spill`` holds :func:`sortable` keys.
    """
    sizes = group_sizes(spill, groups)
    n = sizes[0]
    there = np.flatnonzero(n)
    queries = np.repeat(there, 2)
    ranks = np.stack([(n[there] - 1) // 2, n[there] // 2], axis=1).ravel()
    middle = unsortable(select(spill, queries, ranks, sizes)).reshape(-1, 2)
    found = np.full(groups, np.nan)
    found[there] = np.where(n[there] % 2, middle[:, 0], middle.mean(axis=1))
    return n, found
