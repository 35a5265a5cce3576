"""Entries in any order into rows, out of core: for CSC matrices and for Matrix Market files.

What does not fit the budget lies on the scratch disk: sorted into buckets of whole rows, each small enough for memory.
Memory depends on the budget and on the number of rows (a few bytes each), not on the number of entries.
"""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numba
import numpy as np
import scipy.sparse as sp

from cellmill.errors import CellmillError
from cellmill.files import format_bytes, is_disk_full, scratch

BUDGET = 1 << 28
"""Bytes of entries in memory at once, about."""
SLAB = 1 << 21
"""Entries handed on at once."""

_BYTES_PER_ENTRY = 12
_TYPES = (np.dtype(np.int32), np.dtype(np.int32), np.dtype(np.uint32))

Slab = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Rows (n,) int32, columns (n,) int32 and values (n,) uint32 of entries."""


@numba.njit(cache=True, nogil=True)
def count_rows(rows: np.ndarray, per_row: np.ndarray) -> None:
    """Add the number of entries of each row to ``per_row`` (rows,) int64; every row must be one of it."""
    for i in range(len(rows)):
        per_row[rows[i]] += 1


@numba.njit(cache=True, nogil=True)
def _by_key(keys: np.ndarray, ends: np.ndarray, first: np.ndarray, second: np.ndarray, third: np.ndarray) -> Slab:
    """Three arrays in the order of ``keys``, equal keys in the order in which they come; ``ends`` is used up."""
    out = np.empty_like(first), np.empty_like(second), np.empty_like(third)
    for i in range(len(keys) - 1, -1, -1):
        ends[keys[i]] -= 1
        at = ends[keys[i]]
        out[0][at], out[1][at], out[2][at] = first[i], second[i], third[i]
    return out


@numba.njit(cache=True, nogil=True)
def _by_row(
    rows: np.ndarray, first: int, ends: np.ndarray, columns: np.ndarray, values: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Columns and values in the order of ``rows``, of which ``first`` is the smallest; the same as ``_by_key``."""
    out_columns, out_values = np.empty_like(columns), np.empty_like(values)
    for i in range(len(rows) - 1, -1, -1):
        ends[rows[i] - first] -= 1
        at = ends[rows[i] - first]
        out_columns[at], out_values[at] = columns[i], values[i]
    return out_columns, out_values


class Entries:
    """Room for ``n`` entries, filled and read by position: in memory, or in a file where one is given."""

    def __init__(self, n: int, file: IO[bytes] | None = None) -> None:
        self._n, self._file = n, file
        self._arrays = [np.empty(n if file is None else 0, t) for t in _TYPES]

    def write(self, at: int, entries: Slab) -> None:
        """Put these entries from position ``at`` on."""
        for array, values, place in zip(self._arrays, entries, self._places(at), strict=True):
            if self._file is None:
                array[at : at + len(values)] = values
                continue
            left = _bytes_of(np.ascontiguousarray(values, array.dtype))
            while left:
                done = os.pwrite(self._file.fileno(), left, place)
                left, place = left[done:], place + done

    def read(self, start: int, stop: int) -> Slab:
        """The entries of these positions, all of which must have been written."""
        if self._file is None:
            rows, columns, values = (array[start:stop] for array in self._arrays)
            return rows, columns, values
        found = [np.empty(stop - start, t) for t in _TYPES]
        for array, place in zip(found, self._places(start), strict=True):
            left = _bytes_of(array)
            while left:
                done = os.preadv(self._file.fileno(), [left], place)
                if not done:
                    raise EOFError("the scratch file is shorter than what was written to it")
                left, place = left[done:], place + done
        return found[0], found[1], found[2]

    def slabs(self, n: int) -> Iterator[Slab]:
        """The first ``n`` entries, in order."""
        for start in range(0, n, SLAB):
            yield self.read(start, min(start + SLAB, n))

    def _places(self, at: int) -> list[int]:
        """Where position ``at`` of rows, columns and values lies in the file."""
        return [4 * (k * self._n + at) for k in range(3)]


def _bytes_of(array: np.ndarray) -> memoryview:
    return array.data.cast("B") if array.size else memoryview(b"")


@contextmanager
def room_for(n: int, *, beside: str | os.PathLike[str], shown: object) -> Iterator[Entries]:
    """Yield room for ``n`` entries: in memory up to half the budget, else on the scratch disk (12 bytes an entry).

    The scratch file has no name, so that nothing of it stays, even after a ``kill -9``.

    Raises:
        CellmillError: about ``shown``, where the disk has not that much room, or cannot be written to.
    """
    size = n * _BYTES_PER_ENTRY
    if size <= BUDGET // 2:
        yield Entries(n)
        return
    fix = "Free some space, or let CELLMILL_SCRATCH name a folder on a larger disk."
    what = f"its values do not lie cell by cell; to sort them takes {format_bytes(size)} of scratch disk"
    folder = Path(os.environ.get("CELLMILL_SCRATCH") or Path(beside).parent)
    try:
        with scratch(beside) as folder, tempfile.TemporaryFile(dir=folder) as file:
            free = shutil.disk_usage(folder).free
            if size > free:
                raise CellmillError(shown, f"{what}, and {format_bytes(free)} are free in {folder.parent}.", fix)
            yield Entries(n, file)
    except PermissionError as error:
        found = f"{what}, and {folder} cannot be written to."
        raise CellmillError(shown, found, "Let CELLMILL_SCRATCH name a folder that can.") from error
    except OSError as error:
        if not is_disk_full(error):
            raise
        raise CellmillError(shown, f"{what}, and the disk of {folder} is full.", fix) from error


def _bucket_starts(offsets: np.ndarray) -> np.ndarray:
    """The first row of each bucket, and the number of rows; a bucket is as many rows as fit, or one.

    Small buckets are sorted within the processor's caches; but more than some 256 make many small writes.
    """
    limit = max(1, min(max(SLAB, int(offsets[-1]) // 256), BUDGET // (2 * _BYTES_PER_ENTRY)))
    starts = [0]
    while starts[-1] < len(offsets) - 1:
        fits = int(np.searchsorted(offsets, offsets[starts[-1]] + limit, side="right")) - 1
        starts.append(max(fits, starts[-1] + 1))
    return np.array(starts, np.int64)


@contextmanager
def sorted_into_buckets(
    slabs: Iterable[Slab], per_row: np.ndarray, *, beside: str | os.PathLike[str], shown: object
) -> Iterator[Entries]:
    """Yield all entries of ``slabs`` in the order of their buckets, for ``rows_of``.

    ``per_row`` (rows,) int64 says how many entries each row has.
    """
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(per_row)])
    starts = _bucket_starts(offsets)
    n_buckets = len(starts) - 1
    bucket_of = np.repeat(np.arange(n_buckets, dtype=np.int32), np.diff(starts))
    cursor = offsets[starts[:-1]]
    with room_for(int(offsets[-1]), beside=beside, shown=shown) as entries:
        for rows, columns, values in slabs:
            buckets = bucket_of[rows]
            here = np.bincount(buckets, minlength=n_buckets)
            ends = np.cumsum(here)
            done = _by_key(buckets, ends.copy(), rows, columns, values)
            for bucket in np.flatnonzero(here):
                lo, hi = ends[bucket] - here[bucket], ends[bucket]
                entries.write(int(cursor[bucket]), (done[0][lo:hi], done[1][lo:hi], done[2][lo:hi]))
            cursor += here
        yield entries


def rows_of(
    entries: Entries, per_row: np.ndarray, n_columns: int, *, max_rows: int, max_values: int
) -> Iterator[tuple[int, sp.csr_matrix]]:
    """Cut entries that lie in buckets (or row by row) into CSR blocks, each with the row that it starts at.

    Entries of a row keep their order, so that rising columns stay sorted; what is not sorted, or there twice, stays so.
    A block has at most ``max_rows`` rows, and at most ``max_values`` values or one row.
    """
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(per_row)])
    starts = _bucket_starts(offsets)
    for first, last in itertools.pairwise(starts.tolist()):
        rows, columns, values = entries.read(int(offsets[first]), int(offsets[last]))
        indptr = offsets[first : last + 1] - offsets[first]
        columns, values = _by_row(rows, first, indptr[1:].copy(), columns, values)
        start = first
        while start < last:
            fits = int(np.searchsorted(indptr, indptr[start - first] + max_values, side="right")) - 1 + first
            stop = min(max(fits, start + 1), start + max_rows, last)
            lo, hi = indptr[start - first], indptr[stop - first]
            pointers = (indptr[start - first : stop - first + 1] - lo).astype(np.int32)
            yield start, sp.csr_matrix((values[lo:hi], columns[lo:hi], pointers), shape=(stop - start, n_columns))
            start = stop
