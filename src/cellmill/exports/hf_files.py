"""Parquet files of ``hf``: how cells are cut into files and row groups, and how columns are encoded."""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from cellmill.exports.features import classes_of, encode, with_features

if TYPE_CHECKING:
    import pandas as pd

    from cellmill.exports.given import Given
    from cellmill.exports.hf import HfExport

GROUP_ROWS = 4_096
"""Rows of a row group: what a reader decodes at once."""
_UNIQUE_TEXT = re.compile(r"cell_id|sample_idx|cell_sentence_\d+|negative_\d+_idx|negative_\d*[02468]")
"""Columns of text that hardly repeats, which a dictionary would only slow down."""


class Shards:
    """The files of an export: a folder per split, tables of cells cut alike whatever batches they come in."""

    def __init__(self, given: Given, spec: HfExport) -> None:
        self._given, self._header, self._spec = given, given.header, spec
        self._names = [f.name for f in self._header.obs] if spec.columns is None else list(dict.fromkeys(spec.columns))
        self._rows: dict[str, dict[str, int]] = {}
        self._missing: Counter[str] = Counter()
        self._schema: pa.Schema | None = None
        self._at: tuple[str, int] | None = None
        self._sink: Any = None
        self._writer: pq.ParquetWriter | None = None

    def groups(self, split: str, rows_per_cell: int = 1) -> Iterator[tuple[int, int, int]]:
        """``(file, start, stop)``: cells of a row group each; the files of a split are alike within one cell."""
        cells, spec = self._header.cells[split], self._spec
        files = min(cells, max(spec.min_files, -(-cells // spec.cells_per_file)))
        size = max(1, GROUP_ROWS // rows_per_cell)
        for file in range(files):
            first, last = file * cells // files, (file + 1) * cells // files
            for start in range(first, last, size):
                yield file, start, min(start + size, last)

    def cut(self) -> Iterator[tuple[str, int, pa.Table]]:
        """``(split, file, cells)`` of every row group, from batches of any size.

        Raises:
            CellmillError: where the cells are others than those of the header.
        """
        for split, batches in self._given.by_split():
            waiting: list[pa.RecordBatch] = []
            have = 0
            for file, start, stop in self.groups(split):
                while have < stop - start:
                    waiting.append(next(batches))
                    have += waiting[-1].num_rows
                table = pa.Table.from_batches(waiting)
                yield split, file, table.slice(0, stop - start).combine_chunks()
                waiting, have = table.slice(stop - start).to_batches(), have - (stop - start)
            for _ in batches:  # which says so, where there are more
                pass

    def more(self, cells: pa.Table | pa.RecordBatch) -> dict[str, pa.Array]:
        """The embeddings and obs columns that were asked for, as they are written."""
        columns = {f"embedding_{e}": _whole(cells[f"embedding:{e}"]) for e in self._spec.embeddings}
        for name in self._names:
            column = _whole(cells[name])
            if column.null_count:
                self._missing[name] += column.null_count
            columns[name] = encode(column, self._header.obs.field(name))
        return columns

    def write(self, split: str, file: int, columns: dict[str, pa.Array]) -> None:
        """One row group of a file; files are numbered as they begin."""
        table = pa.table(columns)
        if self._schema is None:
            classes = {n: c for n in self._names if (c := classes_of(self._header.obs.field(n))) is not None}
            self._schema = with_features(table.schema, {n: c for n, c in classes.items() if n in columns})
        limit = self._spec.mb_per_file
        if self._at != (split, file) or (limit is not None and self._sink.tell() >= limit * 1_000_000):
            self._open(split)
            self._at = (split, file)
        assert self._writer is not None
        self._writer.write_table(table.cast(self._schema), row_group_size=table.num_rows)
        self._rows[split][next(reversed(self._rows[split]))] += table.num_rows

    def _open(self, split: str) -> None:
        assert self._schema is not None
        self._close()
        files = self._rows.setdefault(split, {})
        name = f"{split}/{len(files):05d}.parquet"
        (self._given.out / split).mkdir(exist_ok=True)
        files[name] = 0
        self._sink = open(self._given.out / name, "wb")
        self._writer = pq.ParquetWriter(self._sink, self._schema, **_encoding(self._schema))

    def __enter__(self) -> Shards:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        with contextlib.suppress(OSError) if kind else contextlib.nullcontext():
            self._close()  # after an error, too: an open file keeps its room on a full disk

    def _close(self) -> None:
        writer, self._writer = self._writer, None
        sink, self._sink = self._sink, None
        try:
            if writer is not None:
                writer.close()
        finally:
            if sink is not None:
                sink.close()

    def facts(self) -> dict[str, Any]:
        """Columns and their types, classes, missing values; rows by file and by split."""
        schema = self._schema if self._schema is not None else pa.schema([])
        classes = {n: len(c) for n in self._names if (c := classes_of(self._header.obs.field(n))) is not None}
        return {
            "columns": {f.name: str(f.type) for f in schema},
            "obs": self._names,
            "classes": classes,
            "missing": dict(sorted(self._missing.items())),
            "files": self._rows,
            "rows": {split: sum(files.values()) for split, files in self._rows.items()},
        }


def as_lists(column: pa.Array | pa.ChunkedArray, said: str) -> pa.Array:
    """Tokens in the type that they are written in, given that of the tokenizer's export (``list<int32>``).

    Types of a published format stay. ``list<int32>`` is ours, and becomes the smallest type of the vocabulary, which
    token files have.
    """
    column = _whole(column)
    if said == "string":
        return column.cast(pa.string())
    if said == "list<int32>":
        return column.cast(pa.list_(column.type.value_type))
    return column.cast(pa.list_({"list<int64>": pa.int64(), "list<float>": pa.float32()}[said]))


def write_gene_table(path: Path, genes: pd.DataFrame) -> None:
    """The genes that the numbers of the column ``genes`` count: ``gene_id``, ``gene_symbol``."""
    columns = {name: pa.array(genes[name], pa.string(), from_pandas=True) for name in ("gene_id", "gene_symbol")}
    table = pa.table(columns)
    pq.write_table(table.cast(with_features(table.schema, {})), path, compression="zstd")


def _whole(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _encoding(schema: pa.Schema) -> dict[str, Any]:
    """Cheap encodings: a table of 4,096 cells is written in half the time of a dictionary for everything.

    Rising genes of a cell as differences; other whole numbers in lists, and vectors, split by bytes; what repeats by a
    dictionary; zstd of the lowest level over all.
    """
    lists: dict[str, str] = {}
    repeating: list[str] = []
    for field in schema:
        leaf, type_ = f"{field.name}.list.element", field.type
        if pa.types.is_list(type_) and pa.types.is_floating(type_.value_type):
            repeating.append(leaf)
        elif pa.types.is_list(type_) and field.name == "genes" and "counts" in schema.names:
            lists[leaf] = "DELTA_BINARY_PACKED"
        elif pa.types.is_list(type_) or pa.types.is_fixed_size_list(type_):
            lists[leaf] = "BYTE_STREAM_SPLIT"
        elif not _UNIQUE_TEXT.fullmatch(field.name):
            repeating.append(field.name)
    return {
        "compression": "zstd",
        "compression_level": 1,
        "use_dictionary": repeating or False,
        "column_encoding": lists or None,
        "write_statistics": repeating or False,
    }
