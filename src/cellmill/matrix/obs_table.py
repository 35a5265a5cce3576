"""Obs columns as Parquet, beside counts that stand elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

CELLS_PER_GROUP = 1 << 16
"""Cells per row group."""


class ObsTable:
    """Obs columns of a schema, in row groups of a fixed number of cells, zstd.

    The bytes depend on the rows alone, not on how they are cut into batches.
    Memory: the columns of one row group.
    """

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        import pyarrow.parquet as pq

        self.schema = schema
        self._writer = pq.ParquetWriter(path, schema, compression="zstd")
        self._pending: list[pa.Table] = []
        self._cells = 0

    def add(self, rows: pa.RecordBatch | pa.Table) -> None:
        """Append rows that have these columns, and others."""
        import numpy as np
        import pyarrow as pa

        if not rows.num_rows:
            return
        table = rows if isinstance(rows, pa.Table) else pa.Table.from_batches([rows])
        # A copy: a slice would keep what it was cut from, such as the counts of its batch, in memory.
        self._pending.append(table.select(self.schema.names).take(np.arange(table.num_rows)).cast(self.schema))
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
        """Write what is left; once more does no harm."""
        import pyarrow as pa

        if self._cells:
            self._write(pa.concat_tables(self._pending))
            self._pending, self._cells = [], 0
        self._writer.close()
