"""``hdf5``: batches of counts as the scBaseCount downloader's readers expect them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cellmill.errors import CellmillError
from cellmill.exports.columns import MISSING, by_split, checked_counts, count_missing, obs_columns, plain, string_bytes
from cellmill.exports.spec import ExportSpec
from cellmill.spec import Column, PositiveInt, Spec

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from cellmill.config import Dataset
    from cellmill.exports.rows import Header

CHUNK_VALUES = 1 << 17
"""Values per HDF5 chunk of the sparse layout."""
CHUNK_BYTES = 1 << 20
"""Bytes per HDF5 chunk of the dense layout, before compression."""
CHUNK_STRINGS = 1 << 13
"""Strings, or other obs values, per HDF5 chunk."""
STRING_BYTES = 1 << 24
"""Most bytes of a chunk of strings, which are all as long as the longest."""
GZIP: dict[str, Any] = {"compression": "gzip", "compression_opts": 4}


class Hdf5Counts(Spec, ExportSpec):
    """Counts in files of a fixed number of cells: `expression`, `genes`, `cell_ids`, `experiment_ids`."""

    kind: Literal["counts"] = "counts"
    layout: Literal["csr", "dense"] = "csr"
    """`csr`: a group in anndata's sparse encoding; `dense`: a cells by genes matrix, chunked by rows."""
    experiment: Column | None = None
    """Obs column of `experiment_ids`; `null`: the batch column, else the dataset's name."""
    cells_per_file: PositiveInt = 100_000
    """Cells in each `batch_NNNN.h5`."""

    @property
    def with_counts(self) -> bool:
        return True

    def problems(self, dataset: Dataset) -> list[str]:
        return [
            f"HDF5 takes '/' for a group, so the column '{column}' has no place there; rename it."
            for column in dataset.kept_columns
            if "/" in column
        ]


def write(
    out: Path,
    header: Header,
    rows: Iterable[tuple[str, pa.RecordBatch]],
    spec: Hdf5Counts,
    *,
    vocabulary: dict[str, int] | None = None,
) -> dict[str, Any]:
    """Write ``<split>/batch_NNNN.h5`` and return what the manifest says of them.

    Args:
        out: an empty folder.
        header: what is known before the first row; its counts type is the type of ``expression``.
        rows: ``(split, batch)`` with ``cell_id``, ``genes``, ``counts`` and the obs columns, split by split.
        spec: layout and cells per file; without ``experiment`` it is the batch column, else the dataset's name.
        vocabulary: not used, counts have none.

    Raises:
        CellmillError: where a count does not fit, a column is not there, or cells are missing.

    The bytes depend on the rows alone, not on how they are cut into batches.
    Memory: the obs columns of one file, and one chunk of counts.
    """
    from cellmill.matrix.writer import new_hdf5

    experiment = header.batch if spec.experiment is None else spec.experiment
    asked = [c for c in header.obs.names if c != experiment]
    columns = obs_columns(header, asked, reserved=("cell_id",), export="hdf5")
    if experiment is not None:
        obs_columns(header, [experiment], reserved=(), export="hdf5")
    for column in columns:
        if "/" in column:
            raise CellmillError("hdf5", f"the column '{column}' has a '/', which makes a group in HDF5.", "Rename it.")
    missing: Counter[str] = Counter()
    splits: dict[str, Any] = {}
    for split, batches in by_split(header, rows):
        (out / split).mkdir()
        files: list[dict[str, Any]] = []
        for number, pieces in _by_file(batches, spec.cells_per_file):
            first = number * spec.cells_per_file
            cells = min(spec.cells_per_file, header.cells[split] - first)
            name = f"{split}/batch_{number:04d}.h5"
            with new_hdf5(out / name) as file:
                file.attrs.update({"dataset": header.dataset, "split": split, "first_cell": first})
                values = _fill(
                    file,
                    header,
                    pieces,
                    layout=spec.layout,
                    experiment=experiment,
                    columns=columns,
                    cells=cells,
                    missing=missing,
                )
            files.append({"file": name, "cells": cells, "values": values, "bytes": (out / name).stat().st_size})
        splits[split] = {"cells": header.cells[split], "values": sum(f["values"] for f in files), "files": files}
    return {
        "layout": spec.layout,
        "genes": len(header.genes),
        "genes_without_symbol": int(header.genes["gene_symbol"].isna().sum())
        if "gene_symbol" in header.genes
        else None,
        "counts_dtype": header.counts_dtype.name,
        "experiment": experiment,
        "columns": columns,
        "missing": dict(missing),
        "missing_as": MISSING,
        "splits": splits,
    }


def _by_file(batches: Iterable[pa.RecordBatch], cells: int) -> Iterator[tuple[int, Iterator[pa.RecordBatch]]]:
    """Number every file and cut the batches at its end."""

    def cut() -> Iterator[tuple[int, pa.RecordBatch]]:
        seen = 0
        for batch in batches:
            start = 0
            while start < batch.num_rows:
                take = min(batch.num_rows - start, cells - seen % cells)
                yield seen // cells, batch.slice(start, take)
                start, seen = start + take, seen + take

    for number, pieces in groupby(cut(), key=itemgetter(0)):
        yield number, (piece for _, piece in pieces)


def _fill(
    file: Any,
    header: Header,
    pieces: Iterable[pa.RecordBatch],
    *,
    layout: str,
    experiment: str | None,
    columns: dict[str, str],
    cells: int,
    missing: Counter[str],
) -> int:
    """Write one file and return how many counts it holds."""
    import numpy as np
    import pyarrow as pa

    from cellmill.matrix.writer import check_room

    shape = (cells, len(header.genes))
    sink = (_Csr if layout == "csr" else _Dense)(file, shape=shape, dtype=header.counts_dtype)
    ids, experiments = _Strings(), _Strings()
    texts = {c: _Strings() for c, kind in columns.items() if kind == "string"}
    numbers: dict[str, list[np.ndarray]] = {c: [] for c in columns if c not in texts}
    for piece in pieces:
        check_room(file.filename)
        sink.add(*checked_counts(piece, header))
        ids.add(piece["cell_id"])
        if experiment is None:
            experiments.add(pa.repeat(header.dataset, piece.num_rows))
        else:
            count_missing(missing, piece, [experiment])
            experiments.add(piece[experiment])
        for column, strings in texts.items():
            strings.add(piece[column])
        for column, found in numbers.items():
            found.append(plain(piece[column]).copy())
        count_missing(missing, piece, columns)
    values = sink.close()
    genes = _Strings()
    genes.add(pa.array(header.genes["gene_id"], pa.large_string(), from_pandas=True))
    genes.write(file, "genes")
    if "gene_symbol" in header.genes and header.genes["gene_symbol"].notna().any():
        symbols = _Strings()
        symbols.add(pa.array(header.genes["gene_symbol"], pa.large_string(), from_pandas=True))
        symbols.write(file, "gene_symbols")
    ids.write(file, "cell_ids")
    experiments.write(file, "experiment_ids")
    obs = file.create_group("obs")
    for column in columns:
        if column in texts:
            texts[column].write(obs, column)
        else:
            joined = np.concatenate(numbers[column])
            chunks = (min(len(joined), CHUNK_STRINGS),)
            obs.create_dataset(column, data=joined, chunks=chunks, shuffle=True, **GZIP)
    return values


class _Csr:
    """``expression`` as anndata's group of ``data``, ``indices`` and ``indptr``; every chunk is written once."""

    def __init__(self, file: Any, *, shape: tuple[int, int], dtype: np.dtype[Any]) -> None:
        import numpy as np

        self._group = file.create_group("expression")
        self._group.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0"})
        self._group.attrs["shape"] = np.array(shape, np.int64)
        growing: dict[str, Any] = {"shape": (0,), "maxshape": (None,), "chunks": (CHUNK_VALUES,), "shuffle": True}
        self._data = self._group.create_dataset("data", dtype=dtype, **growing, **GZIP)
        self._indices = self._group.create_dataset("indices", dtype=np.int32, **growing, **GZIP)
        self._indptr = [np.zeros(1, np.int64)]
        self._pending: list[tuple[np.ndarray, np.ndarray]] = []
        self._waiting = 0

    def add(self, offsets: np.ndarray, genes: np.ndarray, counts: np.ndarray) -> None:
        self._indptr.append(self._indptr[-1][-1] + offsets[1:])
        self._pending.append((genes, counts))
        self._waiting += len(genes)
        if self._waiting >= CHUNK_VALUES:
            self._flush(self._waiting - self._waiting % CHUNK_VALUES)

    def _flush(self, values: int) -> None:
        import numpy as np

        genes, counts = (np.concatenate(arrays) for arrays in zip(*self._pending, strict=True))
        for start in range(0, values, CHUNK_VALUES):
            stop = min(start + CHUNK_VALUES, values)
            for dataset, array in ((self._data, counts), (self._indices, genes)):
                filled = dataset.shape[0]
                dataset.resize((filled + stop - start,))
                dataset[filled:] = array[start:stop]
        self._pending, self._waiting = [(genes[values:].copy(), counts[values:].copy())], self._waiting - values

    def close(self) -> int:
        import numpy as np

        if self._waiting:
            self._flush(self._waiting)
        indptr = np.concatenate(self._indptr)
        chunks = (min(len(indptr), CHUNK_STRINGS),)
        self._group.create_dataset("indptr", data=indptr, chunks=chunks, shuffle=True, **GZIP)
        return int(indptr[-1])


class _Dense:
    """``expression`` as a cells by genes matrix; no more than one chunk of rows is ever dense."""

    def __init__(self, file: Any, *, shape: tuple[int, int], dtype: np.dtype[Any]) -> None:
        import numpy as np

        rows = max(1, min(shape[0], CHUNK_BYTES // max(1, shape[1] * dtype.itemsize)))
        chunks = (rows, max(1, shape[1]))
        self._matrix = file.create_dataset("expression", shape, dtype, chunks=chunks, shuffle=True, **GZIP)
        self._block = np.zeros((rows, shape[1]), dtype)
        self._in_block = self._written = self._values = 0

    def add(self, offsets: np.ndarray, genes: np.ndarray, counts: np.ndarray) -> None:
        import numpy as np

        self._values += len(genes)
        start, cells = 0, len(offsets) - 1
        while start < cells:
            stop = min(cells, start + len(self._block) - self._in_block)
            values = slice(offsets[start], offsets[stop])
            row = np.repeat(
                np.arange(self._in_block, self._in_block + stop - start), np.diff(offsets[start : stop + 1])
            )
            self._block[row, genes[values]] = counts[values]
            self._in_block += stop - start
            start = stop
            if self._in_block == len(self._block):
                self._flush()

    def _flush(self) -> None:
        self._matrix[self._written : self._written + self._in_block] = self._block[: self._in_block]
        self._written += self._in_block
        self._in_block = 0
        self._block[:] = 0

    def close(self) -> int:
        if self._in_block:
            self._flush()
        return self._values


class _Strings:
    """Strings of one file, as bytes and lengths until the longest is known."""

    def __init__(self) -> None:
        self._bytes: list[np.ndarray] = []
        self._lengths: list[np.ndarray] = []

    def add(self, column: pa.Array) -> None:
        import numpy as np

        offsets, data = string_bytes(column)
        self._bytes.append(data.copy())
        self._lengths.append(np.diff(offsets))

    def write(self, group: Any, name: str) -> None:
        """Write fixed-length UTF-8, as long as the longest, block by block."""
        import h5py
        import numpy as np

        lengths, data = np.concatenate(self._lengths), np.concatenate(self._bytes)
        width = max(1, int(lengths.max(initial=0)))
        dtype = h5py.string_dtype("utf-8", width)
        rows = max(1, min(len(lengths), CHUNK_STRINGS, STRING_BYTES // width))
        dataset = group.create_dataset(name, (len(lengths),), dtype, chunks=(rows,), **GZIP)
        done = 0
        for start in range(0, len(lengths), rows):
            part = lengths[start : start + rows]
            padded = np.zeros((len(part), width), np.uint8)
            size = int(part.sum())
            padded[np.arange(width) < part[:, None]] = data[done : done + size]
            dataset[start : start + len(part)] = padded.view(f"S{width}")[:, 0].astype(dtype)
            done += size
