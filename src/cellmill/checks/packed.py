"""Cells of a packed export."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cellmill.checks.compare import Rows
from cellmill.checks.problems import UnreadableError
from cellmill.errors import CellmillError
from cellmill.exports.rows import Header
from cellmill.packed.layout import GENES, OBS
from cellmill.packed.reader import PackedRows

BLOCK_ROWS = 4_096


def read(folder: Path, split: str, said: dict[str, Any]) -> Iterator[Rows]:
    """The records, each verified by its checksum, and the obs table of a split."""
    if not (folder / split).is_dir():
        return
    name, first = f"{split}/{OBS}", 0
    try:
        cells = PackedRows(folder / split)
        with pq.ParquetFile(folder / name) as file:
            if file.metadata.num_rows != len(cells):
                raise UnreadableError(name, f"has {file.metadata.num_rows:,} rows for {len(cells):,} cells")
            for batch in file.iter_batches(BLOCK_ROWS, use_threads=False):
                offsets, genes, counts = cells.read(first, first + batch.num_rows)
                lists = {"genes": genes, "counts": counts}
                columns = {c: pa.LargeListArray.from_arrays(offsets, values) for c, values in lists.items()}
                yield Rows(
                    f"{split}/",
                    first,
                    pa.Table.from_batches([batch])
                    .append_column("genes", columns["genes"])
                    .append_column("counts", columns["counts"]),
                )
                first += batch.num_rows
    except CellmillError as error:
        raise UnreadableError(_inside(folder, error, split), error.found) from error
    except (OSError, pa.ArrowException) as error:
        raise UnreadableError(name, f"not readable behind row {first} ({error})") from error


def _inside(folder: Path, error: CellmillError, split: str) -> str:
    """The file of the export that an error is about."""
    where = Path(str(error.where))
    return where.relative_to(folder).as_posix() if where.is_relative_to(folder) else f"{split}/"


def genes(folder: Path, split: str) -> Iterator[tuple[str, list[str]]]:
    """The gene table."""
    path = folder / split / GENES
    if path.is_file():
        yield f"{split}/{GENES}", pq.read_table(path, columns=["gene_id"])["gene_id"].to_pylist()


def expected(batch: pa.RecordBatch, header: Header, said: dict[str, Any]) -> pa.Table:
    """Ids, counts and obs."""
    columns = dict.fromkeys(["cell_id", "genes", "counts", *said["facts"]["columns"]])
    return pa.table({c: batch[c] for c in columns})
