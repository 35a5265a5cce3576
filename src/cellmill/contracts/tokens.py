"""``tokenized/{tokenizer}/{part}.parquet``: a row per kept cell, its id and the columns of the tokenizer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from cellmill.contracts import parquet
from cellmill.contracts.row_groups import RowGroup, RowGroupWriter
from cellmill.contracts.versions import TOKENS
from cellmill.files import replacing

if TYPE_CHECKING:
    import numpy as np

GROUP_ROWS = 1_024
"""Rows of a row group: what is read for one cell, and what is encoded at once."""
BIN_TOKENS = 32
"""Tokens per bin of the histogram ``tokens_per_cell``."""


def list_field(name: str, dtype: np.dtype) -> pa.Field:
    """A column of lists without missing values."""
    return pa.field(name, pa.large_list(pa.field("item", pa.from_numpy_dtype(dtype), nullable=False)), nullable=False)


def schema(fields: Sequence[pa.Field]) -> pa.Schema:
    """The columns of a token file, of which ``fields`` are the tokenizer's."""
    id_ = pa.field("cell_id", pa.large_string(), nullable=False)
    return pa.schema([id_, pa.field("left_out", pa.bool_(), nullable=False), *fields])


def write(
    path: str | PathLike[str],
    fields: Sequence[pa.Field],
    groups: Iterable[RowGroup],
    facts: dict[str, Any],
) -> None:
    """Write groups of ``GROUP_ROWS`` rows, the last shorter; the facts are read when all are written."""
    with replacing(path) as aside, RowGroupWriter(aside, schema(fields)) as file:
        for group in groups:
            file.append(group)
        file.close(parquet.metadata(TOKENS, facts))


class TokensPart:
    """Tokens of one part, row-aligned with ``processed/{part}.h5ad``."""

    def __init__(self, path: str | PathLike[str]) -> None:
        self.path = Path(path)
        self._file, self.facts = parquet.open_file(path, TOKENS)
        self.n_cells = int(self._file.metadata.num_rows)
        self.fields: dict[str, pa.DataType] = {
            f.name: f.type for f in self._file.schema_arrow if f.name not in ("cell_id", "left_out")
        }
        """Columns of the tokenizer, with their types."""

    def __enter__(self) -> TokensPart:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def rows(self, start: int, stop: int, columns: Sequence[str] | None = None) -> pa.Table:
        """Rows ``start`` to ``stop``, of all or some columns; reads the row groups that they lie in."""
        if start >= stop:
            return self._file.schema_arrow.empty_table().select(columns or self._file.schema_arrow.names)
        first = start // GROUP_ROWS
        groups = list(range(first, -(-stop // GROUP_ROWS)))
        table = self._file.read_row_groups(groups, columns=columns, use_threads=False)
        return table.slice(start - first * GROUP_ROWS, stop - start)


def added_up(facts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The facts of several parts of one tokenizer as one: numbers of cells, values, counts and tokens added up."""
    total: dict[str, Any] = {k: facts[0][k] for k in ("genes", "genes_with_token")}
    for key in ("cells", "cells_cut", "cells_empty", "values", "values_with_token", "counts", "counts_with_token"):
        total[key] = sum(f[key] for f in facts)
    total["tokens"] = sum(f["tokens"] for f in facts)
    histogram = [0] * max(len(f["tokens_per_cell"]["cells"]) for f in facts)
    left_out: dict[str, int] = {}
    for f in facts:
        for i, cells in enumerate(f["tokens_per_cell"]["cells"]):
            histogram[i] += cells
        for split, cells in f["cells_left_out"].items():
            left_out[split] = left_out.get(split, 0) + cells
    total["tokens_per_cell"] = {"width": BIN_TOKENS, "cells": histogram}
    total["cells_left_out"] = dict(sorted(left_out.items()))
    return total
