"""Rows of the kinds that have one per cell: ``tokens``, ``expression`` and ``single``."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from cellmill.exports.captions import render
from cellmill.exports.hf import HfExpression, HfSingle, HfText, HfTokens
from cellmill.exports.hf_files import Shards, as_lists
from cellmill.exports.rows import Header, token_column


def cell_rows(shards: Shards, header: Header, spec: HfTokens | HfExpression) -> dict[str, Any]:
    """``cell_id``, tokens or counts, embeddings, obs columns."""
    for split, file, cells in shards.cut():
        columns = {"cell_id": cells["cell_id"].cast(pa.string())}
        if isinstance(spec, HfExpression):
            for name in ("genes", "counts"):
                column = cells[name].combine_chunks()
                columns[name] = column.cast(pa.list_(column.type.value_type))
        else:
            for name, said in header.tokens[spec.tokenizer].items():
                columns[name] = as_lists(cells[token_column(spec.tokenizer, name)], said)
        shards.write(split, file, columns | shards.more(cells))
    return {}


def text_rows(shards: Shards, header: Header, spec: HfSingle) -> dict[str, Any]:
    """``sample_idx``, cell sentences, captions, embeddings, obs columns."""
    asked = spec.captions_of(header.label)
    for split, file, cells in shards.cut():
        columns = {"sample_idx": cells["cell_id"].cast(pa.string())} | sentences(cells, header, spec)
        for name, caption in zip(numbered("caption", len(asked)), asked, strict=True):
            columns[name] = render(cells, caption, missing=spec.missing, fill=spec.fill, where=place(header, split))
        shards.write(split, file, columns | shards.more(cells))
    return {"captions": asked}


def sentences(cells: pa.Table | pa.RecordBatch, header: Header, spec: HfText) -> dict[str, pa.Array]:
    """``cell_sentence_1``, … of the tokenizer."""
    if spec.sentences is None:
        return {}
    names = header.tokens[spec.sentences]
    return {name: as_lists(cells[token_column(spec.sentences, name)], "string") for name in names}


def numbered(name: str, number: int) -> list[str]:
    """``caption``, ``caption_2``, …"""
    return [name if i == 0 else f"{name}_{i + 1}" for i in range(number)]


def place(header: Header, split: str) -> str:
    """Where an error is."""
    return f"{header.dataset}, split {split}"
