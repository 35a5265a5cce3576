"""Project log-normalised counts onto components, row by row in a fixed order of operations.

A matrix product may round a row differently in another block; this does not.
"""

from __future__ import annotations

import numba
import numpy as np
import scipy.sparse as sp


@numba.njit(cache=True, nogil=True)
def _project(
    data: np.ndarray,
    indices: np.ndarray,
    indptr: np.ndarray,
    slots: np.ndarray,
    components: np.ndarray,
    offset: np.ndarray,
    target_sum: float,
    out: np.ndarray,
) -> None:
    for i in range(len(indptr) - 1):
        total = np.int64(0)
        for k in range(indptr[i], indptr[i + 1]):
            total += np.int64(data[k])
        row = -offset
        for k in range(indptr[i], indptr[i + 1]):
            slot = slots[indices[k]]
            if slot >= 0:
                value = np.log1p(data[k] * (target_sum / total))
                for c in range(len(row)):
                    row[c] += value * components[slot, c]
        for c in range(len(row)):
            out[i, c] = row[c]


def project(
    counts: sp.csr_matrix, slots: np.ndarray, components: np.ndarray, offset: np.ndarray, target_sum: float
) -> np.ndarray:
    """float32 (n, k): log1p of normalised counts on ``components`` (genes, k), less ``offset`` (k,): the mean."""
    out = np.empty((counts.shape[0], len(offset)), np.float32)
    _project(counts.data, counts.indices, counts.indptr, slots, components, offset, target_sum, out)
    return out
