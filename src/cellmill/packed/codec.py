"""Rows of counts to records and back; ``docs/formats.md`` (packed) says what a record is.

A gene that many cells have costs least as one bit of every cell, and a rarer one as the number of rare genes that are
passed over to reach it, nearly always a byte. Most counts are 1, 2 or 3 and take two bits.
Both kinds rise by gene. How many of the one are below one of the other is counted by bits, so that nothing is sorted.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numba
import numpy as np
from numba import carray  # type: ignore[attr-defined]

from cellmill.packed.bits import ones, pointer, trailing_zeros, xxh64

SLACK = 32
"""How far beyond its last value ``decode`` writes: room that arrays of results must have."""
_SKIP = 255
_ESCAPES, _LOW = np.uint64(0x5555555555555555), np.uint64(0xFFFFFFFF)
_ONE, _TWO, _3, _4, _6, _7, _EIGHT, _32, _63, _64 = (np.uint64(n) for n in (1, 2, 3, 4, 6, 7, 8, 32, 63, 64))
_127, _255 = np.uint64(127), np.uint64(255)


def numbered(frequent: np.ndarray) -> np.ndarray:
    """int32 (genes,): the place of each gene among the frequent ones, or -1 - its place among the others."""
    places = np.where(frequent, np.cumsum(frequent) - 1, -np.cumsum(~frequent))
    return places.astype(np.int32)


def tables(frequent: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The genes of either kind by place, the frequent ones and the others, in the smallest type, to stay in caches."""
    dtype = np.uint16 if len(frequent) <= 1 << 16 else np.uint32
    return np.flatnonzero(frequent).astype(dtype), np.flatnonzero(~frequent).astype(dtype)


@lru_cache
def small_counts(dtype: np.dtype[Any]) -> np.ndarray:
    """(1024,): the counts that each octet of four codes stands for; 4 where the count is escaped."""
    octets = np.arange(256)
    return ((octets[:, None] >> np.array([0, 2, 4, 6]) & 3) + 1).astype(dtype).ravel()


@numba.njit(cache=True, nogil=True)
def encode(
    offsets: np.ndarray, genes: np.ndarray, counts: np.ndarray, places: np.ndarray, n_frequent: int, first_row: int
) -> tuple[np.ndarray, np.ndarray]:
    """Records of rows as words (uint64), and where each begins (n + 1, int64, in words).

    Args:
        offsets: (n + 1) of ``genes`` (rising within a row) and ``counts`` (at least 1, at most 2^32 - 1).
        places: what ``numbered`` returns.
        first_row: number of the first row within its split.
    """
    n_rows, n_genes = len(offsets) - 1, len(places)
    bitmap = (n_frequent + 63) // 64
    most = 0
    for row in range(n_rows):
        n = offsets[row + 1] - offsets[row]
        most += 1 + bitmap + (n + 31) // 32 + (6 * n + n_genes // _SKIP + 8) // 8
    words = np.zeros(most, np.uint64)
    octets = words.view(np.uint8)
    starts = np.zeros(n_rows + 1, np.int64)
    escaped = np.empty(5 * n_genes, np.uint8)
    for row in range(n_rows):
        head = starts[row]
        start, stop = offsets[row], offsets[row + 1]
        n = stop - start
        codes = head + 1 + bitmap
        at = 8 * (codes + (n + 31) // 32)
        here, n_escaped = np.int64(0), 0
        for i in range(start, stop):
            place = np.int64(places[genes[i]])
            if place >= 0:
                words[head + 1 + (place >> 6)] |= _ONE << np.uint64(place & 63)
            else:
                rare = -place - 1
                gap = rare - here
                while gap >= _SKIP:
                    octets[at] = _SKIP
                    gap -= _SKIP
                    at += 1
                octets[at] = gap
                at += 1
                here = rare + 1
            count = np.uint64(counts[i])
            code = np.uint64(min(count - _ONE, np.uint64(3)))
            words[codes + ((i - start) >> 5)] |= code << np.uint64(2 * ((i - start) & 31))
            if code == 3:
                left = count - np.uint64(4)
                while left >= 128:
                    escaped[n_escaped] = np.uint8((left & np.uint64(127)) | np.uint64(128))
                    left >>= np.uint64(7)
                    n_escaped += 1
                escaped[n_escaped] = np.uint8(left)
                n_escaped += 1
        octets[at : at + n_escaped] = escaped[:n_escaped]
        end = (at + n_escaped + 7) // 8
        seed = np.uint64(n) << np.uint64(32) | np.uint64((first_row + row) & 0xFFFFFFFF)
        words[head] = np.uint64(n) << np.uint64(32) | xxh64(words, head + 1, end, seed) & np.uint64(0xFFFFFFFF)
        starts[row + 1] = end
    return words[: starts[n_rows]], starts


@numba.njit(cache=True, nogil=True)
def lengths(
    rows: np.ndarray, files: np.ndarray, rows_per_file: int, bitmap: int, n_genes: int, indptr: np.ndarray
) -> int:
    """Where the values of each row will stand (n + 1); -1, or which of ``rows`` has an impossible record.

    Args:
        files: (files, 3) uint64: address, words before the index, rows.
    """
    for i in range(len(rows)):
        file, row = rows[i] // rows_per_file, rows[i] % rows_per_file
        end = np.int64(files[file, 1])
        index = carray(pointer(files[file, 0] + np.uint64(8 * end)), files[file, 2] + 1, np.uint32)
        head, stop = np.int64(index[row]), np.int64(index[row + 1])
        if head < 8 or stop > end or stop < head + 1 + bitmap:
            return i
        words = carray(pointer(files[file, 0]), end, np.uint64)
        n = np.int64(words[head] >> np.uint64(32))
        if n > n_genes or (n + 31) // 32 > stop - head - 1 - bitmap:
            return i
        indptr[i + 1] = indptr[i] + n
    return -1


@numba.njit(cache=True, nogil=True)
def decode(
    rows: np.ndarray,
    files: np.ndarray,
    rows_per_file: int,
    frequent: np.ndarray,
    others: np.ndarray,
    small: np.ndarray,
    indptr: np.ndarray,
    indices: np.ndarray,
    values: np.ndarray,
) -> int:
    """Fill ``indices`` and ``values``, rows end to end; -1, or which of ``rows`` is not as it was written.

    Unsigned numbers throughout: numba asks of signed ones whether they count from the end.

    Args:
        files, indptr: as in ``lengths``.
        frequent, others: what ``tables`` returns.
        small: what ``small_counts`` returns for the type of ``values``.
        indices, values: room for ``indptr[-1] + SLACK``.
    """
    bitmap = (len(frequent) + 63) // 64
    bits = np.zeros(bitmap + 1, np.uint64)
    before = np.zeros(bitmap + 2, np.uint64)  # how many bits are set in the words before
    taken = np.zeros((len(frequent) + len(others)) // 64 + 2, np.uint64)  # places of rare genes in the row
    for i in range(len(rows)):
        file, row = rows[i] // rows_per_file, rows[i] % rows_per_file
        end = files[file, 1]
        index = carray(pointer(files[file, 0] + np.uint64(8) * end), files[file, 2] + _ONE, np.uint32)
        words = carray(pointer(files[file, 0]), end, np.uint64)
        octets = carray(pointer(files[file, 0]), np.uint64(8) * end, np.uint8)
        head, stop = np.int64(index[row]), np.int64(index[row + 1])
        n = indptr[i + 1] - indptr[i]
        seed = np.uint64(n) << _32 | np.uint64(rows[i] & 0xFFFFFFFF)
        if (words[head] ^ xxh64(words, head + 1, stop, seed)) & _LOW:
            return i
        out = np.uint64(indptr[i])
        for w in range(bitmap):
            bits[w] = words[head + 1 + w]
            before[w + 1] = before[w] + ones(bits[w])
        codes = head + 1 + bitmap
        n_codes = (n + 31) // 32
        at = np.uint64(8 * (codes + n_codes))
        n_rare = np.uint64(n) - before[bitmap]
        # Where a rare gene stands among all: after the rare ones before it and the frequent ones below it.
        here, rare = np.uint64(0), np.uint64(0)
        block, mask = np.uint64(0), np.uint64(0)
        while rare < n_rare:
            gap = np.uint64(octets[at])
            at += _ONE
            here += gap
            if gap == _255:
                continue
            gene = np.uint64(others[here])
            below = gene - here  # frequent genes below it
            here += _ONE
            word = bits[below >> _6] & ((_ONE << (below & _63)) - _ONE)
            place = rare + before[below >> _6] + ones(word)
            indices[out + place] = gene
            if place >> _6 != block:
                taken[block] = mask
                block, mask = place >> _6, np.uint64(0)
            mask |= _ONE << (place & _63)
            rare += _ONE
        taken[block] = mask
        # Frequent genes stand in the places that are left.
        block, base = np.uint64(0), out
        free = ~taken[0]
        taken[0] = 0
        for w in range(bitmap):
            word = bits[w]
            first = np.uint64(64 * w)
            while word:
                while not free:
                    block += _ONE
                    base += _64
                    free = ~taken[block]
                    taken[block] = 0
                indices[base + trailing_zeros(free)] = frequent[first + trailing_zeros(word)]
                free &= free - _ONE
                word &= word - _ONE
        for b in range(block + _ONE, np.uint64(n) // _64 + _ONE):
            taken[b] = 0
        for k in range(n_codes):
            word = words[codes + k]
            first = out + np.uint64(32 * k)
            left = word
            for j in range(8):
                to = first + np.uint64(4 * j)
                octet = (left & _255) << _TWO
                # All are read before the first is written: only so are four copied at once.
                a, b, c, d = small[octet], small[octet + _ONE], small[octet + _TWO], small[octet + _3]
                values[to], values[to + _ONE], values[to + _TWO], values[to + _3] = a, b, c, d
                left >>= _EIGHT
            escapes = word & (word >> _ONE) & _ESCAPES
            while escapes:
                octet = np.uint64(octets[at])
                at += _ONE
                count = octet & _127
                shift = _7
                while octet > _127:
                    octet = np.uint64(octets[at])
                    at += _ONE
                    count |= (octet & _127) << shift
                    shift += _7
                values[first + (trailing_zeros(escapes) >> _ONE)] = count + _4
                escapes &= escapes - _ONE
    return -1
