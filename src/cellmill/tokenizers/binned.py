"""``binned``: the counts of the variable genes in fixed bins, for discrete models.

Source: the tokenizer of the scBaseCount downloader (github.com/pythonlearner1025/vcc), edges 0, 1, 5, 10, 50, 100, 500,
1000 and 5000.
Here the bin of a count is the number of edges that are not above it, less 1: 0 for no count, 1 for 1 to 4,
8 for 5,000 and more.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Literal

from pydantic import field_validator

from cellmill.spec import PositiveInt
from cellmill.tokenizers.encoder import TokenizerSpec

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    import scipy.sparse as sp

    from cellmill.contracts.vocabulary import Vocabulary
    from cellmill.tokenizers.encoder import Encoded, Rows


class Binned(TokenizerSpec):
    """A bin per variable gene, in the order of the gene space: all cells have the same length."""

    kind: Literal["binned"] = "binned"
    n_genes: PositiveInt | None = None
    """How many of the variable genes, the most variable ones; `null`: all."""
    edges: list[int] = [0, 1, 5, 10, 50, 100, 500, 1000, 5000]
    """The least count of every bin, rising from 0; the last bin has no end."""

    @field_validator("edges")
    @classmethod
    def _rising(cls, edges: list[int]) -> list[int]:
        if len(edges) < 2 or edges[0] != 0 or any(a >= b for a, b in pairwise(edges)):
            raise ValueError(f"edges must rise from 0, at least two of them; found {edges}")
        return edges

    def learn(self, genes: pd.DataFrame, files: dict[str, str]) -> Vocabulary:
        return variable_places(genes, self.n_genes)

    def encoder(self, vocabulary: Vocabulary) -> FixedBinsEncoder:
        return FixedBinsEncoder(vocabulary, self.edges)


def variable_places(genes: pd.DataFrame, n_genes: int | None) -> Vocabulary:
    """The place of each variable gene in the list of a cell: the vocabulary of tokenizers whose tokens are bins.

    Raises:
        CellmillError: fewer variable genes than asked for.
    """
    import numpy as np

    from cellmill.contracts.genes import variable_columns
    from cellmill.contracts.vocabulary import Vocabulary
    from cellmill.errors import CellmillError

    n_variable = int(genes["variable"].sum())
    if n_variable < (n_genes or 1):
        raise CellmillError(
            "genes/genes.parquet",
            f"{n_genes or 1} variable genes were asked for, there are {n_variable}.",
            "Lower n_genes of the tokenizer, or raise variable_genes.n_top of the dataset.",
        )
    columns = np.sort(variable_columns(genes, n_genes or n_variable))
    places = np.full(len(genes), -1, np.int32)
    places[columns] = np.arange(len(columns))
    ids = genes["gene_id"].to_numpy()[columns]
    return Vocabulary(
        {gene: place for place, gene in enumerate(ids)}, places, np.full(len(genes), np.nan), prefix=(), suffix=()
    )


class FixedBinsEncoder:
    """Counts to a bin per gene of the vocabulary, by fixed edges."""

    def __init__(self, vocabulary: Vocabulary, edges: list[int]) -> None:
        import numpy as np

        from cellmill.tokenizers.encoder import smallest_unsigned

        self._places, self._edges = vocabulary.token_ids, np.array(edges, np.int64)
        self._width, self._dtype = len(vocabulary.tokens), smallest_unsigned(len(edges) - 1)

    @property
    def fields(self) -> list[pa.Field]:
        from cellmill.contracts.tokens import list_field

        return [list_field("input_ids", self._dtype)]

    def encode(self, counts: sp.csr_matrix, rows: Rows) -> Encoded:
        import numpy as np
        import pyarrow as pa

        from cellmill.tokenizers.bins import fixed_bins
        from cellmill.tokenizers.encoder import Encoded

        n = counts.shape[0]
        out, expressed = np.zeros((n, self._width), self._dtype), np.empty(n, np.int64)
        covered, counted = fixed_bins(
            counts.data, counts.indices, counts.indptr, self._places, self._edges, out, expressed
        )
        offsets = np.arange(n + 1, dtype=np.int64) * self._width
        ids = pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(out.ravel()), type=self.fields[0].type)
        return Encoded([ids], expressed, np.diff(offsets), np.zeros(n, np.bool_), covered, int(counted))
