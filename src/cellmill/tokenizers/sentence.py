"""``sentence``: cells as text, the names of their genes by falling count.

Genes without a count are never named; equal counts keep the order of the gene space.
Genes of one name are one gene, whose counts add up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from cellmill.spec import PositiveInt
from cellmill.tokenizers.encoder import TokenizerSpec

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    import scipy.sparse as sp

    from cellmill.contracts.vocabulary import Vocabulary
    from cellmill.tokenizers.encoder import Encoded, Rows


class Sentence(TokenizerSpec):
    """Gene names by falling count, joined by spaces: columns `cell_sentence_1`, `cell_sentence_2`, …"""

    kind: Literal["sentence"] = "sentence"
    lengths: Annotated[list[PositiveInt], Field(min_length=1)] = [100]
    """Longest sentence in genes, one per column."""
    names: Literal["gene_symbol", "gene_id"] = "gene_symbol"
    """What genes are called; one without a symbol is called by its id."""

    @property
    def columns(self) -> dict[str, str]:
        return {f"cell_sentence_{i}": "string" for i in range(1, len(self.lengths) + 1)}

    def learn(self, genes: pd.DataFrame, files: dict[str, str]) -> Vocabulary:
        """The names, numbered in the order of the gene space.

        Raises:
            CellmillError: a name with white space in it, which a sentence could not be split by.
        """
        import numpy as np

        from cellmill.contracts.vocabulary import Vocabulary
        from cellmill.errors import CellmillError

        called = genes[self.names].where(genes[self.names].fillna("") != "", genes["gene_id"]).astype(str)
        spaced = called[called.str.contains(r"\s")]
        if len(spaced):
            raise CellmillError(
                "genes/genes.parquet",
                f"the name '{spaced.iloc[0]}' has a space in it ({len(spaced)} such names).",
                "Sentences are split at spaces: set names: gene_id, or map the names with genes.table.",
            )
        tokens = {name: i for i, name in enumerate(dict.fromkeys(called))}
        ids = called.map(tokens).to_numpy(np.int32)
        return Vocabulary(tokens, ids, np.full(len(ids), np.nan), prefix=(), suffix=())

    def encoder(self, vocabulary: Vocabulary) -> SentenceEncoder:
        return SentenceEncoder(vocabulary, self)


class SentenceEncoder:
    """Counts to text."""

    def __init__(self, vocabulary: Vocabulary, spec: Sentence) -> None:
        import pyarrow as pa

        from cellmill.tokenizers.encoder import token_codes

        self._spec, self._codes = spec, token_codes(vocabulary.token_ids)
        self._names = pa.array(sorted(vocabulary.tokens, key=vocabulary.tokens.__getitem__), pa.large_string())

    @property
    def fields(self) -> list[pa.Field]:
        import pyarrow as pa

        return [pa.field(name, pa.large_string(), nullable=False) for name in self._spec.columns]

    def encode(self, counts: sp.csr_matrix, rows: Rows) -> Encoded:
        import numpy as np
        import pyarrow as pa
        import pyarrow.compute as pc

        from cellmill.tokenizers.encoder import Encoded
        from cellmill.tokenizers.gene_values import gathered
        from cellmill.tokenizers.order import top_tokens

        longest = max(self._spec.lengths)
        offsets, tokens, found, covered, counted = gathered(counts, self._codes, len(self._names))
        ends, top = top_tokens(offsets, tokens, found, longest)
        words = self._names.take(pa.array(top))
        columns = []
        for length in self._spec.lengths:
            lists = pa.LargeListArray.from_arrays(pa.array(ends), words)
            if length < longest:
                lists = pc.list_slice(lists, 0, length)
            columns.append(pc.binary_join(lists, pa.scalar(" ", pa.large_string())))
        expressed = np.diff(offsets)
        return Encoded(columns, expressed, np.diff(ends), expressed > longest, covered, counted)
