"""What ``missing:`` and ``join:`` make of the obs table of a part; its counts are not touched."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from cellmill.contracts.counts import to_arrow
from cellmill.contracts.obs import write_obs
from cellmill.errors import CellmillError, nearest
from cellmill.matrix.reader import CountsFile
from cellmill.quality.metrics import obs_column
from cellmill.sources.obs_rules import Join, Missing, ObsRules

log = logging.getLogger("cellmill")
EXAMPLES = 5
"""Keys that errors and facts name."""


def annotate_part(
    raw: str | PathLike[str],
    *,
    rules: ObsRules,
    tables: Sequence[str | PathLike[str]],
    out: str | PathLike[str],
) -> None:
    """Write the obs columns of a part that the rules change or add: a row per cell, in its order.

    Words for missing values go first, then tables are joined in their order, so that one may be joined by what another
    brought.

    Args:
        raw: the part, ``{part}.h5ad``; its counts are not read.
        tables: the table of each join, on this disk.

    Memory: the obs table of the part, and the joined columns of each table.

    Raises:
        CellmillError: no such column, a key that stands in a table twice, a column that is there already, or a cell
            whose key is not in the table, where that is an error.
    """
    candidates = CountsFile.candidates(raw)
    if not candidates:
        raise CellmillError(raw, "it has no matrix at all.", "Take a file with raw counts.")
    with CountsFile(raw, candidates[0]) as file:
        cells = file.shape[0]
        obs = _Obs(file.obs, rules.missing, Path(raw))
    said = [obs.join(join, path) for join, path in zip(rules.joins, tables, strict=True)]
    obs.refuse_unknown()
    facts = {"cells": cells, "missing": dict(sorted(obs.missing.items())), "joins": said}
    write_obs(out, pa.table(obs.columns), facts)


class _Obs:
    """The obs table of a part, and what becomes of it."""

    def __init__(self, found: pd.DataFrame, missing: Missing | None, where: Path) -> None:
        self._found, self._rule, self._where = found, missing, where
        self.columns: dict[str, pa.Array] = {}
        """The columns that are new or changed."""
        self.missing: dict[str, int] = {}
        """Cells by column whose word became a missing value."""
        for name in [] if missing is None else found.columns:
            values = found[name]
            if is_text(values.dtype) and self._asked(str(name)):
                changed = self._without_words(str(name), to_arrow(values))
                if self.missing[str(name)]:
                    self.columns[str(name)] = changed

    def _asked(self, name: str) -> bool:
        return self._rule is not None and (not self._rule.columns or name in self._rule.columns)

    def _without_words(self, name: str, values: pa.Array) -> pa.Array:
        assert self._rule is not None
        words = pa.array(self._rule.words, pa.string())
        hit = pc.is_in(pc.utf8_lower(pc.utf8_trim_whitespace(values)), value_set=words)
        self.missing[name] = self.missing.get(name, 0) + (pc.sum(hit).as_py() or 0)
        return pc.if_else(hit, pa.scalar(None, pa.string()), values)

    def refuse_unknown(self) -> None:
        """A column that ``missing.columns`` names is not there, or is no text."""
        for name in [] if self._rule is None else self._rule.columns:
            if name not in self.missing:
                there = [c for c in (*self._found.columns, *self.columns) if c not in self._found or self._text(c)]
                raise CellmillError(self._where, f"missing.columns: no column of text '{name}'.", nearest(name, there))

    def _text(self, name: str) -> bool:
        return is_text(self._found[name].dtype)

    def _keys(self, name: str) -> pa.Array:
        if name in self.columns:
            return as_keys(self.columns[name])
        return as_keys(to_arrow(obs_column(self._found, name, self._where)))

    def join(self, join: Join, path: str | PathLike[str]) -> dict[str, Any]:
        """Add the columns of a table; what was counted."""
        table = read_columns(Path(path), join)
        keys = as_keys(table[join.keys.table].combine_chunks())
        refuse_twice(keys, join)
        mine = self._keys(join.keys.obs)
        there = mine.is_valid()
        rows = pc.index_in(mine, value_set=keys.drop_null())
        rows = pa.array(np.flatnonzero(keys.is_valid().to_numpy(zero_copy_only=False))).take(rows)
        unmatched = pc.value_counts(mine.filter(pc.and_(there, rows.is_null())))
        found = sorted(zip(unmatched.field(0).to_pylist(), unmatched.field(1).to_pylist(), strict=True))
        said = {
            "table": join.shown,
            "by": [join.keys.obs, join.keys.table],
            "matched": len(rows) - rows.null_count,
            "without_key": len(mine) - int(pc.sum(there).as_py() or 0),
            "unmatched": sum(n for _, n in found),
            "examples": [key for key, _ in found[:EXAMPLES]],
        }
        if found:
            shown = ", ".join(f"'{key}'" for key, _ in found[:EXAMPLES]) + (", …" if len(found) > EXAMPLES else "")
            lost = f"{said['unmatched']:,} of {len(mine):,} cells have a key that {join.shown} has not: {shown}"
            if join.unmatched == "error":
                raise CellmillError(
                    self._where, f"join: {lost}.", f"Add them to column '{join.keys.table}', or say unmatched: count."
                )
            log.warning("%s: %s", self._where, lost)
        for column, name in join.names(table.column_names).items():
            if name in self._found.columns or name in self.columns:
                if not join.replace:
                    raise CellmillError(
                        self._where,
                        f"join: there is an obs column '{name}' already, and {join.shown} has one, too.",
                        "Say prefix, or replace: true, or name other columns.",
                    )
            values = to_arrow_type(table[column].combine_chunks()).take(rows)
            text = pa.types.is_string(values.type)
            self.columns[name] = self._without_words(name, values) if text and self._asked(name) else values
        return said


def is_text(dtype: Any) -> bool:
    """Whether a column of obs holds text."""
    if isinstance(dtype, pd.CategoricalDtype):
        dtype = dtype.categories.dtype
    return pd.api.types.is_object_dtype(dtype) or isinstance(dtype, pd.StringDtype)


# --- tables


def read_columns(path: Path, join: Join) -> pa.Table:
    """The key and the joined columns of a table.

    Raises:
        CellmillError: not readable, or no such column.
    """
    wanted = [join.keys.table, *join.columns] if join.columns else None
    try:
        if join.ending == ".parquet":
            names = list(pq.read_schema(path).names)
            _refuse_absent(wanted or [join.keys.table], names, join)
            return pq.read_table(path, columns=wanted)
        return _read_text(path, join, wanted)
    except (OSError, pa.ArrowInvalid, pa.ArrowKeyError) as error:
        raise CellmillError(join.shown, f"not readable as a table ({error}).", "Write it again.") from error


def _read_text(path: Path, join: Join, wanted: list[str] | None) -> pa.Table:
    """Numbers and truth are found out; keys, dates and all else stay the text that they are."""
    parse = pa.csv.ParseOptions(delimiter="\t" if join.ending.startswith(".tsv") else ",", newlines_in_values=True)
    with pa.input_stream(str(path), compression="gzip" if join.ending.endswith(".gz") else None) as stream:
        content = stream.read()

    def read(types: dict[str, pa.DataType]) -> pa.Table:
        convert = pa.csv.ConvertOptions(column_types=types, strings_can_be_null=True)
        return pa.csv.read_csv(pa.BufferReader(content), parse_options=parse, convert_options=convert)

    table = read({join.keys.table: pa.string()})
    _refuse_absent(wanted or [join.keys.table], table.column_names, join)
    kept = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_string, pa.types.is_null)
    as_text = {f.name: pa.string() for f in table.schema if not any(test(f.type) for test in kept)}
    if as_text:
        table = read({join.keys.table: pa.string()} | as_text)
    return table.select(wanted) if wanted else table


def _refuse_absent(wanted: list[str], names: list[str], join: Join) -> None:
    for column in wanted:
        if column not in names:
            raise CellmillError(join.shown, f"no column '{column}'.", nearest(column, names))
        if names.count(column) > 1:
            raise CellmillError(join.shown, f"the column '{column}' stands there twice.", "Rename one.")


def to_arrow_type(values: pa.Array) -> pa.Array:
    """As obs columns are: bool, int64 and float64, and all else as text."""
    type_ = values.type
    if pa.types.is_dictionary(type_):
        return to_arrow_type(values.dictionary_decode())
    for test, wanted in (
        (pa.types.is_boolean, pa.bool_()),
        (pa.types.is_integer, pa.int64()),
        (pa.types.is_floating, pa.float64()),
    ):
        if test(type_):
            return values.cast(wanted)
    if pa.types.is_nested(type_):
        return pa.array([None if v is None else str(v) for v in values.to_pylist()], pa.string())
    return values.cast(pa.string())


def as_keys(values: pa.Array) -> pa.Array:
    """As text (rows,); whole numbers as such, also where missing ones made floats of them."""
    values = to_arrow_type(values)
    if pa.types.is_floating(values.type):
        values = pc.if_else(pc.is_nan(values), pa.scalar(None, pa.float64()), values)
        if pc.all(pc.equal(values, pc.round(values))).as_py() is not False:
            values = values.cast(pa.int64(), safe=False)
    return values.cast(pa.string())


def refuse_twice(keys: pa.Array, join: Join) -> None:
    """A key that stands in several rows of a table."""
    counts = pc.value_counts(keys.drop_null())
    twice = counts.field(0).filter(pc.greater(counts.field(1), 1))
    if len(twice):
        shown = ", ".join(f"'{key}'" for key in sorted(twice.to_pylist())[:EXAMPLES])
        raise CellmillError(
            f"{join.shown}, column '{join.keys.table}'",
            f"{len(twice):,} keys stand there more than once: {shown}{', …' if len(twice) > EXAMPLES else ''}.",
            "Give each key one row.",
        )
