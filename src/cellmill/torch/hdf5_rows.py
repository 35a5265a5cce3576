"""Rows of an ``hdf5`` export (docs/formats.md, hdf5), decoded in blocks."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cellmill.errors import CellmillError, nearest
from cellmill.torch.kernels import gather
from cellmill.torch.obs import ObsColumn, obs_column
from cellmill.torch.stores import Blocks, Rows, blocks_kept, by_block

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

MISSING_WHOLE = np.iinfo(np.int64).min
"""What stands for a missing whole number in these files."""


class Hdf5Rows:
    """A split of an ``hdf5`` export, ``csr`` or ``dense``.

    Memory: the offsets of all files' rows are read when they are needed (8 bytes per cell of ``csr``),
    and about a buffer's rows stay decoded.
    """

    block_rows = 1_024

    def __init__(self, path: str | PathLike[str]) -> None:
        self.path = Path(path)
        self._files = sorted(self.path.glob("batch_*.h5"))
        cells = []
        for name in self._files:
            with _open(name) as file:
                if "expression" not in file or "cell_ids" not in file:
                    there = nearest("expression", file)
                    raise CellmillError(name, f"has no expression and cell_ids. {there}", "Write the export again.")
                expression = file["expression"]
                shape = expression.attrs["shape"] if "shape" in expression.attrs else expression.shape
                cells.append(int(shape[0]))
                self.n_genes = int(shape[1])
                first = int(file.attrs.get("first_cell", sum(cells[:-1])))
            if first != sum(cells[:-1]):
                raise CellmillError(name, f"begins with cell {first:,}, not {sum(cells[:-1]):,}.", "A file is missing.")
        self.n_rows, self._begins = sum(cells), np.cumsum([0, *cells])
        runs = [(f, row) for f, n in enumerate(cells) for row in range(0, n, self.block_rows)]
        self._runs = [(f, row, min(row + self.block_rows, cells[f])) for f, row in runs]
        self._starts = np.concatenate([[0], np.cumsum([stop - start for _, start, stop in self._runs])])
        self._blocks: Blocks[Rows] = Blocks(self._read, kept=blocks_kept(self.block_rows))
        self._open: dict[tuple[int, int], Any] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path,)

    def _file(self, number: int) -> Any:
        """An open file of this process: handles do not survive a fork."""
        key = (os.getpid(), number)
        if key not in self._open:
            self._open = {k: v for k, v in self._open.items() if k[0] == key[0]}
            while len(self._open) >= 16:
                self._open.pop(next(iter(self._open))).close()
            self._open[key] = _open(self._files[number])
        return self._open[key]

    def _read(self, block: int) -> Rows:
        number, start, stop = self._runs[block]
        expression = self._file(number)["expression"]
        if not hasattr(expression, "keys"):
            dense = expression[start:stop]
            row, columns = np.nonzero(dense)
            offsets = np.searchsorted(row, np.arange(len(dense) + 1))
            return offsets.astype(np.int64), columns.astype(np.int32), dense[row, columns]
        offsets = expression["indptr"][start : stop + 1].astype(np.int64)
        first, last = int(offsets[0]), int(offsets[-1])
        return offsets - first, expression["indices"][first:last], expression["data"][first:last]

    def take(self, rows: np.ndarray) -> Rows:
        """CSR of ``rows``: int64 offsets, int32 columns, counts in the type on disk.

        Raises:
            IndexError: a row is not there.
        """
        found: list[np.ndarray] = []
        lengths: list[np.ndarray] = []
        columns: list[np.ndarray] = []
        values: list[np.ndarray] = []
        for block, at, local in by_block(rows, self._starts):
            begins, block_columns, block_values = self._blocks[block]
            offsets = np.zeros(len(local) + 1, np.int64)
            np.cumsum(begins[local + 1] - begins[local], out=offsets[1:])
            for source, sink in ((block_columns, columns), (block_values, values)):
                sink.append(np.empty(offsets[-1], source.dtype))
                if not gather(source, begins[local], offsets, sink[-1]):
                    raise CellmillError(self._files[self._runs[block][0]], "is damaged.", "Write the export again.")
            found.append(at)
            lengths.append(np.diff(offsets))
        if not found:
            return np.zeros(1, np.int64), np.empty(0, np.int32), np.empty(0, np.int32)
        return in_order(np.concatenate(found), np.concatenate(lengths), np.concatenate(columns), np.concatenate(values))

    def place(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The number of each row's file, and of the row within it."""
        file = np.searchsorted(self._begins, rows, side="right") - 1
        return file, rows - self._begins[file]

    @cached_property
    def genes(self) -> pd.DataFrame:
        """``gene_id``, and ``gene_symbol`` where there is one; a row per column."""
        import pandas as pd

        names = {"gene_id": "genes", "gene_symbol": "gene_symbols"}
        with _open(self._files[0]) as file:
            return pd.DataFrame({c: file[name].asstr()[:] for c, name in names.items() if name in file})

    @cached_property
    def obs_columns(self) -> list[str]:
        """Names of the obs columns, ``cell_id`` and ``experiment_id`` among them."""
        with _open(self._files[0]) as file:
            return ["cell_id", "experiment_id", *file.get("obs", ())]

    def obs(self, column: str) -> ObsColumn:
        """One column for all rows, decoded now; what stands for a missing value is missing again."""
        if column not in self.obs_columns:
            raise CellmillError(self.path, f"there is no obs column '{column}'.", nearest(column, self.obs_columns))
        return obs_column(column, self._pieces(column))

    def _pieces(self, column: str) -> Iterator[pa.Array]:
        """A column, file by file."""
        import pyarrow as pa

        place = {"cell_id": "cell_ids", "experiment_id": "experiment_ids"}.get(column, f"obs/{column}")
        for name in self._files:
            with _open(name) as file:
                values = file[place]
                if values.dtype.kind in "SO":
                    text = values.asstr()[:]
                    yield pa.array(np.where(text == "", None, text), pa.large_string())
                elif values.dtype == np.int8:
                    yield pa.array(values[:], mask=values[:] < 0).cast(pa.bool_())
                else:
                    yield pa.array(values[:], mask=values[:] == MISSING_WHOLE)


def in_order(at: np.ndarray, lengths: np.ndarray, columns: np.ndarray, values: np.ndarray) -> Rows:
    """Rows that came in the order ``at``, end to end, in the order 0, 1, …."""
    begins = np.concatenate([[0], np.cumsum(lengths)])
    back = np.argsort(at)
    offsets = np.concatenate([[0], np.cumsum(lengths[back])])
    out = np.empty_like(columns), np.empty_like(values)
    gather(columns, begins[back], offsets, out[0])
    gather(values, begins[back], offsets, out[1])
    return offsets, *out


def _open(path: Path) -> Any:
    import h5py

    return h5py.File(path, "r")
