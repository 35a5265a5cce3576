"""``tokenized/{tokenizer}/vocabulary.json`` and ``gene_tokens.parquet``: tokens by id, and each gene's token."""

from __future__ import annotations

import json
from dataclasses import dataclass
from os import PathLike

import numpy as np
import pyarrow as pa

from cellmill.contracts import parquet
from cellmill.contracts.versions import VOCABULARY
from cellmill.files import read_json, replacing


@dataclass(frozen=True)
class Vocabulary:
    """A vocabulary laid over a gene space.

    ``tokens``: every token and its id.
    ``token_ids`` (genes,) int32: the token of each column of the counts, -1 for none; those of one token add up.
    ``medians`` (genes,) float64. ``prefix`` and ``suffix``: ids around every cell.
    """

    tokens: dict[str, int]
    token_ids: np.ndarray
    medians: np.ndarray
    prefix: tuple[int, ...]
    suffix: tuple[int, ...]


def write(
    path: str | PathLike[str], genes_path: str | PathLike[str], vocabulary: Vocabulary, gene_ids: np.ndarray
) -> None:
    """Write the flat ``{token: id}`` JSON that others read, and what ``tokenize_part`` needs."""
    write_tokens(path, vocabulary.tokens)
    table = pa.table(
        {
            "gene_id": pa.array(gene_ids, pa.string()),
            "token_id": pa.array(vocabulary.token_ids, pa.int32()),
            "median": pa.array(vocabulary.medians, pa.float64()),
        }
    )
    facts = {
        "tokens": len(vocabulary.tokens),
        "genes_with_token": int((vocabulary.token_ids >= 0).sum()),
        "prefix": list(vocabulary.prefix),
        "suffix": list(vocabulary.suffix),
    }
    parquet.write(genes_path, table, VOCABULARY, facts)


def read(path: str | PathLike[str], genes_path: str | PathLike[str]) -> Vocabulary:
    table, facts = parquet.read(genes_path, VOCABULARY)
    return Vocabulary(
        read_tokens(path),
        table["token_id"].to_numpy(),
        table["median"].to_numpy(),
        tuple(facts["prefix"]),
        tuple(facts["suffix"]),
    )


def write_tokens(path: str | PathLike[str], tokens: dict[str, int]) -> None:
    """The flat ``{token: id}`` JSON, in the order of the ids."""
    with replacing(path) as aside:
        by_id = dict(sorted(tokens.items(), key=lambda item: item[1]))
        aside.write_text(json.dumps(by_id, indent=0, ensure_ascii=False) + "\n")


def read_tokens(path: str | PathLike[str]) -> dict[str, int]:
    """The flat ``{token: id}`` JSON."""
    tokens: dict[str, int] = read_json(path)
    return tokens
