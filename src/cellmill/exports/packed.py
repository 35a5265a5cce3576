"""``packed``: counts at about a byte per value, any row decoded by itself, for training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from cellmill.errors import CellmillError
from cellmill.exports.columns import by_split, checked_counts, count_missing, obs_columns
from cellmill.exports.obs_table import ObsTable
from cellmill.exports.spec import ExportSpec
from cellmill.spec import Column, Spec

if TYPE_CHECKING:
    import pyarrow as pa

    from cellmill.exports.rows import Header


class PackedCounts(Spec, ExportSpec):
    """Counts at about a byte per value, with gene and cell tables, one archive per split."""

    kind: Literal["counts"] = "counts"
    columns: list[Column] | None = None
    """Obs columns to write; `null`: all that the dataset keeps."""
    cells_per_file: Annotated[int, Field(ge=1, le=1 << 24)] = 1 << 20
    """Cells in each `NNNNN.cells`: one or two gigabytes by default."""

    @property
    def with_counts(self) -> bool:
        return True


def write(
    out: Path,
    header: Header,
    rows: Iterable[tuple[str, pa.RecordBatch]],
    spec: PackedCounts,
    *,
    vocabulary: dict[str, int] | None = None,
    threads: int = 1,
) -> dict[str, Any]:
    """Write one archive per split and return what the manifest says of them.

    Args:
        out: an empty folder.
        header: what is known before the first row.
        rows: ``(split, batch)`` with ``cell_id``, ``genes``, ``counts`` and the obs columns, split by split.
        spec: the obs columns and the size of files.
        vocabulary: not used, counts have none.

    Raises:
        CellmillError: where a count does not fit, a column is not there, or cells are missing.

    The bytes depend on the rows alone, not on how they are cut into batches.
    Memory: the first 8,192 cells, by which genes are called frequent, and the obs columns of one row group.
    """
    from cellmill.packed.layout import OBS
    from cellmill.packed.writer import PackedWriter

    kinds = obs_columns(header, spec.columns, reserved=("cell_id",), export="packed")
    if header.counts_dtype.itemsize > 4:
        found = f"the counts are {header.counts_dtype}; records hold counts up to 2^32 - 1."
        raise CellmillError(f"{header.dataset}, export packed", found, "Leave this export out, or divide the counts.")
    missing: Counter[str] = Counter()
    splits: dict[str, Any] = {}
    for split, batches in by_split(header, rows):
        archive = out / split
        archive.mkdir()
        writer = PackedWriter(archive, genes=header.genes, dtype=header.counts_dtype, rows_per_file=spec.cells_per_file)
        obs = ObsTable(archive / OBS, columns=kinds)
        try:
            for batch in batches:
                writer.append(*checked_counts(batch, header))
                count_missing(missing, batch, kinds)
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
    return {
        "genes": len(header.genes),
        "counts_dtype": header.counts_dtype.name,
        "columns": {"cell_id": "string"} | kinds,
        "missing": dict(missing),
        "missing_as": "null",
        "splits": splits,
    }
