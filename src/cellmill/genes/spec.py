"""How genes are named, which of them the dataset has, and which of them vary: their config keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field, field_validator

from cellmill.quality.names import METRICS, metric_of
from cellmill.spec import Fraction, Name, Organism, PositiveInt, Spec


def wrong_names(names: Sequence[str]) -> str | None:
    """What is wrong with the names of a gene set, if anything is."""
    wrong = next((name for name in names if not name.strip() or "*" in name[:-1] or name == "*"), None)
    if wrong is not None:
        return f"'{wrong}' is neither a name nor how names begin, as HIST* is"
    return None if names else "it names no gene"


class GeneNames(Spec):
    """How genes are named, which columns of a file are genes at all, and which sets they make."""

    ids: str = "auto"
    """`auto`: Ensembl ids from the var index or a column, else the names as they are; or `index`; or a var column."""
    table: str = "none"
    """Gene table that names are mapped to Ensembl ids by. `none`: names stay as found and nothing is downloaded;
    `auto`: the table of the dataset's organism in `resources/ledger.tsv`; or a name there; or a path (csv, tsv)."""
    ambiguous: Literal["drop", "keep"] = "drop"
    """A name that means several genes of the table: `drop`, or `keep` under the name as found."""
    unmapped: Literal["drop", "keep"] = "drop"
    """A name that the table does not have: `drop`, or `keep` under the name as found."""
    duplicates: Literal["sum", "drop"] = "sum"
    """Columns of a file that name one gene: `sum` adds them up, `drop` takes the first and drops the others."""
    leave_out: list[Literal["other_feature_types", "spike_ins", "other_genomes"]] = [
        "other_feature_types",
        "spike_ins",
        "other_genomes",
    ]
    """What is no gene of this dataset: features other than gene expression (antibodies, guides, peaks); ERCC; genes
    of another genome than `organism`'s, by a prefix (`mm10_`), a column `genome` or the Ensembl id. `[]`: all stay."""
    sets: dict[Name, str | list[str]] = {}
    """Gene sets: each gives the metric `pct_counts_<name>`, beside those of `mt`, `ribo` and `hb`, for `quality.mads`
    and `quality.max_pct`. A list of symbols or Ensembl ids, in which `HIST*` is all names that begin so; or a list in
    a file, as for `space`. 60 at most. A set of which no gene is in any part is an error; single names are counted."""

    @field_validator("sets")
    @classmethod
    def _own_names(cls, value: dict[str, str | list[str]]) -> dict[str, str | list[str]]:
        if len(value) > 60:
            raise ValueError(f"{len(value)} gene sets; 60 are the most")
        for name, said in value.items():
            if metric_of(name) in METRICS:
                raise ValueError(f"'{name}': {metric_of(name)} is a metric of cellmill's own; call your set otherwise")
            if isinstance(said, list) and (wrong := wrong_names(said)):
                raise ValueError(f"'{name}': {wrong}")
        return value


class Genes(GeneNames):
    """How genes are named, which columns of a file are genes at all, gene sets, and which genes the dataset has."""

    space: str = "union"
    """Genes of the dataset. `union`: of any part; `intersection`: of every part; or a list of genes, a name in
    `resources/ledger.tsv` or a path: one gene per line, or the first column of a csv or tsv; exactly those."""
    min_cells: int = Field(default=0, ge=0)
    """Fewest kept cells, over all parts, that have a count of a gene of the space; other genes are left out of it, as
    by scanpy's `filter_genes`. Above 0, it takes one more pass over the raw counts. 0: no bound."""


class GeneRules(GeneNames):
    """What decides what a column of a file is, and in which sets: all of the genes that `measure_quality` asks for."""

    organism: Organism


class VariableGenes(Spec):
    """Variable genes over the training cells of all parts."""

    flavor: Literal["seurat", "cell_ranger", "seurat_v3", "dispersion"] = "seurat"
    """`seurat`: dispersion of normalised counts in bins of mean expression, scanpy's default; `cell_ranger`: that of \
their log1p; `seurat_v3`: variance of the counts over that expected of their mean, by one more pass over them; \
`dispersion`: variance over mean of the counts."""
    n_top: PositiveInt = 2000
    """How many genes count as variable; where fewer vary, all that do. Of `seurat` and `cell_ranger` without batches, \
genes that equal the last one count, too, as in scanpy."""
    by_batch: bool = False
    """`true`: genes are ranked within each batch of `columns.batch`, and first come those that rank high in most \
(`seurat_v3`: those of the best median rank), as with scanpy's `batch_key`."""
    min_cells_fraction: Fraction = 0.001
    """Of `dispersion`: genes in a smaller share of the cells (with `by_batch`: of the batch) are left aside."""

    @property
    def scale(self) -> str:
        """What `measure_genes` sums per batch: normalised counts, their log1p, or the counts."""
        return {"seurat": "normalized", "cell_ranger": "log1p"}.get(self.flavor, "counts")

    @property
    def clips(self) -> bool:
        """Whether counts are clipped by a model, in one more pass over them."""
        return self.flavor == "seurat_v3"
