"""What is measured and decided of raw cells: the files of ``quality/{part}``, the thresholds, and the outcomes."""

from __future__ import annotations

from collections.abc import Iterable
from os import PathLike
from typing import Any

import pyarrow as pa

from cellmill.contracts import parquet
from cellmill.contracts.versions import CELLS, LABELS, QUALITY, THRESHOLDS
from cellmill.files import read_json, write_json
from cellmill.quality.names import GENE_SETS, METRICS, metric_of

_WHOLE = ("n_genes_by_counts", "total_counts")

_CELL = (pa.field("cell_id", pa.large_string(), nullable=False), pa.field("batch", pa.string(), nullable=False))
_CONTENT = tuple(pa.field(f"content_{n}", pa.uint64(), nullable=False) for n in (1, 2))


def quality_schema(gene_sets: Iterable[str] = GENE_SETS) -> pa.Schema:
    """The columns of a quality file; metrics of gene sets that are not cellmill's own come after the others."""
    metrics = dict.fromkeys([*METRICS, *map(metric_of, gene_sets)])
    fields = (pa.field(m, pa.int64() if m in _WHOLE else pa.float64()) for m in metrics)
    return pa.schema([*_CELL, *fields, *_CONTENT])


QUALITY_SCHEMA = quality_schema()
"""The columns that every quality file has."""
LABELS_SCHEMA = pa.schema(
    [
        pa.field("filter", pa.string()),
        pa.field("group", pa.large_string()),
        pa.field("stratum", pa.large_string()),
        pa.field("category", pa.large_string()),
    ]
)
CELLS_SCHEMA = pa.schema(
    [
        pa.field("cell_id", pa.large_string(), nullable=False),
        pa.field("batch", pa.string(), nullable=False),
        pa.field("outcome", pa.string(), nullable=False),
        pa.field("split", pa.string()),
    ]
)


def metrics_of(table: pa.Table) -> list[str]:
    """The metrics among the columns of a quality file."""
    others = {field.name for field in (*_CELL, *_CONTENT)}
    return [name for name in table.column_names if name not in others]


def write_quality(
    path: str | PathLike[str],
    batches: Iterable[pa.RecordBatch],
    facts: dict[str, Any],
    *,
    gene_sets: Iterable[str] = GENE_SETS,
) -> None:
    """One row per raw cell, in the order of the raw file; facts: where the counts are and why, the largest count."""
    parquet.write_batches(path, quality_schema(gene_sets), batches, QUALITY, facts)


def read_quality(path: str | PathLike[str], columns: list[str] | None = None) -> tuple[pa.Table, dict[str, Any]]:
    """The table, or some of its columns, and its facts."""
    return parquet.read(path, QUALITY, columns)


def count_cells(path: str | PathLike[str]) -> int:
    """Cells of a quality file, without reading it."""
    file, _ = parquet.open_file(path, QUALITY)
    with file:
        return int(file.metadata.num_rows)


def write_labels(path: str | PathLike[str], table: pa.Table, facts: dict[str, Any]) -> None:
    """One row per raw cell, in the order of the raw file; facts: the cells of each value that a filter looks at."""
    parquet.write(path, table, LABELS, facts)


def read_labels(path: str | PathLike[str], columns: list[str] | None = None) -> tuple[pa.Table, dict[str, Any]]:
    """The table, or some of its columns, and its facts."""
    return parquet.read(path, LABELS, columns)


def write_thresholds(path: str | PathLike[str], thresholds: dict[str, Any]) -> None:
    """Bounds per batch and metric, over all parts."""
    write_json(path, {"contract": str(THRESHOLDS), **thresholds})


def read_thresholds(path: str | PathLike[str]) -> dict[str, Any]:
    thresholds: dict[str, Any] = read_json(path)
    THRESHOLDS.verify(path, thresholds.get("contract"))
    return thresholds


def write_cells(path: str | PathLike[str], table: pa.Table, facts: dict[str, Any]) -> None:
    """One row per raw cell: ``kept`` or the first reason why not, and the split of the kept."""
    parquet.write(path, table, CELLS, facts)


def read_cells(path: str | PathLike[str], columns: list[str] | None = None) -> tuple[pa.Table, dict[str, Any]]:
    """The table, or some of its columns, and its facts."""
    return parquet.read(path, CELLS, columns)
