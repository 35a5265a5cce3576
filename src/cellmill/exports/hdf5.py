"""``hdf5``: batches of counts as the scBaseCount downloader's readers expect them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Literal

from cellmill.errors import CellmillError
from cellmill.exports.columns import MISSING, checked_counts, plain, string_bytes
from cellmill.exports.spec import ExportSpec
from cellmill.spec import Column, PositiveInt, Spec

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from cellmill.ahead import Workers
    from cellmill.config import Dataset
    from cellmill.exports.given import Given
    from cellmill.exports.rows import Header

CHUNK_VALUES = 1 << 15
"""Values per HDF5 chunk of the sparse layout, some twenty cells: what is read for one."""
CHUNK_BYTES = 1 << 18
"""Bytes per HDF5 chunk of the dense layout, before compression, at most, unless a row has more."""
CHUNK_STRINGS = 1 << 13
"""Strings, or other obs values, per HDF5 chunk."""
STRING_BYTES = 1 << 24
"""Most bytes of a chunk of strings, which are all as long as the longest."""
GROUP_CELLS = 2_048
"""Cells that are taken at once."""
RUN = 16
"""Chunks that one thread compresses at a time."""
GZIP: dict[str, Any] = {"compression": "gzip", "compression_opts": 4}
MEASURED = ("gene_count", "umi_count")
"""Genes with a count and the sum of counts of a cell, over all genes, under the downloader's names."""
ACCESSION = "SRX_accession"
"""What the downloader calls the column of experiments."""
METADATA = "metadata"


class Hdf5Counts(Spec, ExportSpec):
    """Counts in files of a fixed number of cells, laid out as the scBaseCount downloader's: `expression`, `genes`, \
`cell_ids`, `experiment_ids`, `hvg_info.json` and `metadata/`."""

    kind: Literal["counts"] = "counts"
    layout: Literal["csr", "dense"] = "csr"
    """`csr`: a group in anndata's sparse encoding; `dense`: a cells by genes matrix, chunked by rows."""
    genes: Literal["all", "variable"] = "all"
    """`variable`: of each cell the variable genes alone; `obs/umi_count` still counts all."""
    dtype: Literal["smallest", "uint8", "uint16", "uint32", "int16", "int32", "int64"] = "smallest"
    """Type of the counts; `smallest`: the smallest unsigned one that holds the dataset's largest count. A count that \
does not fit ends the job."""
    experiment: Column | None = None
    """Obs column of `experiment_ids`; `null`: the batch column, else the dataset's name."""
    cells_per_file: PositiveInt = 100_000
    """Cells in each `batch_NNNN.h5`."""
    cells_json: bool = True
    """Also write `metadata/cells.json`, text with a few hundred bytes per cell; `false` where that is too much."""

    @property
    def with_counts(self) -> bool:
        return True

    def problems(self, dataset: Dataset) -> list[str]:
        found = [
            f"HDF5 takes '/' for a group, so the column '{column}' has no place there; rename it."
            for column in dataset.kept_columns
            if "/" in column
        ]
        if METADATA in dataset.split.fractions:
            found.append(f"a folder '{METADATA}' stands beside the splits; call that split otherwise.")
        return found


def write(given: Given, spec: Hdf5Counts) -> dict[str, Any]:
    """Write ``<split>/batch_NNNN.h5`` and what stands beside them; return what the manifest says of them.

    The genes of the header have the columns of ``genes.parquet``.

    Raises:
        CellmillError: where a count does not fit, a column is not there, or cells are missing.

    Memory: the obs columns of one file, and a few thousand cells.
    """
    import numpy as np

    from cellmill.ahead import workers
    from cellmill.exports.hdf5_metadata import Experiments, write_cells, write_config, write_hvg
    from cellmill.exports.rows import in_groups
    from cellmill.matrix.writer import new_hdf5

    out, header = given.out, given.header
    experiment = header.batch if spec.experiment is None else spec.experiment
    columns = given.obs_columns([c for c in header.obs.names if c != experiment], export="hdf5")
    if experiment is not None:
        given.obs_columns([experiment], reserved=(), export="hdf5")
    for column in columns:
        if "/" in column:
            raise CellmillError("hdf5", f"the column '{column}' has a '/', which makes a group in HDF5.", "Rename it.")
    genes = _Genes(header, spec)
    experiments = Experiments(header.dataset, experiment, columns)
    splits: dict[str, Any] = {}
    largest = 0
    with workers(given.threads) as team:
        for split, batches in given.by_split():
            (out / split).mkdir()
            files: list[dict[str, Any]] = []
            groups = in_groups(batches, group_rows=GROUP_CELLS, file_rows=spec.cells_per_file)
            for number, pieces in groupby(groups, key=itemgetter(0)):
                first = number * spec.cells_per_file
                cells = min(spec.cells_per_file, header.cells[split] - first)
                name = f"{split}/batch_{number:04d}.h5"
                with new_hdf5(out / name) as file:
                    file.attrs.update({"dataset": header.dataset, "split": split, "first_cell": first})
                    filled = _File(file, genes, layout=spec.layout, cells=cells, columns=columns, team=team)
                    for _, batch in pieces:
                        experiments.add(split, batch)
                        filled.add(batch, experiment)
                    values = filled.close()
                largest = max(largest, filled.largest)
                files.append({"file": name, "cells": cells, "values": values, "bytes": (out / name).stat().st_size})
            splits[split] = {"cells": header.cells[split], "values": sum(f["values"] for f in files), "files": files}
    (out / METADATA).mkdir()
    said = experiments.write(out / METADATA / "experiments.json")
    if spec.cells_json:
        write_cells(out / METADATA / "cells.json", out, splits, columns)
    hvg = write_hvg(out, header, np.flatnonzero(genes.column_of >= 0))
    write_config(out / "config.json", genes.table, splits, said, spec.cells_per_file, largest)
    return {
        "layout": spec.layout,
        "genes": len(genes.table),
        "genes_without_symbol": int(genes.table["gene_symbol"].isna().sum()) if "gene_symbol" in genes.table else None,
        "variable_genes": hvg,
        "counts_dtype": genes.dtype.name,
        "largest_count": largest,
        "experiment": experiment,
        "experiments": len(said),
        "columns": columns,
        "missing": given.missing(header.obs.names),
        "missing_as": MISSING,
        "splits": splits,
    }


class _Genes:
    """Which genes are written, in the order of the gene space, and in which type their counts."""

    def __init__(self, header: Header, spec: Hdf5Counts) -> None:
        import numpy as np

        self._header = header
        self.dtype = np.dtype(header.counts_dtype if spec.dtype == "smallest" else spec.dtype)
        chosen = np.ones(len(header.genes), np.bool_)
        if spec.genes == "variable":
            chosen = header.genes["variable"].to_numpy(np.bool_)
            if not chosen.any():
                fix = "Ask for genes: all, or see why no gene varies."
                raise CellmillError(f"{header.dataset}, export hdf5", "no gene is variable.", fix)
        self.all = bool(chosen.all())
        self.table = header.genes[chosen]
        self.column_of = np.where(chosen, chosen.cumsum() - 1, -1).astype(np.int32)
        """Column of a gene of the gene space; -1: it is not written."""

    def select(self, batch: pa.RecordBatch) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, np.ndarray]]:
        """Offsets, columns and counts of a batch, checked, and what is measured of its cells over all genes."""
        import numpy as np

        offsets, genes, counts = checked_counts(batch, self._header)
        sums = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])[offsets]
        measured = dict(zip(MEASURED, (np.diff(offsets), np.diff(sums)), strict=True))
        columns = genes.astype(np.int32) if self.all else self.column_of[genes]
        if not self.all:
            kept = columns >= 0
            offsets = np.concatenate([[0], np.cumsum(kept)])[offsets]
            columns, counts = columns[kept], counts[kept]
        if np.iinfo(self.dtype).max < np.iinfo(counts.dtype).max:
            self._check(batch, offsets, columns, counts)
        return offsets, columns, counts.astype(self.dtype), measured

    def _check(self, batch: pa.RecordBatch, offsets: np.ndarray, columns: np.ndarray, counts: np.ndarray) -> None:
        import numpy as np

        limit = np.iinfo(self.dtype).max
        if counts.max(initial=0) <= limit:
            return
        at = int(np.argmax(counts > limit))
        cell = batch["cell_id"][int(np.searchsorted(offsets, at, side="right")) - 1].as_py()
        raise CellmillError(
            f"{self._header.dataset}, cell '{cell}', gene '{self.table['gene_id'].iloc[int(columns[at])]}'",
            f"the count {int(counts[at]):,} does not fit {self.dtype}, which ends at {limit:,}.",
            f"Ask for dtype: smallest, which is {self._header.counts_dtype} here.",
        )


class _File:
    """One ``batch_NNNN.h5``."""

    def __init__(
        self,
        file: Any,
        genes: _Genes,
        *,
        layout: str,
        cells: int,
        columns: dict[str, str],
        team: Workers,
    ) -> None:
        self._file, self._genes, self._columns = file, genes, columns
        shape = (cells, len(genes.table))
        self._sink = (_Csr if layout == "csr" else _Dense)(file, shape=shape, dtype=genes.dtype, team=team)
        texts = ["cell_ids", "experiment_ids", *(c for c, kind in columns.items() if kind == "string")]
        self._texts = {name: _Strings() for name in texts}
        self._numbers: dict[str, list[np.ndarray]] = {c: [] for c in (*MEASURED, *columns) if c not in self._texts}
        self.largest = 0
        """The largest count so far."""

    def add(self, batch: pa.RecordBatch, experiment: str | None) -> None:
        import pyarrow as pa

        from cellmill.matrix.writer import check_room

        check_room(self._file.filename)
        offsets, columns, counts, measured = self._genes.select(batch)
        self._sink.add(offsets, columns, counts)
        self.largest = max(self.largest, int(counts.max(initial=0)))
        name = self._file.attrs["dataset"]
        experiments = pa.repeat(name, batch.num_rows) if experiment is None else batch[experiment]
        sources = {"cell_ids": batch["cell_id"], "experiment_ids": experiments}
        for column, strings in self._texts.items():
            strings.add(sources[column] if column in sources else batch[column])
        for column, found in self._numbers.items():
            found.append(plain(batch[column]).copy() if column in self._columns else measured[column])

    def close(self) -> int:
        """Write what stands beside the counts; return how many of them there are."""
        import numpy as np

        file = self._file
        values = self._sink.close()
        for name, column in {"genes": "gene_id", "gene_symbols": "gene_symbol"}.items():
            if column in self._genes.table and self._genes.table[column].notna().any():
                _write_strings(file, name, self._genes.table[column])
        obs = file.create_group("obs")
        for column, texts in self._texts.items():
            texts.write(obs if column in self._columns else file, column)
        for column, found in self._numbers.items():
            _write_numbers(obs, column, np.concatenate(found))
        file["X"], file["cells"] = file["expression"], file["cell_ids"]  # the same data under the names of its code
        if ACCESSION not in self._columns:
            obs[ACCESSION] = file["experiment_ids"]
        return values


def _write_numbers(group: Any, name: str, values: np.ndarray) -> None:
    chunks = (max(1, min(len(values), CHUNK_STRINGS)),)
    group.create_dataset(name, data=values, chunks=chunks, shuffle=True, **GZIP)


def _write_strings(group: Any, name: str, values: Any) -> None:
    import pyarrow as pa

    strings = _Strings()
    strings.add(pa.array(values, pa.large_string(), from_pandas=True))
    strings.write(group, name)


class _Csr:
    """``expression`` as anndata's group of ``data``, ``indices`` and ``indptr``; every chunk is written once."""

    def __init__(self, file: Any, *, shape: tuple[int, int], dtype: np.dtype[Any], team: Workers) -> None:
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
        self._chunks = _Chunks(team)

    def add(self, offsets: np.ndarray, columns: np.ndarray, counts: np.ndarray) -> None:
        self._indptr.append(self._indptr[-1][-1] + offsets[1:])
        self._pending.append((counts, columns))
        self._waiting += len(columns)
        if self._waiting >= RUN * CHUNK_VALUES:
            self._flush(self._waiting - self._waiting % CHUNK_VALUES)

    def _flush(self, values: int) -> None:
        """Compress the first of the values that wait."""
        import numpy as np

        arrays = [np.concatenate(a) for a in zip(*self._pending, strict=True)]
        filled = self._data.shape[0]
        for dataset in (self._data, self._indices):
            dataset.resize((filled + values,))
        for start in range(0, values, RUN * CHUNK_VALUES):
            stop = min(start + RUN * CHUNK_VALUES, values)
            for dataset, array in zip((self._data, self._indices), arrays, strict=True):
                places = [(filled + at,) for at in range(start, stop, CHUNK_VALUES)]
                self._chunks.put(dataset, places, _compress, array[start:stop], CHUNK_VALUES)
        self._pending, self._waiting = [(arrays[0][values:], arrays[1][values:])], self._waiting - values

    def close(self) -> int:
        import numpy as np

        if self._waiting:
            self._flush(self._waiting)
        self._chunks.finish()
        indptr = np.concatenate(self._indptr)
        _write_numbers(self._group, "indptr", indptr)
        return int(indptr[-1])


class _Dense:
    """``expression`` as a cells by genes matrix; no more than one chunk of rows per thread is ever dense."""

    def __init__(self, file: Any, *, shape: tuple[int, int], dtype: np.dtype[Any], team: Workers) -> None:
        self._rows = max(1, min(shape[0], CHUNK_BYTES // max(1, shape[1] * dtype.itemsize)))
        chunks = (self._rows, max(1, shape[1]))
        self._matrix = file.create_dataset("expression", shape, dtype, chunks=chunks, shuffle=True, **GZIP)
        self._pending: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self._waiting = self._done = self._values = 0
        self._chunks = _Chunks(team)

    def add(self, offsets: np.ndarray, columns: np.ndarray, counts: np.ndarray) -> None:
        self._values += len(columns)
        self._pending.append((offsets, columns, counts))
        self._waiting += len(offsets) - 1
        if self._waiting >= RUN * self._rows:
            self._flush(self._waiting - self._waiting % self._rows)

    def _flush(self, rows: int) -> None:
        """Compress the first of the rows that wait."""
        import numpy as np

        lengths = np.concatenate([np.diff(offsets) for offsets, _, _ in self._pending])
        offsets = np.concatenate([[0], lengths.cumsum()])
        columns, counts = (np.concatenate([piece[i] for piece in self._pending]) for i in (1, 2))
        for start in range(0, rows, RUN * self._rows):
            stop = min(start + RUN * self._rows, rows)
            places = [(self._done + at, 0) for at in range(start, stop, self._rows)]
            shape = self._matrix.chunks
            self._chunks.put(self._matrix, places, _densify, offsets[start : stop + 1], columns, counts, shape)
        first = offsets[rows]
        self._pending = [(offsets[rows:] - first, columns[first:], counts[first:])]
        self._done, self._waiting = self._done + rows, self._waiting - rows

    def close(self) -> int:
        if self._waiting:
            self._flush(self._waiting)
        self._chunks.finish()
        return self._values


class _Chunks:
    """Chunks that are compressed in threads and written in the order they were asked for."""

    def __init__(self, team: Workers) -> None:
        from cellmill.ahead import InOrder

        self._order = InOrder(team, take=self._write)

    def put(self, dataset: Any, places: Sequence[tuple[int, ...]], function: Any, *args: Any) -> None:
        """``function`` makes a chunk for each place."""
        self._order.put(lambda: (dataset, places, function(*args)))

    @staticmethod
    def _write(made: tuple[Any, Sequence[tuple[int, ...]], list[bytes]]) -> None:
        dataset, places, chunks = made
        for place, chunk in zip(places, chunks, strict=True):
            dataset.id.write_direct_chunk(place, chunk)

    def finish(self) -> None:
        self._order.finish()


def _compress(values: np.ndarray, length: int) -> list[bytes]:
    from cellmill.matrix.writer import compressed

    return [compressed(values[start : start + length], length) for start in range(0, len(values), length)]


def _densify(offsets: np.ndarray, columns: np.ndarray, counts: np.ndarray, shape: tuple[int, int]) -> list[bytes]:
    """Chunks of whole rows; places past the last row are 0."""
    import numpy as np

    from cellmill.matrix.writer import compressed

    made = []
    for start in range(0, len(offsets) - 1, shape[0]):
        mine = offsets[start : start + shape[0] + 1]
        block = np.zeros(shape, counts.dtype)
        row = np.repeat(np.arange(len(mine) - 1), np.diff(mine))
        block[row, columns[mine[0] : mine[-1]]] = counts[mine[0] : mine[-1]]
        made.append(compressed(block.ravel(), block.size))
    return made


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
