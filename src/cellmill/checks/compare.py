"""The cells of a split as an export holds them, against the cells that it was made from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cellmill.checks.columns import differing, told, told_counts
from cellmill.checks.problems import Problems
from cellmill.keys import hash_strings

WAITING_ROWS = 1 << 16
"""Cells that may wait for their counterpart: more than these out of place are told as missing and as too many."""


class Rows(NamedTuple):
    """Some cells of a file: its name in the export, the row of the first in it, and their columns."""

    file: str
    first: int
    table: pa.Table
    step: int = 1
    """Rows that each cell has there."""

    def row(self, at: int) -> int:
        """The row in the file of a cell of the table."""
        return self.first + self.step * at


class Split:
    """Compares one split in one pass, whatever its size.

    Both sides come in the order of the hash of the cell id, so that they are joined as they come.
    Cells out of that order wait, up to ``WAITING_ROWS`` of them, until their counterpart comes.
    Without ``expected``, the order and the number of cells are looked at.
    """

    def __init__(self, name: str, expected: Iterator[pa.Table] | None, problems: Problems, *, genes: list[str]) -> None:
        self.name, self.problems, self.genes = name, problems, genes
        self._expected = expected
        self._ahead: pa.Table | None = None
        self._found = self._wanted = None
        self._last: tuple[int, str] = (-1, "")
        self.cells = 0
        self.uncompared: set[str] = set()
        self.compared: set[str] = set()

    def add(self, rows: Rows) -> None:
        """The next cells of the export."""
        n = rows.table.num_rows
        if not n:
            return
        self.cells += n
        ids = rows.table["cell_id"].combine_chunks().cast(pa.large_string())
        if ids.null_count:
            first = rows.row(int(pc.index(ids.is_null(), True).as_py()))
            self.problems.add(
                "cells without an id", f"{rows.file}, row {first}", f"{ids.null_count:,} cells have no id"
            )
            return
        keys = hash_strings(ids, seed=0, purpose="order")
        ordered = self._look_at_order(rows, ids, keys)
        if self._expected is None:
            return
        table = rows.table.append_column("_file", pa.repeat(rows.file, n))
        table = table.append_column("_row", pa.array(rows.first + rows.step * np.arange(n)))
        # Cells before this key are drawn whatever their number; a cell far out of place must not draw all others.
        upto, limit = int(np.quantile(keys, 0.9, method="lower")), n + WAITING_ROWS // 2
        wanted = self._pull(upto, limit)
        while wanted is not None and len(wanted) >= limit:
            self._join(None, wanted)
            wanted = self._pull(upto, limit)
        if ordered:
            wanted = _joined(wanted, self._pull(int(keys[-1]), limit))
        self._join(table, wanted)

    def close(self) -> None:
        """No more cells: what still waits is missing, or too much."""
        while self._expected is not None:
            table = self._pull((1 << 64) - 1, WAITING_ROWS // 2)
            if table is None:
                break
            self._join(None, table)
        if self._found is not None:
            self._surplus(self._found)
        if self._wanted is not None:
            self._missing(self._wanted)
        self._found = self._wanted = None

    def _look_at_order(self, rows: Rows, ids: pa.Array, keys: np.ndarray) -> bool:
        """Tell cells whose key is below that of the cell before, and cells that stand there twice."""
        before = np.r_[np.uint64(max(self._last[0], 0)), keys[:-1]]
        down = np.flatnonzero(keys < before)
        same = [r for r in np.flatnonzero(keys == before) if ids[int(r)].as_py() == self._id_before(ids, int(r))]

        def where(row: int) -> str:
            return f"{rows.file}, row {rows.row(row)}, cell '{ids[row]}'"

        late = "stands behind a cell that should come after it; expected the order of the hash of the cell id"
        self.problems.many("cells out of order", len(down), ((where(int(r)), late) for r in down))
        self.problems.many("cells twice", len(same), ((where(int(r)), "stands there twice") for r in same))
        self._last = (int(keys[-1]), ids[-1].as_py())
        return not len(down)

    def _id_before(self, ids: pa.Array, row: int) -> str:
        return str(ids[row - 1].as_py()) if row else self._last[1]

    def _pull(self, upto: int, at_most: int) -> pa.Table | None:
        """The next cells that are expected, up to a key."""
        pulled: list[pa.Table] = []
        rows = 0
        while rows < at_most:
            if self._ahead is None:
                assert self._expected is not None
                self._ahead = next(self._expected, None)
                if self._ahead is None:
                    break
            keys = hash_strings(self._ahead["cell_id"].combine_chunks(), seed=0, purpose="order")
            n = int(np.searchsorted(keys, np.uint64(upto), side="right"))
            if n:
                pulled.append(self._ahead.slice(0, n))
                rows += n
            if n < len(keys):
                self._ahead = self._ahead.slice(n)
                break
            self._ahead = None
        return pa.concat_tables(pulled).combine_chunks() if pulled else None

    def _join(self, found: pa.Table | None, wanted: pa.Table | None) -> None:
        """Compare cells of both sides that have the same id; the others wait."""
        found, wanted = _joined(self._found, found), _joined(self._wanted, wanted)
        self._found = self._wanted = None
        if found is None or wanted is None:
            self._found, self._wanted = found, wanted
        elif pc.all(pc.equal(*_ids(found, wanted))).as_py() if len(found) == len(wanted) else False:
            self._compare(found, wanted)
        else:
            f_ids, w_ids = _ids(found, wanted)
            at = pc.index_in(f_ids, value_set=w_ids)
            mine = np.flatnonzero(at.is_valid().to_numpy(zero_copy_only=False))
            theirs = at.drop_null().to_numpy()
            theirs, first = np.unique(theirs, return_index=True)
            mine = mine[first]
            if len(mine):
                self._compare(found.take(pa.array(mine)), wanted.take(pa.array(theirs)))
            self._found = _without(found, mine)
            self._wanted = _without(wanted, theirs)
        if self._found is not None and len(self._found) > WAITING_ROWS:
            over = len(self._found) - WAITING_ROWS
            self._surplus(self._found.slice(0, over))
            self._found = self._found.slice(over)
        if self._wanted is not None and len(self._wanted) > WAITING_ROWS:
            over = len(self._wanted) - WAITING_ROWS
            self._missing(self._wanted.slice(0, over))
            self._wanted = self._wanted.slice(over)

    def _surplus(self, table: pa.Table) -> None:
        what = f"is no kept cell of the split '{self.name}', or stands there twice"
        each = ((_where(row), what) for row in _each(table, ("_file", "_row", "cell_id")))
        self.problems.many(f"cells of {self.name} that should not be there", len(table), each)

    def _missing(self, table: pa.Table) -> None:
        what = "is missing; it is a kept cell of this split"
        each = ((f"{self.name}/, cell '{row['cell_id']}'", what) for row in _each(table, ("cell_id",)))
        self.problems.many(f"cells of {self.name} that are missing", len(table), each)

    def _compare(self, found: pa.Table, wanted: pa.Table) -> None:
        """Every column of cells that stand in the same rows of both tables."""
        names = [c for c in wanted.column_names if c not in ("cell_id", "counts")]
        self.uncompared |= set(found.column_names) - set(wanted.column_names) - {"_file", "_row"}
        for name in names:
            column = "counts" if name == "genes" and "counts" in wanted.column_names else name
            if name not in found.column_names or column not in found.column_names:
                if column not in self.compared:
                    self.problems.add("columns that are missing", f"{self.name}/", f"there is no column '{column}'")
                self.compared.add(column)
                continue
            self.compared.add(column)
            rows = differing(_column(found, name), _column(wanted, name))
            if column != name:
                rows |= differing(_column(found, column), _column(wanted, column))
            if rows.any():
                self._tell(column, found, wanted, np.flatnonzero(rows))

    def _tell(self, column: str, found: pa.Table, wanted: pa.Table, rows: np.ndarray) -> None:
        def each() -> Iterator[tuple[str, str]]:
            for row in rows:
                mine, theirs = ({c: t[c][int(row)].as_py() for c in t.column_names} for t in (found, wanted))
                counts = told_counts(mine, theirs, self.genes) if column == "counts" else None
                yield f"{_where(mine)}, {column}", counts or told(mine[column], theirs[column])

        self.problems.many(f"cells with another '{column}'", len(rows), each())


def _where(row: dict[str, Any]) -> str:
    return f"{row['_file']}, row {row['_row']}, cell '{row['cell_id']}'"


def _each(table: pa.Table, columns: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    return ({c: table[c][row].as_py() for c in columns} for row in range(len(table)))


def _ids(*tables: pa.Table) -> list[pa.Array]:
    return [t["cell_id"].combine_chunks().cast(pa.large_string()) for t in tables]


def _column(table: pa.Table, name: str) -> pa.Array:
    column = table[name].combine_chunks()
    return pa.concat_arrays(column.chunks) if isinstance(column, pa.ChunkedArray) else column


def _joined(first: pa.Table | None, second: pa.Table | None) -> pa.Table | None:
    if first is None or second is None:
        return second if first is None else first
    return pa.concat_tables([first, second]).combine_chunks()


def _without(table: pa.Table, rows: np.ndarray) -> pa.Table | None:
    """The other rows, as a copy: a slice would keep all in memory."""
    stay = np.ones(len(table), np.bool_)
    stay[rows] = False
    return table.take(pa.array(np.flatnonzero(stay))) if stay.any() else None
