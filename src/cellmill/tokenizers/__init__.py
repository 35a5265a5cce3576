"""Counts to tokens. One file per tokenizer; this union is the registry."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, TypeAdapter

from cellmill.tokenizers.binned import Binned
from cellmill.tokenizers.geneformer import GeneformerV1, GeneformerV2
from cellmill.tokenizers.log import Log
from cellmill.tokenizers.rank import Rank
from cellmill.tokenizers.scgpt import ScGpt
from cellmill.tokenizers.sentence import Sentence
from cellmill.tokenizers.tahoe_x1 import TahoeX1

Tokenizer = Annotated[
    Rank | GeneformerV1 | GeneformerV2 | TahoeX1 | ScGpt | Binned | Log | Sentence, Field(discriminator="kind")
]


def parse_tokenizer(values: dict[str, Any]) -> Tokenizer:
    """The spec of one tokenizer from its plain values."""
    parsed: Tokenizer = TypeAdapter(Tokenizer).validate_python(values)
    return parsed


__all__ = [
    "Binned",
    "GeneformerV1",
    "GeneformerV2",
    "Log",
    "Rank",
    "ScGpt",
    "Sentence",
    "TahoeX1",
    "Tokenizer",
    "parse_tokenizer",
]
