"""``quality/doublets/{share}.parquet``: the doublet scores of some batches, over all parts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from os import PathLike
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cellmill.contracts import parquet
from cellmill.contracts.versions import DOUBLETS

DOUBLETS_SCHEMA = pa.schema(
    [
        pa.field("part", pa.string(), nullable=False),
        pa.field("row", pa.int64(), nullable=False),
        pa.field("cell_id", pa.large_string(), nullable=False),
        pa.field("batch", pa.string(), nullable=False),
        pa.field("doublet_score", pa.float64(), nullable=False),
        pa.field("predicted_doublet", pa.bool_(), nullable=False),
    ]
)


def write_doublets(path: str | PathLike[str], table: pa.Table, batches: dict[str, Any]) -> None:
    """One row per scored cell, those of a part together; facts: what became of each of the ``batches``."""
    groups: dict[str, list[int]] = {}

    def by_part() -> Iterator[pa.RecordBatch]:
        number = 0
        for part in pc.unique(table["part"]).to_pylist():
            mine = table.filter(pc.equal(table["part"], part)).combine_chunks()
            for batch in mine.to_batches(max_chunksize=parquet.ROW_GROUP):
                groups.setdefault(part, []).append(number)
                number += 1
                yield batch

    parquet.write_batches(path, DOUBLETS_SCHEMA, by_part(), DOUBLETS, {"batches": batches, "row_groups": groups})


def read_doublets(path: str | PathLike[str], columns: list[str] | None = None) -> tuple[pa.Table, dict[str, Any]]:
    """The table, or some of its columns, and its facts."""
    return parquet.read(path, DOUBLETS, columns)


class DoubletScores:
    """The scores of a dataset, from the files of all shares: which cells of a part were predicted.

    Of each file the facts are read once, and rows only of the part that is asked for.
    """

    def __init__(self, paths: Sequence[str | PathLike[str]]) -> None:
        self.batches: dict[str, dict[str, Any]] = {}
        """What became of each batch, by name."""
        self._groups: list[tuple[str | PathLike[str], dict[str, list[int]]]] = []
        for path in paths:
            file, facts = parquet.open_file(path, DOUBLETS)
            file.close()
            self.batches |= facts["batches"]
            self._groups.append((path, facts["row_groups"]))
        self.batches = dict(sorted(self.batches.items()))

    def of(self, part: str, cells: int) -> tuple[np.ndarray, np.ndarray]:
        """Score (cells,) float64, NaN of a cell without one, and whether it is a predicted doublet (cells,) bool."""
        scores, predicted = np.full(cells, np.nan), np.zeros(cells, bool)
        for path, groups in self._groups:
            if part in groups:
                file, _ = parquet.open_file(path, DOUBLETS)
                with file:
                    mine = file.read_row_groups(groups[part], columns=["row", "doublet_score", "predicted_doublet"])
                rows = mine["row"].to_numpy()
                scores[rows] = mine["doublet_score"].to_numpy()
                predicted[rows] = mine["predicted_doublet"].to_numpy()
        return scores, predicted
