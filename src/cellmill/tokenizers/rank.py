"""``rank``: Geneformer's rank-value encoding, with vocabulary and medians learned from the training cells.

Source of the encoding: Theodoris et al., Nature 2023 (https://doi.org/10.1038/s41586-023-06139-9).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from cellmill.spec import Column, PositiveInt
from cellmill.tokenizers.encoder import TokenizerSpec

if TYPE_CHECKING:
    import pandas as pd

    from cellmill.contracts.vocabulary import Vocabulary
    from cellmill.tokenizers.rank_value import RankValueEncoder


class Rank(TokenizerSpec):
    """Rank-value encoding learned from this dataset's training cells: runs anywhere, downloads nothing."""

    kind: Literal["rank"] = "rank"
    max_len_tokens: PositiveInt = 2048
    """Longest cell in tokens; the lowest ranks beyond it are cut, and the cells cut are counted."""
    library_size: Column | None = None
    """Obs column with the cell's total counts; `null`: the sum over all genes that were measured."""

    def learn(self, genes: pd.DataFrame, files: dict[str, str]) -> Vocabulary:
        """The vocabulary over the dataset's gene table.

        Tokens: ``<pad>`` 0, ``<mask>`` 1, then every gene seen in a training cell, in the order of the gene table.
        A gene's median is that of its non-zero values per 10,000 counts over the training cells.
        """
        import numpy as np

        from cellmill.contracts.vocabulary import Vocabulary

        seen = genes["n_cells"].to_numpy() > 0
        tokens = {"<pad>": 0, "<mask>": 1} | {g: i + 2 for i, g in enumerate(genes["gene_id"].to_numpy()[seen])}
        token_ids = np.full(len(genes), -1, np.int32)
        token_ids[seen] = np.arange(2, 2 + seen.sum())
        return Vocabulary(tokens, token_ids, genes["nonzero_median"].to_numpy(np.float64), prefix=(), suffix=())

    def encoder(self, vocabulary: Vocabulary) -> RankValueEncoder:
        from cellmill.tokenizers.rank_value import RankValueEncoder

        return RankValueEncoder(vocabulary, max_len_tokens=self.max_len_tokens)
