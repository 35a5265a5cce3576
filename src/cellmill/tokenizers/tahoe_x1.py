"""``tahoe_x1``: gene tokens and counts as Tahoe-x1's data preparation writes them.

Source: ``scripts/data_prep/make_hf_dataset.py`` of https://github.com/tahoebio/tahoe-x1 (Apache-2.0).
A row there, and what stands for it here:

- ``genes`` (int64): ``<cls>``, then the tokens of the genes with a stored count, in the order of the columns.
  Here in the order of the gene space, which is that of the columns; stored in uint16 and int64 again in exports.
- ``expressions`` (float32): -2.0 for ``<cls>``, then the counts as they are.
  Stored in int32, which takes less room and time, and float32 again in exports.
- ``id`` (int64): the row in its file, which is not unique. Here ``cell_id``.
- obs columns, as text: the obs columns of an export, which keep their types.

Differences, all on purpose: a stored zero is no token, columns that share a token are one gene whose counts add up,
and ``min_length``, which its MDS writer applies, is applied here, so that every export leaves out the same cells.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from cellmill.spec import Column
from cellmill.tokenizers.encoder import TokenizerSpec

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    import scipy.sparse as sp

    from cellmill.contracts.vocabulary import Vocabulary
    from cellmill.tokenizers.encoder import Encoded, Rows

PUBLISHED = "resources/vocab/tahoe_vevo_v2_vocab.reconstructed.json"
EXACT = 1 << 24
"""Counts up to here are exact in float32."""


class TahoeX1(TokenizerSpec):
    """Genes and raw counts as Tahoe-x1 reads them: columns `genes` and `expressions`, `<cls>` with -2 first."""

    kind: Literal["tahoe_x1"] = "tahoe_x1"
    vocabulary: Column | None = None
    """A vocabulary keyed by Ensembl ids: one of `vocabularies:`, a name in `resources/ledger.tsv`, or a path;
    `null`: Tahoe-x1's, rebuilt from its gene table."""
    cls: bool = True
    """Begin every cell with `<cls>`; newer data of Tahoe come without."""
    min_length: Annotated[int, Field(ge=0)] = 0
    """Cells of fewer tokens, `<cls>` included, count as empty; 0: only those without a gene do."""
    shuffle: bool = False
    """Draw an order of the genes for each cell, because Tahoe-x1's collator never masks the last token."""
    seed: int = 0
    """Another seed, other orders; that of a cell depends on the seed and its id alone."""
    empty: Literal["keep", "drop", "refuse"] = "drop"
    """A cell without a gene of the vocabulary, which Tahoe-x1's collator stumbles over: `keep`, `drop` or `refuse`."""

    @property
    def columns(self) -> dict[str, str]:
        return {"genes": "list<int64>", "expressions": "list<float>"}

    @property
    def shortest(self) -> int:
        return self.min_length

    def needs(self) -> dict[str, str]:
        return {"vocabulary": self.vocabulary or PUBLISHED}

    def learn(self, genes: pd.DataFrame, files: dict[str, str]) -> Vocabulary:
        """The vocabulary of the file: a gene's token is that of its id, without the version."""
        from cellmill.tokenizers.flat import lay_over

        return lay_over(files["vocabulary"], genes["gene_id"].tolist(), cls=self.cls)

    def encoder(self, vocabulary: Vocabulary) -> TahoeX1Encoder:
        return TahoeX1Encoder(vocabulary, self)


class TahoeX1Encoder:
    """Counts to ``genes`` and ``expressions``."""

    def __init__(self, vocabulary: Vocabulary, spec: TahoeX1) -> None:
        from cellmill.tokenizers.encoder import id_type, token_codes

        self._spec = spec
        self._codes, self._dtype = token_codes(vocabulary.token_ids), id_type(vocabulary)
        self._n_tokens = max(vocabulary.tokens.values()) + 1
        self._cls = vocabulary.prefix[0] if spec.cls else -1

    @property
    def fields(self) -> list[pa.Field]:
        import numpy as np

        from cellmill.contracts.tokens import list_field

        return [list_field("genes", self._dtype), list_field("expressions", np.dtype(np.int32))]

    def encode(self, counts: sp.csr_matrix, rows: Rows) -> Encoded:
        import numpy as np
        import pyarrow as pa

        from cellmill.errors import CellmillError
        from cellmill.tokenizers.encoder import Encoded
        from cellmill.tokenizers.gene_values import gathered, lay_out

        offsets, tokens, values, covered, counted = gathered(counts, self._codes, self._n_tokens)
        if values.max(initial=0) > EXACT:
            row = int(np.searchsorted(offsets, int(values.argmax()), side="right")) - 1
            raise CellmillError(
                f"row {row} of a block of {counts.shape[0]} cells",
                f"the count {int(values.max()):,} is not exact in float32, in which 'tahoe_x1' has counts "
                f"(up to {EXACT:,}).",
                "No cell has such counts: look at what the file holds, or take another tokenizer.",
            )
        n = counts.shape[0]
        size = len(tokens) + n * (self._cls >= 0)
        genes, expressions = np.empty(size + 1, self._dtype), np.empty(size + 1, np.int32)
        ends = np.zeros(n + 1, np.int64)
        lay_out(offsets, tokens, values, rows.keys, self._cls, -2, 0, self._spec.shuffle, genes, expressions, ends)
        columns = [
            pa.LargeListArray.from_arrays(pa.array(ends), pa.array(flat[:size]), type=f.type)
            for flat, f in zip((genes, expressions), self.fields, strict=True)
        ]
        return Encoded(columns, np.diff(offsets), np.diff(ends), np.zeros(n, np.bool_), covered, counted)
