"""The order of a cell's genes by falling value: a radix sort that is exact and stable."""

from __future__ import annotations

import numba
import numpy as np

DIGITS = 256
_DIGIT, _BYTE, _HALF, _TOP = (np.uint32(n) for n in (DIGITS - 1, 8, 16, 24))
_PLACE = np.uint32(0xFFFF)
_PLACES = 1 << 16


@numba.njit(cache=True, nogil=True)
def falling_order(
    values: np.ndarray, m: int, order: np.ndarray, spare: np.ndarray, low: np.ndarray, high: np.ndarray
) -> None:
    """Put into ``order[:m]`` the places of ``values[:m]`` by falling value; equal values keep their order.

    Args:
        values: float64, above 0 and finite.
        order, spare: uint32, at least as long.
        low, high: int32 (DIGITS,).

    The bits of positive floats rise with their value.
    So the distance of the bits from those of the largest value is sorted: its leading 16 bits by two stable passes
    of 8, with the place beside them, and runs that agree in them by insertion, which compares whole values.
    Tables and lists of a cell then lie in the first cache.
    Where that would take long (many values that nearly agree, or more than 65,536), a stable merge sort does it.
    Equal to ``numpy.argsort(-values[:m], kind="stable")`` for all values.
    """
    if m == 0:
        return
    if m > _PLACES:
        _by_merging(values, m, order)
        return
    bits = values.view(np.uint64)
    top = bottom = bits[0]
    for j in range(m):
        top = max(top, bits[j])
        bottom = min(bottom, bits[j])
    shift = np.uint64(0)
    while ((top - bottom) >> shift) >= np.uint64(_PLACES):
        shift += np.uint64(1)
    low[:] = 0
    high[:] = 0
    for j in range(m):
        key = np.uint32((top - bits[j]) >> shift)
        order[j] = (key << _HALF) | np.uint32(j)
        low[key & _DIGIT] += np.int32(1)
        high[key >> _BYTE] += np.int32(1)
    low_start = high_start = np.int32(0)
    for d in range(DIGITS):
        size = low[d]
        low[d] = low_start
        low_start += size
        size = high[d]
        high[d] = high_start
        high_start += size
    for j in range(m):
        digit = (order[j] >> _HALF) & _DIGIT
        spare[np.uint32(low[digit])] = order[j]
        low[digit] += np.int32(1)
    for j in range(m):
        digit = spare[j] >> _TOP
        order[np.uint32(high[digit])] = spare[j]
        high[digit] += np.int32(1)
    moves = 0
    for j in range(1, m):
        mine = order[j]
        if order[j - 1] >> _HALF != mine >> _HALF:
            continue
        value = values[mine & _PLACE]
        place = j
        while place > 0 and values[order[place - 1] & _PLACE] < value:
            order[place] = order[place - 1]
            place -= 1
        order[place] = mine
        moves += j - place
        if moves > 16 * m:
            _by_merging(values, m, order)
            return
    for j in range(m):
        order[j] &= _PLACE


@numba.njit(cache=True, nogil=True)
def _by_merging(values: np.ndarray, m: int, order: np.ndarray) -> None:
    exact = np.argsort(-values[:m], kind="mergesort")
    for j in range(m):
        order[j] = exact[j]


@numba.njit(cache=True, nogil=True)
def top_tokens(
    offsets: np.ndarray, tokens: np.ndarray, counts: np.ndarray, limit: int
) -> tuple[np.ndarray, np.ndarray]:
    """Each cell's tokens by falling count, at most ``limit``, equal counts in the order given: offsets and tokens."""
    n = len(offsets) - 1
    widest = 0
    for i in range(n):
        widest = max(widest, offsets[i + 1] - offsets[i])
    values = np.empty(widest + 1, np.float64)
    order = np.empty(widest + 1, np.uint32)
    spare = np.empty(widest + 1, np.uint32)
    low = np.empty(DIGITS, np.int32)
    high = np.empty(DIGITS, np.int32)
    out = np.empty(len(tokens), np.int32)
    ends = np.zeros(n + 1, np.int64)
    end = 0
    for i in range(n):
        first, m = offsets[i], offsets[i + 1] - offsets[i]
        for j in range(m):
            values[j] = counts[first + j]
        falling_order(values, m, order, spare, low, high)
        for j in range(min(m, limit)):
            out[end] = tokens[first + order[j]]
            end += 1
        ends[i + 1] = end
    return ends, out[:end]
