"""Counts to vectors. One file per embedder; this union is the registry."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from cellmill.embedders.hvg import Hvg
from cellmill.embedders.pca import Pca

Embedder = Annotated[Hvg | Pca, Field(discriminator="kind")]

__all__ = ["Embedder", "Hvg", "Pca"]
