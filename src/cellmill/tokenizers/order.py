"""The order of a cell's genes by falling value: a radix sort that is exact and stable."""

from __future__ import annotations

import numba
import numpy as np

DIGITS = 2_048
_DIGIT = np.uint64(DIGITS - 1)
_PLACE = np.uint64(0xFFFFFFFF)


@numba.njit(cache=True, nogil=True)
def falling_order(
    values: np.ndarray, m: int, order: np.ndarray, spare: np.ndarray, low: np.ndarray, high: np.ndarray
) -> None:
    """Put into ``order[:m]`` the places of ``values[:m]`` by falling value; equal values keep their order.

    Args:
        values: float64, above 0 and finite, at most 2**32 of them.
        order, spare: uint64, at least as long; the place stands in the lower 32 bits of ``order`` when done.
        low, high: int32 (DIGITS,).

    The bits of positive floats rise with their value.
    So the distance of the bits from those of the largest value is sorted: its leading 22 bits by two stable passes
    of 11, and runs that agree in them by insertion, which compares whole values.
    Where that would take long (many values that nearly agree), the run is left to a stable merge sort.
    Equal to ``numpy.argsort(-values[:m], kind="stable")`` for all values.
    """
    if m == 0:
        return
    bits = values.view(np.uint64)
    top = bottom = bits[0]
    for j in range(m):
        top = max(top, bits[j])
        bottom = min(bottom, bits[j])
    shift = np.uint64(0)
    while ((top - bottom) >> shift) >= np.uint64(DIGITS * DIGITS):
        shift += np.uint64(1)
    low[:] = 0
    high[:] = 0
    for j in range(m):
        key = (top - bits[j]) >> shift
        order[j] = (key << np.uint64(32)) | np.uint64(j)
        low[np.int64(key & _DIGIT)] += 1
        high[np.int64(key >> np.uint64(11))] += 1
    low_start = high_start = 0
    for d in range(DIGITS):
        size = low[d]
        low[d] = low_start
        low_start += size
        size = high[d]
        high[d] = high_start
        high_start += size
    for j in range(m):
        digit = np.int64((order[j] >> np.uint64(32)) & _DIGIT)
        spare[low[digit]] = order[j]
        low[digit] += 1
    for j in range(m):
        digit = np.int64(spare[j] >> np.uint64(43))
        order[high[digit]] = spare[j]
        high[digit] += 1
    moves = 0
    for j in range(1, m):
        mine = order[j]
        if order[j - 1] >> np.uint64(32) != mine >> np.uint64(32):
            continue
        value = values[np.int64(mine & _PLACE)]
        place = j
        while place > 0 and values[np.int64(order[place - 1] & _PLACE)] < value:
            order[place] = order[place - 1]
            place -= 1
        order[place] = mine
        moves += j - place
        if moves > 16 * m:
            exact = np.argsort(-values[:m], kind="mergesort")
            for q in range(m):
                order[q] = np.uint64(exact[q])
            return


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
    order = np.empty(widest + 1, np.uint64)
    spare = np.empty(widest + 1, np.uint64)
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
            out[end] = tokens[first + np.int64(order[j] & _PLACE)]
            end += 1
        ends[i + 1] = end
    return ends, out[:end]
