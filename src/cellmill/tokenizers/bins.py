"""Counts to bins: by the cell's own quantiles, or by fixed edges. No Python per cell."""

from __future__ import annotations

import numba
import numpy as np

from cellmill.keys import mix64

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
SMALL = 1_024
"""Counts below are ranked by counting them, others by sorting."""


@numba.njit(cache=True, nogil=True)
def quantile_bins(
    offsets: np.ndarray, tokens: np.ndarray, counts: np.ndarray, keys: np.ndarray, n_edges: int
) -> np.ndarray:
    """int16: the bin, from 1 to ``n_edges``, of each count (all above 0) among its cell's quantiles.

    Edge j of 0 to n_edges - 1 is the quantile j / (n_edges - 1), linear between neighbours.
    Of n sorted counts, a value that stands at the places a to b - 1 is therefore
    above the edges with j (n - 1) < a (n_edges - 1), and not below those with j (n - 1) <= (b - 1) (n_edges - 1):
    whole numbers, so that nothing is rounded.
    """
    out = np.empty(len(counts), np.int16)
    number = np.zeros(SMALL, np.int64)
    for i in range(len(offsets) - 1):
        lo, hi = offsets[i], offsets[i + 1]
        n = hi - lo
        if n == 0:
            continue
        number[:] = 0
        large = 0
        for k in range(lo, hi):
            if counts[k] < SMALL:
                number[counts[k]] += 1
            else:
                large += 1
        below = np.int64(0)
        for x in range(SMALL):
            here = number[x]
            number[x] = below
            below += here
        ranked = np.empty(large, np.int64)
        q = 0
        for k in range(lo, hi):
            if counts[k] >= SMALL:
                ranked[q] = counts[k]
                q += 1
        ranked.sort()
        for k in range(lo, hi):
            x = counts[k]
            if x < SMALL:
                a = number[x]
                b = number[x + 1] if x + 1 < SMALL else below
            else:
                a = below + np.searchsorted(ranked, x, side="left")
                b = below + np.searchsorted(ranked, x, side="right")
            if n == 1:
                right, left = np.int64(0), np.int64(n_edges)
            else:
                right = -((-a * (n_edges - 1)) // (n - 1))
                left = (b - 1) * (n_edges - 1) // (n - 1) + 1
            chosen = left
            if left > right + 1:
                drawn = mix64(keys[i] + np.uint64(tokens[k] + 1) * _GOLDEN)
                chosen = right + 1 + np.int64(drawn % np.uint64(left - right))
            out[k] = chosen
    return out


@numba.njit(cache=True, nogil=True)
def fixed_bins(
    data: np.ndarray,
    indices: np.ndarray,
    indptr: np.ndarray,
    places: np.ndarray,
    edges: np.ndarray,
    out: np.ndarray,
    expressed: np.ndarray,
) -> tuple[int, np.int64]:
    """Put the bin of every gene into ``out`` (n, genes), zeros to begin with; values that have a place, and their sum.

    ``places`` (columns,): where a column stands in ``out``, -1 for nowhere.
    The bin of a count is the number of ``edges``, rising from 0, that are not above it, less 1.
    """
    covered, counted = 0, np.int64(0)
    for i in range(len(indptr) - 1):
        found = 0
        for k in range(indptr[i], indptr[i + 1]):
            place = places[indices[k]]
            x = np.int64(data[k])
            if place < 0 or x == 0:
                continue
            found += 1
            counted += x
            b = 0
            while b + 1 < len(edges) and edges[b + 1] <= x:
                b += 1
            out[i, place] = b
        expressed[i] = found
        covered += found
    return covered, counted
