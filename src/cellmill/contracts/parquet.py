"""Parquet files that say what they are: contract and facts in the file's own metadata."""

from __future__ import annotations

import json
from collections.abc import Iterable
from os import PathLike
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cellmill.contracts.versions import Contract
from cellmill.errors import CellmillError
from cellmill.files import replacing

_KEY = b"cellmill"
ROW_GROUP = 65_536


def write(path: str | PathLike[str], table: pa.Table, contract: Contract, facts: dict[str, Any] | None = None) -> None:
    """Write one table atomically, with its contract and ``facts`` (JSON) inside."""
    write_batches(path, table.schema, table.to_batches(max_chunksize=ROW_GROUP), contract, facts)


def write_batches(
    path: str | PathLike[str],
    schema: pa.Schema,
    batches: Iterable[pa.RecordBatch],
    contract: Contract,
    facts: dict[str, Any] | None = None,
) -> None:
    """Write batches as they come, one row group each, atomically; the facts are read when all are written."""
    with replacing(path) as aside:
        with pq.ParquetWriter(aside, schema, compression="zstd", write_statistics=True) as file:
            for batch in batches:
                file.write_batch(batch)
            file.add_key_value_metadata(metadata(contract, facts))


def metadata(contract: Contract, facts: dict[str, Any] | None) -> dict[bytes, bytes]:
    """What a file says of itself."""
    return {_KEY: json.dumps({"contract": str(contract), **(facts or {})}, sort_keys=True).encode()}


def open_file(path: str | PathLike[str], contract: Contract) -> tuple[pq.ParquetFile, dict[str, Any]]:
    """Open a table of this contract and give its facts; another kind or version is refused."""
    try:
        file = pq.ParquetFile(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise CellmillError(
            path, f"not readable as Parquet ({error}).", "Delete it and run snakemake again."
        ) from error
    facts = json.loads((file.metadata.metadata or {}).get(_KEY, b"{}"))
    contract.verify(path, facts.get("contract"))
    return file, facts


def read(
    path: str | PathLike[str], contract: Contract, columns: list[str] | None = None
) -> tuple[pa.Table, dict[str, Any]]:
    """The table, whole or some of its columns, and its facts."""
    file, facts = open_file(path, contract)
    with file:
        return file.read(columns=columns), facts
