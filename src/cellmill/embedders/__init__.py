"""Counts or tokens to vectors. One file per embedder; this union is the registry."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, TypeAdapter

from cellmill.embedders.geneformer import Geneformer
from cellmill.embedders.genes import GeneList
from cellmill.embedders.hvg import Hvg
from cellmill.embedders.pca import Pca
from cellmill.embedders.scgpt import ScGpt
from cellmill.embedders.scvi import Scvi
from cellmill.embedders.scvi_reference import ScviReference
from cellmill.embedders.transformer import Transformer

OfCounts = Hvg | GeneList | Pca
"""What `embed_part` runs."""
OfCells = Scvi | ScviReference
"""What `embed_scvi` runs, after `fit_scvi` where a model is trained: models of scvi-tools."""
OfTokens = Geneformer | ScGpt | Transformer
"""What `embed_tokens` runs: a model over the tokens of a tokenizer."""
Embedder = Annotated[OfCounts | OfCells | OfTokens, Field(discriminator="kind")]


def parse_embedder(values: dict[str, Any]) -> Embedder:
    """The spec of one embedder from its plain values."""
    parsed: Embedder = TypeAdapter(Embedder).validate_python(values)
    return parsed


__all__ = [
    "Embedder",
    "GeneList",
    "Geneformer",
    "Hvg",
    "OfCells",
    "OfCounts",
    "OfTokens",
    "Pca",
    "ScGpt",
    "Scvi",
    "ScviReference",
    "Transformer",
    "parse_embedder",
]
