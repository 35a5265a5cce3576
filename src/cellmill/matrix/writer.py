"""Counts into h5ad files, block by block: plain gzip CSR that anndata and every other reader opens."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from os import PathLike

import h5py
import numba
import numpy as np
import pandas as pd
import scipy.sparse as sp
from isal import isal_zlib

from cellmill.matrix.tables import ParquetTable, write_dict, write_table

CHUNK_VALUES = 1 << 17
FIRST_BYTES = 8
"""Of a chunk, compressed by themselves.

Where ISA-L (2.32) begins with more than 16 bytes, it takes a part of an address for the hash of those at position 2
(``write_first_byte`` of its ``igzip_icf_body``): one chunk in some ten thousand had other bytes in another process.
"""
ROOM_TO_FINISH = 32 << 20
"""What HDF5 may hold back, in bytes: a block of rows, and its caches."""


@numba.njit(cache=True, nogil=True)
def shuffle(values: np.ndarray, width: int, planes: np.ndarray) -> None:
    """Unsigned values of ``width`` bytes to bytes by their place in the value, as HDF5's shuffle filter does."""
    n = len(values)
    for b in range(width):
        for i in range(n):
            planes[b * n + i] = values[i] >> (8 * b)


def compressed(values: np.ndarray, length: int = CHUNK_VALUES) -> bytes:
    """A whole chunk of ``length`` values as HDF5's filters shuffle and gzip give it; a short one is filled with zeros.

    ISA-L at level 1 trades some size for speed (`make bench`, `write`); zlib, and so everyone, reads it.
    """
    if len(values) < length:
        values = np.concatenate([values, np.zeros(length - len(values), values.dtype)])
    values = np.ascontiguousarray(values)
    planes = np.empty(values.nbytes, np.uint8)
    shuffle(values.view(f"u{values.itemsize}"), values.itemsize, planes)
    stream = isal_zlib.compressobj(1)
    first = stream.compress(planes[:FIRST_BYTES]) + stream.flush(isal_zlib.Z_SYNC_FLUSH)
    rest: bytes = stream.compress(planes[FIRST_BYTES:]) + stream.flush()
    return first + rest


Put = Callable[[h5py.Dataset, tuple[int, ...], np.ndarray, int], None]
"""Write a chunk at a place: its values, flat, and how many values a whole chunk has."""


class DenseRows:
    """Append rows to a float32 matrix of an HDF5 file, in chunks of whole rows."""

    def __init__(self, group: h5py.Group, name: str, *, width: int, put: Put) -> None:
        self.n_rows, self._put = 0, put
        self._rows = max(1, CHUNK_VALUES // width)
        packed = {"chunks": (self._rows, width), "compression": "gzip", "compression_opts": 4, "shuffle": True}
        self._dataset = group.create_dataset(name, (0, width), np.float32, maxshape=(None, width), **packed)
        self._dataset.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
        self._pending: list[np.ndarray] = []
        self._n_pending = 0

    def append(self, rows: np.ndarray) -> None:
        """Add rows (n, width)."""
        self._pending.append(np.ascontiguousarray(rows, np.float32))
        self._n_pending += len(rows)
        if self._n_pending >= self._rows:
            self._flush(self._n_pending // self._rows * self._rows)

    def _flush(self, n: int) -> None:
        rows = np.concatenate(self._pending)
        self._dataset.resize(self.n_rows + n, axis=0)
        for start in range(0, n, self._rows):
            chunk = rows[start : min(start + self._rows, n)].ravel()
            self._put(self._dataset, (self.n_rows + start, 0), chunk, self._rows * rows.shape[1])
        self.n_rows += n
        self._pending, self._n_pending = [rows[n:].copy()], len(rows) - n

    def close(self) -> None:
        """Write what is left."""
        if self._n_pending:
            self._flush(self._n_pending)


class H5adWriter:
    """Append CSR blocks to an h5ad file, then its tables.

    The bytes depend on the values alone, not on how they were cut into blocks;
    with ``obsm`` blocks must have the same rows for the same bytes.

    Args:
        path: the file to make; the caller writes aside and renames.
        n_genes: columns of the matrix.
        dtype: type of the stored values.
        threads: how many compress chunks while the caller works; with one, nothing overlaps.
        obsm: dimensions of each matrix of ``obsm``, by name.
    """

    def __init__(
        self,
        path: str | PathLike[str],
        *,
        n_genes: int,
        dtype: np.dtype,
        threads: int = 1,
        obsm: Mapping[str, int] | None = None,
    ) -> None:
        self.n_genes, self.dtype = n_genes, np.dtype(dtype)
        self._path = path
        self._file = h5py.File(path, "w")
        self._file.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        self._x = self._file.create_group("X")
        self._data = self._growing("data", self.dtype)
        self._indices = self._growing("indices", np.dtype(np.int32))
        self._indptr: list[np.ndarray] = [np.zeros(1, np.int64)]
        self._pending: list[tuple[np.ndarray, np.ndarray]] = []
        self._n_pending = self._n_values = 0
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="deflate") if threads > 1 else None
        self._under_way: deque[tuple[h5py.Dataset, tuple[int, ...], Future[bytes]]] = deque()
        self.obsm: dict[str, DenseRows] = {}
        """Matrices with a row for each of X; the caller appends to them."""
        if obsm:
            write_dict(self._file, "obsm", {})
            place, put = self._file["obsm"], self._compress
            self.obsm = {name: DenseRows(place, name, width=width, put=put) for name, width in obsm.items()}

    def _stop_threads(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def _growing(self, name: str, dtype: np.dtype) -> h5py.Dataset:
        chunks, limit = (CHUNK_VALUES,), (None,)
        return self._x.create_dataset(
            name, (0,), dtype, maxshape=limit, chunks=chunks, compression="gzip", compression_opts=4, shuffle=True
        )

    def append(self, counts: sp.csr_matrix) -> None:
        """Add rows (n, genes), none included; every value must fit the type of the file."""
        if counts.shape[0] == 0:
            return
        check_room(self._path)
        if counts.nnz and self.dtype.kind in "iu" and counts.data.max() > np.iinfo(self.dtype).max:
            raise OverflowError(f"{counts.data.max()} does not fit {self.dtype}")
        self._indptr.append(self._indptr[-1][-1] + counts.indptr[1:].astype(np.int64))
        self._pending.append((counts.data.astype(self.dtype, copy=False), counts.indices.astype(np.int32, copy=False)))
        self._n_pending += counts.nnz
        if self._n_pending >= 8 * CHUNK_VALUES:
            self._flush(whole_chunks=True)

    def _flush(self, *, whole_chunks: bool) -> None:
        if not self._pending:
            return
        data, indices = (np.concatenate(arrays) for arrays in zip(*self._pending, strict=True))
        n = len(data) // CHUNK_VALUES * CHUNK_VALUES if whole_chunks else len(data)
        for dataset in (self._data, self._indices):
            dataset.resize((self._n_values + n,))
        for start in range(0, n, CHUNK_VALUES):
            stop = min(start + CHUNK_VALUES, n)
            # One chunk of each in turn: where they lie in the file is always the same.
            for dataset, values in ((self._data, data), (self._indices, indices)):
                self._compress(dataset, (self._n_values,), values[start:stop], CHUNK_VALUES)
            self._n_values += stop - start
        self._pending, self._n_pending = [(data[n:], indices[n:])], len(data) - n

    def _compress(self, dataset: h5py.Dataset, first: tuple[int, ...], values: np.ndarray, length: int) -> None:
        """Compress a chunk beside the caller, where there are threads; write those that are ready, in order."""
        if self._pool is None:
            dataset.id.write_direct_chunk(first, compressed(values, length))
            return
        self._under_way.append((dataset, first, self._pool.submit(compressed, values, length)))
        while len(self._under_way) > 4 * self._threads:
            self._write_oldest()

    def _write_oldest(self) -> None:
        dataset, first, result = self._under_way.popleft()
        dataset.id.write_direct_chunk(first, result.result())

    def close(self, *, obs: pd.DataFrame | ParquetTable, var: pd.DataFrame, uns: dict[str, str]) -> None:
        """Write what is left and the tables; ``obs`` and ``var`` must have a row per row and column of X."""
        self._flush(whole_chunks=False)
        for matrix in self.obsm.values():
            matrix.close()
        while self._under_way:
            self._write_oldest()
        self._stop_threads()
        indptr = np.concatenate(self._indptr)
        if len(obs) != len(indptr) - 1 or len(var) != self.n_genes:
            raise ValueError(f"X is {len(indptr) - 1} × {self.n_genes}, the tables have {len(obs)} and {len(var)} rows")
        for name, matrix in self.obsm.items():
            if matrix.n_rows != len(obs):
                raise ValueError(f"X has {len(obs)} rows, obsm/{name} has {matrix.n_rows}")
        self._x.create_dataset("indptr", data=indptr, compression="gzip", compression_opts=4, shuffle=True)
        self._x.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0"})
        self._x.attrs["shape"] = np.array([len(obs), self.n_genes], np.int64)
        for table_name, table in (("obs", obs), ("var", var)):
            write_table(self._file, table_name, table)
        for name in ("layers", "obsm", "varm", "obsp", "varp"):
            if name not in self._file:
                write_dict(self._file, name, {})
        write_dict(self._file, "uns", uns)
        check_room(self._path)
        self._file.flush()
        self._file.close()

    def abandon(self) -> None:
        """Close without finishing, after an error; the caller removes the file."""
        self._stop_threads()
        abandon(self._file, self._path)


@contextlib.contextmanager
def new_hdf5(path: str | PathLike[str]) -> Iterator[h5py.File]:
    """A new HDF5 file, closed when its block ends, and abandoned where that ends with an error."""
    file = h5py.File(path, "w")
    try:
        yield file
        check_room(path)
        file.flush()
        file.close()
    except BaseException:
        abandon(file, path)
        raise


def check_room(path: str | PathLike[str]) -> None:
    """Fail as a full disk does while there is still room for what HDF5 holds back.

    Called before each block of rows: where HDF5 itself meets the full disk,
    it may lose the error (as it closes a dataset) or crash (as it flushes).

    Raises:
        OSError: fewer than ``ROOM_TO_FINISH`` bytes are left.
    """
    if shutil.disk_usage(os.path.dirname(path) or ".").free < ROOM_TO_FINISH:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def abandon(file: h5py.File, path: str | PathLike[str]) -> None:
    """Close a file that was not finished; the caller removes it.

    HDF5 cannot discard: it writes what is in its caches, fails again on a full disk, and keeps the file open.
    So that its room is free at once, what is left is written to memory (16 MB at most), where that can be had.
    """
    with contextlib.suppress(OSError, AttributeError, ValueError):
        descriptor = file.id.get_vfd_handle()
        if os.path.samestat(os.fstat(descriptor), os.stat(path)):
            elsewhere = os.memfd_create("abandoned")
            os.dup2(elsewhere, descriptor)
            os.close(elsewhere)
    with contextlib.suppress(OSError, RuntimeError):
        file.close()
