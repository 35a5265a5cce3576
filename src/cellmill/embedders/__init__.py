"""Counts to vectors. One file per embedder; this union is the registry."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, TypeAdapter

from cellmill.embedders.hvg import Hvg
from cellmill.embedders.pca import Pca

Embedder = Annotated[Hvg | Pca, Field(discriminator="kind")]


def parse_embedder(values: dict[str, Any]) -> Embedder:
    """The spec of one embedder from its plain values."""
    parsed: Embedder = TypeAdapter(Embedder).validate_python(values)
    return parsed


__all__ = ["Embedder", "Hvg", "Pca", "parse_embedder"]
