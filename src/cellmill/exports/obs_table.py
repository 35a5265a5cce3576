"""Cell ids and obs columns as Parquet, beside counts that stand elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

CELLS_PER_GROUP = 1 << 16
"""Cells per row group."""


class ObsTable:
    """``cell_id`` and obs columns, in row groups of a fixed number of cells, zstd.

    The bytes depend on the rows alone, not on how they are cut into batches.
    Memory: the columns of one row group.

    Args:
        columns: the columns and their types, as ``columns.obs_columns`` gives them.
    """

    def __init__(self, path: Path, *, columns: dict[str, str]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        types = {"string": pa.string(), "bool": pa.bool_(), "int64": pa.int64(), "float64": pa.float64()}
        self._schema = pa.schema([("cell_id", pa.string()), *((c, types[kind]) for c, kind in columns.items())])
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
