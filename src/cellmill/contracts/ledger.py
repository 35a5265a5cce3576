"""``quality/ledger.parquet``: where every cell of the dataset went."""

from __future__ import annotations

from os import PathLike
from typing import Any

import pyarrow as pa

from cellmill.contracts import parquet
from cellmill.contracts.versions import LEDGER

LEDGER_SCHEMA = pa.schema(
    [
        pa.field("part", pa.string(), nullable=False),
        pa.field("batch", pa.string(), nullable=False),
        pa.field("outcome", pa.string(), nullable=False),
        pa.field("split", pa.string()),
        pa.field("cells", pa.int64(), nullable=False),
    ]
)


def write_ledger(path: str | PathLike[str], table: pa.Table, facts: dict[str, Any]) -> None:
    """Cells by part, batch, outcome and split; facts: twins, and what stands in several splits."""
    parquet.write(path, table, LEDGER, facts)


def read_ledger(path: str | PathLike[str]) -> tuple[pa.Table, dict[str, Any]]:
    """The table and its facts."""
    return parquet.read(path, LEDGER)
