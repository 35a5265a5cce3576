"""``quality/duplicates.parquet`` and ``quality/splits.parquet``: what is decided over all parts."""

from __future__ import annotations

from collections.abc import Iterable
from os import PathLike
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cellmill.contracts import parquet
from cellmill.contracts.versions import DUPLICATES, SPLITS

DUPLICATES_SCHEMA = pa.schema(
    [
        pa.field("part", pa.string(), nullable=False),
        pa.field("row", pa.int64(), nullable=False),
        pa.field("content_1", pa.uint64(), nullable=False),
        pa.field("content_2", pa.uint64(), nullable=False),
        pa.field("first", pa.bool_(), nullable=False),
    ]
)
SPLITS_SCHEMA = pa.schema(
    [
        pa.field("role", pa.string(), nullable=False),
        pa.field("value", pa.large_string(), nullable=False),
        pa.field("cells", pa.int64(), nullable=False),
        pa.field("split", pa.string()),
        pa.field("edges", pa.list_(pa.uint64())),
    ]
)


def write_duplicates(path: str | PathLike[str], batches: Iterable[pa.RecordBatch], facts: dict[str, Any]) -> None:
    """One row per cell that has twins; facts: how many contents and cells."""
    parquet.write_batches(path, DUPLICATES_SCHEMA, batches, DUPLICATES, facts)


def read_duplicates(path: str | PathLike[str], part: str | None = None) -> tuple[pa.Table, dict[str, Any]]:
    """The table, or the rows of one part, and its facts."""
    file, facts = parquet.open_file(path, DUPLICATES)
    with file:
        batches = list(file.iter_batches())
    if part is not None:
        batches = [b.filter(pc.equal(b["part"], part)) for b in batches]
    return pa.Table.from_batches(batches, DUPLICATES_SCHEMA), facts


def write_splits(path: str | PathLike[str], table: pa.Table, facts: dict[str, Any]) -> None:
    """A row per group, stratum or listed cell; facts: the method, the fractions and the rare categories."""
    parquet.write(path, table, SPLITS, facts)


def read_splits(path: str | PathLike[str]) -> tuple[pa.Table, dict[str, Any]]:
    """The table and its facts."""
    return parquet.read(path, SPLITS)
