"""``geneformer_v1`` and ``geneformer_v2``: rank-value encoding with the published dictionaries.

Source: the tokenizer published with Geneformer
(Theodoris et al., Nature 2023, https://doi.org/10.1038/s41586-023-06139-9; V2: Chen et al., bioRxiv 2024.08.16.608180).
Its own output on real cells is the test: equal token for token, near-ties included.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from cellmill.spec import Column, PositiveInt
from cellmill.tokenizers.encoder import TokenizerSpec

if TYPE_CHECKING:
    import pandas as pd

    from cellmill.contracts.vocabulary import Vocabulary
    from cellmill.tokenizers.rank_value import RankValueEncoder


class _Geneformer(TokenizerSpec):
    library_size: Column | None = None
    """Obs column with the total counts (Geneformer's `n_counts`); `null`: the sum over all genes that were measured."""

    def needs(self) -> dict[str, str]:
        """The dictionaries of the corpus that the model was trained on."""
        corpus = "gc30M" if self.kind == "geneformer_v1" else "gc95M"  # type: ignore[attr-defined]
        return {
            role: f"resources/geneformer/{file}_{corpus}.pkl"
            for role, file in (
                ("tokens", "token_dictionary"),
                ("medians", "gene_median_dictionary"),
                ("mapping", "ensembl_mapping_dict"),
            )
        }

    def learn(self, genes: pd.DataFrame, files: dict[str, str]) -> Vocabulary:
        """The published vocabulary, laid over the dataset's gene table.

        A gene is looked up in the mapping dictionary by its id, then by its upper-cased id
        (V2's mapping knows symbols and aliases), and takes part if its Ensembl id has both a token and a median.
        """
        import numpy as np

        from cellmill.contracts.vocabulary import Vocabulary
        from cellmill.tokenizers.dictionaries import read_dictionary

        tokens = {str(k): int(v) for k, v in read_dictionary(files["tokens"]).items()}
        medians = read_dictionary(files["medians"])
        mapping = read_dictionary(files["mapping"])
        ids = genes["gene_id"].tolist()
        ensembl = [mapping.get(g) or mapping.get(g.upper()) for g in ids]
        usable = [e if e in tokens and e in medians else None for e in ensembl]
        token_ids = np.array([-1 if e is None else tokens[e] for e in usable], np.int32)
        median = np.array([np.nan if e is None else float(medians[e]) for e in usable], np.float64)
        special = self.kind == "geneformer_v2"  # type: ignore[attr-defined]
        return Vocabulary(
            tokens,
            token_ids,
            median,
            prefix=(tokens["<cls>"],) if special else (),
            suffix=(tokens["<eos>"],) if special else (),
        )

    def encoder(self, vocabulary: Vocabulary) -> RankValueEncoder:
        from cellmill.tokenizers.rank_value import RankValueEncoder

        return RankValueEncoder(vocabulary, max_len_tokens=self.max_len_tokens)  # type: ignore[attr-defined]


class GeneformerV1(_Geneformer):
    """Geneformer V1 (30 million cells): 25,426 tokens, no special tokens around the cell."""

    kind: Literal["geneformer_v1"] = "geneformer_v1"
    max_len_tokens: PositiveInt = 2048
    """Longest cell in tokens."""


class GeneformerV2(_Geneformer):
    """Geneformer V2 (104 million cells): 20,275 tokens, `<cls>` first and `<eos>` last."""

    kind: Literal["geneformer_v2"] = "geneformer_v2"
    max_len_tokens: Annotated[int, Field(ge=3)] = 4096
    """Longest cell in tokens, `<cls>` and `<eos>` included."""
