"""Counts out of h5ad files, in row blocks: CSR, sorted, checked value by value.

Memory depends on the block, not on the file, for CSR and dense matrices.
CSC is transposed in memory for now.
"""

from __future__ import annotations

from collections.abc import Iterator
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
from cellmill.matrix.tables import read_table

BLOCK_ROWS = 8_192
BLOCK_VALUES = 1 << 24


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


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


class CountsFile:
    """One matrix of an h5ad file, read as counts.

    Args:
        path: the h5ad file.
        where: ``X``, ``raw`` or ``layers/<name>``.

    Raises:
        CellmillError: the file is not HDF5, is truncated, or has no such matrix.
        NotCountsError: while reading, at the first value that is no count; names cell, gene and value.
    """

    def __init__(self, path: str | PathLike[str], where: str) -> None:
        self.path, self.where = Path(path), where
        self._file = open_h5ad(self.path)
        node = {"X": "X", "raw": "raw/X"}.get(where, where)
        if node not in self._file:
            self.close()
            raise CellmillError(self.path, f"no matrix at '{where}'.", nearest(where, self.candidates(self.path)))
        self._matrix = self._file[node]
        self.layout: Literal["csr", "csc", "dense"] = self._find_layout(node)
        self.shape = self._find_shape()
        for name, length, expected in (("obs", len(self.cell_ids), 0), ("var", len(self.var), 1)):
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
        with open_h5ad(path) as file:
            found = ["X"] if "X" in file else []
            found += ["raw"] if "raw/X" in file else []
            return found + [f"layers/{name}" for name in sorted(file.get("layers", ()))]

    def _find_layout(self, node: str) -> Literal["csr", "csc", "dense"]:
        if isinstance(self._matrix, h5py.Dataset):
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
        return _read_table(self.path, self._file, "obs")

    @cached_property
    def var(self) -> pd.DataFrame:
        """The var table of this matrix (genes, columns): that of ``raw`` for ``raw``."""
        return _read_table(self.path, self._file, "raw/var" if self.where == "raw" else "var")

    @cached_property
    def cell_ids(self) -> np.ndarray:
        """Cell ids as found (cells,), str objects."""
        return self.obs.index.astype(str).to_numpy(object)

    def blocks(self, rows: int = BLOCK_ROWS) -> Iterator[Block]:
        """Row blocks in order, each of at most ``rows`` rows and about 16 million stored values."""
        n, width = self.shape
        if self.layout == "csr":
            yield from self._csr_blocks(rows)
        elif self.layout == "dense":
            rows = max(1, min(rows, BLOCK_VALUES // max(width, 1)))
            for start in range(0, n, rows):
                yield self._checked(start, sp.csr_matrix(self._read(self._matrix, start, start + rows)))
        else:
            indptr = self._pointers(width)
            arrays = (self._read(self._matrix["data"], 0, indptr[-1]), self._indices(0, indptr[-1], n), indptr)
            whole = sp.csc_matrix(arrays, shape=self.shape).tocsr()
            for start in range(0, n, rows):
                yield self._checked(start, whole[start : start + rows])

    def _csr_blocks(self, rows: int) -> Iterator[Block]:
        n, width = self.shape
        indptr, data = self._pointers(n), self._matrix["data"]
        start = 0
        while start < n:
            fits = int(np.searchsorted(indptr, indptr[start] + BLOCK_VALUES, side="right")) - 1
            stop = min(max(fits, start + 1), start + rows, n)
            lo, hi = indptr[start], indptr[stop]
            pointers = (indptr[start : stop + 1] - lo).astype(np.int32)
            arrays = (self._read(data, lo, hi), self._indices(lo, hi, width), pointers)
            yield self._checked(start, sp.csr_matrix(arrays, shape=(stop - start, width)))
            start = stop

    def _read(self, dataset: h5py.Dataset, start: int, stop: int) -> np.ndarray:
        """Numbers in a type that numba knows: native byte order, no half precision."""
        try:
            values = dataset[start:stop]
        except OSError as error:
            raise _unreadable(self.path, error) from error
        if values.dtype.kind not in "iufb":
            raise CellmillError(self.path, f"{self.where} holds {values.dtype}, not numbers.", "Name another matrix.")
        native = np.dtype(np.float32) if values.dtype == np.float16 else values.dtype.newbyteorder("=")
        return values.astype(native, copy=False)

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
        indices = self._read(self._matrix["indices"], start, stop)
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
            cell, gene = self.cell_ids[start + row], self.var.index[block.indices[bad]]
            raise NotCountsError(
                self.path,
                f"{self.where} does not hold counts: cell '{cell}' (row {start + row}), gene '{gene}' "
                f"has {block.data[bad]}.",
                "Counts are whole numbers from 0 to 4,294,967,295; say in 'counts:' where the raw counts are.",
            )


def _unreadable(path: Path, error: Exception) -> CellmillError:
    return CellmillError(
        path, f"not a whole, readable HDF5 file ({error}).", "It may be truncated or something else; get it again."
    )


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


def _read_table(path: Path, file: h5py.File, node: str) -> pd.DataFrame:
    if node not in file:
        raise CellmillError(path, f"there is no '{node}'.", "It is not an h5ad file; write it with anndata.")
    try:
        if isinstance(file[node], h5py.Group):
            return read_table(file[node])
        import anndata

        backed = anndata.read_h5ad(path, backed="r")  # anndata's formats before 0.7
        table = backed.raw.var if node == "raw/var" else getattr(backed, node)
        backed.file.close()
        return table
    except OSError as error:
        raise _unreadable(path, error) from error
