"""``log``: the whole part of log1p of the counts of the variable genes, for discrete models.

Source: the tokenizer of the scBaseCount downloader (github.com/pythonlearner1025/vcc), floor(log1p(count)).
Written as fixed bins: k from the least count of which log1p is k or more, which no rounding can move.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from cellmill.spec import PositiveInt
from cellmill.tokenizers.binned import FixedBinsEncoder, variable_places
from cellmill.tokenizers.encoder import TokenizerSpec

if TYPE_CHECKING:
    import pandas as pd

    from cellmill.contracts.vocabulary import Vocabulary

EDGES = [0, *(math.ceil(math.expm1(k)) for k in range(1, 23))]
"""Up to the largest count that fits uint32."""


class Log(TokenizerSpec):
    """floor(log1p(count)) per variable gene, in the order of the gene space: all cells have the same length."""

    kind: Literal["log"] = "log"
    n_genes: PositiveInt | None = None
    """How many of the variable genes, the most variable ones; `null`: all."""

    def learn(self, genes: pd.DataFrame, files: dict[str, str]) -> Vocabulary:
        return variable_places(genes, self.n_genes)

    def encoder(self, vocabulary: Vocabulary) -> FixedBinsEncoder:
        return FixedBinsEncoder(vocabulary, EDGES)
