"""``raw/subset.parquet``: how many cells of each stratum were found and drawn; and what a drawn part says."""

from __future__ import annotations

import json
from os import PathLike
from typing import Any

import h5py
import pyarrow as pa

from cellmill.contracts import parquet
from cellmill.contracts.versions import SUBSET

SUBSET_SCHEMA = pa.schema(
    [
        pa.field("part", pa.string(), nullable=False),
        pa.field("stratum", pa.list_(pa.large_string()), nullable=False),
        pa.field("found", pa.int64(), nullable=False),
        pa.field("passed", pa.int64(), nullable=False),
        pa.field("drawn", pa.int64(), nullable=False),
        pa.field("last", pa.uint64()),
    ]
)


def write_subset(path: str | PathLike[str], table: pa.Table, facts: dict[str, Any]) -> None:
    """A row per part and stratum; facts: the rules, and the totals."""
    parquet.write(path, table, SUBSET, facts)


def read_subset(path: str | PathLike[str]) -> tuple[pa.Table, dict[str, Any]]:
    """The table and its facts."""
    return parquet.read(path, SUBSET)


def drawn_uns(facts: dict[str, Any]) -> dict[str, str]:
    """The ``uns`` of a part that holds drawn cells."""
    return {"cellmill": json.dumps({"contract": str(SUBSET), **facts}, sort_keys=True)}


def read_drawn(raw: str | PathLike[str]) -> dict[str, Any] | None:
    """What a raw part says of its draw; None where it is no subset."""
    from cellmill.matrix.reader import open_h5ad

    with open_h5ad(raw) as file:
        node = file.get("uns/cellmill")
        said: Any = node[()] if isinstance(node, h5py.Dataset) else None
    try:
        facts: dict[str, Any] = json.loads(said)
    except (TypeError, ValueError):
        return None  # there is none, or somebody else's
    if not isinstance(facts, dict) or str(facts.pop("contract", "")).rpartition(" ")[0] != SUBSET.name:
        return None
    return facts
