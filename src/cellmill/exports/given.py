"""What every export is given: a folder, what is known before the first row, and the rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellmill.errors import CellmillError, nearest
from cellmill.exports.columns import MISSING

if TYPE_CHECKING:
    import pyarrow as pa

    from cellmill.exports.rows import Header


def obs_schema(columns: dict[str, str]) -> pa.Schema:
    """``cell_id`` and the columns of ``Given.obs_columns``."""
    import pyarrow as pa

    return pa.schema([("cell_id", "string"), *columns.items()])


@dataclass(frozen=True)
class Given:
    """What every export is given; ``write(given, spec)`` of its format writes it and returns its facts.

    The bytes that it writes depend on the rows alone, not on how they are cut into batches, nor on threads.
    """

    out: Path
    """An empty folder."""
    header: Header
    """What is known before the first row."""
    rows: Iterable[tuple[str, pa.RecordBatch]]
    """``(split, batch)``, split by split, with ``cell_id``, what the spec reads, and the obs columns of the header."""
    vocabulary: dict[str, int] | None = None
    """Token ids by token; counts have none."""
    threads: int = 1
    """How many compress while rows are gathered, where the format can use more than one."""
    _missing: Counter[str] = field(default_factory=Counter, init=False)

    def obs_columns(
        self, asked: Sequence[str] | None, *, reserved: Sequence[str] = ("cell_id",), export: str
    ) -> dict[str, str]:
        """Obs columns to write and their types: ``string``, ``bool``, ``int64`` or ``float64``; ``None`` asks for all.

        Raises:
            CellmillError: where a column is not there, has another type, or has a name that the export writes itself.
        """
        import pyarrow as pa

        kinds = {}
        there = self.header.obs.names
        for column in there if asked is None else asked:
            where = f"{self.header.dataset}, export {export}"
            if column not in there:
                fix = f"{nearest(column, there)} Keep it with columns.keep, or do not ask for it."
                raise CellmillError(where, f"no column '{column}' stays with the cells.", fix)
            if column in reserved:
                raise CellmillError(
                    where, f"writes '{column}' itself.", "Rename your column, or leave it out of 'columns'."
                )
            type_ = self.header.obs.field(column).type
            text = pa.types.is_string(type_) or pa.types.is_large_string(type_) or pa.types.is_dictionary(type_)
            kinds[column] = "string" if text else {"double": "float64"}.get(str(type_), str(type_))
            if kinds[column] not in MISSING:
                fix = f"Expected {', '.join(MISSING)}."
                raise CellmillError(where, f"the column '{column}' has the type {type_}.", fix)
        return kinds

    def by_split(self) -> Iterator[tuple[str, Iterator[pa.RecordBatch]]]:
        """Yield every split that has cells with its batches, whose missing values are counted; use them up.

        Raises:
            CellmillError: where the splits come in another order than in the header, or with another number of cells.
        """
        dataset, cells = self.header.dataset, self.header.cells
        again = "Delete the results of the earlier steps of this dataset and run again; if it comes back, report it."
        expected = [split for split, n in cells.items() if n]
        found: list[str] = []
        for split, batches in groupby(((s, b) for s, b in self.rows if b.num_rows), key=itemgetter(0)):
            found.append(split)
            if found != expected[: len(found)]:
                raise CellmillError(dataset, f"splits came as {found}, not as {expected}.", again)
            yield split, self._counted(split, (batch for _, batch in batches), again)
        if found != expected:
            raise CellmillError(dataset, f"only the splits {found} of {expected} came.", again)

    def _counted(self, split: str, batches: Iterator[pa.RecordBatch], again: str) -> Iterator[pa.RecordBatch]:
        cells, expected = 0, self.header.cells[split]
        for batch in batches:
            cells += batch.num_rows
            if cells > expected:
                break
            for column in batch.schema.names:
                self._missing[column] += batch[column].null_count
            yield batch
        if cells != expected:
            found = f"came with {'more than ' * (cells > expected)}{min(cells, expected):,} cells"
            raise CellmillError(f"{self.header.dataset}, split '{split}'", f"{found}, not {expected:,}.", again)

    def missing(self, columns: Iterable[str]) -> dict[str, int]:
        """Missing values of obs columns in the batches so far; columns without any are not listed."""
        return {column: self._missing[column] for column in columns if self._missing[column]}

    def facts_of_counts(self, columns: dict[str, str], splits: dict[str, Any]) -> dict[str, Any]:
        """What the manifest says of counts in the header's type with obs columns that may be null."""
        return {
            "genes": len(self.header.genes),
            "counts_dtype": self.header.counts_dtype.name,
            "columns": {"cell_id": "string"} | columns,
            "missing": self.missing(columns),
            "missing_as": "null",
            "splits": splits,
        }
