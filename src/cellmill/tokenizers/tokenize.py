"""The two steps of every tokenizer: a vocabulary over the gene space, then the tokens of each part."""

from __future__ import annotations

from collections.abc import Iterator
from os import PathLike
from typing import Any

import numpy as np
import pyarrow as pa

from cellmill.contracts import genes as gene_files
from cellmill.contracts import tokens as contract
from cellmill.contracts import vocabulary as vocabulary_files
from cellmill.contracts.counts import CountsPart
from cellmill.errors import CellmillError
from cellmill.progress import progress
from cellmill.quality.metrics import obs_column
from cellmill.tokenizers import Tokenizer
from cellmill.tokenizers.rank_value import RankValueEncoder


def build_vocabulary(
    genes: str | PathLike[str],
    *,
    files: dict[str, str],
    spec: Tokenizer,
    out: str | PathLike[str],
    out_genes: str | PathLike[str],
) -> None:
    """Lay the tokenizer's vocabulary over the dataset's genes.

    Raises:
        CellmillError: no gene of the dataset has a token.
    """
    table, _ = gene_files.read_genes(genes)
    vocabulary = spec.learn(table, files)
    if not (vocabulary.token_ids >= 0).any():
        raise CellmillError(
            genes,
            f"none of {len(table)} genes has a token of '{spec.kind}' (the first: {', '.join(table['gene_id'][:3])}).",
            "Check organism and genes.ids: this vocabulary knows Ensembl ids (and human symbols, V2).",
        )
    vocabulary_files.write(out, out_genes, vocabulary, table["gene_id"].to_numpy())


def tokenize_part(
    processed: str | PathLike[str],
    *,
    vocabulary: str | PathLike[str],
    gene_tokens: str | PathLike[str],
    spec: Tokenizer,
    out: str | PathLike[str],
    threads: int = 1,
) -> None:
    """Tokens of every kept cell, row-aligned with the processed part.

    A cell without a gene of the vocabulary stays, with no token of its own; the file says how many there are.
    """
    encoder = RankValueEncoder(vocabulary_files.read(vocabulary, gene_tokens), max_len_tokens=spec.max_len_tokens)
    facts: dict[str, Any] = {"tokenizer": spec.kind}
    with CountsPart(processed, threads=threads) as part:
        contract.write(out, _batches(part, encoder, spec.library_size, facts), facts)


def _batches(
    part: CountsPart, encoder: RankValueEncoder, library_size: str | None, facts: dict[str, Any]
) -> Iterator[pa.RecordBatch]:
    ids = pa.array(part.obs.index.astype(str), pa.large_string())
    column = part.obs["total_counts"] if library_size is None else obs_column(part.obs, library_size, part.path)
    totals = column.to_numpy(np.float64)
    if not (totals > 0).all():
        row = int(np.flatnonzero(~(totals > 0))[0])
        raise CellmillError(
            part.path,
            f"the library size of cell '{part.obs.index[row]}' is {totals[row]} (column '{column.name}').",
            "It must be above 0; name another column in library_size, or null.",
        )
    with progress(part.n_cells, "cells", "tokenizing") as counter:
        for start, stop, counts in part.blocks(contract.BLOCK_ROWS):
            tokens = encoder.encode(counts, totals[start:stop])
            yield pa.RecordBatch.from_arrays([ids[start:stop], tokens], schema=contract.SCHEMA)
            counter.update(stop - start)
    facts.update(encoder.facts(), cells=part.n_cells)
