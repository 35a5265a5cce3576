"""Genes of a cell with a value each: counts gathered by token, laid out with a leading token. No Python per cell."""

from __future__ import annotations

import numba
import numpy as np
import scipy.sparse as sp

from cellmill.keys import mix64

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@numba.njit(cache=True, nogil=True)
def gather(
    data: np.ndarray, indices: np.ndarray, indptr: np.ndarray, codes: np.ndarray, n_tokens: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int, int]:
    """Counts by token: offsets (n + 1,), tokens int32 and counts int64 end to end, values that have a token, their sum.

    ``codes`` are those of ``token_codes``.
    Tokens stand in the order of the gene space; of several columns of one token, where the first with a count stands,
    and their counts add up.
    Stored zeros are no counts.
    """
    n = len(indptr) - 1
    offsets = np.zeros(n + 1, np.int64)
    tokens = np.empty(len(data) + 1, np.int32)
    counts = np.empty(len(data) + 1, np.int64)
    place_of = np.full(n_tokens, -1, np.int64)
    end, covered, counted = 0, 0, 0
    for i in range(n):
        first = end
        several = False
        for k in range(indptr[i], indptr[i + 1]):
            code = codes[indices[k]]
            x = np.int64(data[k])
            has = (code != -1) & (x > 0)
            covered += has
            counted += x * has
            if code < -1 and x > 0:
                several = True
                code = -2 - code
                place = place_of[code]
                if place >= 0:
                    counts[place] += x
                    continue
                place_of[code] = end
            tokens[end] = code
            counts[end] = x
            end += has
        if several:
            for place in range(first, end):
                place_of[tokens[place]] = -1
        offsets[i + 1] = end
    return offsets, tokens[:end], counts[:end], covered, counted


def gathered(
    counts: sp.csr_matrix, codes: np.ndarray, n_tokens: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int, int]:
    """``gather`` of a block."""
    found: tuple[np.ndarray, np.ndarray, np.ndarray, int, int] = gather(
        counts.data, counts.indices, counts.indptr, codes, n_tokens
    )
    return found


@numba.njit(cache=True, nogil=True)
def shuffled(key: np.uint64, n: int, k: int, places: np.ndarray) -> None:
    """Put a uniform random choice of ``k`` of the places 0 to ``n`` - 1, in random order, into ``places[:k]``.

    It depends on ``key``, ``n`` and ``k`` alone (Fisher and Yates, numbers by splitmix64).
    """
    for j in range(n):
        places[j] = j
    state = key
    for j in range(k):
        state += _GOLDEN
        other = j + np.int64(mix64(state) % np.uint64(n - j))
        places[j], places[other] = places[other], places[j]


@numba.njit(cache=True, nogil=True)
def lay_out(
    offsets: np.ndarray,
    tokens: np.ndarray,
    values: np.ndarray,
    keys: np.ndarray,
    lead: int,
    lead_value: float,
    limit: int,
    shuffle: bool,
    genes: np.ndarray,
    expressions: np.ndarray,
    ends: np.ndarray,
) -> None:
    """Each cell's genes and values behind its leading token, at most ``limit`` in all.

    Args:
        lead: the leading token, -1 for none, with ``lead_value``.
        limit: longest cell, 0 for none; of a longer one, genes are drawn by the cell's key, and keep their order.
        shuffle: put the genes into an order drawn by the cell's key.
        genes, expressions, ends: filled; ``ends`` (n + 1,) are the offsets.
    """
    n = len(offsets) - 1
    widest = 0
    for i in range(n):
        widest = max(widest, offsets[i + 1] - offsets[i])
    places = np.empty(widest + 1, np.int64)
    chosen = np.zeros(widest + 1, np.bool_)
    end = 0
    for i in range(n):
        first, m = offsets[i], offsets[i + 1] - offsets[i]
        if lead >= 0:
            genes[end] = lead
            expressions[end] = lead_value
            end += 1
        room = m if limit == 0 else min(m, limit - (lead >= 0))
        if shuffle:
            shuffled(keys[i], m, room, places)
            for j in range(room):
                genes[end + j] = tokens[first + places[j]]
                expressions[end + j] = values[first + places[j]]
            end += room
        elif room < m:
            shuffled(keys[i], m, room, places)
            chosen[:m] = False
            for j in range(room):
                chosen[places[j]] = True
            for j in range(m):
                genes[end] = tokens[first + j]
                expressions[end] = values[first + j]
                end += chosen[j]
        else:
            for j in range(m):
                genes[end + j] = tokens[first + j]
                expressions[end + j] = values[first + j]
            end += m
        ends[i + 1] = end


@numba.njit(cache=True, nogil=True)
def with_zeros(
    offsets: np.ndarray, tokens: np.ndarray, values: np.ndarray, all_tokens: np.ndarray, n_tokens: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same cells with every token of ``all_tokens``, in that order, those that a cell has not with the value 0."""
    n, width = len(offsets) - 1, len(all_tokens)
    place_of = np.zeros(n_tokens, np.int64)
    for j in range(width):
        place_of[all_tokens[j]] = j
    every = np.empty(n * width, np.int32)
    out = np.zeros(n * width, values.dtype)
    for i in range(n):
        every[i * width : (i + 1) * width] = all_tokens
        for k in range(offsets[i], offsets[i + 1]):
            out[i * width + place_of[tokens[k]]] = values[k]
    return np.arange(n + 1) * width, every, out
