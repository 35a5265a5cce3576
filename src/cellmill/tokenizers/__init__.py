"""Counts to tokens. One file per tokenizer; this union is the registry."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, TypeAdapter

from cellmill.tokenizers.geneformer import GeneformerV1, GeneformerV2
from cellmill.tokenizers.rank import Rank

Tokenizer = Annotated[Rank | GeneformerV1 | GeneformerV2, Field(discriminator="kind")]


def parse_tokenizer(values: dict[str, Any]) -> Tokenizer:
    """The spec of one tokenizer from its plain values."""
    parsed: Tokenizer = TypeAdapter(Tokenizer).validate_python(values)
    return parsed


__all__ = ["GeneformerV1", "GeneformerV2", "Rank", "Tokenizer", "parse_tokenizer"]
