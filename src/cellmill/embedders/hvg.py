"""``hvg``: log-normalised values of the dataset's most variable genes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from cellmill.embedders.count_spec import Embedding, ValueEmbedder
from cellmill.spec import PositiveInt

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd


class Hvg(ValueEmbedder):
    """Values of the most variable genes, log-normalised by default: the same genes, in one order, for every cell."""

    kind: Literal["hvg"] = "hvg"
    n_genes: PositiveInt = 512
    """How many of the variable genes, by rank; fewer where fewer vary."""

    def embedding(self, genes: pd.DataFrame, files: Sequence[str]) -> Embedding:
        from cellmill.contracts.genes import variable_columns
        from cellmill.embedders.normalize import gene_values

        columns = variable_columns(genes, self.n_genes)
        return Embedding(len(columns), gene_values(self, columns, len(genes)))
