"""``packed``: counts at about a byte per value, any row decoded by itself, for training."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from cellmill.errors import CellmillError
from cellmill.exports.columns import checked_counts
from cellmill.exports.given import Given, obs_schema
from cellmill.exports.spec import CountsSpec
from cellmill.matrix.obs_table import ObsTable


class PackedCounts(CountsSpec):
    """Counts at about a byte per value, with gene and cell tables, one archive per split."""

    cells_per_file: Annotated[int, Field(ge=1, le=1 << 24)] = 1 << 20
    """Cells in each `NNNNN.cells`: one or two gigabytes by default."""


def write(given: Given, spec: PackedCounts) -> dict[str, Any]:
    """Write one archive per split and return what the manifest says of them.

    Raises:
        CellmillError: where a count does not fit, a column is not there, or cells are missing.

    Memory: the first 8,192 cells, by which genes are called frequent, and the obs columns of one row group.
    """
    from cellmill.packed.layout import OBS
    from cellmill.packed.writer import PackedWriter

    header, kinds = given.header, given.obs_columns(spec.columns, export="packed")
    if header.counts_dtype.itemsize > 4:
        found = f"the counts are {header.counts_dtype}; records hold counts up to 2^32 - 1."
        raise CellmillError(f"{header.dataset}, export packed", found, "Leave this export out, or divide the counts.")
    splits: dict[str, Any] = {}
    for split, batches in given.by_split():
        archive = given.out / split
        archive.mkdir()
        writer = PackedWriter(archive, genes=header.genes, dtype=header.counts_dtype, rows_per_file=spec.cells_per_file)
        obs = ObsTable(archive / OBS, obs_schema(kinds))
        try:
            for batch in batches:
                writer.append(*checked_counts(batch, header))
                obs.add(batch)
            obs.close()
            about = writer.close()
        except BaseException:
            writer.abandon()
            raise
        size = sum(path.stat().st_size for path in archive.glob("*.cells"))
        splits[split] = {
            "cells": about["cells"],
            "values": about["values"],
            "frequent_genes": int(writer.frequent.sum()),
            "bytes_of_counts": size,
        }
    return given.facts_of_counts(kinds, splits)
