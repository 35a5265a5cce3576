"""Cells of a Hugging Face export."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cellmill.checks.compare import Rows
from cellmill.checks.problems import Problems, UnreadableError
from cellmill.exports.rows import Header, token_column
from cellmill.keys import hash_strings

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


def also(folder: Path, split: str, said: dict[str, Any], problems: Problems) -> set[str]:
    """Negatives of multiplets: other cells of the split, each once, of another caption, with their own texts.

    Gives the columns that were looked at.
    Memory: 24 bytes per cell of the split.
    """
    if said["spec"]["kind"] != "multiplets":
        return set()
    known = [[_hashed(r.table[c]) for c in _TEXTS] for r in read(folder, split, said)]
    if not known:
        return set()
    ids, captions, sentences = (np.concatenate(arrays) for arrays in zip(*known, strict=True))
    by_id = np.argsort(ids)
    looked: set[str] = set()
    for rows in read(folder, split, said):
        own = _hashed(rows.table["positive"])
        drawn = [_hashed(rows.table["cell_id"])]
        for k in range(1, said["spec"]["negatives"] + 1):
            column = f"negative_{k}_idx"
            if column not in rows.table.column_names:
                continue
            wanted = _hashed(rows.table[column])
            at = by_id[np.minimum(np.searchsorted(ids, wanted, sorter=by_id), len(ids) - 1)]
            there = ids[at] == wanted
            _tell(problems, rows, column, ~there, "is no cell of this split")
            _tell(problems, rows, column, there & (captions[at] == own), "has the caption of the anchor")
            twice = np.any([wanted == d for d in drawn], axis=0)
            _tell(problems, rows, column, twice, "is the anchor, or stands twice")
            drawn.append(wanted)
            looked.add(column)
            text = f"negative_{k}"
            if text in rows.table.column_names:
                texts, what = (captions, "caption") if k % 2 else (sentences, "cell sentence")
                other = there & (_hashed(rows.table[text]) != texts[at])
                _tell(problems, rows, text, other, f"is not the {what} of {column}")
                looked.add(text)
    return looked


_TEXTS = ("cell_id", "positive", "cell_sentence_1")


def _hashed(column: pa.ChunkedArray) -> np.ndarray:
    return hash_strings(pc.fill_null(column.combine_chunks().cast(pa.large_string()), ""), seed=0, purpose="check")


def _tell(problems: Problems, rows: Rows, column: str, wrong: np.ndarray, what: str) -> None:
    at = np.flatnonzero(wrong).tolist()
    each = (
        (
            f"{rows.file}, row {rows.first + row}, cell '{rows.table['cell_id'][row]}', {column}",
            f"'{rows.table[column][row]}' {what}",
        )
        for row in at
    )
    problems.many(f"{column} that {what}", len(at), each)


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
