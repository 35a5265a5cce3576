"""How genes are named, which of them the dataset has, and which of them vary: their config keys."""

from __future__ import annotations

from typing import Literal

from cellmill.spec import Fraction, Organism, PositiveInt, Spec


class GeneNames(Spec):
    """How genes are named, and which columns of a file are genes at all."""

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


class Genes(GeneNames):
    """How genes are named, which columns of a file are genes at all, and which genes the dataset has."""

    space: str = "union"
    """Genes of the dataset. `union`: of any part; `intersection`: of every part; or a list of genes, a name in
    `resources/ledger.tsv` or a path: one gene per line, or the first column of a csv or tsv; exactly those."""


class GeneRules(GeneNames):
    """What decides what a column of a file is: all of the gene names that `measure_quality` depends on."""

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
