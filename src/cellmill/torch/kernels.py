"""What is done value by value, compiled: gather rows, choose genes, normalise, scatter, pad."""

from __future__ import annotations

import numba
import numpy as np


@numba.njit(cache=True, nogil=True)
def gather(source: np.ndarray, starts: np.ndarray, offsets: np.ndarray, out: np.ndarray) -> bool:
    """Copy run ``i`` of ``source``, from ``starts[i]``, to ``out[offsets[i]:offsets[i + 1]]``; false: one lies outside.

    Nothing outside of ``source`` is read, whatever a damaged file says.
    """
    size = len(source)
    for i in range(len(starts)):
        first, length = starts[i], offsets[i + 1] - offsets[i]
        if first < 0 or length < 0 or first + length > size:
            return False
    for i in range(len(starts)):
        length = offsets[i + 1] - offsets[i]
        run, place = source[starts[i] : starts[i] + length], out[offsets[i] : offsets[i + 1]]
        for j in range(length):  # over slices from 0: only so are several values copied at once
            place[j] = run[j]
    return True


@numba.njit(cache=True, nogil=True)
def gather_counts(
    columns: np.ndarray,
    values: np.ndarray,
    starts: np.ndarray,
    offsets: np.ndarray,
    n_genes: int,
    out_columns: np.ndarray,
    out_values: np.ndarray,
) -> int:
    """``gather`` of columns (at most 32 bits) as int32 and of values as float32; 0, or 1: a run lies outside, or 2: a
    column is no gene.
    """
    size = min(len(columns), len(values))
    largest = np.uint32(0)
    for i in range(len(starts)):
        first, length = starts[i], offsets[i + 1] - offsets[i]
        if first < 0 or length < 0 or first + length > size:
            return 1
    for i in range(len(starts)):
        length = offsets[i + 1] - offsets[i]
        genes, to_genes = columns[starts[i] : starts[i] + length], out_columns[offsets[i] : offsets[i + 1]]
        for j in range(length):
            largest = max(largest, np.uint32(genes[j]))
            to_genes[j] = genes[j]
        counts, to_counts = values[starts[i] : starts[i] + length], out_values[offsets[i] : offsets[i + 1]]
        for j in range(length):
            to_counts[j] = counts[j]
    return 2 if offsets[-1] and largest >= n_genes else 0


@numba.njit(cache=True, nogil=True)
def narrow(columns: np.ndarray, n_genes: int, out: np.ndarray) -> bool:
    """Columns as int32; false where one is no gene."""
    largest = np.uint64(0)
    for j in range(len(columns)):
        largest = max(largest, np.uint64(np.int64(columns[j])))  # a negative one is the largest of all
        out[j] = columns[j]
    return bool(len(columns) == 0 or largest < np.uint64(n_genes))


@numba.njit(cache=True, nogil=True)
def _shift(other: np.uint64, key: np.uint64, size: np.uint64) -> np.uint64:
    """A number below ``size`` (at most 2**32) that another and a key name: splitmix64, scaled."""
    h = other + key
    h = (h ^ (h >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    h = (h ^ (h >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((h >> np.uint64(32)) * size) >> np.uint64(32)


@numba.njit(cache=True, nogil=True)
def permuted(start: int, width: int, n: int, keys: np.ndarray, out: np.ndarray) -> None:
    """What stands from place ``start`` of a permutation of 0 to n - 1; nothing else of it is computed.

    A Feistel network over numbers of two digits, the lower less than ``width`` (the root of ``n``, rounded up): each
    digit in turn is shifted by what the other and a key (uint64, an even number of them) name.
    What is none of the ``n`` goes through it again (Black and Rogaway, Ciphers with arbitrary finite domains, 2002).
    """
    low = np.uint64(width)
    high = (np.uint64(n) + low - np.uint64(1)) // low
    for i in range(len(out)):
        at = np.uint64(start + i)
        while True:
            upper = at // low
            lower = at - upper * low
            for r in range(0, len(keys), 2):
                upper += _shift(lower, keys[r], high)
                upper -= high if upper >= high else np.uint64(0)
                lower += _shift(upper, keys[r + 1], low)
                lower -= low if lower >= low else np.uint64(0)
            at = upper * low + lower
            if at < np.uint64(n):
                break
        out[i] = at


@numba.njit(cache=True, nogil=True)
def library_sizes(offsets: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The sum of each row (n,), float64."""
    sizes = np.zeros(len(offsets) - 1, np.float64)
    for i in range(len(sizes)):
        total = 0.0
        for value in values[offsets[i] : offsets[i + 1]]:
            total += value
        sizes[i] = total
    return sizes


@numba.njit(cache=True, nogil=True)
def log1p_cp10k(offsets: np.ndarray, values: np.ndarray, sizes: np.ndarray) -> None:
    """Replace counts (float32) by log(1 + count * 10,000 / library size), computed in float64."""
    for i in range(len(sizes)):
        scale = 1e4 / sizes[i] if sizes[i] > 0 else 0.0
        for j in range(offsets[i], offsets[i + 1]):
            values[j] = np.log1p(values[j] * scale)


@numba.njit(cache=True, nogil=True)
def choose_genes(
    offsets: np.ndarray, columns: np.ndarray, values: np.ndarray, place: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of chosen genes: ``place`` (n_genes,) int32 is a gene's new column, or -1; new columns rise in every row."""
    n = len(offsets) - 1
    kept_offsets = np.zeros(n + 1, np.int64)
    for i in range(n):
        found = 0
        for j in range(offsets[i], offsets[i + 1]):
            found += place[columns[j]] >= 0
        kept_offsets[i + 1] = kept_offsets[i] + found
    kept_columns = np.empty(kept_offsets[n], np.int32)
    kept_values = np.empty(kept_offsets[n], values.dtype)
    for i in range(n):
        begin = end = kept_offsets[i]
        for j in range(offsets[i], offsets[i + 1]):
            column, value = place[columns[j]], values[j]
            if column < 0:
                continue
            k = end
            while k > begin and kept_columns[k - 1] > column:  # rarely: genes are mostly chosen in their order
                kept_columns[k], kept_values[k] = kept_columns[k - 1], kept_values[k - 1]
                k -= 1
            kept_columns[k], kept_values[k] = column, value
            end += 1
    return kept_offsets, kept_columns, kept_values


@numba.njit(cache=True, nogil=True)
def scatter(offsets: np.ndarray, columns: np.ndarray, values: np.ndarray, out: np.ndarray) -> None:
    """Values into a matrix of zeros (rows, genes)."""
    for i in range(len(offsets) - 1):
        for j in range(offsets[i], offsets[i + 1]):
            out[i, columns[j]] = values[j]


@numba.njit(cache=True, nogil=True)
def pad(offsets: np.ndarray, values: np.ndarray, out: np.ndarray) -> None:
    """The first values of each list into the rows of ``out``, which holds the padding."""
    for i in range(len(offsets) - 1):
        length = min(offsets[i + 1] - offsets[i], out.shape[1])
        for j in range(length):
            out[i, j] = values[offsets[i] + j]
