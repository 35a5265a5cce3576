"""``scdl``: memory-mapped archives that BioNeMo-SCDL's ``SingleCellMemMapDataset`` opens."""

from __future__ import annotations

import json
import struct
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cellmill.errors import CellmillError
from cellmill.exports.columns import by_split, checked_counts, count_missing, obs_columns
from cellmill.exports.spec import ExportSpec
from cellmill.spec import Column, Spec

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from cellmill.exports.rows import Header

SCDL_VERSION = "0.1.3"
"""The release of BioNeMo-SCDL whose layout this is."""
HEADER_VERSION = (0, 1, 0)
DTYPE_CODES = {"uint8": 1, "uint16": 2, "uint32": 3, "uint64": 4}
STRING_CODE = 8
CELLS_PER_GROUP = 1 << 16
"""Cells per row group of the obs table."""
BLOCK = 1 << 20


class ScdlCounts(Spec, ExportSpec):
    """Counts as CSR memory maps with gene and cell tables, one archive per split."""

    kind: Literal["counts"] = "counts"
    columns: list[Column] | None = None
    """Obs columns to write; `null`: all that the dataset keeps."""

    @property
    def with_counts(self) -> bool:
        return True


def write(
    out: Path,
    header: Header,
    rows: Iterable[tuple[str, pa.RecordBatch]],
    spec: ScdlCounts,
    *,
    vocabulary: dict[str, int] | None = None,
    threads: int = 1,
) -> dict[str, Any]:
    """Write one archive per split and return what the manifest says of them.

    Args:
        out: an empty folder.
        header: what is known before the first row; its counts type is the type of ``data.npy``.
        rows: ``(split, batch)`` with ``cell_id``, ``genes``, ``counts`` and the obs columns, split by split.
        spec: the obs columns.
        vocabulary: not used, counts have none.
        threads: not used.

    Raises:
        CellmillError: where a count does not fit, a column is not there, cells are missing, or a split has no count.

    The bytes depend on the rows alone, not on how they are cut into batches.
    Memory: one batch, and the obs columns of one row group.
    """
    kinds = obs_columns(header, spec.columns, reserved=("cell_id",), export="scdl")
    missing: Counter[str] = Counter()
    splits: dict[str, Any] = {}
    for split, batches in by_split(header, rows):
        splits[split] = _write_archive(out / split, header, batches, columns=kinds, missing=missing, split=split)
    return {
        "scdl_version": SCDL_VERSION,
        "genes": len(header.genes),
        "counts_dtype": header.counts_dtype.name,
        "columns": {"cell_id": "string"} | kinds,
        "missing": dict(missing),
        "missing_as": "null",
        "splits": splits,
    }


def _write_archive(
    archive: Path,
    header: Header,
    batches: Iterable[pa.RecordBatch],
    *,
    columns: dict[str, str],
    missing: Counter[str],
    split: str,
) -> dict[str, Any]:
    import numpy as np

    cells, genes = header.cells[split], len(header.genes)
    data_dtype, column_dtype = header.counts_dtype, np.min_scalar_type(max(genes - 1, 0))
    archive.mkdir()
    (archive / "obs_features").mkdir()
    rows64, values = archive / "row_ptr.npy.uint64", 0
    obs = _ObsTable(archive / "obs_features" / "dataframe_0.parquet", columns=columns)
    with (
        (archive / "data.npy").open("wb") as data,
        (archive / "col_ptr.npy").open("wb") as col_ptr,
        rows64.open("wb") as row_ptr,
    ):
        row_ptr.write(np.zeros(1, "<u8").tobytes())
        for batch in batches:
            offsets, genes_of, counts = checked_counts(batch, header)
            data.write(_little_endian(counts, data_dtype))
            col_ptr.write(_little_endian(genes_of, column_dtype))
            row_ptr.write(_little_endian(offsets[1:] + values, np.dtype(np.uint64)))
            values += len(counts)
            count_missing(missing, batch, columns)
            obs.add(batch)
    obs.close()
    if values == 0:
        fix = "Filter empty cells (quality), or leave the export scdl out."
        raise CellmillError(
            f"{header.dataset}, split '{split}'", "has no count, and SCDL cannot map an empty file.", fix
        )
    row_dtype = np.min_scalar_type(values)
    _narrow(rows64, archive / "row_ptr.npy", row_dtype)
    _write_genes(archive / "var_features", header)
    for folder in ("var_features", "obs_features"):
        _write_index(archive / folder, cells=cells, label=header.dataset)
    arrays = {"DATA": (values, data_dtype), "ROWPTR": (cells + 1, row_dtype), "COLPTR": (values, column_dtype)}
    (archive / "header.sch").write_bytes(_header_bytes(arrays, cells=cells))
    (archive / "metadata.json").write_text(json.dumps({"num_rows": cells}))
    (archive / "version.json").write_text(json.dumps(SCDL_VERSION))
    files = sorted(p for p in archive.rglob("*") if p.is_file())
    return {
        "cells": cells,
        "values": values,
        "dtypes": {name: dtype.name for name, (_, dtype) in arrays.items()},
        "files": [{"file": f"{split}/{p.relative_to(archive).as_posix()}", "bytes": p.stat().st_size} for p in files],
    }


def _little_endian(values: np.ndarray, dtype: np.dtype[Any]) -> bytes:
    return values.astype(dtype.newbyteorder("<"), copy=False).tobytes()


def _narrow(wide: Path, narrow: Path, dtype: np.dtype[Any]) -> None:
    """Rewrite a file of uint64 in a narrower type, block by block, and remove it."""
    import numpy as np

    with wide.open("rb") as source, narrow.open("wb") as sink:
        while block := source.read(8 * BLOCK):
            sink.write(_little_endian(np.frombuffer(block, "<u8"), dtype))
    wide.unlink()


class _ObsTable:
    """``cell_id`` and the obs columns as Parquet, in row groups of a fixed number of cells."""

    def __init__(self, path: Path, *, columns: dict[str, str]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        types = {"string": pa.string(), "bool": pa.bool_(), "int64": pa.int64(), "float64": pa.float64()}
        self._schema = pa.schema([("cell_id", pa.string()), *((c, types[kind]) for c, kind in columns.items())])
        self._writer = pq.ParquetWriter(path, self._schema, compression="zstd")
        self._pending: list[pa.Table] = []
        self._cells = 0

    def add(self, batch: pa.RecordBatch) -> None:
        import numpy as np
        import pyarrow as pa

        table = pa.Table.from_batches([batch]).select(self._schema.names)
        # A copy: a slice would keep the counts of its batch in memory.
        self._pending.append(table.take(np.arange(table.num_rows)).cast(self._schema))
        self._cells += table.num_rows
        if self._cells >= CELLS_PER_GROUP:
            table = pa.concat_tables(self._pending)
            whole = self._cells - self._cells % CELLS_PER_GROUP
            self._write(table.slice(0, whole))
            self._pending, self._cells = [table.slice(whole)], self._cells - whole

    def _write(self, table: pa.Table) -> None:
        for start in range(0, table.num_rows, CELLS_PER_GROUP):
            self._writer.write_table(table.slice(start, CELLS_PER_GROUP).combine_chunks(), CELLS_PER_GROUP)

    def close(self) -> None:
        import pyarrow as pa

        if self._cells:
            self._write(pa.concat_tables(self._pending))
        self._writer.close()


def _write_genes(folder: Path, header: Header) -> None:
    """The gene table: ids as a column, because SCDL keeps no index."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir()
    names = [name for name in ("gene_id", "gene_symbol") if name in header.genes]
    table = pa.table({name: pa.array(header.genes[name], pa.string(), from_pandas=True) for name in names})
    pq.write_table(table, folder / "dataframe_0.parquet", compression="zstd")


def _write_index(folder: Path, *, cells: int, label: str) -> None:
    """One block of features for all cells; labels twice, for the readers of 0.1.3 (npy) and of later ones (json)."""
    import numpy as np

    np.save(folder / "cumulative_sum_index.npy", np.array([-1, cells], np.int64), allow_pickle=False)
    np.save(folder / "labels.npy", np.array([label]), allow_pickle=False)
    np.save(folder / "version.npy", np.array(SCDL_VERSION), allow_pickle=False)
    (folder / "labels.json").write_text(json.dumps([label]))


def _header_bytes(arrays: dict[str, tuple[int, np.dtype[Any]]], *, cells: int) -> bytes:
    """The binary header, big-endian: layout version, memory-map backend, the arrays, the two feature tables."""

    def text(value: str) -> bytes:
        return struct.pack(">I", len(value.encode())) + value.encode()

    parts = [b"SCDL", struct.pack(">4BII", *HEADER_VERSION, 1, 1, len(arrays))]
    for name, (length, dtype) in arrays.items():
        parts += [text(name), struct.pack(">QIB", length, DTYPE_CODES[dtype.name], 0)]
    parts.append(struct.pack(">I", 2))
    for folder in ("var_features", "obs_features"):
        names = ("cumulative_sum_index.npy", "labels.npy", "labels.json", "version.npy", "dataframe_0.parquet")
        parts += [text(folder), struct.pack(">QII", cells, STRING_CODE, len(names))]
        parts += [text(f"{folder}/{name}") for name in names]
        parts.append(struct.pack(">B", 0))
    return b"".join(parts)
