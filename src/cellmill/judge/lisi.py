"""Local inverse Simpson's index: how many different values a cell's neighbourhood has, in effect.

Weights are exp(-precision × distance), the precision searched for until they have the perplexity.
Here the least distance is taken off first, which changes no share: where distances are large, as in many dimensions,
all weights would be 0 in floating point, and the search would end somewhere (as that of scib-metrics, in float32).
"""

from __future__ import annotations

import numba
import numpy as np

TOLERANCE = 1e-5
MOST_STEPS = 50


@numba.njit(cache=True, nogil=True)
def _lisi(
    distances: np.ndarray, rows: np.ndarray, codes: np.ndarray, n_codes: int, perplexity: float, out: np.ndarray
) -> None:
    n, k = rows.shape
    weights, share = np.empty(k), np.empty(n_codes)
    for i in range(n):
        least = np.inf
        for j in range(k):
            if rows[i, j] != i:
                least = min(least, distances[i, j])
        precision, low, high = 1.0, -np.inf, np.inf
        for step in range(MOST_STEPS + 1):
            total, sum_ = 0.0, 0.0
            for j in range(k):
                away = distances[i, j] - least
                weights[j] = 0.0 if rows[i, j] == i else np.exp(-away * precision)
                total += weights[j]
                sum_ += away * weights[j]
            excess = np.log(total) + precision * sum_ / total - np.log(perplexity)
            if abs(excess) < TOLERANCE or step == MOST_STEPS:
                break
            if excess > 0:
                low = precision
                precision = precision * 2 if high == np.inf else (precision + high) / 2
            else:
                high = precision
                precision = precision / 2 if low == -np.inf else (precision + low) / 2
        share[:] = 0.0
        for j in range(k):
            share[codes[rows[i, j]]] += weights[j] / total
        out[i] = 1 / (share * share).sum()


def lisi(distances: np.ndarray, rows: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """float64 (n,): from 1, all neighbours alike, to the number of different codes.

    Neighbours weigh by their distance, so that the perplexity of the weights is a third of their number.

    Args:
        distances: float64 (n, k), ``rows`` int64 (n, k): the nearest cells; the cell itself does not count.
        codes: int64 (n,), from 0.
    """
    out = np.empty(len(rows))
    _lisi(distances, rows, codes, int(codes.max()) + 1, float(rows.shape[1] // 3), out)
    return out
