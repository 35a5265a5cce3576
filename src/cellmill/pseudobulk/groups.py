"""Pieces of profiles: groups of cells, sums of counts that stay sparse, columns that are constant in a group."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import scipy.sparse as sp

from cellmill.sources.annotate import as_keys


def groups_of(columns: Sequence[pa.Array]) -> tuple[np.ndarray, list[str]]:
    """The group of each row (rows,), -1 where a column has no value; and the groups, each a JSON list of its values."""
    texts = [as_keys(values) for values in columns]
    there = np.logical_and.reduce([values.is_valid().to_numpy(zero_copy_only=False) for values in texts])
    codes = np.full(len(there), -1, np.int64)
    found = pd.MultiIndex.from_arrays([t.to_numpy(zero_copy_only=False)[there] for t in texts])
    codes[there], named = pd.factorize(found)
    return codes, [json.dumps(list(values), ensure_ascii=False) for values in named]


def constants(codes: np.ndarray, n_groups: int, values: pa.Array) -> tuple[pa.Array, np.ndarray]:
    """The value that all rows of a group have (groups,), missing where they differ; and where they differ (groups,).

    A missing value is another one than any that is there. ``codes`` (rows,) are the groups, 0 and up; each has a row.
    """
    coded = pc.dictionary_encode(values, null_encoding="encode")
    same = coded.indices.to_numpy(zero_copy_only=False)
    least, most = np.full(n_groups, len(values), np.int64), np.full(n_groups, -1, np.int64)
    np.minimum.at(least, codes, same)
    np.maximum.at(most, codes, same)
    differs: np.ndarray = least != most
    return pc.if_else(pa.array(differs), pa.scalar(None, values.type), coded.dictionary.take(pa.array(least))), differs


def lowest(codes: np.ndarray, keys: np.ndarray, n: int) -> np.ndarray:
    """The rows of the ``n`` lowest keys (rows,) uint64 of each group, by group and key; groups below 0 have none."""
    order = np.lexsort((keys, codes))
    order = order[codes[order] >= 0]
    mine = codes[order]
    rank = np.arange(len(order)) - np.searchsorted(mine, mine)
    chosen: np.ndarray = order[rank < n]
    return chosen


class Sums:
    """A sum of sparse matrices of whole numbers, of which few are kept at once.

    Two of like size become one, as in a binary counter, so that every value is added up some twenty times at most.
    """

    def __init__(self, groups: int, genes: int) -> None:
        self._shape = (groups, genes)
        self._pending: list[sp.csr_matrix] = []

    def add(self, codes: np.ndarray, counts: sp.csr_matrix) -> None:
        """Add rows (n, genes) to the groups ``codes`` (n,); those below 0 to none."""
        rows = np.flatnonzero(codes >= 0)
        place = sp.csr_matrix((np.ones(len(rows), np.int64), (codes[rows], rows)), (self._shape[0], counts.shape[0]))
        added = place @ counts.astype(np.int64)
        added.sort_indices()
        self._pending.append(added)
        while len(self._pending) > 1 and self._pending[-2].nnz <= 2 * self._pending[-1].nnz:
            last = self._pending.pop()
            self._pending[-1] = self._pending[-1] + last

    def total(self) -> sp.csr_matrix:
        """The sum (groups, genes), int64, sorted."""
        total = sp.csr_matrix(self._shape, dtype=np.int64)
        while self._pending:
            total = total + self._pending.pop()
        return total
