"""log1p of counts per 10,000 over chosen genes, from CSR blocks."""

from __future__ import annotations

import numba
import numpy as np
import scipy.sparse as sp


@numba.njit(cache=True, nogil=True)
def _fill(data: np.ndarray, indices: np.ndarray, indptr: np.ndarray, slots: np.ndarray, out: np.ndarray) -> None:
    for i in range(len(indptr) - 1):
        total = np.int64(0)
        for k in range(indptr[i], indptr[i + 1]):
            total += np.int64(data[k])
        for k in range(indptr[i], indptr[i + 1]):
            slot = slots[indices[k]]
            if slot >= 0:
                out[i, slot] = np.log1p(data[k] * (10_000.0 / total))


def slots_of(columns: np.ndarray, n_genes: int) -> np.ndarray:
    """int32 (genes,): place of each gene among ``columns``, -1 for the others."""
    slots = np.full(n_genes, -1, np.int32)
    slots[columns] = np.arange(len(columns), dtype=np.int32)
    return slots


def log_normalized(counts: sp.csr_matrix, slots: np.ndarray, width: int) -> np.ndarray:
    """float64 (n, width): log1p of counts per 10,000 of the cell, genes in their slots.

    The library size is the sum over all genes of the dataset, not only the chosen ones.
    """
    out = np.zeros((counts.shape[0], width), np.float64)
    _fill(counts.data, counts.indices, counts.indptr, slots, out)
    return out


@numba.njit(cache=True, nogil=True)
def _scatter(data: np.ndarray, indices: np.ndarray, indptr: np.ndarray, slots: np.ndarray, out: np.ndarray) -> None:
    for i in range(len(indptr) - 1):
        for k in range(indptr[i], indptr[i + 1]):
            slot = slots[indices[k]]
            if slot >= 0:
                out[i, slot] = data[k]


def counts_of(counts: sp.csr_matrix, slots: np.ndarray, out: np.ndarray) -> None:
    """Counts of chosen genes into the first rows of ``out``, zeros (at least n, width), genes in their slots."""
    _scatter(counts.data, counts.indices, counts.indptr, slots, out)
