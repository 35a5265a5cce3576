"""``hf``: folders that ``datasets.load_dataset`` opens as they are."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Literal

from cellmill.exports.spec import ExportSpec
from cellmill.spec import Column, Name, PositiveInt, Spec

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    import pyarrow as pa

    from cellmill.config import Dataset
    from cellmill.exports.rows import Header

GROUP_ROWS = 4_096


class HfSingle(Spec, ExportSpec):
    """One row per cell: `cell_id`, the tokens, `embedding_<name>`, and the obs columns asked for."""

    kind: Literal["single"] = "single"
    tokenizer: Name | None = "rank"
    """Whose tokens to write, `input_ids` or what the tokenizer's columns are called; `null`: none."""
    embeddings: list[Name] = ["pca"]
    """Which embeddings to add, each as a column of fixed size."""
    columns: list[Column] | None = None
    """Obs columns to write; `null`: all that the dataset keeps."""
    cells_per_file: PositiveInt = 100_000
    """Cells in each Parquet file."""

    @property
    def tokenizers(self) -> tuple[str, ...]:
        return () if self.tokenizer is None else (self.tokenizer,)

    @property
    def embedders(self) -> tuple[str, ...]:
        return tuple(self.embeddings)


class HfMultiplets(Spec, ExportSpec):
    """Anchor (a cell sentence), positive (its caption) and negatives, for contrastive training."""

    kind: Literal["multiplets"] = "multiplets"
    caption: Column | None = None
    """Obs column that captions a cell; `null`: the dataset's label column."""
    sentence_genes: PositiveInt = 100
    """Genes in a cell sentence, by falling expression; genes without a count are never named."""
    negatives: PositiveInt = 2
    """Negatives per anchor, all different, none with the anchor's own caption."""
    resolve_negatives: bool = True
    """Also write their text: `negative_1`, `negative_3`, … a caption, `negative_2`, … a cell sentence."""
    seed: int = 0
    """Another seed, other negatives."""
    cells_per_file: PositiveInt = 100_000
    """Cells in each Parquet file."""

    @property
    def with_counts(self) -> bool:
        return True

    def problems(self, dataset: Dataset) -> list[str]:
        if self.caption is None and dataset.columns.label is None:
            return ["multiplets need a caption; set columns.label, or 'caption' of this export."]
        if self.caption is not None and self.caption not in dataset.kept_columns:
            return [f"the caption column '{self.caption}' is not kept; add it to columns.keep."]
        return []


def write(
    out: Path,
    header: Header,
    rows: Iterable[tuple[str, pa.RecordBatch]],
    spec: HfSingle | HfMultiplets,
    *,
    vocabulary: dict[str, int] | None = None,
    threads: int = 1,
) -> dict[str, Any]:
    """Write ``<split>/NNNNN.parquet`` into ``out``, in one thread; give the facts for the manifest."""
    if isinstance(spec, HfSingle):
        return _write_single(out, header, rows, spec, vocabulary)
    return _write_multiplets(out, header, rows, spec)


def _write_single(
    out: Path,
    header: Header,
    rows: Iterable[tuple[str, pa.RecordBatch]],
    spec: HfSingle,
    vocabulary: dict[str, int] | None,
) -> dict[str, Any]:
    """Write ``<split>/NNNNN.parquet`` and the vocabulary."""
    import pyarrow as pa

    from cellmill.contracts.vocabulary import write_tokens
    from cellmill.exports.rows import in_groups, token_column

    types = {
        "list<int32>": pa.list_(pa.int32()),
        "list<int64>": pa.list_(pa.int64()),
        "list<float>": pa.list_(pa.float32()),
        "string": pa.string(),
    }
    columns = [f.name for f in header.obs]
    with _ParquetFiles(out) as files:
        for split, number, table in in_groups(rows, group_rows=GROUP_ROWS, file_rows=spec.cells_per_file):
            shown = {"cell_id": table["cell_id"].cast(pa.string())}
            if spec.tokenizer is not None:
                for column, type_ in header.tokens[spec.tokenizer].items():
                    shown[column] = table[token_column(spec.tokenizer, column)].cast(types[type_])
            shown |= {f"embedding_{e}": table[f"embedding:{e}"] for e in spec.embeddings}
            files.add(split, number, pa.table(shown | {c: table[c] for c in columns}))
    if vocabulary is not None:
        write_tokens(out / "vocabulary.json", vocabulary)
    said = {"columns": files.columns, "files": files.cells}
    return said if vocabulary is None else said | {"vocabulary": len(vocabulary)}


def _write_multiplets(
    out: Path,
    header: Header,
    rows: Iterable[tuple[str, pa.RecordBatch]],
    spec: HfMultiplets,
) -> dict[str, Any]:
    """Write ``<split>/NNNNN.parquet``: ``sample_idx``, ``cell_sentence_1``, ``positive``, the negatives.

    Sentences and captions of a split go to disk first; negatives are then drawn among all of it.

    Raises:
        CellmillError: a cell without a caption, or fewer cells of another caption than negatives asked for.
    """
    from cellmill.exports.multiplets import split_multiplets
    from cellmill.files import scratch

    with scratch(out / "sentences") as folder, _ParquetFiles(out) as files:
        for split, number, table in split_multiplets(rows, header, spec, folder, group_rows=GROUP_ROWS):
            files.add(split, number, table)
    return {"columns": files.columns, "files": files.cells, "caption": spec.caption or header.label}


class _ParquetFiles:
    """Parquet files of a split, numbered; each table is a row group."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.cells: dict[str, dict[str, int]] = {}
        self.columns: dict[str, str] = {}
        self._name = ""
        self._writer: Any = None

    def add(self, split: str, number: int, table: pa.Table) -> None:
        import pyarrow.parquet as pq

        name = f"{split}/{number:05d}.parquet"
        if name != self._name:
            self.close()
            (self.out / split).mkdir(exist_ok=True)
            self._writer = pq.ParquetWriter(self.out / name, table.schema, compression="zstd")
            self._name = name
            self.columns = {f.name: str(f.type) for f in table.schema}
        self._writer.write_table(table, row_group_size=GROUP_ROWS)
        files = self.cells.setdefault(split, {})
        files[name] = files.get(name, 0) + table.num_rows

    def __enter__(self) -> _ParquetFiles:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        with contextlib.suppress(OSError) if kind else contextlib.nullcontext():
            self.close()  # after an error, too: an open file keeps its room on a full disk

    def close(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()
