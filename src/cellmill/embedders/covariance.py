"""Sums and products over the training cells of a part: what the PCA is fitted on.

A cell has counts in a few hundred of the variable genes, so that its products are added pair by pair:
tens of thousands of additions, where a matrix product takes p² for p genes.
"""

from __future__ import annotations

from os import PathLike

import numba
import numpy as np

from cellmill.ahead import ahead
from cellmill.contracts.counts import CountsPart
from cellmill.contracts.genes import read_genes, variable_columns, write_arrays
from cellmill.contracts.versions import COVARIANCE
from cellmill.embedders.normalize import slots_of
from cellmill.embedders.pca import GRID_BITS
from cellmill.progress import progress

BLOCK_ROWS = 4_096
"""A value is below 2^25.3 (the logarithm of 10,001 on the grid), so that a block's products stay below 2^63."""


@numba.njit(cache=True, nogil=True)
def _add(
    data: np.ndarray,
    indices: np.ndarray,
    indptr: np.ndarray,
    training: np.ndarray,
    slots: np.ndarray,
    grid: float,
    sums: np.ndarray,
    products: np.ndarray,
) -> None:
    """Add a block: ``sums`` int64 (p,), ``products`` int64 (p, p), of which the upper triangle is used."""
    width = len(sums)
    places, values = np.empty(width, np.int64), np.empty(width, np.int64)
    for i in range(len(indptr) - 1):
        if not training[i]:
            continue
        total = np.int64(0)
        for k in range(indptr[i], indptr[i + 1]):
            total += np.int64(data[k])
        n = 0
        for k in range(indptr[i], indptr[i + 1]):
            slot = slots[indices[k]]
            if slot >= 0:
                value = np.int64(np.rint(np.log1p(data[k] * (10_000.0 / total)) * grid))
                places[n], values[n] = slot, value
                sums[slot] += value
                n += 1
        for a in range(n):
            row, value = products[places[a]], values[a]
            for b in range(a, n):
                row[places[b]] += value * values[b]


def measure_covariance(
    processed: str | PathLike[str],
    *,
    genes: str | PathLike[str],
    n_genes: int,
    out: str | PathLike[str],
    threads: int = 1,
) -> None:
    """Sums and products of the training cells of one part over the variable genes, as whole numbers.

    Args:
        n_genes: how many of the variable genes, by rank.
        out: the file, contract ``covariance``.

    Memory: one block, and three square matrices of int64 over the genes.
    """
    table, _ = read_genes(genes)
    columns = np.sort(variable_columns(table, n_genes))
    slots = slots_of(columns, len(table))
    p = len(columns)
    upper = np.triu_indices(p)
    sums, high, low = np.zeros(p, np.int64), np.zeros((p, p), np.int64), np.zeros((p, p), np.int64)
    with CountsPart(processed, threads=threads) as part, progress(part.n_cells, "cells", "covariance") as counter:
        training = (part.column("split") == "train").to_numpy()
        blocks = part.blocks(BLOCK_ROWS)
        for start, stop, counts in blocks if threads == 1 else ahead(blocks):
            products = np.zeros((p, p), np.int64)
            _add(
                counts.data,
                counts.indices,
                counts.indptr,
                training[start:stop],
                slots,
                2.0**GRID_BITS,
                sums,
                products,
            )
            high += products >> 32
            low += products & 0xFFFFFFFF
            counter.update(stop - start)
    arrays = {"columns": columns, "sums": sums, "high": high[upper], "low": low[upper]}
    write_arrays(out, {"n": np.array([training.sum()], np.int64), **arrays}, str(COVARIANCE))
