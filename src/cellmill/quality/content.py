"""A hash of what a cell holds: the same for the same counts of the same genes, whatever the cell is called."""

from __future__ import annotations

import numba
import numpy as np
import scipy.sparse as sp

from cellmill.keys import hash_strings, mix64


def gene_keys(gene_ids: np.ndarray) -> np.ndarray:
    """Two keys per gene (2, genes), uint64, from its id alone."""
    ids = [str(gene) for gene in gene_ids]
    return np.stack([hash_strings(ids, seed=seed, purpose="content") for seed in (1, 2)])


@numba.njit(cache=True, nogil=True)
def _content(data: np.ndarray, indices: np.ndarray, indptr: np.ndarray, keys: np.ndarray) -> np.ndarray:
    out = np.zeros((2, len(indptr) - 1), np.uint64)
    for i in range(len(indptr) - 1):
        for k in range(indptr[i], indptr[i + 1]):
            count = np.uint64(data[k]) * np.uint64(0x9E3779B97F4A7C15)
            for lane in range(2):
                out[lane, i] += mix64(mix64(keys[lane, indices[k]] ^ count) + count)
    return out


def content_hashes(counts: sp.csr_matrix, keys: np.ndarray) -> np.ndarray:
    """128 bits per cell (2, cells) of CSR counts (cells, genes) without zeros, by :func:`gene_keys`.

    The sum over its genes of a hash of gene and count, so that neither the order of the genes nor those without a count
    matter. Two cells of other content have the same hash with a probability of 2^-128: among 100 million cells, any
    two with 10^-23. The hash is not made to resist someone who looks for twins on purpose.
    """
    found: np.ndarray = _content(counts.data, counts.indices, counts.indptr, keys)
    return found
