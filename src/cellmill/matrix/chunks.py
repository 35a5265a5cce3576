"""One-dimensional HDF5 datasets read chunk by chunk as they lie, and inflated beside the consumer.

HDF5 inflates one chunk at a time under one lock, with zlib.
Here the file's own index says where each chunk lies; chunks are read with ``pread`` and inflated by libdeflate,
in threads where there are some, and the next block is under way while the last one is used.
What is stored in a way not known here (lzf, blosc, zstd, other byte orders) is left to h5py.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Protocol

import h5py
import numba
import numpy as np
from isal import igzip_lib, isal_zlib

from cellmill.errors import CellmillError

try:
    import deflate
except ImportError:  # conda-forge has no package of it
    deflate = None  # type: ignore[assignment]

_DEFLATE, _SHUFFLE = h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE
_KNOWN = ((), (_DEFLATE,), (_SHUFFLE, _DEFLATE))


_DAMAGED = igzip_lib.IsalError if deflate is None else deflate.DeflateError


def _inflate(data: bytes | bytearray, n_bytes: int) -> bytes | bytearray:
    """By libdeflate, the faster one, where it is installed."""
    if deflate is None:
        return isal_zlib.decompress(data, bufsize=n_bytes)
    return deflate.zlib_decompress(data, n_bytes)


class Vector(Protocol):
    """What can be read by ranges, and told what will be read next."""

    def prefetch(self, start: int, stop: int) -> None: ...

    def read(self, start: int, stop: int) -> np.ndarray: ...


@contextmanager
def decoding(threads: int) -> Iterator[ThreadPoolExecutor | None]:
    """A pool of ``threads`` for inflating, or none for one: then chunks are inflated where they are asked for."""
    if threads <= 1:
        yield None
        return
    with ThreadPoolExecutor(threads, thread_name_prefix="inflate") as pool:
        try:
            yield pool
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def open_vector(dataset: h5py.Dataset, pool: ThreadPoolExecutor | None) -> Vector:
    """The fastest reader there is for a one-dimensional dataset."""
    return _Chunked(dataset, pool) if _is_plain(dataset) else _ByH5py(dataset)


def _is_plain(dataset: h5py.Dataset) -> bool:
    """Whether the chunks can be decoded here: gzip or nothing, with or without shuffle, little-endian numbers."""
    if dataset.chunks is None or dataset.ndim != 1 or dataset.dtype.kind not in "iuf" or not dataset.dtype.isnative:
        return False
    plist = dataset.id.get_create_plist()
    filters = tuple(plist.get_filter(i)[0] for i in range(plist.get_nfilters()))
    return filters in _KNOWN and dataset.file.userblock_size == 0 and dataset.file.driver == "sec2"


class _ByH5py:
    """Slices of h5py's own."""

    def __init__(self, dataset: h5py.Dataset) -> None:
        self._dataset = dataset

    def prefetch(self, start: int, stop: int) -> None:
        """Nothing: h5py reads when it is asked."""

    def read(self, start: int, stop: int) -> np.ndarray:
        return self._dataset[start:stop]


@numba.njit(cache=True, nogil=True)
def _join_2(planes: np.ndarray, out: np.ndarray) -> None:
    n = len(out)
    for i in range(n):
        out[i] = np.uint16(planes[i]) | np.uint16(planes[n + i]) << np.uint16(8)


@numba.njit(cache=True, nogil=True)
def _join_4(planes: np.ndarray, out: np.ndarray) -> None:
    n = len(out)
    for i in range(n):
        low = np.uint32(planes[i]) | np.uint32(planes[n + i]) << np.uint32(8)
        high = np.uint32(planes[2 * n + i]) | np.uint32(planes[3 * n + i]) << np.uint32(8)
        out[i] = low | high << np.uint32(16)


@numba.njit(cache=True, nogil=True)
def _join_8(planes: np.ndarray, out: np.ndarray) -> None:
    n = len(out)
    for i in range(n):
        value = np.uint64(0)
        for b in range(8):
            value |= np.uint64(planes[b * n + i]) << np.uint64(8 * b)
        out[i] = value


_JOIN = {2: (np.uint16, _join_2), 4: (np.uint32, _join_4), 8: (np.uint64, _join_8)}
"""Bytes by their place in the value, as HDF5's shuffle filter leaves them, back to values; by bytes per value."""

RUN = 8
"""Chunks that one thread decodes at a time."""


class _Range:
    """Values under way: where they come to lie, and the tasks that bring them."""

    def __init__(self, start: int, stop: int, values: np.ndarray, tasks: list[Future[None]]) -> None:
        self.start, self.stop, self.values, self.tasks = start, stop, values, tasks

    def result(self) -> np.ndarray:
        for task in self.tasks:
            task.result()
        return self.values


class _Chunked:
    """Runs of chunks decoded straight to where the caller wants the values; the last chunk of a range is kept."""

    def __init__(self, dataset: h5py.Dataset, pool: ThreadPoolExecutor | None) -> None:
        self._pool = pool
        self._path, self._name = dataset.file.filename, dataset.name
        self._dtype, self._rows, self._length = dataset.dtype, int(dataset.chunks[0]), int(dataset.shape[0])
        plist = dataset.id.get_create_plist()
        filters = [plist.get_filter(i)[0] for i in range(plist.get_nfilters())]
        self._deflate = 1 << filters.index(_DEFLATE) if _DEFLATE in filters else 0
        self._shuffle = 1 << filters.index(_SHUFFLE) if _SHUFFLE in filters else 0
        self._fill = dataset.fillvalue
        n = -(-self._length // self._rows)
        self._where = np.full((n, 3), -1, np.int64)  # byte offset, bytes, filters left out
        dataset.id.chunk_iter(self._note)
        self._file = os.open(dataset.file.filename, os.O_RDONLY)
        self._ahead: _Range | None = None
        self._kept: tuple[int, np.ndarray] | None = None

    def _note(self, chunk: h5py.h5d.StoreInfo) -> None:
        self._where[chunk.chunk_offset[0] // self._rows] = (chunk.byte_offset, chunk.size, chunk.filter_mask)

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            os.close(self._file)

    def prefetch(self, start: int, stop: int) -> None:
        """Begin to decode what ``read`` will be asked for."""
        if self._pool is not None and stop > start:
            self._ahead = self._begin(start, stop, self._pool)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Values ``start`` to ``stop``."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None and (ahead.start, ahead.stop) == (start, stop):
            return ahead.result()
        if self._pool is not None:
            return self._begin(start, stop, self._pool).result()
        values = np.empty(max(stop - start, 0), self._dtype)
        if stop > start:
            self._bring(range(start // self._rows, -(-stop // self._rows)), start, stop, values)
        return values

    def _begin(self, start: int, stop: int, pool: ThreadPoolExecutor) -> _Range:
        values = np.empty(max(stop - start, 0), self._dtype)
        first, last = start // self._rows, -(-stop // self._rows) if stop > start else start // self._rows
        runs = [range(i, min(i + RUN, last)) for i in range(first, last, RUN)]
        return _Range(start, stop, values, [pool.submit(self._bring, run, start, stop, values) for run in runs])

    def _bring(self, run: range, start: int, stop: int, values: np.ndarray) -> None:
        """Decode a run of chunks into ``values``, which begin at ``start``."""
        for number in run:
            first = number * self._rows
            lo, hi = max(start, first), min(stop, first + self._rows)
            kept = self._kept
            got = kept[1] if kept is not None and kept[0] == number else self._decode(number)
            values[lo - start : hi - start] = got[lo - first : hi - first]
            if hi == stop:
                self._kept = (number, got)  # the next range begins in it

    def _decode(self, number: int) -> np.ndarray:
        offset, size, left_out = (int(v) for v in self._where[number])
        n_bytes = self._rows * self._dtype.itemsize
        if offset < 0:
            return np.full(self._rows, self._fill, self._dtype)
        data: bytes | bytearray = os.pread(self._file, size, offset)
        if len(data) != size:
            raise self._damaged(number, "the file ends in it")
        if self._deflate and not left_out & self._deflate:
            try:
                data = _inflate(data, n_bytes)
            except _DAMAGED as error:
                raise self._damaged(number, str(error)) from error
        if len(data) != n_bytes:
            raise self._damaged(number, f"{len(data)} bytes, expected {n_bytes}")
        width = self._dtype.itemsize
        if self._shuffle and not left_out & self._shuffle and width > 1:
            unsigned, join = _JOIN[width]
            out = np.empty(self._rows, unsigned)
            join(np.frombuffer(data, np.uint8), out)
            return out.view(self._dtype)
        return np.frombuffer(data, self._dtype)

    def _damaged(self, number: int, what: str) -> CellmillError:
        found = f"not a whole, readable HDF5 file (chunk {number} of {self._name}: {what})."
        return CellmillError(self._path, found, "It may be truncated or damaged; get it again.")
