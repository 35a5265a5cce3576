"""``genes``: values of a fixed list of genes, the same dimensions in every dataset."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from cellmill.embedders.count_spec import MIN_FOUND, Embedding, ValueEmbedder
from cellmill.spec import Fraction

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import pandas as pd

    from cellmill.sources.ledger import Ledger


class GeneList(ValueEmbedder):
    """Values of the genes of a list, log-normalised by default; a gene that the dataset does not have is 0."""

    kind: Literal["genes"] = "genes"
    genes: str | Annotated[list[str], Field(min_length=1)]
    """Ensembl ids or symbols: a list in brackets, a file (one per line, or the first column of a csv or tsv), or a
    name of `resources/ledger.tsv`. The dimensions are in its order."""
    min_found: Fraction = MIN_FOUND
    """Share of the list that the dataset must have."""

    def files(self, ledger: Ledger, base: Path) -> list[str]:
        return [ledger.path_of(self.genes)] if isinstance(self.genes, str) else []

    def embedding(self, genes: pd.DataFrame, files: Sequence[str]) -> Embedding:
        from cellmill.embedders.find_genes import find_genes
        from cellmill.embedders.normalize import gene_values
        from cellmill.genes.table import read_gene_list

        names = self.genes if isinstance(self.genes, list) else read_gene_list(files[0])
        found = find_genes(names, genes, min_found=self.min_found, where=next(iter(files), "the list of genes"))
        return Embedding(len(names), gene_values(self, found.columns, len(genes)), {"genes": found.facts})
