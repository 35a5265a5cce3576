"""``tokenized/{tokenizer}/{part}.parquet``: a row per kept cell, ``cell_id`` and ``input_ids``."""

from __future__ import annotations

from collections.abc import Iterable
from os import PathLike
from pathlib import Path
from typing import Any

import pyarrow as pa

from cellmill.contracts import parquet
from cellmill.contracts.versions import TOKENS

BLOCK_ROWS = 8_192
SCHEMA = pa.schema(
    [
        pa.field("cell_id", pa.large_string(), nullable=False),
        pa.field("input_ids", pa.large_list(pa.field("item", pa.int32(), nullable=False)), nullable=False),
    ]
)


def write(path: str | PathLike[str], batches: Iterable[pa.RecordBatch], facts: dict[str, Any]) -> None:
    """Write batches of ``BLOCK_ROWS`` rows, the last shorter; the facts are read when all are written."""
    parquet.write_batches(path, SCHEMA, batches, TOKENS, facts)


class TokensPart:
    """Tokens of one part, row-aligned with ``processed/{part}.h5ad``."""

    def __init__(self, path: str | PathLike[str]) -> None:
        self.path = Path(path)
        self._file, self.facts = parquet.open_file(path, TOKENS)
        self.n_cells = int(self._file.metadata.num_rows)

    def __enter__(self) -> TokensPart:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def block(self, start: int) -> pa.Table:
        """The block of ``BLOCK_ROWS`` rows that begins at row ``start``."""
        return self._file.read_row_group(start // BLOCK_ROWS)
