"""Rank-value encoding: a cell's genes by falling expression over the gene's median. No Python per cell."""

from __future__ import annotations

import numba
import numpy as np
import pyarrow as pa
import scipy.sparse as sp

from cellmill.contracts.vocabulary import Vocabulary


@numba.njit(cache=True, nogil=True)
def _encode(
    data: np.ndarray,
    indices: np.ndarray,
    indptr: np.ndarray,
    token_ids: np.ndarray,
    inverse_medians: np.ndarray,
    inverse_totals: np.ndarray,
    prefix: np.ndarray,
    suffix: np.ndarray,
    limit: int,
    n_tokens: int,
) -> tuple[np.ndarray, np.ndarray, int, int]:
    """Token ids of all rows end to end, offsets (n + 1,), cells cut, stored values that have a token."""
    n = len(indptr) - 1
    out = np.empty(len(data) + n * (len(prefix) + len(suffix)), np.int32)
    offsets = np.zeros(n + 1, np.int64)
    summed = np.zeros(n_tokens, np.float32)
    column = np.zeros(n_tokens, np.int32)
    room = limit - len(prefix) - len(suffix)
    end, cut, covered = 0, 0, 0
    for i in range(n):
        lo, hi = indptr[i], indptr[i + 1]
        seen = np.empty(hi - lo, np.int32)
        m = 0
        for k in range(lo, hi):
            t = token_ids[indices[k]]
            if t < 0:
                continue
            covered += 1
            if summed[t] == 0:
                seen[m] = t
                column[t] = indices[k]
                m += 1
            summed[t] += np.float32(data[k])
        falling = np.empty(m, np.float64)
        for j in range(m):
            t = seen[j]
            # The published order: scaled in float32, then divided by the median in float64.
            scaled = np.float32(np.float32(summed[t] * inverse_totals[i]) * np.float32(10_000.0))
            falling[j] = -(np.float64(scaled) * inverse_medians[column[t]])
            summed[t] = 0
        order = np.argsort(falling, kind="mergesort")
        for p in prefix:
            out[end] = p
            end += 1
        for j in range(min(m, room)):
            out[end] = seen[order[j]]
            end += 1
        for s in suffix:
            out[end] = s
            end += 1
        cut += m > room
        offsets[i + 1] = end
    return out[:end], offsets, cut, covered


class RankValueEncoder:
    """Encode blocks of counts.

    Args:
        vocabulary: tokens and medians over the gene space.
        max_len_tokens: longest cell, special tokens included; the lowest ranks are cut.

    Source: Theodoris et al., Nature 2023 (https://doi.org/10.1038/s41586-023-06139-9).
    Equal values keep the order of the gene space.
    """

    def __init__(self, vocabulary: Vocabulary, *, max_len_tokens: int) -> None:
        self.vocabulary, self.max_len_tokens = vocabulary, max_len_tokens
        with np.errstate(divide="ignore"):
            self._inverse_medians = 1.0 / vocabulary.medians
        self._n_tokens = max(vocabulary.tokens.values()) + 1
        self.cut, self.covered, self.values, self.empty, self.n_ids = 0, 0, 0, 0, 0

    def encode(self, counts: sp.csr_matrix, totals: np.ndarray) -> pa.LargeListArray:
        """Tokens of each row of CSR counts (n, genes), whose library sizes are ``totals`` (n,)."""
        with np.errstate(divide="ignore"):
            inverse_totals = (1.0 / totals.astype(np.float32).astype(np.float64)).astype(np.float32)
        ids, offsets, cut, covered = _encode(
            counts.data,
            counts.indices,
            counts.indptr,
            self.vocabulary.token_ids,
            self._inverse_medians,
            inverse_totals,
            np.array(self.vocabulary.prefix, np.int32),
            np.array(self.vocabulary.suffix, np.int32),
            self.max_len_tokens,
            self._n_tokens,
        )
        around = len(self.vocabulary.prefix) + len(self.vocabulary.suffix)
        self.cut += cut
        self.covered += covered
        self.values += counts.nnz
        self.n_ids += len(ids)
        self.empty += int((np.diff(offsets) == around).sum())
        return pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(ids, pa.int32()))

    def facts(self) -> dict[str, int]:
        """What was seen so far: cells cut and empty, stored values with and without a token, tokens in all."""
        return {
            "cells_cut": int(self.cut),
            "cells_empty": self.empty,
            "values": self.values,
            "values_with_token": int(self.covered),
            "input_ids": self.n_ids,
        }
