"""``scgpt``: gene tokens by symbol and a value per gene, as scGPT has them.

Source: Cui et al., Nat. Methods 2024 (https://doi.org/10.1038/s41592-024-02201-0) and
https://github.com/bowang-lab/scGPT (MIT): ``scgpt/preprocess.py`` (``binning``), ``scgpt/data_collator.py``,
``scgpt/tokenizer/gene_tokenizer.py``. The rules, and what differs:

- Genes: those of the vocabulary with a count, or all of the vocabulary (``zero_genes``), in the order of the
  gene space; ``<cls>`` first. Padding is the collator's business: no pad token is stored.
- ``binned``: the quantiles 0, 1/(b-2), …, 1 of the cell's counts above 0 are the edges, b being ``bins``.
  A value above r edges and not below l edges falls into one of the bins r + 1 to l, uniformly at random where
  several edges coincide with it (else l = r, and the bin is l); a zero is bin 0. So 51 bins are 0 to 50.
  All genes of the vocabulary take part, before any are left out for the limit, as in the collator.
  scGPT interpolates quantiles in floating point; here they are exact, as a logarithm before would change nothing.
- ``log``: log1p of the counts per 10,000 of the library size; ``raw``: the counts.
- A cell above the limit keeps ``<cls>`` and a uniform random choice of its genes, which keep their order here
  (scGPT's order is random; its model has no positions).
- What is random is drawn by a hash of the seed, the cell's id and the token, where scGPT draws anew in every epoch:
  the same cell has the same tokens in any part and run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from cellmill.spec import Column
from cellmill.tokenizers.encoder import TokenizerSpec

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import pyarrow as pa
    import scipy.sparse as sp

    from cellmill.contracts.vocabulary import Vocabulary
    from cellmill.tokenizers.encoder import Encoded, Rows

PUBLISHED = "resources/vocab/scgpt_vocab.json"


class ScGpt(TokenizerSpec):
    """Genes by symbol and a value each, as scGPT reads them: columns `genes` and `expressions`, `<cls>` first."""

    kind: Literal["scgpt"] = "scgpt"
    vocabulary: Column | None = None
    """A vocabulary keyed by symbols: one of `vocabularies:`, a name in `resources/ledger.tsv`, or a path;
    `null`: that of scGPT's whole-human model."""
    values: Literal["binned", "raw", "log"] = "binned"
    """`binned`: the bin of the count among the cell's quantiles; `raw`: the count; `log`: log1p per 10,000 counts."""
    bins: Annotated[int, Field(ge=3, le=32768)] = 51
    """Number of bins, that of zero included."""
    zero_genes: bool = False
    """Also the genes of the vocabulary without a count, with the value 0."""
    cls: bool = True
    """Begin every cell with `<cls>`."""
    cls_value: Literal[-2, 0] = -2
    """Its value: -2, the value of padding, as in pretraining and embedding; 0 as in fine-tuning."""
    max_len_tokens: Annotated[int, Field(ge=2)] = 1200
    """Longest cell in tokens, `<cls>` included; of a longer one, genes are drawn."""
    library_size: Column | None = None
    """For `log`: obs column with the cell's total counts; `null`: the sum over all genes that were measured."""
    seed: int = 0
    """Another seed, other draws."""

    @property
    def columns(self) -> dict[str, str]:
        return {"genes": "list<int64>", "expressions": "list<float>"}

    def needs(self) -> dict[str, str]:
        return {"vocabulary": self.vocabulary or PUBLISHED}

    def learn(self, genes: pd.DataFrame, files: dict[str, str]) -> Vocabulary:
        """The vocabulary of the file: a gene's token is that of its symbol, or of its id where it has none."""
        from cellmill.tokenizers.flat import lay_over

        symbols = genes["gene_symbol"].where(genes["gene_symbol"].fillna("") != "", genes["gene_id"])
        return lay_over(files["vocabulary"], symbols.tolist(), cls=self.cls)

    def encoder(self, vocabulary: Vocabulary) -> ScGptEncoder:
        return ScGptEncoder(vocabulary, self)


class ScGptEncoder:
    """Counts to ``genes`` and ``expressions``."""

    def __init__(self, vocabulary: Vocabulary, spec: ScGpt) -> None:
        import numpy as np

        from cellmill.tokenizers.encoder import id_type, token_codes

        self._spec = spec
        self._codes, self._dtype = token_codes(vocabulary.token_ids), id_type(vocabulary)
        self._n_tokens = max(vocabulary.tokens.values()) + 1
        self._cls = vocabulary.prefix[0] if spec.cls else -1
        with_token = vocabulary.token_ids[vocabulary.token_ids >= 0]
        self._all = with_token[np.sort(np.unique(with_token, return_index=True)[1])].astype(np.int32)
        self._room = spec.max_len_tokens - spec.cls

    @property
    def _value_type(self) -> np.dtype:
        import numpy as np

        if self._spec.values != "binned":
            return np.dtype(np.float32)
        return np.dtype(np.int8 if self._spec.bins <= 1 << 7 else np.int16)

    @property
    def fields(self) -> list[pa.Field]:
        from cellmill.contracts.tokens import list_field

        return [list_field("genes", self._dtype), list_field("expressions", self._value_type)]

    def encode(self, counts: sp.csr_matrix, rows: Rows) -> Encoded:
        import numpy as np
        import pyarrow as pa

        from cellmill.tokenizers.encoder import Encoded
        from cellmill.tokenizers.gene_values import gathered, lay_out, with_zeros

        offsets, tokens, found, covered, counted = gathered(counts, self._codes, self._n_tokens)
        expressed = np.diff(offsets)
        values = self._values(offsets, tokens, found, rows)
        if self._spec.zero_genes:
            offsets, tokens, values = with_zeros(offsets, tokens, values, self._all, self._n_tokens)
        n = counts.shape[0]
        there = np.diff(offsets)
        size = int(np.minimum(there, self._room).sum()) + n * (self._cls >= 0)
        genes, expressions = np.empty(size + 1, self._dtype), np.empty(size + 1, self._value_type)
        ends = np.zeros(n + 1, np.int64)
        lead = float(self._spec.cls_value)
        limit = self._spec.max_len_tokens
        lay_out(offsets, tokens, values, rows.keys, self._cls, lead, limit, False, genes, expressions, ends)
        columns = [
            pa.LargeListArray.from_arrays(pa.array(ends), pa.array(flat[:size]), type=f.type)
            for flat, f in zip((genes, expressions), self.fields, strict=True)
        ]
        return Encoded(columns, expressed, np.diff(ends), there > self._room, covered, counted)

    def _values(self, offsets: np.ndarray, tokens: np.ndarray, found: np.ndarray, rows: Rows) -> np.ndarray:
        import numpy as np

        from cellmill.tokenizers.bins import quantile_bins

        if self._spec.values == "raw":
            return found.astype(np.float32)
        if self._spec.values == "log":
            per_count = np.repeat(1e4 / rows.totals, np.diff(offsets))
            return np.log1p(found * per_count).astype(np.float32)
        bins: np.ndarray = quantile_bins(offsets, tokens, found, rows.keys, self._spec.bins - 1)
        return bins
