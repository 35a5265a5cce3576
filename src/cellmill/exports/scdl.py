"""``scdl``: memory-mapped archives that BioNeMo-SCDL's ``SingleCellMemMapDataset`` opens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cellmill.errors import CellmillError
from cellmill.exports.columns import by_split, checked_counts, count_missing, obs_columns
from cellmill.exports.spec import ExportSpec
from cellmill.spec import Column, Spec

if TYPE_CHECKING:
    import pyarrow as pa

    from cellmill.exports.rows import Header


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
    from cellmill.scdl.archive import SCDL_VERSION

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
    import pyarrow as pa

    from cellmill.scdl.writer import ArchiveWriter

    archive.mkdir()
    columns_dtype = np.min_scalar_type(max(len(header.genes) - 1, 0))
    types = {"string": pa.string(), "bool": pa.bool_(), "int64": pa.int64(), "float64": pa.float64()}
    schema = pa.schema([("cell_id", pa.string()), *((c, types[kind]) for c, kind in columns.items())])
    with ArchiveWriter(archive, column_dtype=columns_dtype, data_dtype=header.counts_dtype) as writer:
        writer.begin_obs(schema, header.dataset)
        for batch in batches:
            offsets, genes, counts = checked_counts(batch, header)
            writer.add_rows(counts, genes, offsets[1:])
            count_missing(missing, batch, columns)
            writer.add_obs(pa.Table.from_batches([batch]))
        if not writer.values:
            fix = "Filter empty cells (quality), or leave the export scdl out."
            where = f"{header.dataset}, split '{split}'"
            raise CellmillError(where, "has no count, and SCDL cannot map an empty file.", fix)
        writer.add_genes(_genes(header), rows=writer.cells, label=header.dataset)
        arrays = writer.close()
    files = sorted(p for p in archive.rglob("*") if p.is_file())
    return {
        "cells": writer.cells,
        "values": writer.values,
        "dtypes": {name: said["dtype"] for name, said in arrays.items()},
        "files": [{"file": f"{split}/{p.relative_to(archive).as_posix()}", "bytes": p.stat().st_size} for p in files],
    }


def _genes(header: Header) -> pa.Table:
    """The gene table: ids as a column, because SCDL keeps no index."""
    import pyarrow as pa

    names = [name for name in ("gene_id", "gene_symbol") if name in header.genes]
    return pa.table({name: pa.array(header.genes[name], pa.string(), from_pandas=True) for name in names})
