"""Cells of a Hugging Face export."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cellmill.checks.compare import Rows
from cellmill.checks.problems import UnreadableError
from cellmill.exports.rows import Header, token_column

BLOCK_ROWS = 4_096


def read(folder: Path, split: str, said: dict[str, Any]) -> Iterator[Rows]:
    """``NNNNN.parquet`` of a split, under the names of the files; ``sample_idx`` of multiplets is the cell id."""
    for path in sorted((folder / split).glob("*.parquet")):
        name, first = f"{split}/{path.name}", 0
        try:
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(BLOCK_ROWS, use_threads=False):
                    table = pa.Table.from_batches([batch])
                    if "sample_idx" in table.column_names:
                        table = table.rename_columns({"sample_idx": "cell_id"})
                    yield Rows(name, first, table)
                    first += batch.num_rows
        except (OSError, pa.ArrowException) as error:
            raise UnreadableError(name, f"not readable behind row {first} ({error})") from error


def expected(batch: pa.RecordBatch, header: Header, said: dict[str, Any]) -> pa.Table:
    """What the file must hold of these cells; sentences and captions of multiplets, but not what was drawn."""
    spec = said["spec"]
    if spec["kind"] == "multiplets":
        from cellmill.exports.multiplets import cell_sentences

        names = header.genes["gene_symbol"].where(header.genes["gene_symbol"].fillna("") != "", header.genes["gene_id"])
        sentences = cell_sentences(
            batch["genes"], batch["counts"], pa.array(names, pa.string()), spec["sentence_genes"]
        )
        caption = batch[said["facts"]["caption"]]
        return pa.table({"cell_id": batch["cell_id"], "cell_sentence_1": sentences, "positive": caption})
    columns = {"cell_id": batch["cell_id"]}
    for tokenizer, found in header.tokens.items():
        columns |= {c: batch[token_column(tokenizer, c)] for c in found}
    columns |= {f"embedding_{e}": batch[f"embedding:{e}"] for e in header.widths}
    return pa.table(columns | {c: batch[c] for c in header.obs.names})
