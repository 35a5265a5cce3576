"""Rows of an SCDL archive over plain memory maps (docs/formats.md, scdl)."""

from __future__ import annotations

import struct
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cellmill.errors import CellmillError
from cellmill.torch.kernels import gather, gather_counts
from cellmill.torch.obs import ObsColumn, obs_column, parquet_column
from cellmill.torch.stores import Empty, Rows

if TYPE_CHECKING:
    import pandas as pd

DTYPES = {1: "<u1", 2: "<u2", 3: "<u4", 4: "<u8", 5: "<f2", 6: "<f4", 7: "<f8"}
"""Types of arrays by their code in the header."""
FILES = {"DATA": "data.npy", "COLPTR": "col_ptr.npy", "ROWPTR": "row_ptr.npy"}


class ScdlRows:
    """A split of an ``scdl`` export, or another archive of BioNeMo-SCDL of format 0.1.0.

    Opening reads the header and maps three files; gene and obs tables are read when they are asked for.
    A row costs two short copies; nothing is held in memory but what the system caches of the files.
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        self.path = Path(path)
        arrays = _header(self.path / "header.sch")
        self._data, self._columns, self._offsets = (self._map(name, arrays) for name in FILES)
        self.n_rows = len(self._offsets) - 1
        ends = (len(self._data), len(self._columns), int(self._offsets[-1]))
        if len(set(ends)) > 1:
            found = f"has {ends[0]:,} values, {ends[1]:,} columns, and offsets that end at {ends[2]:,}."
            raise CellmillError(self.path, found, "It is damaged: write the export again.")

    def _map(self, name: str, arrays: dict[str, tuple[int, str]]) -> np.ndarray:
        path = self.path / FILES[name]
        if name not in arrays:
            raise CellmillError(self.path / "header.sch", f"names no array '{name}'.", "Write the export again.")
        length, code = arrays[name]
        dtype = np.dtype(code)
        size = path.stat().st_size if path.is_file() else 0
        if size != length * dtype.itemsize or not size:
            expected = f"{length:,} values of {dtype.name}"
            raise CellmillError(path, f"has {size:,} bytes, expected {expected}.", "Write the export again.")
        return np.asarray(np.memmap(path, dtype, mode="r", shape=(length,)))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path,)

    def take(self, rows: np.ndarray) -> Rows:
        """CSR of ``rows``: int64 offsets, columns and counts in the types on disk.

        Raises:
            IndexError: a row is not there.
            CellmillError: the offsets of the archive lead outside of it.
        """
        starts, offsets = self._runs(rows)
        size = max(int(offsets[-1]), 0)
        columns, values = np.empty(size, self._columns.dtype), np.empty(size, self._data.dtype)
        if not (gather(self._columns, starts, offsets, columns) and gather(self._data, starts, offsets, values)):
            raise CellmillError(self.path / "row_ptr.npy", "leads outside of data.npy.", "Write the export again.")
        return offsets, columns, values

    def counts(self, rows: np.ndarray, empty: Empty) -> Rows:
        """``take`` with int32 columns and float32 counts, in one pass."""
        starts, offsets = self._runs(rows)
        size = max(int(offsets[-1]), 0)
        columns, values = empty((size, np.int32), (size, np.float32))
        wrong = gather_counts(self._columns, self._data, starts, offsets, self.n_genes, columns, values)
        if wrong == 1:
            raise CellmillError(self.path / "row_ptr.npy", "leads outside of data.npy.", "Write the export again.")
        if wrong == 2:
            raise CellmillError(self.path, f"a column is none of {self.n_genes:,} genes.", "Write the export again.")
        return offsets, columns, values

    def _runs(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where rows begin in the archive, and in the result (n + 1)."""
        if len(rows) and not 0 <= rows.min() <= rows.max() < self.n_rows:
            raise IndexError(f"rows {rows.min()} to {rows.max()} were asked for, there are {self.n_rows:,}.")
        starts = self._offsets[rows].astype(np.int64)
        offsets = np.zeros(len(rows) + 1, np.int64)
        np.cumsum(self._offsets[rows + 1].astype(np.int64) - starts, out=offsets[1:])
        return starts, offsets

    @cached_property
    def n_genes(self) -> int:
        import pyarrow.parquet as pq

        return max(pq.read_metadata(p).num_rows for p in self._tables("var_features"))

    @cached_property
    def genes(self) -> pd.DataFrame:
        """``gene_id`` and ``gene_symbol`` (or what the archive has), a row per column."""
        import pyarrow.parquet as pq

        tables = self._tables("var_features")
        if len(tables) > 1:
            found = f"has {len(tables)} gene tables, one for each block of rows."
            raise CellmillError(self.path, found, "Export it with cellmill, which gives all cells one gene space.")
        return pq.read_table(tables[0]).to_pandas()

    @cached_property
    def obs_columns(self) -> list[str]:
        """Names of the obs columns."""
        import pyarrow.parquet as pq

        return list(pq.read_schema(self._tables("obs_features")[0]).names)

    def obs(self, column: str) -> ObsColumn:
        """One column for all rows, decoded now."""
        from cellmill.errors import nearest

        if column not in self.obs_columns:
            raise CellmillError(self.path, f"there is no obs column '{column}'.", nearest(column, self.obs_columns))
        return obs_column(column, parquet_column(column, self._tables("obs_features")))

    def _tables(self, folder: str) -> list[Path]:
        tables = sorted((self.path / folder).glob("dataframe_*.parquet"))
        if not tables:
            raise CellmillError(self.path / folder, "there is no table.", "Write the export again.")
        return tables


def _header(path: Path) -> dict[str, tuple[int, str]]:
    """Length and type of each array, from the binary header (big-endian)."""
    if not path.is_file():
        fix = "Archives of BioNeMo-SCDL before 0.1.1 have none: write them again with cellmill or a later release."
        raise CellmillError(path, "there is no header.", fix)
    data = path.read_bytes()
    try:
        magic, major, minor, _, _, backend, n_arrays = struct.unpack_from(">4s4BII", data)
        if magic != b"SCDL" or (major, minor) != (0, 1) or backend != 1:
            found = f"begins with {magic!r}, version {major}.{minor}, backend {backend}"
            raise CellmillError(path, f"{found}; expected b'SCDL', version 0.1, backend 1.", "Write the export again.")
        at, arrays = struct.calcsize(">4s4BII"), {}
        for _ in range(n_arrays):
            (size,) = struct.unpack_from(">I", data, at)
            name = data[at + 4 : at + 4 + size].decode()
            length, dtype, has_shape = struct.unpack_from(">QIB", data, at + 4 + size)
            at += 4 + size + 13
            if has_shape:
                at += 4 + 4 * struct.unpack_from(">I", data, at)[0]
            arrays[name] = (length, DTYPES[dtype])
    except (struct.error, KeyError, UnicodeDecodeError) as error:
        raise CellmillError(path, f"is no header of SCDL ({error}).", "Write the export again.") from error
    return arrays
