"""A histogram per gene of its values, from which medians are read: whole numbers, so any grouping adds up to the same.

A value's bin is the upper half of it as a float32: 128 bins per power of two, so a median is right to within 0.4 %.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import scipy.sparse as sp

_BINS = 128
_LOWEST, _HIGHEST = (127 - 20) * _BINS, (127 + 15) * _BINS
"""Bins for 2^-20 (counts per 10,000 of a cell with ten thousand million counts) and 2^15, which nothing reaches."""
_TOGETHER = 9
"""2^9 genes whose values are gathered before they are counted, so that their bins are in the cache by then."""
_GATHERED = 1 << 18


@numba.njit(cache=True, nogil=True)
def _drain(gathered: np.ndarray, n: Any, first: Any, cells: np.ndarray) -> None:
    for k in range(n):
        gene, place = first + (gathered[k] >> 16), gathered[k] & 0xFFFF
        cells[place >> 7, gene, place & 127] += 1


@numba.njit(cache=True, nogil=True)
def _gather(
    data: np.ndarray,
    indices: np.ndarray,
    indptr: np.ndarray,
    factors: np.ndarray,
    gathered: np.ndarray,
    ends: np.ndarray,
    cells: np.ndarray,
) -> None:
    """Count the values ``data * factors`` of the rows whose factor is above 0."""
    for i in range(len(factors)):
        if factors[i] <= 0:
            continue
        for k in range(indptr[i], indptr[i + 1]):
            place = np.int64(np.float32(data[k] * factors[i]).view(np.uint32) >> 16) - _LOWEST
            if place < 0:
                place = np.int64(0)
            gene = np.uint32(indices[k])
            group = gene >> _TOGETHER
            end = ends[group]
            gathered[group, end] = (gene & (1 << _TOGETHER) - 1) << 16 | place
            ends[group] = end + 1
            if end + 1 == _GATHERED:
                _drain(gathered[group], _GATHERED, group << _TOGETHER, cells)
                ends[group] = 0


@numba.njit(cache=True, nogil=True)
def _count(cells: np.ndarray, used: np.ndarray, starts: np.ndarray) -> None:
    """``starts[g + 1]``: bins with a cell of all genes up to g."""
    for octave in used:
        for g in range(cells.shape[1]):
            for place in range(_BINS):
                starts[g + 1] += cells[octave, g, place] > 0
    for g in range(cells.shape[1]):
        starts[g + 1] += starts[g]


@numba.njit(cache=True, nogil=True)
def _list(cells: np.ndarray, used: np.ndarray, starts: np.ndarray, bins: np.ndarray, numbers: np.ndarray) -> None:
    ends = starts[:-1].copy()
    for octave in used:
        for g in range(cells.shape[1]):
            for place in range(_BINS):
                if cells[octave, g, place] > 0:
                    bins[ends[g]] = octave * _BINS + place + _LOWEST
                    numbers[ends[g]] = cells[octave, g, place]
                    ends[g] += 1


@numba.njit(cache=True, nogil=True)
def _middle(cells: np.ndarray, used: np.ndarray) -> np.ndarray:
    """The bin (genes,) of each gene's lower median; -1 where it has no value."""
    found = np.full(cells.shape[1], -1, np.int64)
    for g in range(cells.shape[1]):
        total = np.int64(0)
        for octave in used:
            for place in range(_BINS):
                total += cells[octave, g, place]
        seen = np.int64(0)
        for octave in used:
            for place in range(_BINS):
                seen += cells[octave, g, place]
                if found[g] < 0 and total > 0 and seen >= (total + 1) // 2:
                    found[g] = octave * _BINS + place + _LOWEST
    return found


@numba.njit(cache=True, nogil=True)
def _add_bins(cells: np.ndarray, starts: np.ndarray, bins: np.ndarray, numbers: np.ndarray) -> None:
    for g in range(len(starts) - 1):
        for k in range(starts[g], starts[g + 1]):
            place = np.int64(bins[k]) - _LOWEST
            cells[place >> 7, g, place & 127] += numbers[k]


class Histogram:
    """Cells by gene and bin.

    In memory uint32 (octaves, genes, 128). An octave in which no gene has a value is never touched and takes no room;
    a dozen octaves of 36,000 genes take 220 MB, however many cells there are, and values on their way another 75 MB.
    """

    def __init__(self, n_genes: int) -> None:
        self._cells = np.zeros(((_HIGHEST - _LOWEST) // _BINS, n_genes, _BINS), np.uint32)
        groups = (n_genes >> _TOGETHER) + 1
        self._gathered, self._ends = np.empty((groups, _GATHERED), np.uint32), np.zeros(groups, np.int64)

    def add(self, counts: sp.csr_matrix, factors: np.ndarray) -> None:
        """Count what is stored in CSR counts (n, genes) times its row's factor (n,); rows of factor 0 are left out.

        What is below 2^-20 counts as that.
        """
        _gather(counts.data, counts.indices, counts.indptr, factors, self._gathered, self._ends, self._cells)

    def add_bins(self, starts: np.ndarray, bins: np.ndarray, cells: np.ndarray) -> None:
        """Count what :meth:`bins` gave of another."""
        _add_bins(self._cells, starts, bins, cells)

    def bins(self) -> dict[str, np.ndarray]:
        """The bins that have a cell, rising, gene after gene.

        ``bin_starts`` (genes + 1,) int64: where each gene's begin; ``bins`` uint16: the upper halves of the float32;
        ``bin_cells`` uint32: the cells in each.
        """
        self._drain()
        used = self._used()
        starts = np.zeros(self._cells.shape[1] + 1, np.int64)
        _count(self._cells, used, starts)
        bins, cells = np.empty(starts[-1], np.uint16), np.empty(starts[-1], np.uint32)
        _list(self._cells, used, starts, bins, cells)
        return {"bin_starts": starts, "bins": bins, "bin_cells": cells}

    def medians(self) -> np.ndarray:
        """The lower median (genes,) of each gene's values, as the middle of its bin; NaN where it has none."""
        self._drain()
        found = _middle(self._cells, self._used())
        pattern = (found.astype(np.uint32) << 16) | np.uint32(1 << 15)
        return np.where(found >= 0, pattern.view(np.float32).astype(np.float64), np.nan)

    def _drain(self) -> None:
        for group, n in enumerate(self._ends):
            _drain(self._gathered[group], n, group << _TOGETHER, self._cells)
        self._ends[:] = 0

    def _used(self) -> np.ndarray:
        """Octaves in which a gene has a value."""
        return np.array([i for i, octave in enumerate(self._cells) if octave.any()], np.int64)
