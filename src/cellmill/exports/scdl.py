"""``scdl``: memory-mapped archives that BioNeMo-SCDL's ``SingleCellMemMapDataset`` opens."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellmill.errors import CellmillError
from cellmill.exports.columns import checked_counts
from cellmill.exports.given import Given, obs_schema
from cellmill.exports.spec import CountsSpec

if TYPE_CHECKING:
    import pyarrow as pa

    from cellmill.exports.rows import Header


class ScdlCounts(CountsSpec):
    """Counts as CSR memory maps with gene and cell tables, one archive per split."""


def write(given: Given, spec: ScdlCounts) -> dict[str, Any]:
    """Write one archive per split and return what the manifest says of them.

    Raises:
        CellmillError: where a count does not fit, a column is not there, cells are missing, or a split has no count.

    Memory: one batch, and the obs columns of one row group.
    """
    from cellmill.scdl.archive import SCDL_VERSION

    kinds = given.obs_columns(spec.columns, export="scdl")
    splits = {
        split: _write_archive(given.out / split, given.header, batches, columns=kinds)
        for split, batches in given.by_split()
    }
    return {"scdl_version": SCDL_VERSION, **given.facts_of_counts(kinds, splits)}


def _write_archive(
    archive: Path, header: Header, batches: Iterable[pa.RecordBatch], *, columns: dict[str, str]
) -> dict[str, Any]:
    import numpy as np

    from cellmill.scdl.writer import ArchiveWriter

    archive.mkdir()
    columns_dtype = np.min_scalar_type(max(len(header.genes) - 1, 0))
    with ArchiveWriter(archive, column_dtype=columns_dtype, data_dtype=header.counts_dtype) as writer:
        writer.begin_obs(obs_schema(columns), header.dataset)
        for batch in batches:
            offsets, genes, counts = checked_counts(batch, header)
            writer.add_rows(counts, genes, offsets[1:])
            writer.add_obs(batch)
        if not writer.values:
            fix = "Filter empty cells (quality), or leave the export scdl out."
            where = f"{header.dataset}, split '{archive.name}'"
            raise CellmillError(where, "has no count, and SCDL cannot map an empty file.", fix)
        writer.add_genes(_genes(header), rows=writer.cells, label=header.dataset)
        arrays = writer.close()
    files = sorted(p for p in archive.rglob("*") if p.is_file())
    return {
        "cells": writer.cells,
        "values": writer.values,
        "dtypes": {name: said["dtype"] for name, said in arrays.items()},
        "files": [{"file": p.relative_to(archive.parent).as_posix(), "bytes": p.stat().st_size} for p in files],
    }


def _genes(header: Header) -> pa.Table:
    """The gene table: ids as a column, because SCDL keeps no index."""
    import pyarrow as pa

    names = [name for name in ("gene_id", "gene_symbol") if name in header.genes]
    return pa.table({name: pa.array(header.genes[name], pa.string(), from_pandas=True) for name in names})
