"""One-dimensional HDF5 datasets read chunk by chunk as they lie, and inflated beside the consumer.

HDF5 inflates one chunk at a time under one lock, with zlib.
Here the file's own index says where each chunk lies; chunks are read with ``pread`` and inflated by ISA-L,
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

_DEFLATE, _SHUFFLE = h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE
_KNOWN = ((), (_DEFLATE,), (_SHUFFLE, _DEFLATE))


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
def _unshuffle(data: np.ndarray, width: int, out: np.ndarray) -> None:
    """Bytes by their place in the value, back to values; ``data`` and ``out`` are uint8."""
    n = len(data) // width
    for b in range(width):
        for i in range(n):
            out[i * width + b] = data[b * n + i]
    for i in range(n * width, len(data)):
        out[i] = data[i]


class _Chunked:
    """Chunks decoded here; those of the range read last and of the ranges announced are kept."""

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
        self._under_way: dict[int, Future[np.ndarray] | np.ndarray] = {}

    def _note(self, chunk: h5py.h5d.StoreInfo) -> None:
        self._where[chunk.chunk_offset[0] // self._rows] = (chunk.byte_offset, chunk.size, chunk.filter_mask)

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            os.close(self._file)

    def _chunks(self, start: int, stop: int) -> range:
        return range(start // self._rows, -(-stop // self._rows)) if stop > start else range(0)

    def prefetch(self, start: int, stop: int) -> None:
        """Begin to decode what ``read`` will be asked for."""
        if self._pool is not None:
            for number in self._chunks(start, stop):
                if number not in self._under_way:
                    self._under_way[number] = self._pool.submit(self._decode, number)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Values ``start`` to ``stop``; chunks before them are forgotten."""
        out = np.empty(max(stop - start, 0), self._dtype)
        chunks = self._chunks(start, stop)
        for number, got in list(self._under_way.items()):
            if number < chunks.start or (number >= chunks.stop and not isinstance(got, Future)):
                del self._under_way[number]
        self.prefetch(start, stop)
        for number in chunks:
            known = self._under_way.get(number)
            got = known.result() if isinstance(known, Future) else self._decode(number) if known is None else known
            if number == chunks[-1]:
                self._under_way[number] = got  # the next range begins in it
            first = number * self._rows
            lo, hi = max(start, first), min(stop, first + self._rows)
            out[lo - start : hi - start] = got[lo - first : hi - first]
        return out

    def _decode(self, number: int) -> np.ndarray:
        offset, size, left_out = (int(v) for v in self._where[number])
        n_bytes = self._rows * self._dtype.itemsize
        if offset < 0:
            return np.full(self._rows, self._fill, self._dtype)
        data = os.pread(self._file, size, offset)
        if len(data) != size:
            raise self._damaged(number, "the file ends in it")
        if self._deflate and not left_out & self._deflate:
            try:
                data = isal_zlib.decompress(data, bufsize=n_bytes)
            except igzip_lib.IsalError as error:  # type: ignore[misc]  # its stub says int
                raise self._damaged(number, str(error)) from error
        if len(data) != n_bytes:
            raise self._damaged(number, f"{len(data)} bytes, expected {n_bytes}")
        if self._shuffle and not left_out & self._shuffle and self._dtype.itemsize > 1:
            out = np.empty(n_bytes, np.uint8)
            _unshuffle(np.frombuffer(data, np.uint8), self._dtype.itemsize, out)
            return out.view(self._dtype)
        return np.frombuffer(data, self._dtype)

    def _damaged(self, number: int, what: str) -> CellmillError:
        found = f"not a whole, readable HDF5 file (chunk {number} of {self._name}: {what})."
        return CellmillError(self._path, found, "It may be truncated or damaged; get it again.")
