"""Counts, normalised counts and their log1p over chosen genes, from CSR blocks."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numba
import numpy as np
import scipy.sparse as sp

from cellmill.errors import CellmillError

if TYPE_CHECKING:
    from cellmill.embedders.count_spec import ValueEmbedder

WHOLE = {"float32": (1 << 24) - 1, "float16": (1 << 11) - 1}
"""Up to this no other whole number becomes the same float."""


@numba.njit(cache=True, nogil=True)
def _fill(
    data: np.ndarray,
    indices: np.ndarray,
    indptr: np.ndarray,
    slots: np.ndarray,
    target_sum: float,
    log: bool,
    out: np.ndarray,
) -> None:
    for i in range(len(indptr) - 1):
        total = np.int64(0)
        for k in range(indptr[i], indptr[i + 1]):
            total += np.int64(data[k])
        for k in range(indptr[i], indptr[i + 1]):
            slot = slots[indices[k]]
            if slot >= 0:
                value = data[k] * (target_sum / total)
                out[i, slot] = np.log1p(value) if log else value


@numba.njit(cache=True, nogil=True)
def _fill_counts(data: np.ndarray, indices: np.ndarray, indptr: np.ndarray, slots: np.ndarray, out: np.ndarray) -> None:
    for i in range(len(indptr) - 1):
        for k in range(indptr[i], indptr[i + 1]):
            if slots[indices[k]] >= 0:
                out[i, slots[indices[k]]] = data[k]


def slots_of(columns: np.ndarray, n_genes: int) -> np.ndarray:
    """int32 (genes,): place of each gene among ``columns``, -1 for the others; a column below 0 is no gene."""
    slots = np.full(n_genes, -1, np.int32)
    there = columns >= 0
    slots[columns[there]] = np.flatnonzero(there)
    return slots


def gene_values(spec: ValueEmbedder, columns: np.ndarray, n_genes: int) -> Callable[[sp.csr_matrix], np.ndarray]:
    """A function from CSR counts (n, genes) to the values of ``columns``, float32 (n, len(columns)).

    The library size is the sum over all genes of the dataset, not only the chosen ones.
    A column below 0 is a gene that the dataset does not have: 0.
    """
    slots = slots_of(columns, n_genes)

    def values(counts: sp.csr_matrix) -> np.ndarray:
        out = np.zeros((counts.shape[0], len(columns)), np.float32)
        arrays = counts.data, counts.indices, counts.indptr, slots
        if spec.values == "counts":
            _fill_counts(*arrays, out)
            _check_whole(out, spec.dtype)
        else:
            _fill(*arrays, spec.target_sum, spec.values == "log1p", out)
        return out

    return values


def _check_whole(counts: np.ndarray, dtype: str) -> None:
    if counts.size and counts.max() > WHOLE[dtype]:
        raise CellmillError(
            "values: counts",
            f"a gene has {counts.max():,.0f} counts in a cell; {dtype} has no place for every whole number above "
            f"{WHOLE[dtype]:,}.",
            "Take dtype: float32, or values: log1p." if dtype == "float16" else "Take values: log1p.",
        )


def counts_of(counts: sp.csr_matrix, slots: np.ndarray, out: np.ndarray) -> None:
    """Counts of chosen genes into the first rows of ``out``, zeros (at least n, width), genes in their slots."""
    _fill_counts(counts.data, counts.indices, counts.indptr, slots, out)
