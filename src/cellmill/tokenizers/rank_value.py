"""Rank-value encoding: a cell's genes by falling expression over the gene's median. No Python per cell."""

from __future__ import annotations

import numba
import numpy as np
import pyarrow as pa
import scipy.sparse as sp

from cellmill.contracts.tokens import list_field
from cellmill.contracts.vocabulary import Vocabulary
from cellmill.tokenizers.encoder import Encoded, Rows, id_type, token_codes
from cellmill.tokenizers.order import DIGITS, falling_order


@numba.njit(cache=True, nogil=True)
def _encode(
    data: np.ndarray,
    indices: np.ndarray,
    indptr: np.ndarray,
    codes: np.ndarray,
    inverse_medians: np.ndarray,
    inverse_totals: np.ndarray,
    prefix: np.ndarray,
    suffix: np.ndarray,
    limit: int,
    n_tokens: int,
    out: np.ndarray,
    offsets: np.ndarray,
    expressed: np.ndarray,
) -> tuple[int, np.int64]:
    """Put the ids of all rows end to end into ``out``; stored values that have a token, and their sum."""
    n = len(indptr) - 1
    widest = 0
    for i in range(n):
        widest = max(widest, indptr[i + 1] - indptr[i])
    values = np.empty(widest + 1, np.float64)
    tokens = np.empty(widest + 1, np.int32)
    order = np.empty(widest + 1, np.uint64)
    spare = np.empty(widest + 1, np.uint64)
    low = np.empty(DIGITS, np.int32)
    high = np.empty(DIGITS, np.int32)
    place_of = np.full(n_tokens, -1, np.int32)
    summed = np.zeros(widest + 1, np.float32)
    column = np.zeros(widest + 1, np.int32)
    per_10_000 = np.float32(10_000.0)
    room = max(0, limit - len(prefix) - len(suffix))
    end, covered, counted = 0, 0, np.int64(0)
    for i in range(n):
        m, least = 0, 0
        for k in range(indptr[i], indptr[i + 1]):
            c = indices[k]
            code = codes[c]
            has = code >= 0
            least = min(least, code)
            # The published order: scaled in float32, then divided by the median in float64.
            scaled = np.float32(np.float32(np.float32(data[k]) * inverse_totals[i]) * per_10_000)
            values[m] = np.float64(scaled) * inverse_medians[c]
            tokens[m] = code
            m += has
            counted += np.int64(data[k]) * has
        covered += m
        if least < -1:  # columns that share a token are one gene, where the first of them stands: the cell once more
            m = 0
            for k in range(indptr[i], indptr[i + 1]):
                c = indices[k]
                code = codes[c]
                if code == -1:
                    continue
                q = m
                if code < -1:
                    covered += 1
                    counted += np.int64(data[k])
                    code = -2 - code
                    if place_of[code] >= 0:
                        q = place_of[code]
                    place_of[code] = q
                if q == m:
                    tokens[q], summed[q], column[q] = code, np.float32(0), c
                    m += 1
                summed[q] += np.float32(data[k])
                scaled = np.float32(np.float32(summed[q] * inverse_totals[i]) * per_10_000)
                values[q] = np.float64(scaled) * inverse_medians[column[q]]
            for j in range(m):
                place_of[tokens[j]] = -1
        falling_order(values, m, order, spare, low, high)
        for p in prefix:
            out[end] = p
            end += 1
        for j in range(min(m, room)):
            out[end] = tokens[np.int64(order[j] & np.uint64(0xFFFFFFFF))]
            end += 1
        for s in suffix:
            out[end] = s
            end += 1
        expressed[i] = m
        offsets[i + 1] = end
    return covered, counted


class RankValueEncoder:
    """Encode blocks of counts.

    Args:
        vocabulary: tokens and medians over the gene space.
        max_len_tokens: longest cell, special tokens included; the lowest ranks are cut.

    Source: Theodoris et al., Nature 2023 (https://doi.org/10.1038/s41586-023-06139-9).
    Equal values keep the order of the gene space.
    Counts of any type give the same tokens, as long as float32 holds them.
    """

    def __init__(self, vocabulary: Vocabulary, *, max_len_tokens: int) -> None:
        self._vocabulary, self._limit = vocabulary, max_len_tokens
        with np.errstate(divide="ignore"):
            self._inverse_medians = 1.0 / vocabulary.medians
        self._codes = token_codes(vocabulary.token_ids)
        self._n_tokens = max(vocabulary.tokens.values()) + 1
        self._dtype = id_type(vocabulary)
        self._prefix, self._suffix = (np.array(ids, np.int32) for ids in (vocabulary.prefix, vocabulary.suffix))
        self._room = max(0, max_len_tokens - len(self._prefix) - len(self._suffix))

    @property
    def fields(self) -> list[pa.Field]:
        return [list_field("input_ids", self._dtype)]

    def encode(self, counts: sp.csr_matrix, rows: Rows) -> Encoded:
        if counts.nnz and not counts.data.all():  # a stored zero is no count
            counts = counts.copy()
            counts.eliminate_zeros()
        n = counts.shape[0]
        around = len(self._prefix) + len(self._suffix)
        out = np.empty(counts.nnz + n * around, self._dtype)
        offsets, expressed = np.zeros(n + 1, np.int64), np.empty(n, np.int64)
        with np.errstate(divide="ignore"):
            inverse_totals = (1.0 / rows.totals.astype(np.float32).astype(np.float64)).astype(np.float32)
        covered, counted = _encode(
            counts.data,
            counts.indices,
            counts.indptr,
            self._codes,
            self._inverse_medians,
            inverse_totals,
            self._prefix,
            self._suffix,
            self._limit,
            self._n_tokens,
            out,
            offsets,
            expressed,
        )
        ids = pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(out[: offsets[-1]]), type=self.fields[0].type)
        return Encoded([ids], expressed, np.diff(offsets), expressed > self._room, covered, int(counted))
