"""Cells of an SCDL export."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cellmill.checks.compare import Rows
from cellmill.checks.problems import UnreadableError
from cellmill.exports.rows import Header

BLOCK_ROWS = 4_096


def read(folder: Path, split: str, said: dict[str, Any]) -> Iterator[Rows]:
    """The three arrays and the obs table of a split."""
    if split not in said["facts"]["splits"]:
        return
    archive, facts = folder / split, said["facts"]["splits"][split]
    arrays = {}
    for name, file, length in (
        ("DATA", "data.npy", facts["values"]),
        ("COLPTR", "col_ptr.npy", facts["values"]),
        ("ROWPTR", "row_ptr.npy", facts["cells"] + 1),
    ):
        dtype = np.dtype(facts["dtypes"][name]).newbyteorder("<")
        there = (archive / file).stat().st_size
        if there != length * dtype.itemsize:
            why = f"has {there:,} bytes, expected {length:,} values of {dtype.itemsize}"
            raise UnreadableError(f"{split}/{file}", why)
        arrays[name] = np.memmap(archive / file, dtype, "r", shape=(length,))
    pointers = arrays["ROWPTR"]
    if pointers[0] != 0 or pointers[-1] != facts["values"] or (np.diff(pointers.astype(np.int64)) < 0).any():
        raise UnreadableError(f"{split}/row_ptr.npy", f"does not rise from 0 to {facts['values']:,}")
    table = archive / "obs_features" / "dataframe_0.parquet"
    name, first = f"{split}/obs_features/{table.name}", 0
    try:
        with pq.ParquetFile(table) as file:
            for batch in file.iter_batches(BLOCK_ROWS, use_threads=False):
                if first + batch.num_rows > facts["cells"]:
                    raise UnreadableError(name, f"has more than the {facts['cells']:,} cells of row_ptr.npy")
                offsets = pointers[first : first + batch.num_rows + 1].astype(np.int64)
                lo, hi = offsets[0], offsets[-1]
                lists = {
                    column: pa.LargeListArray.from_arrays(offsets - lo, np.asarray(arrays[array][lo:hi]))
                    for column, array in (("genes", "COLPTR"), ("counts", "DATA"))
                }
                rows = dict(zip(batch.schema.names, batch.columns, strict=True)) | lists
                yield Rows(f"{split}/data.npy", first, pa.table(rows))
                first += batch.num_rows
    except (OSError, pa.ArrowException) as error:
        raise UnreadableError(name, f"not readable behind row {first} ({error})") from error


def genes(folder: Path, split: str) -> Iterator[tuple[str, list[str]]]:
    """The gene table."""
    path = folder / split / "var_features" / "dataframe_0.parquet"
    if path.is_file():
        yield f"{split}/var_features/{path.name}", pq.read_table(path, columns=["gene_id"])["gene_id"].to_pylist()


def expected(batch: pa.RecordBatch, header: Header, said: dict[str, Any]) -> pa.Table:
    """Ids, counts and obs."""
    return pa.table({c: batch[c] for c in ("cell_id", "genes", "counts", *header.obs.names)})
