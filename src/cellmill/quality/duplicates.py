"""Cells that have the same counts in every gene, over all parts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from cellmill.contracts import quality as quality_files
from cellmill.contracts import splits as contract
from cellmill.contracts.doublets import DoubletScores
from cellmill.errors import CellmillError
from cellmill.files import scratch
from cellmill.keys import hash_strings
from cellmill.quality.spec import Quality
from cellmill.quality.thresholds import KEPT, cell_outcomes, filter_reasons, measured_columns

CELLS_AT_ONCE = 1 << 21
_CELL = np.dtype([("content_1", "u8"), ("content_2", "u8"), ("key", "u8"), ("part", "i4"), ("row", "i8")])


def find_duplicates(
    parts: Sequence[str | PathLike[str]],
    *,
    labels: Sequence[str | PathLike[str]],
    thresholds: str | PathLike[str],
    doublets: Sequence[str | PathLike[str]] = (),
    spec: Quality,
    out: str | PathLike[str],
) -> None:
    """List the cells that have twins among the cells that pass all rules so far and have ``min_counts`` counts.

    Of twins, the one with the least hash of its id is the first; it does not depend on parts or their order.

    Memory: one part, and about two million cells at once (36 bytes each): the others wait in buckets on the disk of
    ``out``, by the upper bits of their content.

    Raises:
        CellmillError: there are twins, and the rule is ``error``.
    """
    bounds, scores = quality_files.read_thresholds(thresholds), DoubletScores(doublets)
    n_buckets = 1 << max(0, (bounds["cells"] // CELLS_AT_ONCE).bit_length())
    names: list[str] = []
    facts: dict[str, Any] = {"contents": 0, "cells": 0, "min_counts": spec.duplicates.min_counts}
    with scratch(out) as folder:
        buckets = [folder / f"{i}.cells" for i in range(n_buckets)]
        for number, (path, labels_path) in enumerate(zip(parts, labels, strict=True)):
            cells, name = _comparable(path, labels_path, number, bounds, scores, spec)
            names.append(name)
            bucket = (cells["content_1"] >> np.uint64(32)) * np.uint64(n_buckets) >> np.uint64(32)
            for i in np.unique(bucket):
                with open(buckets[int(i)], "ab") as stream:
                    stream.write(cells[bucket == i].tobytes())
        contract.write_duplicates(out, _twins(buckets, names, parts, spec, facts), facts)


def _comparable(
    path: str | PathLike[str],
    labels: str | PathLike[str],
    number: int,
    bounds: dict[str, Any],
    scores: DoubletScores,
    spec: Quality,
) -> tuple[np.ndarray, str]:
    """Cells of a part that are compared, as records; and the part's name."""
    wanted = list(dict.fromkeys(["cell_id", *measured_columns(spec), "content_1", "content_2"]))
    table, facts = quality_files.read_quality(path, columns=wanted)
    filtered = filter_reasons(quality_files.read_labels(labels, columns=["filter"])[0])
    _, doublets = scores.of(facts["part"], table.num_rows)
    kept = cell_outcomes(table, filtered=filtered, spec=spec, thresholds=bounds, doublets=doublets) == KEPT
    rows = np.flatnonzero(kept & (table["total_counts"].to_numpy() >= spec.duplicates.min_counts))
    cells = np.empty(len(rows), _CELL)
    for column in ("content_1", "content_2"):
        cells[column] = table[column].to_numpy()[rows]
    cells["key"] = hash_strings(table["cell_id"].combine_chunks(), seed=0, purpose="duplicates")[rows]
    cells["part"], cells["row"] = number, rows
    return cells, facts["part"]


def _twins(
    buckets: Sequence[Path],
    names: Sequence[str],
    parts: Sequence[str | PathLike[str]],
    spec: Quality,
    facts: dict[str, Any],
) -> Iterator[pa.RecordBatch]:
    """Cells with twins, bucket by bucket, twins together."""
    for bucket in buckets:
        if not bucket.exists():
            continue
        cells = np.fromfile(bucket, _CELL)
        cells = cells[np.lexsort((cells["row"], cells["part"], cells["key"], cells["content_2"], cells["content_1"]))]
        same = np.zeros(len(cells) + 1, bool)  # as the cell before
        same[1:-1] = (cells["content_1"][1:] == cells["content_1"][:-1]) & (
            cells["content_2"][1:] == cells["content_2"][:-1]
        )
        first = ~same[:-1] & same[1:]
        with_twins = same[:-1] | same[1:]
        if spec.duplicates.rule == "error" and first.any():
            at = int(np.flatnonzero(first)[0])
            _refuse(cells[at : at + 2], parts)
        facts["contents"] += int(first.sum())
        facts["cells"] += int(with_twins.sum())
        found = cells[with_twins]
        if len(found):
            columns = [np.array(names, object)[found["part"]], found["row"], found["content_1"], found["content_2"]]
            arrays = [*columns, first[with_twins]]
            yield pa.RecordBatch.from_arrays(
                [pa.array(a, f.type) for a, f in zip(arrays, contract.DUPLICATES_SCHEMA, strict=True)],
                schema=contract.DUPLICATES_SCHEMA,
            )


def _refuse(twins: np.ndarray, parts: Sequence[str | PathLike[str]]) -> None:
    ids = [cell_id(parts[t["part"]], int(t["row"])) for t in twins]
    raise CellmillError(
        parts[twins[0]["part"]],
        f"cell '{ids[0]}' has the same counts as '{ids[1]}' of {parts[twins[1]['part']]}.",
        "Say 'duplicates: {rule: drop}' under 'quality:' to keep one of them, or leave a file out.",
    )


def cell_id(quality: str | PathLike[str], row: int) -> str:
    """The id of one cell of a part."""
    table, _ = quality_files.read_quality(quality, columns=["cell_id"])
    return str(table["cell_id"][row])
