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


BLOCK_ROWS = 4_096
EMITTED_ROWS = 4_096
BUCKET_BYTES = 256 << 20


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

    Args:
        columns: what ``needs`` returned.
        bucket_bytes: rows that are sorted in memory at once, about.
        threads: how many inflate counts while others are spilled.
            Later, rows are sorted in a thread of their own, while the caller writes those before them.
    """
    import numpy as np

    n_buckets = 1
    while sum(_bytes(p, columns, header.widths) for p in parts) > bucket_bytes * n_buckets:
        n_buckets *= 2
    spill = _Spill(scratch, header, n_buckets)
    total = sum(header.cells.values())
    with progress(total, "cells", "gathering") as counter:
        for part in parts:
            for batch, keys, splits in _blocks(part, header, columns, threads):
                bucket = (keys >> np.uint64(65 - n_buckets.bit_length())) if n_buckets > 1 else np.zeros_like(keys)
                spill.add(batch, splits, bucket.astype(np.int64))
                counter.update(batch.num_rows)
    yield from ahead(_sorted(spill, header))


def _sorted(spill: _Spill, header: Header) -> Iterator[tuple[str, pa.RecordBatch]]:
    """The rows of every bucket in their order, ``EMITTED_ROWS`` at once."""
    import numpy as np

    from cellmill.exports.gather import take_rows

    for split in header.cells:
        for number in range(spill.n_buckets):
            batch = spill.take(split, number)
            if batch is None:
                continue
            keys = batch["_key"].to_numpy()
            order = np.argsort(keys)
            if (np.diff(keys[order]) == 0).any():
                order = pc.sort_indices(batch, sort_keys=[("_key", "ascending"), ("cell_id", "ascending")]).to_numpy()
            batch = batch.drop_columns(["_key"])
            for start in range(0, batch.num_rows, EMITTED_ROWS):
                yield split, take_rows(batch, order[start : start + EMITTED_ROWS])


def _bytes(part: PartFiles, columns: tuple[str, ...], widths: dict[str, int]) -> int:
    from cellmill.contracts.counts import CountsPart

    with CountsPart(part.processed) as counts:
        per_value = counts.dtype.itemsize + (2 if counts.n_genes <= 1 << 16 else 4) if "counts" in columns else 0
        per_value += 4 * sum(c.startswith("tokens:") for c in columns)
        per_cell = 200 + 4 * sum(widths[c.partition(":")[2]] for c in columns if c.startswith("embedding:"))
        return counts.n_values * per_value + counts.n_cells * per_cell


def _blocks(
    part: PartFiles, header: Header, columns: tuple[str, ...], threads: int
) -> Iterator[tuple[pa.RecordBatch, np.ndarray, np.ndarray]]:
    """Blocks of a part as Arrow, their keys (n,) uint64 and splits (n,) codes."""
    import numpy as np

    from cellmill.contracts import embedding
    from cellmill.contracts.counts import CountsPart
    from cellmill.contracts.tokens import TokensPart
    from cellmill.keys import hash_strings

    names = list(header.cells)
    with ExitStack() as stack:
        counts = stack.enter_context(CountsPart(part.processed, threads=threads))
        read = {c.split(":")[1] for c in columns if c.startswith("tokens:")}
        tokens = {n: stack.enter_context(TokensPart(part.tokens[n])) for n in part.tokens if n in read}
        vectors = {n: embedding.read(part.embeddings[n]) for n in part.embeddings if f"embedding:{n}" in columns}
        obs = counts.obs_table()
        for name, aligned in [*((n, t.n_cells) for n, t in tokens.items()), *((n, len(v)) for n, v in vectors.items())]:
            if aligned != counts.n_cells:
                raise CellmillError(
                    part.processed, f"{counts.n_cells} cells, but '{name}' has {aligned}.", "Run snakemake again."
                )
        ids = obs["cell_id"].combine_chunks()
        keys = hash_strings(ids, seed=0, purpose="order")
        split_of = {name: code for code, name in enumerate(names)}
        codes = np.array([split_of[s] for s in counts.obs["split"].cat.categories], np.int8)
        splits = codes[counts.obs["split"].cat.codes.to_numpy()]
        inflated = counts.blocks(BLOCK_ROWS) if "counts" in columns else None  # they cost the most, and few need none
        for start, stop in counts.bounds(BLOCK_ROWS):
            rows: dict[str, pa.Array] = {"cell_id": ids[start:stop], "_key": pa.array(keys[start:stop])}
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
                rows[field_.name] = obs[field_.name].slice(start, stop - start).combine_chunks().cast(field_.type)
            batch = pa.RecordBatch.from_pydict(rows)
            if there.all():
                yield batch, keys[start:stop], splits[start:stop]
            else:
                yield batch.filter(pa.array(there)), keys[start:stop][there], splits[start:stop][there]


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
                found = counts.obs["split"][out].value_counts()
            for split, cells in found.items():
                if cells:
                    total[str(split)] = total.get(str(split), 0) + int(cells)
    return dict(sorted(total.items()))


class _Spill:
    """Rows by split and bucket: in memory where one bucket holds all, else in Arrow files."""

    def __init__(self, folder: Path, header: Header, n_buckets: int) -> None:
        self.folder, self.names, self.n_buckets = folder, list(header.cells), n_buckets
        self._memory: dict[str, list[pa.RecordBatch]] = {}
        self._writers: dict[tuple[str, int], pa.RecordBatchFileWriter] = {}

    def add(self, batch: pa.RecordBatch, splits: np.ndarray, buckets: np.ndarray) -> None:
        import numpy as np

        from cellmill.exports.gather import take_rows

        place = splits.astype(np.int64) * self.n_buckets + buckets
        batch = take_rows(batch, np.argsort(place, kind="stable"))
        codes, sizes = np.unique(place, return_counts=True)
        for code, size, stop in zip(codes, sizes, sizes.cumsum(), strict=True):
            rows = batch.slice(stop - size, size)
            name, bucket = self.names[int(code) // self.n_buckets], int(code) % self.n_buckets
            if self.n_buckets == 1:
                self._memory.setdefault(name, []).append(rows)
                continue
            if (name, bucket) not in self._writers:
                self._writers[name, bucket] = pa.ipc.new_file(self.folder / f"{name}.{bucket}.arrow", batch.schema)
            self._writers[name, bucket].write(rows)

    def take(self, split: str, bucket: int) -> pa.RecordBatch | None:
        """The rows of one split and bucket, and no longer kept."""
        from cellmill.exports.gather import joined

        if self.n_buckets == 1:
            return joined(pa.Table.from_batches(self._memory.pop(split))) if split in self._memory else None
        writer = self._writers.pop((split, bucket), None)
        if writer is None:
            return None
        writer.close()
        path = self.folder / f"{split}.{bucket}.arrow"
        with pa.OSFile(str(path)) as stream, pa.ipc.open_file(stream) as reader:
            batch = joined(reader.read_all())
        path.unlink()
        return batch


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
        with CountsPart(part.processed) as counts:
            table = counts.obs_table().select(columns)
        for name in columns:
            column = table[name]
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
