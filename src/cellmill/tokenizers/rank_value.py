"""Rank-value encoding: a cell's genes by falling expression over the gene's median. No Python per cell."""

from __future__ import annotations

from typing import Any

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
    out: np.ndarray,
    offsets: np.ndarray,
    expressed: np.ndarray,
) -> tuple[int, np.int64]:
    """Put the ids of all rows end to end into ``out``; stored values that have a token, and their sum.

    ``codes`` (genes,) are those of ``token_codes``, ``inverse_medians`` (tokens,).
    A stored zero is no count.
    """
    n = len(indptr) - 1
    widest = 0
    for i in range(n):
        widest = max(widest, indptr[i + 1] - indptr[i])
    values = np.empty(widest + 1, np.float64)
    tokens = np.empty(widest + 1, codes.dtype)
    counts = np.empty(widest + 1, data.dtype)
    order = np.empty(widest + 1, np.uint32)
    spare = np.empty(widest + 1, np.uint32)
    low = np.empty(DIGITS, np.int32)
    high = np.empty(DIGITS, np.int32)
    place_of = np.full(len(inverse_medians), -1, np.int32)
    summed = np.zeros(widest + 1, np.float32)
    per_10_000 = np.float32(10_000.0)
    room = max(0, limit - len(prefix) - len(suffix))
    end, covered, counted = 0, 0, np.int64(0)
    for i in range(n):
        found, least = np.uint64(0), np.int64(0)
        for k in range(indptr[i], indptr[i + 1]):
            code = codes[np.uint32(indices[k])]
            least = min(least, np.int64(code))
            tokens[found], counts[found] = code, data[k]
            found += np.uint64((code >= 0) & (data[k] != 0))
        m: Any = np.int64(found)
        for j in range(m):
            counted += np.int64(counts[j])
            # The published order: scaled in float32, then divided by the median in float64.
            scaled = np.float32(np.float32(np.float32(counts[j]) * inverse_totals[i]) * per_10_000)
            values[j] = np.float64(scaled) * inverse_medians[np.uint32(tokens[j])]
        covered += m
        if least < -1:  # columns that share a token are one gene, where the first of them stands: the cell once more
            m = 0
            for k in range(indptr[i], indptr[i + 1]):
                code = codes[indices[k]]
                if code == -1 or data[k] == 0:
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
                    tokens[q], summed[q] = code, np.float32(0)
                    m += 1
                summed[q] += np.float32(data[k])
                scaled = np.float32(np.float32(summed[q] * inverse_totals[i]) * per_10_000)
                values[q] = np.float64(scaled) * inverse_medians[code]
            for j in range(m):
                place_of[tokens[j]] = -1
        falling_order(values, m, order, spare, low, high)
        for p in prefix:
            out[end] = p
            end += 1
        for j in range(min(m, room)):
            out[end + j] = tokens[order[j]]
        end += min(m, room)
        for s in suffix:
            out[end] = s
            end += 1
        expressed[i] = m
        offsets[i + 1] = end
    return covered, counted


class RankValueEncoder:
    """Encode blocks of counts.

    Args:
        vocabulary: tokens and medians over the gene space; genes of one token have one median.
        max_len_tokens: longest cell, special tokens included; the lowest ranks are cut.

    Source: Theodoris et al., Nature 2023 (https://doi.org/10.1038/s41586-023-06139-9).
    Equal values keep the order of the gene space.
    Counts of any type give the same tokens, as long as float32 holds them.
    """

    def __init__(self, vocabulary: Vocabulary, *, max_len_tokens: int) -> None:
        self._vocabulary, self._limit = vocabulary, max_len_tokens
        n_tokens = max(vocabulary.tokens.values()) + 1
        there = vocabulary.token_ids >= 0
        self._inverse_medians = np.ones(n_tokens)
        with np.errstate(divide="ignore"):
            self._inverse_medians[vocabulary.token_ids[there]] = 1.0 / vocabulary.medians[there]
        # Both tables together, as small as they can be: they are read at random for every value.
        self._codes = token_codes(vocabulary.token_ids).astype(np.int16 if n_tokens < (1 << 15) - 1 else np.int32)
        self._dtype = id_type(vocabulary)
        self._prefix, self._suffix = (np.array(ids, np.int32) for ids in (vocabulary.prefix, vocabulary.suffix))
        self._room = max(0, max_len_tokens - len(self._prefix) - len(self._suffix))

    @property
    def fields(self) -> list[pa.Field]:
        return [list_field("input_ids", self._dtype)]

    def encode(self, counts: sp.csr_matrix, rows: Rows) -> Encoded:
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
            out,
            offsets,
            expressed,
        )
        ids = pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(out[: offsets[-1]]), type=self.fields[0].type)
        return Encoded([ids], expressed, np.diff(offsets), expressed > self._room, covered, int(counted))
