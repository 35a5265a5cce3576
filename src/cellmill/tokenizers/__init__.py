"""Counts to tokens. One file per tokenizer; this union is the registry."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from cellmill.tokenizers.geneformer import GeneformerV1, GeneformerV2
from cellmill.tokenizers.rank import Rank

Tokenizer = Annotated[Rank | GeneformerV1 | GeneformerV2, Field(discriminator="kind")]

__all__ = ["GeneformerV1", "GeneformerV2", "Rank", "Tokenizer"]
