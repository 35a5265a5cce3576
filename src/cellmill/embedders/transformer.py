"""``transformer``: cell vectors of any encoder of Hugging Face's transformers that reads ``input_ids``."""

from __future__ import annotations

from typing import Literal

from cellmill.embedders.token_spec import Layers, Pool, TokenEmbedder


class Transformer(TokenEmbedder):
    """Cell vectors of any encoder that transformers loads, over the `input_ids` of any tokenizer."""

    kind: Literal["transformer"] = "transformer"
    pooling: Pool = "mean"
    """`mean` over the tokens, without those that stand around every cell; the vector of the `first` or `last` token."""
    layers: Layers = [0]
    """0 is the last layer, -1 the one before it. Vectors of several stand side by side."""

    @property
    def pool(self) -> Pool:
        return self.pooling
