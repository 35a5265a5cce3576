"""What the rules need to know of the obs table of a part, read once and without its counts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from os import PathLike

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from cellmill.contracts import quality as contract
from cellmill.contracts.counts import to_arrow
from cellmill.errors import CellmillError, nearest
from cellmill.matrix.reader import CountsFile
from cellmill.quality.metrics import obs_column, obs_strings
from cellmill.quality.spec import Filter, LabelRules

MISSING = "\0missing"
"""The text of a missing value where it is a group of its own; no column has it."""
VALUES_KEPT = 1_000
"""At most so many values of a filter's column are kept, to name the nearest of what is not there."""


def read_labels(
    raw: str | PathLike[str],
    *,
    quality: str | PathLike[str],
    rules: LabelRules,
    out: str | PathLike[str],
    annotations: str | PathLike[str] | None = None,
) -> None:
    """Judge every raw cell of a part by the filters, and read its group, stratum and category; a row per cell.

    The counts are not read: other filters cost a look at the obs table, not a pass over the data.

    Raises:
        CellmillError: no such column.
    """
    _, facts = contract.read_quality(quality, columns=[])
    with CountsFile(raw, facts["counts"], annotations=annotations) as file:
        reasons, found = filter_cells(file.obs, rules.filters, where=raw)
        columns = {
            "filter": pa.array(reasons, pa.string(), from_pandas=True),
            "group": joined(file.obs, rules.groups, where=raw),
            "stratum": joined(file.obs, rules.strata, where=raw),
            "category": _category(file.obs, rules.category, raw),
        }
    table = pa.table(columns, schema=contract.LABELS_SCHEMA)
    drawn = {"subset": True} if "subset" in facts else {}
    contract.write_labels(out, table, {"cells": table.num_rows, "filters": found, **drawn})


def joined(obs: pd.DataFrame, columns: Sequence[str], *, where: object) -> pa.Array:
    """One text per cell (cells,): the value of one column, or a JSON list of those of several; null without columns.

    A list cannot be taken for another one, as ``"a-b" + "-" + "c"`` can. A missing value is a value of its own.
    """
    if not columns:
        return pa.nulls(len(obs), pa.large_string())
    if len(columns) == 1:
        return pa.array(obs_strings(obs, columns[0], where, missing=MISSING), pa.large_string())
    texts = [obs_strings(obs, column, where, missing=MISSING) for column in columns]
    codes = pd.MultiIndex.from_arrays(texts)
    numbers, combinations = pd.factorize(codes)
    names = [json.dumps([None if v == MISSING else v for v in values], ensure_ascii=False) for values in combinations]
    return pa.array(np.array(names, object)[numbers], pa.large_string())


def _category(obs: pd.DataFrame, column: str | None, where: object) -> pa.Array:
    """The values of a column as text (cells,), missing where they are."""
    if column is None:
        return pa.nulls(len(obs), pa.large_string())
    values = obs_column(obs, column, where)
    there = values.notna().to_numpy()
    return pa.array(obs_strings(obs, column, where), pa.large_string(), mask=~there)


def filter_cells(
    obs: pd.DataFrame, filters: Sequence[Filter], *, where: object
) -> tuple[np.ndarray, list[dict[str, int]]]:
    """The first filter that a cell fails (cells,), None where it passes all; and per filter the cells of each value.

    Numbers are compared as numbers, truth as truth, everything else as text.
    """
    reasons, undecided = np.full(len(obs), None, object), np.ones(len(obs), bool)
    found = []
    for rule in filters:
        values = to_arrow(obs_column(obs, rule.column, where))
        passes = matches(values, rule.wanted) if rule.not_in is None else ~matches(values, rule.not_in)
        there = values.is_valid().to_numpy(zero_copy_only=False)
        reasons[undecided & ~there] = f"filter {rule.column}: missing"
        reasons[undecided & there & ~passes] = f"filter {rule.column}"
        undecided &= there & passes
        found.append(_cells_by_value(values, [*rule.wanted, *(rule.not_in or [])]))
    return reasons, found


def matches(values: pa.Array, wanted: Sequence[bool | int | float | str]) -> np.ndarray:
    """Whether a value is one of ``wanted`` (cells,); a missing one is none of them."""
    type_ = values.type
    if pa.types.is_boolean(type_):
        asked = pa.array([w for w in wanted if isinstance(w, bool)], type_)
    elif pa.types.is_integer(type_) or pa.types.is_floating(type_):
        asked = pa.array([float(w) for w in wanted if not isinstance(w, bool | str)], pa.float64())
        values = values.cast(pa.float64())
    else:
        asked = pa.array([_text(w) for w in wanted], type_)
    found: np.ndarray = pc.is_in(values, value_set=asked).to_numpy(zero_copy_only=False)
    return found


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _cells_by_value(values: pa.Array, asked: Sequence[bool | int | float | str]) -> dict[str, int]:
    """Cells of each value by its text: of those asked for, and of the most frequent others."""
    counted = {_text(pair["values"]): pair["counts"] for pair in pc.value_counts(values.drop_null()).to_pylist()}
    frequent = sorted(counted, key=lambda text: (-counted[text], text))[:VALUES_KEPT]
    return {text: counted[text] for text in frequent} | {
        _text(value): int(matches(values, [value]).sum()) for value in asked
    }


def refuse_unknown_values(found: Sequence[list[dict[str, int]]], filters: Sequence[Filter], *, where: object) -> None:
    """A filter asks for a value that no cell of any part has: surely a slip, and it would drop what was meant."""
    for number, rule in enumerate(filters):
        cells: dict[str, int] = {}
        for part in found:
            for text, n in part[number].items():
                cells[text] = cells.get(text, 0) + n
        for value in rule.wanted:
            if not cells.get(_text(value)):
                there = [text for text, n in cells.items() if n]
                raise CellmillError(
                    where,
                    f"A filter on cells: no cell has '{_text(value)}' in the obs column '{rule.column}'.",
                    nearest(_text(value), there),
                )


__all__ = ["filter_cells", "matches", "read_labels", "refuse_unknown_values"]
