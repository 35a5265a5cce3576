"""``geneformer``: cell vectors of a Geneformer model, as its published EmbExtractor takes them.

Source: Theodoris et al., Nature 2023 (https://doi.org/10.1038/s41586-023-06139-9);
V2: Chen et al., bioRxiv 2024.08.16.608180.
"""

from __future__ import annotations

from typing import Literal

from cellmill.embedders.token_spec import Layers, Pool, TokenEmbedder


class Geneformer(TokenEmbedder):
    """Cell vectors of a Geneformer model over tokens of `geneformer_v1`, `geneformer_v2` or `rank`."""

    kind: Literal["geneformer"] = "geneformer"
    pooling: Literal["cell", "cls"] = "cell"
    """`cell`: the mean over the genes, without `<cls>` and `<eos>`; `cls`: the vector of `<cls>`, which V1 lacks."""
    layers: Layers = [-1]
    """As Geneformer's `emb_layer`: 0 is the last layer, -1 the one before it. Vectors of several stand side by side."""

    @property
    def pool(self) -> Pool:
        return "mean" if self.pooling == "cell" else "first"
