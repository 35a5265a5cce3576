"""Counts out of h5ad files, in row blocks: CSR, sorted, checked value by value.

Memory depends on the block, not on the file.
CSC is transposed out of core (``transpose``); AnnData in zarr is read the same way (``zarr_store``).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import h5py
import numba
import numpy as np
import pandas as pd
import scipy.sparse as sp

from cellmill.errors import CellmillError, nearest
from cellmill.matrix.chunks import Vector, decoding, open_vector
from cellmill.matrix.tables import read_table
from cellmill.matrix.transpose import SLAB, Slab, count_rows, rows_of, sorted_into_buckets
from cellmill.matrix.zarr_store import ZarrArray, ZarrFile, is_zarr
from cellmill.progress import progress

BLOCK_ROWS = 1_024
BLOCK_VALUES = 1 << 21


class NotCountsError(CellmillError):
    """A matrix that was taken for counts holds a value that is none."""


@dataclass(frozen=True)
class Block:
    """Rows in memory at once: counts (n, genes) CSR, uint32, sorted, and the row it starts at."""

    start: int
    counts: sp.csr_matrix

    @property
    def stop(self) -> int:
        return self.start + self.counts.shape[0]


@numba.njit(cache=True, nogil=True)
def _first_bad(data: np.ndarray) -> int:
    """Position of the first value that is no count (negative, NaN, infinite, fractional, above uint32), or -1."""
    for i in range(len(data)):
        v = data[i]
        if not (v >= 0 and v <= 4294967295 and v == np.floor(v)):
            return i
    return -1


@numba.njit(cache=True, nogil=True)
def _convert(
    data: np.ndarray, indices: np.ndarray, indptr: np.ndarray, width: int, counts: np.ndarray, columns: np.ndarray
) -> bool:
    """Copy a block; whether it is as it should be: all counts above 0, columns rising and below ``width``.

    Written without branches, so that it is compiled to vector instructions.
    """
    bad = False
    for k in range(len(data)):
        v = data[k]
        bad |= (v != np.floor(v)) | (v <= 0) | (v > 4294967295) | (v != v)
        counts[k] = np.uint32(v)
    for k in range(len(indices)):
        columns[k] = indices[k]
        bad |= (indices[k] < 0) | (indices[k] >= width)
    for i in range(len(indptr) - 1):
        for k in range(indptr[i] + 1, indptr[i + 1]):
            bad |= indices[k] <= indices[k - 1]
    return not bad


def as_counts(data: np.ndarray, indices: np.ndarray, indptr: np.ndarray, width: int) -> sp.csr_matrix | None:
    """A block in one pass, where it is counts in order, as nearly every block is; else None: look closer."""
    counts, columns = np.empty(len(data), np.uint32), np.empty(len(data), np.int32)
    if not _convert(data, indices, indptr, width, counts, columns):
        return None
    matrix = sp.csr_matrix((counts, columns, indptr), shape=(len(indptr) - 1, width), copy=False)
    matrix.has_sorted_indices = matrix.has_canonical_format = True
    return matrix


def planned_blocks(indptr: np.ndarray, rows: int) -> Iterator[tuple[int, int]]:
    """``(start, stop)`` of row blocks: at most ``rows`` rows, and about ``BLOCK_VALUES`` stored values."""
    start, n = 0, len(indptr) - 1
    while start < n:
        fits = int(np.searchsorted(indptr, indptr[start] + BLOCK_VALUES, side="right")) - 1
        stop = min(max(fits, start + 1), start + rows, n)
        yield start, stop
        start = stop


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


class CountsFile:
    """One matrix of an h5ad file, read as counts.

    Args:
        path: the h5ad file.
        where: ``X``, ``raw`` or ``layers/<name>``.
        threads: how many inflate chunks while the caller works; with one, nothing overlaps.
        rounded: take fractions rounded to whole numbers, halves to the even one.
        annotations: ``{part}.obs.parquet``: obs columns that were added or changed; None: there are none.

    Raises:
        CellmillError: the file is not HDF5, is truncated, or has no such matrix.
        NotCountsError: while reading, at the first value that is no count; names cell, gene and value.
    """

    def __init__(
        self,
        path: str | PathLike[str],
        where: str,
        *,
        threads: int = 1,
        rounded: bool = False,
        annotations: str | PathLike[str] | None = None,
    ) -> None:
        self.path, self.where, self.threads, self.rounded = Path(path), where, threads, rounded
        self._annotations = annotations
        self._file = _open_any(self.path)
        node = _node_of(where, self._file)
        if node not in self._file:
            self.close()
            raise CellmillError(self.path, f"no matrix at '{where}'.", nearest(where, self.candidates(self.path)))
        self._matrix: Any = self._file[node]
        self.layout: Literal["csr", "csc", "dense"] = self._find_layout(node)
        self.shape = self._find_shape()
        for name, length, expected in (("obs", self._cells(), 0), ("var", len(self.var), 1)):
            if length != self.shape[expected]:
                self.close()
                raise CellmillError(
                    self.path,
                    f"{where} is {self.shape[0]} × {self.shape[1]}, but there are {length} rows of {name}.",
                    "The file is inconsistent; write it again with anndata.",
                )

    def __enter__(self) -> CountsFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()

    @staticmethod
    def candidates(path: str | PathLike[str]) -> list[str]:
        """The matrices of the file, in the order in which ``counts: auto`` looks at them."""
        with _open_any(Path(path)) as file:
            found = [where for where in ("X", "raw") if _node_of(where, file) in file]
            layers = file.names("layers") if isinstance(file, ZarrFile) else sorted(file.get("layers", ()))
            return found + [f"layers/{name}" for name in layers]

    def _find_layout(self, node: str) -> Literal["csr", "csc", "dense"]:
        if isinstance(self._matrix, (h5py.Dataset, ZarrArray)):
            if self._matrix.ndim == 2:
                return "dense"
            found = f"a {self._matrix.ndim}-dimensional array"
        else:
            attributes = self._matrix.attrs
            found = _text(attributes.get("encoding-type", attributes.get("h5sparse_format", "an unknown group")))
            if found.removesuffix("_matrix") == "csr":
                return "csr"
            if found.removesuffix("_matrix") == "csc":
                return "csc"
        self.close()
        fix = "cellmill reads CSR, CSC and dense matrices; write it again with anndata."
        raise CellmillError(self.path, f"{node} is {found}.", fix)

    def _find_shape(self) -> tuple[int, int]:
        if self.layout == "dense":
            shape = self._matrix.shape
        else:
            shape = self._matrix.attrs.get("shape", self._matrix.attrs.get("h5sparse_shape"))
        return int(shape[0]), int(shape[1])

    @cached_property
    def obs(self) -> pd.DataFrame:
        """The obs table (cells, columns), indexed by cell id as found."""
        found = _read_table(self.path, self._file, "obs")
        if self._annotations is None:
            return found
        from cellmill.contracts.obs import laid_over

        return laid_over(found, self._annotations, where=self.path)

    def obs_rows(self, first: int, last: int) -> pd.DataFrame:
        """The obs table of the cells from the first up to the last; the others are not in memory."""
        whole = (first, last) == (0, self.shape[0])
        if whole or self._annotations is not None or self._group_of_obs() is None:
            return self.obs.iloc[first:last]
        return _read_table(self.path, self._file, "obs", slice(first, last))

    def _cells(self) -> int:
        """Rows of the obs table, of which nothing is read where it is a group of HDF5."""
        obs = self._group_of_obs()
        index = obs.get(_text(obs.attrs.get("_index", ""))) if obs is not None else None
        return len(index) if isinstance(index, h5py.Dataset) else len(self.cell_ids)

    def _group_of_obs(self) -> h5py.Group | None:
        """The obs table where it is a group of HDF5; of older formats and of zarr, None."""
        obs = None if isinstance(self._file, ZarrFile) else self._file.get("obs")
        return obs if isinstance(obs, h5py.Group) else None

    @cached_property
    def var(self) -> pd.DataFrame:
        """The var table of this matrix (genes, columns): that of ``raw`` for ``raw``."""
        return _read_table(self.path, self._file, "raw/var" if self.where == "raw" else "var")

    @cached_property
    def cell_ids(self) -> np.ndarray:
        """Cell ids as found (cells,), str objects."""
        return self.obs.index.astype(str).to_numpy(object)

    def blocks(self, rows: int = BLOCK_ROWS, *, wanted: np.ndarray | None = None) -> Iterator[Block]:
        """Row blocks in order, each of at most ``rows`` rows and about 2 million stored values.

        Blocks without a row that is ``wanted`` (cells,) bool may be left out, unread: those of CSR and dense are.
        """
        n, width = self.shape
        if self.layout == "csr":
            yield from self._csr_blocks(rows, wanted)
        elif self.layout == "dense":
            rows = max(1, min(rows, BLOCK_VALUES // max(width, 1)))
            for start in range(0, n, rows):
                if wanted is not None and not wanted[start : start + rows].any():
                    continue
                yield self._checked(start, sp.csr_matrix(self._read(self._matrix, start, start + rows)))
        else:
            yield from self._csc_blocks(rows)

    def _csr_blocks(self, rows: int, wanted: np.ndarray | None) -> Iterator[Block]:
        n, width = self.shape
        indptr = self._pointers(n)
        with decoding(self.threads) as pool:
            data, indices = (self._vector(name, pool) for name in ("data", "indices"))
            planned = planned_blocks(indptr, rows)
            ahead = (b for b in planned if wanted is None or wanted[b[0] : b[1]].any())
            block = next(ahead, None)
            while block is not None:
                start, stop = block
                lo, hi = int(indptr[start]), int(indptr[stop])
                values, columns = self._read(data, lo, hi), self._read(indices, lo, hi)
                block = next(ahead, None)
                if block is not None:  # under way while the caller works on this one
                    for vector in (data, indices):
                        vector.prefetch(int(indptr[block[0]]), int(indptr[block[1]]))
                pointers = (indptr[start : stop + 1] - lo).astype(np.int32)
                counts = as_counts(values, columns, pointers, width)
                if counts is not None:
                    yield Block(start, counts)
                    continue
                arrays = (values, self._in_range(columns, width), pointers)
                yield self._checked(start, sp.csr_matrix(arrays, shape=(stop - start, width)))

    def _csc_blocks(self, rows: int) -> Iterator[Block]:
        """Out of core in two passes: how many values each cell has, then the values into buckets of cells."""
        n, width = self.shape
        indptr = self._pointers(width)
        total = int(indptr[-1])
        per_row = np.zeros(n, np.int64)
        with decoding(self.threads) as pool:
            indices = self._vector("indices", pool)
            with progress(total, "values", "counting the values of each cell") as counter:
                for lo in range(0, total, SLAB):
                    found = self._read(indices, lo, min(lo + SLAB, total))
                    if lo + SLAB < total:
                        indices.prefetch(lo + SLAB, min(lo + 2 * SLAB, total))
                    count_rows(self._in_range(found, n), per_row)
                    counter.update(len(found))
            slabs = self._csc_slabs(indptr, self._vector("data", pool), self._vector("indices", pool))
            with sorted_into_buckets(slabs, per_row, beside=self.path, shown=self.path) as entries:
                blocks = rows_of(entries, per_row, width, max_rows=rows, max_values=BLOCK_VALUES)
                for start, block in blocks:
                    yield self._checked(start, block)

    def _csc_slabs(self, indptr: np.ndarray, data: Vector, indices: Vector) -> Iterator[Slab]:
        total = int(indptr[-1])
        with progress(total, "values", "sorting values by cell") as counter:
            for lo in range(0, total, SLAB):
                hi = min(lo + SLAB, total)
                values, cells = self._read(data, lo, hi), self._in_range(self._read(indices, lo, hi), self.shape[0])
                if hi < total:
                    for vector in (data, indices):
                        vector.prefetch(hi, min(hi + SLAB, total))
                first, last = int(np.searchsorted(indptr, lo, "right")) - 1, int(np.searchsorted(indptr, hi, "left"))
                lengths = np.diff(np.clip(indptr[first : last + 1], lo, hi))
                genes = np.repeat(np.arange(first, last, dtype=np.int32), lengths)
                values = values.view(np.uint8) if values.dtype == bool else values
                bad = _first_bad(values)
                if bad >= 0:
                    raise self._no_count(int(cells[bad]), int(genes[bad]), values[bad])
                yield cells, genes, values.astype(np.uint32)
                counter.update(len(values))

    def _vector(self, name: str, pool: ThreadPoolExecutor | None) -> Vector:
        array = self._matrix[name]
        return array if isinstance(array, ZarrArray) else open_vector(array, pool)

    def _read(self, dataset: h5py.Dataset | Vector, start: int, stop: int) -> np.ndarray:
        """Numbers in a type that numba knows: native byte order, no half precision."""
        try:
            values = dataset[start:stop] if isinstance(dataset, h5py.Dataset) else dataset.read(start, stop)
        except OSError as error:
            raise _unreadable(self.path, error) from error
        if values.dtype.kind not in "iufb":
            raise CellmillError(self.path, f"{self.where} holds {values.dtype}, not numbers.", "Name another matrix.")
        native = np.dtype(np.float32) if values.dtype == np.float16 else values.dtype.newbyteorder("=")
        values = values.astype(native, copy=False)
        return np.rint(values) if self.rounded and native.kind == "f" else values

    def _pointers(self, length: int) -> np.ndarray:
        """``indptr`` (length + 1,) int64, which must rise from 0 and end within the values."""
        n_values = len(self._matrix["data"])
        indptr = self._read(self._matrix["indptr"], 0, len(self._matrix["indptr"])).astype(np.int64)
        fits = len(indptr) == length + 1 and len(self._matrix["indices"]) == n_values
        if not fits or indptr[0] != 0 or indptr[-1] > n_values or np.diff(indptr).min(initial=0) < 0:
            raise CellmillError(
                self.path, f"the arrays of {self.where} do not fit each other.", "The file is damaged; get it again."
            )
        return indptr

    def _indices(self, start: int, stop: int, limit: int) -> np.ndarray:
        """``indices`` as int32, all of them below ``limit``: scipy writes to memory without looking."""
        return self._in_range(self._read(self._matrix["indices"], start, stop), limit)

    def _in_range(self, indices: np.ndarray, limit: int) -> np.ndarray:
        if len(indices) and (indices.min() < 0 or indices.max() >= limit):
            what = "row" if self.layout == "csc" else "column"
            raise CellmillError(
                self.path, f"{self.where} has a {what} index outside its {limit}.", "The file is damaged; get it again."
            )
        return indices.astype(np.int32)

    def _checked(self, start: int, block: sp.csr_matrix) -> Block:
        self._refuse_no_counts(start, block)
        if not block.has_canonical_format:
            block = sp.csr_matrix((block.data.astype(np.uint64), block.indices, block.indptr), shape=block.shape)
            block.sum_duplicates()  # sorts, too
            self._refuse_no_counts(start, block)
        if block.nnz and not block.data.all():
            block.eliminate_zeros()
        counts = sp.csr_matrix((block.data.astype(np.uint32), block.indices, block.indptr), shape=block.shape)
        counts.has_sorted_indices = counts.has_canonical_format = True
        return Block(start, counts)

    def _refuse_no_counts(self, start: int, block: sp.csr_matrix) -> None:
        bad = _first_bad(block.data.view(np.uint8) if block.data.dtype == bool else block.data)
        if bad >= 0:
            row = int(np.searchsorted(block.indptr, bad, side="right")) - 1
            raise self._no_count(start + row, int(block.indices[bad]), block.data[bad])

    def _no_count(self, row: int, column: int, value: Any) -> NotCountsError:
        return NotCountsError(
            self.path,
            f"{self.where} does not hold counts: cell '{self.cell_ids[row]}' (row {row}), "
            f"gene '{self.var.index[column]}' has {value}.",
            "Counts are whole numbers from 0 to 4,294,967,295; say in 'counts:' where the raw counts are.",
        )


_FILTERS = {
    32000: "lzf",
    32001: "blosc",
    32004: "lz4",
    32008: "bitshuffle",
    32013: "zfp",
    32015: "zstd",
    32026: "blosc2",
}


def _unreadable(path: Path, error: Exception) -> CellmillError:
    missing = _missing_filter(path)
    if missing:
        return CellmillError(
            path,
            f"it is compressed by {missing}, which this installation of HDF5 cannot read.",
            "Type: pip install hdf5plugin (where rules have conda environments: add it to workflow/envs/core.yaml).",
        )
    return CellmillError(
        path, f"not a whole, readable HDF5 file ({error}).", "It may be truncated or something else; get it again."
    )


def _missing_filter(path: Path) -> str | None:
    """A compression of the file that is not installed, by name and number."""

    def look(_: str, node: Any) -> str | None:
        if isinstance(node, h5py.Dataset):
            plist = node.id.get_create_plist()
            for code in (plist.get_filter(i)[0] for i in range(plist.get_nfilters())):
                if not h5py.h5z.filter_avail(code):
                    return f"{_FILTERS.get(code, 'a filter')} (HDF5 filter {code})"
        return None

    try:
        with h5py.File(path, "r") as file:
            return file.visititems(look)
    except (OSError, RuntimeError, KeyError):
        return None


def _open_any(path: Path) -> h5py.File | ZarrFile:
    return ZarrFile(path) if is_zarr(path) else open_h5ad(path)


def _node_of(where: str, file: h5py.File | ZarrFile) -> str:
    """The name in the file; anndata before 0.7 wrote ``raw.X`` beside ``X``."""
    if where == "raw":
        return "raw.X" if "raw/X" not in file and "raw.X" in file else "raw/X"
    return where


def open_h5ad(path: str | PathLike[str]) -> h5py.File:
    """Open an HDF5 file for reading, or say that it is none."""
    try:
        import hdf5plugin  # noqa: F401  registers zstd and blosc where it is installed
    except ImportError:
        pass
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise _unreadable(Path(path), error) from error


def read_var(path: str | PathLike[str]) -> pd.DataFrame:
    """The var table of an h5ad file or a zarr store, without a look at its matrices."""
    with _open_any(Path(path)) as file:
        return _read_table(Path(path), file, "var")


def _read_table(path: Path, file: h5py.File | ZarrFile, node: str, rows: slice = slice(None)) -> pd.DataFrame:
    if node == "raw/var" and node not in file and "raw.var" in file:
        node = "raw.var"
    if node not in file:
        raise CellmillError(path, f"there is no '{node}'.", "It is not an h5ad file; write it with anndata.")
    if isinstance(file, ZarrFile):
        return file.table(node)
    try:
        if isinstance(file[node], h5py.Group):
            return read_table(file[node], rows)
        import anndata

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that old files should be rewritten
            backed = anndata.read_h5ad(path, backed="r")  # anndata's formats before 0.7
            table = backed.raw.var if node.startswith("raw") else getattr(backed, node)
        backed.file.close()
        return table
    except OSError as error:
        raise _unreadable(path, error) from error
