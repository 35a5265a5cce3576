"""Cell ids and obs columns as Parquet, beside counts that stand elsewhere."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

CELLS_PER_GROUP = 1 << 16
"""Cells per row group."""


class ObsTable:
    """``cell_id`` and obs columns, in row groups of a fixed number of cells, zstd.

    The bytes depend on the rows alone, not on how they are cut into batches.
    Memory: the columns of one row group.

    Args:
        columns: the columns and their types, as ``Given.obs_columns`` gives them.
    """

    def __init__(self, path: Path, *, columns: dict[str, str]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._schema = pa.schema([("cell_id", "string"), *columns.items()])
        self._writer = pq.ParquetWriter(path, self._schema, compression="zstd")
        self._pending: list[pa.Table] = []
        self._cells = 0

    def add(self, batch: pa.RecordBatch) -> None:
        """Append the rows of a batch that has these columns, and others."""
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
        """Write what is left."""
        import pyarrow as pa

        if self._cells:
            self._write(pa.concat_tables(self._pending))
        self._writer.close()


def waiting(out: Path, split: str) -> Path:
    """Where the table of a split waits until the categories of all splits are known."""
    return out / f".{split}.obs.parquet"


def categories(out: Path, splits: Iterable[str], column: str) -> pd.Index:
    """Every value of a text column over the waiting tables of all splits, sorted."""
    import pandas as pd
    import pyarrow.parquet as pq

    found: set[str] = set()
    for split in splits:
        for batch in pq.ParquetFile(waiting(out, split)).iter_batches(columns=[column]):
            found.update(batch[column].unique().drop_null().to_pylist())
    return pd.Index(sorted(found), dtype=object)
