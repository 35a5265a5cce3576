"""``hf``: folders that ``datasets.load_dataset`` opens as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from cellmill.exports.rows import ExportSpec
from cellmill.spec import Column, Name, PositiveInt, Spec

if TYPE_CHECKING:
    from cellmill.config import Dataset


class HfSingle(Spec, ExportSpec):
    """One row per cell: `cell_id`, `input_ids`, `embedding_<name>`, and the obs columns asked for."""

    kind: Literal["single"] = "single"
    tokenizer: Name | None = "rank"
    """Which tokens go into `input_ids`; `null`: none."""
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
