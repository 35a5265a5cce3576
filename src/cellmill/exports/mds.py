"""``mds``: shards that mosaicml-streaming's ``StreamingDataset`` reads."""

from __future__ import annotations

from typing import Literal

from cellmill.exports.rows import ExportSpec
from cellmill.spec import Column, Name, PositiveInt, Spec


class MdsTokens(Spec, ExportSpec):
    """Tokens per cell: `cell_id`, `input_ids` and the obs columns asked for."""

    kind: Literal["tokens"] = "tokens"
    tokenizer: Name = "rank"
    """Which tokens."""
    columns: list[Column] | None = None
    """Obs columns to write; `null`: all that the dataset keeps."""
    compression: Literal["zstd"] | None = "zstd"
    """`zstd`, or `null`: not compressed."""
    shard_mb: PositiveInt = 64
    """Largest shard in MB before compression."""

    @property
    def tokenizers(self) -> tuple[str, ...]:
        return (self.tokenizer,)
