"""Cells of a Hugging Face export."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cellmill.checks.columns import differing
from cellmill.checks.compare import Rows
from cellmill.checks.problems import Problems, UnreadableError
from cellmill.exports.captions import render
from cellmill.exports.features import decode
from cellmill.exports.hf_rows import numbered, place
from cellmill.exports.rows import Header, token_column
from cellmill.keys import hash_strings

BLOCK_ROWS = 4_096


def read(folder: Path, split: str, said: dict[str, Any]) -> Iterator[Rows]:
    """``NNNNN.parquet`` of a split, classes by name; ``sample_idx`` is the cell id; of pairs the rows of label 1."""
    for rows in _whole_cells(folder, split, said):
        if rows.step > 1:
            _look_at_rows_of_cells(rows)
            rows = rows._replace(table=rows.table.take(pa.array(np.arange(0, len(rows.table), rows.step))))
        yield rows


def _whole_cells(folder: Path, split: str, said: dict[str, Any]) -> Iterator[Rows]:
    """Every row, no cell cut in two."""
    step = 1 + said["spec"]["negatives"] if said["spec"]["kind"] == "pairs" else 1
    for path in sorted((folder / split).glob("*.parquet")):
        name, first = f"{split}/{path.name}", 0
        waiting: pa.Table | None = None
        try:
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(BLOCK_ROWS, use_threads=False):
                    table = pa.Table.from_batches([batch]).replace_schema_metadata(file.schema_arrow.metadata)
                    table = decode(table).replace_schema_metadata(None)
                    if "sample_idx" in table.column_names:
                        table = table.rename_columns({"sample_idx": "cell_id"})
                    if waiting is not None:
                        table = pa.concat_tables([waiting, table]).combine_chunks()
                    whole = len(table) - len(table) % step
                    yield Rows(name, first, table.slice(0, whole).combine_chunks(), step)
                    waiting, first = table.slice(whole) if whole < len(table) else None, first + whole
        except (OSError, pa.ArrowException) as error:
            raise UnreadableError(name, f"not readable behind row {first} ({error})") from error
        if waiting is not None:
            raise UnreadableError(name, f"ends with {len(waiting)} of the {step} rows of a cell")


def _look_at_rows_of_cells(rows: Rows) -> None:
    """Pairs: of each cell first the row of label 1, then those of label 0."""
    table, step = rows.table, rows.step
    if missing := {"cell_id", "label"} - set(table.column_names):
        raise UnreadableError(rows.file, f"there is no column '{min(missing)}'")
    ids, labels = _hashed(table["cell_id"]).reshape(-1, step), table["label"].to_numpy().reshape(-1, step)
    wrong = (ids != ids[:, :1]) | (labels != (np.arange(step) == 0))
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        what = f"cell '{table['cell_id'][row]}' with label {table['label'][row]}"
        expected = f"cell '{table['cell_id'][row - row % step]}' with label {float(row % step == 0)}"
        raise UnreadableError(rows.file, f"row {rows.first + row} is {what}, expected {expected}")


def also(folder: Path, split: str, said: dict[str, Any], header: Header | None, problems: Problems) -> set[str]:
    """What was drawn: negatives of multiplets and pairs.

    Gives the columns that were looked at.
    Memory: 8 bytes per cell of the split and column of text.
    """
    kind = said["spec"]["kind"]
    if kind not in ("pairs", "multiplets"):
        return set()
    names = numbered("positive" if kind == "multiplets" else "caption", len(said["facts"]["captions"]))
    if kind == "pairs":
        return _pairs(folder, split, said, problems, names)
    batch = None if header is None or header.batch not in said["facts"]["obs"] else header.batch
    return _multiplets(folder, split, said, problems, names, batch)


def _multiplets(
    folder: Path, split: str, said: dict[str, Any], problems: Problems, captions: list[str], batch: str | None
) -> set[str]:
    """Negatives are other cells of the split, each once, of other captions, with their own texts.

    Of ``batch``, the column of batches where it is known and written, as many as were asked for are of the anchor's
    own, and of others; those of ``anywhere`` and ``hard`` may be either.
    """
    texts = [
        c for c in ("cell_id", *captions, "cell_sentence_1") if c != "cell_sentence_1" or said["spec"]["sentences"]
    ]
    texts += [batch] if batch is not None and batch not in texts else []
    shares = said["facts"]["negatives"]
    known: dict[str, list[np.ndarray]] = {c: [] for c in texts}
    for rows in read(folder, split, said):
        if missing := set(texts) - set(rows.table.column_names):
            raise UnreadableError(rows.file, f"there is no column '{min(missing)}'")
        for column, found in known.items():
            found.append(_hashed(rows.table[column]))
    if not known["cell_id"]:
        return set()
    of = {column: np.concatenate(found) for column, found in known.items()}
    ids, by_id = of["cell_id"], np.argsort(of["cell_id"])
    looked: set[str] = set()
    for rows in read(folder, split, said):
        table = rows.table
        own = {c: _hashed(table[c]) for c in captions}
        drawn = [_hashed(table["cell_id"])]
        alike_batch, known_batch = np.zeros(len(table), np.int64), np.ones(len(table), np.bool_)
        for k in range(1, said["spec"]["negatives"] + 1):
            column, text = f"negative_{k}_idx", f"negative_{k}"
            if column not in table.column_names:
                problems.add("columns that are missing", rows.file, f"there is no column '{column}'")
                return looked
            wanted = _hashed(table[column])
            at = by_id[np.minimum(np.searchsorted(ids, wanted, sorter=by_id), len(ids) - 1)]
            there = ids[at] == wanted
            _tell(problems, rows, column, ~there, "is no cell of this split")
            alike = np.any([of[c][at] == mine for c, mine in own.items()], axis=0)
            _tell(problems, rows, column, there & alike, "has the caption of the anchor")
            twice = np.any([wanted == d for d in drawn], axis=0)
            _tell(problems, rows, column, twice, "is the anchor, or stands twice")
            drawn.append(wanted)
            looked.add(column)
            if batch is not None:
                known_batch &= there
                alike_batch += of[batch][at] == _hashed(table[batch])
            if text in table.column_names:
                source, what = (captions[0], "caption") if k % 2 else ("cell_sentence_1", "cell sentence")
                other = there & (_hashed(table[text]) != of[source][at])
                _tell(problems, rows, text, other, f"is not the {what} of {column}")
                looked.add(text)
        if batch is not None:
            own_batch, other_batch = shares["in_batch"], shares["out_of_batch"]
            too_few, too_many = alike_batch < own_batch, len(drawn) - 1 - alike_batch < other_batch
            _tell(
                problems, rows, batch, known_batch & too_few, f"is the batch of fewer than {own_batch} of its negatives"
            )
            what = f"is the batch of all but fewer than {other_batch} of its negatives"
            _tell(problems, rows, batch, known_batch & too_many, what)
    return looked


def _pairs(folder: Path, split: str, said: dict[str, Any], problems: Problems, captions: list[str]) -> set[str]:
    """Rows of label 0 have the captions of another cell, all unlike those of their own, and else what label 1 has."""
    known: list[np.ndarray] = []
    for rows in read(folder, split, said):
        if missing := set(captions) - set(rows.table.column_names):
            raise UnreadableError(rows.file, f"there is no column '{min(missing)}'")
        known.append(np.unique(_together(rows.table, captions)))
    if not known:
        return set()
    there = np.unique(np.concatenate(known))
    for rows in _whole_cells(folder, split, said):
        row = np.arange(len(rows.table))
        own = row - row % rows.step
        all_rows = rows._replace(step=1)
        for name in captions:
            found = _hashed(rows.table[name])
            _tell(problems, all_rows, name, (row != own) & (found == found[own]), "is the caption of the cell itself")
        drawn = (row != own) & ~np.isin(_together(rows.table, captions), there)
        _tell(problems, all_rows, captions[0], drawn, "is the caption of no cell of this split")
        for name in set(rows.table.column_names) - {*captions, "cell_id", "label"}:
            column = rows.table[name].combine_chunks()
            unlike = differing(column, column.take(pa.array(own)))
            _tell(problems, all_rows, name, unlike, "is not what the row of label 1 has")
    return {"label"}


def _together(table: pa.Table, columns: list[str]) -> np.ndarray:
    """One hash for the texts of all columns."""
    texts = [table[c].cast(pa.large_string()) for c in columns]
    joined = pc.binary_join_element_wise(*texts, pa.scalar("\0", pa.large_string()))
    return _hashed(joined)


def _hashed(column: pa.ChunkedArray) -> np.ndarray:
    return hash_strings(pc.fill_null(column.combine_chunks().cast(pa.large_string()), ""), seed=0, purpose="check")


def _tell(problems: Problems, rows: Rows, column: str, wrong: np.ndarray, what: str) -> None:
    at = np.flatnonzero(wrong).tolist()
    each = (
        (
            f"{rows.file}, row {rows.row(row)}, cell '{rows.table['cell_id'][row]}', {column}",
            f"'{rows.table[column][row]}' {what}",
        )
        for row in at
    )
    problems.many(f"{column} that {what}", len(at), each)


def genes(folder: Path, split: str) -> Iterator[tuple[str, list[str]]]:
    """What the numbers of the column ``genes`` stand for."""
    path = folder / "genes.parquet"
    if path.is_file():
        yield path.name, pq.read_table(path, columns=["gene_id"])["gene_id"].to_pylist()


def expected(batch: pa.RecordBatch, header: Header, said: dict[str, Any]) -> pa.Table:
    """What the file must hold of these cells; sentences and captions of text, but not what was drawn."""
    spec, facts = said["spec"], said["facts"]
    columns = {"cell_id": batch["cell_id"]}
    if spec["kind"] == "expression":
        columns |= {c: batch[c] for c in ("genes", "counts")}
    for tokenizer, found in header.tokens.items():
        columns |= {c: batch[token_column(tokenizer, c)] for c in found}
    asked = facts.get("captions", [])
    names = numbered("positive" if spec["kind"] == "multiplets" else "caption", len(asked))
    for name, caption in zip(names, asked, strict=True):
        how = {"missing": spec["missing"], "fill": spec["fill"]}
        columns[name] = render(batch, caption, **how, where=place(header, "of the export"))
    columns |= {f"embedding_{e}": batch[f"embedding:{e}"] for e in spec["embeddings"]}
    return pa.table(columns | {c: batch[c] for c in facts["obs"]})
