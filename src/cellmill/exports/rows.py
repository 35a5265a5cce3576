"""Rows as every export receives them: ordered, split by split, in Arrow batches."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from cellmill.ahead import ahead
from cellmill.errors import CellmillError
from cellmill.progress import progress

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from cellmill.exports.spill import Spill


@dataclass(frozen=True)
class Header:
    """What is known of an export before its first row."""

    dataset: str
    """Name of the dataset."""
    cells: dict[str, int]
    """Cells per split, in the order of the config; a split may have none."""
    genes: pd.DataFrame
    """The gene space: ``gene_id``, ``gene_symbol`` (may be missing), one row per column of the counts."""
    counts_dtype: np.dtype
    """Smallest unsigned type that holds every count of the dataset."""
    obs: pa.Schema
    """The obs columns that stay with the cells: string, bool, int64 or float64."""
    widths: dict[str, int] = field(default_factory=dict)
    """Dimensions of each embedding, by embedder."""
    tokens: dict[str, dict[str, str]] = field(default_factory=dict)
    """Columns of tokens and the type that exports give them, such as ``list<int32>``, by tokenizer."""
    batch: str | None = None
    """The dataset's batch column."""
    label: str | None = None
    """The dataset's label column."""


def needs(*, counts: bool = False, tokens: tuple[str, ...] = (), embeddings: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Names of the columns an export asks for besides ``cell_id`` and the obs columns.

    A batch has: ``cell_id`` large_string; ``genes`` large_list<uint16|uint32> (columns of the gene space, rising)
    and ``counts`` large_list<unsigned>; ``tokens:<tokenizer>`` large_list of whole numbers, which are its
    ``input_ids``; ``tokens:<tokenizer>:<column>`` for columns of another name, in the types of the token file;
    ``embedding:<embedder>`` fixed_size_list<float32>; and the obs columns under their own names.
    """
    return (
        *(("genes", "counts") if counts else ()),
        *(f"tokens:{t}" for t in tokens),
        *(f"embedding:{e}" for e in embeddings),
    )


def token_column(tokenizer: str, column: str) -> str:
    """The name of a column of tokens in a batch."""
    return f"tokens:{tokenizer}" if column == "input_ids" else f"tokens:{tokenizer}:{column}"


KEY = "_key"
"""The column of the keys by which rows are sorted, uint64."""
BLOCK_ROWS = 4_096
OBS_ROWS = 1 << 16
"""Rows of obs that are read at once, as many as a chunk of the file has."""
EMITTED_ROWS = 4_096
EMITTED_BYTES = 16 << 20
"""Rows are given on by as many as this, or ``EMITTED_ROWS`` where these are fewer."""
BUCKET_BYTES = 128 << 20


@dataclass(frozen=True)
class PartFiles:
    """The row-aligned files of one part."""

    processed: str
    tokens: dict[str, str] = field(default_factory=dict)
    embeddings: dict[str, str] = field(default_factory=dict)


def ordered(
    parts: Sequence[PartFiles],
    *,
    header: Header,
    columns: tuple[str, ...],
    scratch: Path,
    bucket_bytes: int = BUCKET_BYTES,
    threads: int = 2,
) -> Generator[tuple[str, pa.RecordBatch], None, None]:
    """All kept cells that no tokenizer leaves out, split by split, each split in the order of a hash of the cell id.

    That order is a shuffle, and the same for the same cells in any parts.
    It is made in two passes in bounded memory: rows go to buckets by the first bits of their hash (on the disk of
    ``scratch``, where there is more than one bucket), then each bucket is sorted by itself.
    Memory: a block of rows, or one bucket with one of its columns again, and 8 bytes for each cell of a part.

    Args:
        columns: what ``needs`` returned.
        bucket_bytes: rows that are sorted in memory at once, about.
        threads: how many inflate counts while others are spilled.
            Later, rows are sorted in a thread of their own, while the caller writes those before them.
    """
    from cellmill.exports.spill import Spill

    total = sum(_bytes(p, columns, header.widths) for p in parts)
    spill = Spill(scratch, list(header.cells), bits=(max(total - 1, 0) // bucket_bytes).bit_length())
    with progress(sum(header.cells.values()), "cells", "gathering") as counter:
        for part in parts:
            for batch, splits in _blocks(part, header, columns, threads):
                spill.add(batch, splits)
                counter.update(batch.num_rows)
    yield from ahead(_sorted(spill, list(header.cells)))


def _sorted(spill: Spill, splits: list[str]) -> Iterator[tuple[str, pa.RecordBatch]]:
    """The rows of every bucket in their order, some thousands at once."""
    import numpy as np

    from cellmill.exports.gather import take_rows

    for split in splits:
        for batch in spill.buckets(split):
            keys = batch[KEY].to_numpy()
            order = np.argsort(keys)
            if (np.diff(keys[order]) == 0).any():
                order = pc.sort_indices(batch, sort_keys=[(KEY, "ascending"), ("cell_id", "ascending")]).to_numpy()
            batch = batch.drop_columns([KEY])
            rows = max(1, min(EMITTED_ROWS, EMITTED_BYTES * batch.num_rows // max(batch.nbytes, 1)))
            for start in range(0, batch.num_rows, rows):
                yield split, take_rows(batch, order[start : start + rows])
            del batch, keys  # before the next is read


def _bytes(part: PartFiles, columns: tuple[str, ...], widths: dict[str, int]) -> int:
    from cellmill.contracts.counts import CountsPart

    with CountsPart(part.processed) as counts:
        per_value = counts.dtype.itemsize + (2 if counts.n_genes <= 1 << 16 else 4) if "counts" in columns else 0
        per_value += 4 * sum(c.startswith("tokens:") for c in columns)
        per_cell = 200 + 4 * sum(widths[c.partition(":")[2]] for c in columns if c.startswith("embedding:"))
        return counts.n_values * per_value + counts.n_cells * per_cell


def _blocks(
    part: PartFiles, header: Header, columns: tuple[str, ...], threads: int
) -> Iterator[tuple[pa.RecordBatch, np.ndarray]]:
    """Blocks of a part as Arrow, with their keys, and int8 (n,): the position of each row's split."""
    import numpy as np

    from cellmill.contracts import embedding
    from cellmill.contracts.counts import CountsPart
    from cellmill.contracts.tokens import TokensPart
    from cellmill.keys import hash_strings

    names = pa.array(list(header.cells), pa.string())
    with ExitStack() as stack:
        counts = stack.enter_context(CountsPart(part.processed, threads=threads))
        read = {c.split(":")[1] for c in columns if c.startswith("tokens:")}
        tokens = {n: stack.enter_context(TokensPart(part.tokens[n])) for n in part.tokens if n in read}
        vectors = {n: embedding.read(part.embeddings[n]) for n in part.embeddings if f"embedding:{n}" in columns}
        for name, aligned in [*((n, t.n_cells) for n, t in tokens.items()), *((n, len(v)) for n, v in vectors.items())]:
            if aligned != counts.n_cells:
                raise CellmillError(
                    part.processed, f"{counts.n_cells} cells, but '{name}' has {aligned}.", "Run snakemake again."
                )
        inflated = counts.blocks(BLOCK_ROWS) if "counts" in columns else None  # they cost the most, and few need none
        for start, stop in counts.bounds(BLOCK_ROWS):
            if start % OBS_ROWS == 0:
                obs = counts.obs_table(
                    list(dict.fromkeys(["cell_id", "split", *header.obs.names])), slice(start, start + OBS_ROWS)
                )
            mine = obs.slice(start % OBS_ROWS, stop - start)
            ids = mine["cell_id"].combine_chunks()
            keys = hash_strings(ids, seed=0, purpose="order")
            splits = pc.index_in(mine["split"], names).to_numpy().astype(np.int8)
            rows: dict[str, pa.Array] = {"cell_id": ids, KEY: pa.array(keys)}
            if inflated is not None:
                _, _, matrix = next(inflated)
                offsets = pa.array(matrix.indptr.astype(np.int64))
                index_type = np.uint16 if counts.n_genes <= 1 << 16 else np.uint32
                rows["genes"] = pa.LargeListArray.from_arrays(offsets, pa.array(matrix.indices.astype(index_type)))
                rows["counts"] = pa.LargeListArray.from_arrays(offsets, pa.array(matrix.data))
            there = np.ones(stop - start, np.bool_)
            for name, file in tokens.items():
                table = file.rows(start, stop)
                there &= ~table["left_out"].to_numpy()
                for column in file.fields:
                    if token_column(name, column) in columns:
                        rows[token_column(name, column)] = table[column].combine_chunks()
            for name, array in vectors.items():
                flat = pa.array(np.ascontiguousarray(array[start:stop], np.float32).ravel(), pa.float32())
                rows[f"embedding:{name}"] = pa.FixedSizeListArray.from_arrays(flat, array.shape[1])
            for field_ in header.obs:
                rows[field_.name] = mine[field_.name].combine_chunks().cast(field_.type)
            batch = pa.RecordBatch.from_pydict(rows)
            if there.all():
                yield batch, splits
            else:
                yield batch.filter(pa.array(there)), splits[there]


def left_out(parts: Sequence[PartFiles]) -> dict[str, int]:
    """Cells that a tokenizer of theirs leaves out, by split; splits without any do not stand there."""
    import numpy as np

    from cellmill.contracts.counts import CountsPart
    from cellmill.contracts.tokens import TokensPart

    total: dict[str, int] = {}
    for part in parts:
        out: np.ndarray | bool = False
        for path in part.tokens.values():
            with TokensPart(path) as file:
                if file.facts["cells_left_out"]:
                    out |= file.rows(0, file.n_cells, ["left_out"])["left_out"].to_numpy()
        if np.any(out):
            with CountsPart(part.processed) as counts:
                found = counts.column("split")[out].value_counts()
            for split, cells in found.items():
                if cells:
                    total[str(split)] = total.get(str(split), 0) + int(cells)
    return dict(sorted(total.items()))


def in_groups(
    batches: Iterable[pa.RecordBatch], *, group_rows: int, file_rows: int
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """``(file number, batch)`` of ``group_rows`` rows, cut at every ``file_rows``.

    The cuts depend on the rows alone, not on the batches they came in.
    """

    def whole(table: pa.Table) -> pa.RecordBatch:
        return table.combine_chunks().to_batches()[0]

    waiting: list[pa.RecordBatch] = []
    have = done = 0
    for batch in batches:
        waiting.append(batch)
        have += batch.num_rows
        while have >= (size := min(group_rows, file_rows - done % file_rows)):
            table = pa.Table.from_batches(waiting)
            yield done // file_rows, whole(table.slice(0, size))
            waiting, have, done = table.slice(size).to_batches(), have - size, done + size
    if have:
        yield done // file_rows, whole(pa.Table.from_batches(waiting))


def common_schema(parts: Sequence[PartFiles], columns: Sequence[str]) -> pa.Schema:
    """The types of obs columns over all parts; whole numbers and fractions together are float64.

    Raises:
        CellmillError: a column is text in one part and numbers in another, or not there.
    """
    from cellmill.contracts.counts import CountsPart

    types: dict[str, pa.DataType] = {}
    for part in parts:
        for name in columns:
            with CountsPart(part.processed) as counts:
                column = counts.obs_table([name])[name]
            if column.null_count == len(column):
                types.setdefault(name, pa.null())
                continue
            new, old = column.type, types.get(name, pa.null())
            if pa.types.is_null(old) or old == new:
                types[name] = new
            elif {old, new} == {pa.int64(), pa.float64()}:
                types[name] = pa.float64()
            else:
                raise CellmillError(
                    part.processed, f"obs column '{name}' is {new}, {old} in another part.", "Make them alike."
                )
    return pa.schema([(name, pa.string() if pa.types.is_null(t) else t) for name, t in types.items()])
