"""Counts or tokens to vectors. One file per embedder; this union is the registry."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, TypeAdapter

from cellmill.embedders.geneformer import Geneformer
from cellmill.embedders.hvg import Hvg
from cellmill.embedders.pca import Pca
from cellmill.embedders.scgpt import ScGpt
from cellmill.embedders.transformer import Transformer

OfCounts = Hvg | Pca
"""What `embed_part` runs."""
OfTokens = Geneformer | ScGpt | Transformer
"""What `embed_tokens` runs: a model over the tokens of a tokenizer."""
Embedder = Annotated[OfCounts | OfTokens, Field(discriminator="kind")]


def parse_embedder(values: dict[str, Any]) -> Embedder:
    """The spec of one embedder from its plain values."""
    parsed: Embedder = TypeAdapter(Embedder).validate_python(values)
    return parsed


__all__ = ["Embedder", "Geneformer", "Hvg", "OfCounts", "OfTokens", "Pca", "ScGpt", "Transformer", "parse_embedder"]
