"""``hf``: folders that ``datasets.load_dataset`` opens as they are, with typed columns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from cellmill.errors import nearest
from cellmill.exports.captions import Missing, columns_of
from cellmill.exports.spec import ExportSpec
from cellmill.spec import Column, Fraction, Name, PositiveInt, Spec

if TYPE_CHECKING:
    from cellmill.columns import Columns
    from cellmill.config import Dataset
    from cellmill.exports.given import Given


class HfSpec(Spec, ExportSpec):
    """What all kinds have."""

    kind: str
    columns: list[Column] | None = None
    """Obs columns to write; `null`: all that the dataset keeps."""
    embeddings: list[Name] = []
    """Embeddings to add, each as a column of fixed size, `embedding_<name>`."""
    max_classes: Annotated[int, Field(ge=0)] = 1_000
    """Text columns of at most so many different values are classes (`ClassLabel`: codes, and names in the features)."""
    cells_per_file: PositiveInt = 100_000
    """Cells in each Parquet file, at most."""
    mb_per_file: PositiveInt | None = None
    """A file ends with the row group (4,096 rows) that brings it to so many million bytes; `null`: by cells alone."""
    min_files: PositiveInt = 8
    """Files of each split, at least, so that as many workers have one each; never fewer than a cell to a file."""

    @property
    def embedders(self) -> tuple[str, ...]:
        return tuple(self.embeddings)

    def own_columns(self, column: str) -> bool:
        """Whether the export writes a column of this name itself."""
        return column.startswith("embedding_")

    def problems(self, dataset: Dataset) -> list[str]:
        from cellmill.quality.names import METRICS, metric_of

        there = [*dataset.exported_columns, *METRICS, *map(metric_of, dataset.genes.sets)]
        asked = dataset.exported_columns if self.columns is None else self.columns
        problems = [f"no column '{c}' stays with the cells. {nearest(c, there)}" for c in asked if c not in there]
        own = [c for c in asked if self.own_columns(c)]
        return problems + [f"it writes '{c}' itself; rename yours, or leave it out of 'columns'." for c in own]


class HfTokens(HfSpec):
    """One row per cell: `cell_id`, the tokens, `embedding_<name>`, and the obs columns asked for."""

    kind: Literal["tokens"] = "tokens"
    tokenizer: Name = "rank"
    """Whose tokens to write: `input_ids`, or what the tokenizer's columns are called."""

    @property
    def tokenizers(self) -> tuple[str, ...]:
        return (self.tokenizer,)


class HfExpression(HfSpec):
    """One row per cell: `cell_id`, `genes` and `counts` of what is expressed, embeddings and obs columns."""

    kind: Literal["expression"] = "expression"

    @property
    def with_counts(self) -> bool:
        return True


class HfText(HfSpec):
    """What the kinds made of text have: cell sentences and captions."""

    sentences: Name | None = "sentence"
    """Tokenizer of kind `sentence`, whose columns `cell_sentence_1`, … are written; `null`: none."""
    captions: list[str] | None = None
    """Obs columns, or templates over several (`"{cell_type}[ from {tissue}]"`); `null`: the dataset's label column."""
    missing: Missing = "error"
    """A caption's column without a value: `error`; `drop` its clause in brackets; `fill` it with a word."""
    fill: str = Field(default="unknown", pattern=r"\S")
    """That word."""
    columns: list[Column] | None = []
    """Obs columns to write; `null`: all that the dataset keeps."""

    @property
    def tokenizers(self) -> tuple[str, ...]:
        return () if self.sentences is None else (self.sentences,)

    def own_columns(self, column: str) -> bool:
        ours = column.startswith(("cell_sentence_", "caption_", "positive_", "negative_"))
        return ours or column in ("sample_idx", "caption", "positive") or super().own_columns(column)

    def extra_columns(self, columns: Columns) -> tuple[str, ...]:
        return tuple(columns_of(self.captions_of(columns.label)))

    def captions_of(self, label: str | None) -> list[str]:
        """The captions that are asked for, else the label column."""
        if self.captions is not None:
            return self.captions
        return [] if label is None else [label]

    @field_validator("captions")
    @classmethod
    def _templates(cls, captions: list[str] | None) -> list[str] | None:
        for caption in captions or []:
            columns_of([caption])
        return captions

    @model_validator(mode="after")
    def _rule(self) -> HfText:
        if self.missing == "drop" and not any("[" in caption.replace("[[", "") for caption in self.captions or []):
            raise ValueError(
                "'missing: drop' drops clauses in brackets, and no caption has any; "
                'write such as "{cell_type}[ from {tissue}]"'
            )
        return self

    def problems(self, dataset: Dataset) -> list[str]:
        named = columns_of(self.captions_of(dataset.columns.label))
        kept = dataset.exported_columns
        return super().problems(dataset) + [
            f"the caption's column '{c}' is not kept; add it to columns.keep, or correct it. {nearest(c, kept)}"
            for c in named
            if c not in kept
        ]


class HfSingle(HfText):
    """One row per cell: `sample_idx`, its cell sentences, `caption`, embeddings and obs columns."""

    kind: Literal["single"] = "single"


class Shares(Spec):
    """Which share of the negatives is drawn how; the rest is uniform over all eligible cells."""

    in_batch: Fraction = 0
    """Share that is drawn from the anchor's own batch."""
    out_of_batch: Fraction = 0
    """Share that is drawn from other batches."""
    hard: Fraction = 0
    """Share that is near the anchor: the nearest of `candidates` eligible cells that are drawn."""
    embedding: Name | None = None
    """Embedding in which hard negatives are near."""
    candidates: PositiveInt = 64
    """Eligible cells that hard negatives are the nearest of; where there are fewer, all of them."""

    @model_validator(mode="after")
    def _whole(self) -> Shares:
        if self.in_batch + self.out_of_batch + self.hard > 1 + 1e-9:
            raise ValueError("in_batch, out_of_batch and hard are shares of the negatives, and more than 1 together")
        if self.hard and self.embedding is None:
            raise ValueError("hard negatives need an embedding to be near in; name one in 'embedding'")
        return self


class HfContrastive(HfText):
    """What the kinds with negatives have."""

    negatives: PositiveInt = 2
    """Negatives per anchor, all different, none with the anchor's own caption or label."""
    shares: Shares = Shares()
    """Where they are drawn from."""
    seed: int = 0
    """Another seed, other negatives."""

    @property
    def embedders(self) -> tuple[str, ...]:
        near = () if not self.shares.hard or self.shares.embedding is None else (self.shares.embedding,)
        return tuple(dict.fromkeys([*self.embeddings, *near]))

    def extra_columns(self, columns: Columns) -> tuple[str, ...]:
        read = [*super().extra_columns(columns), columns.label, columns.batch]
        return tuple(dict.fromkeys(c for c in read if c is not None))

    def number(self, share: float) -> int:
        """How many negatives a share is."""
        return round(share * self.negatives)

    @model_validator(mode="after")
    def _shares_are_whole(self) -> HfContrastive:
        for name in ("in_batch", "out_of_batch", "hard"):
            share = getattr(self.shares, name)
            if abs(self.number(share) - share * self.negatives) > 1e-6:
                raise ValueError(
                    f"shares.{name}: {share} of {self.negatives} negatives is {share * self.negatives:g}, "
                    "which is no whole number of them"
                )
        return self

    def problems(self, dataset: Dataset) -> list[str]:
        problems = super().problems(dataset)
        if not self.captions_of(dataset.columns.label):
            problems.append(f"{self.kind} need a caption; set columns.label, or 'captions' of this export.")
        if (self.shares.in_batch or self.shares.out_of_batch) and dataset.columns.batch is None:
            problems.append("shares of batches need a batch column. Name it in columns.batch, or set them to 0.")
        return problems


class HfPairs(HfContrastive):
    """A cell with its caption (`label` 1.0), then with those of other cells (`label` 0.0), for contrastive training."""

    kind: Literal["pairs"] = "pairs"
    negatives: PositiveInt = 1
    """Rows with another cell's caption, for each with its own; none of the anchor's caption or label."""

    def own_columns(self, column: str) -> bool:
        return column == "label" or super().own_columns(column)


class HfMultiplets(HfContrastive):
    """Anchor (a cell sentence), positive (its caption) and negatives, for contrastive training."""

    kind: Literal["multiplets"] = "multiplets"
    resolve_negatives: bool = True
    """Also write their text: `negative_1`, `negative_3`, … a caption, `negative_2`, … a cell sentence."""

    def problems(self, dataset: Dataset) -> list[str]:
        problems = super().problems(dataset)
        if self.resolve_negatives and self.negatives > 1 and self.sentences is None:
            problems.append(
                "negative_2 is a cell sentence; name a tokenizer in 'sentences', or don't resolve negatives."
            )
        return problems


HfExport = HfTokens | HfExpression | HfSingle | HfPairs | HfMultiplets


def write(given: Given, spec: HfExport) -> dict[str, Any]:
    """Write ``<split>/NNNNN.parquet``, and what stands beside them; give the facts for the manifest.

    Raises:
        CellmillError: a cell without a caption, or with fewer eligible cells than negatives asked for.
    """
    from cellmill.contracts.vocabulary import write_tokens
    from cellmill.exports.hf_files import Shards, write_gene_table
    from cellmill.exports.hf_rows import cell_rows, text_rows
    from cellmill.exports.multiplets import contrastive_rows
    from cellmill.files import scratch

    out, vocabulary = given.out, given.vocabulary
    with scratch(out / "anchors") as folder, Shards(given, spec) as shards:
        if isinstance(spec, HfContrastive):
            said = contrastive_rows(shards, given, spec, folder)
        elif isinstance(spec, HfText):
            said = text_rows(shards, given.header, spec)
        else:
            said = cell_rows(shards, given.header, spec)
    facts = shards.facts() | said
    if isinstance(spec, HfExpression):
        write_gene_table(out / "genes.parquet", given.header.genes)
    if isinstance(spec, HfTokens) and vocabulary is not None:
        write_tokens(out / "vocabulary.json", vocabulary)
        facts["vocabulary"] = len(vocabulary)
    return facts
