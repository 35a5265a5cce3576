"""The two steps of every tokenizer: a vocabulary over the gene space, then the tokens of each part."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from os import PathLike
from typing import Any

import numpy as np
import pyarrow as pa

from cellmill.contracts import genes as gene_files
from cellmill.contracts import tokens as contract
from cellmill.contracts import vocabulary as vocabulary_files
from cellmill.contracts.counts import CountsPart
from cellmill.contracts.row_groups import Chunk, RowGroup, encode
from cellmill.errors import CellmillError
from cellmill.files import sha256_of
from cellmill.keys import hash_strings
from cellmill.progress import progress
from cellmill.tokenizers import Tokenizer
from cellmill.tokenizers.encoder import Encoded, Encoder, Rows


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
            "Check organism, genes.ids and genes.table: vocabularies are keyed by Ensembl ids, or by symbols.",
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

    A cell without a gene of the vocabulary keeps its row; ``spec.empty`` says whether exports have it.
    With more threads, blocks are read and encoded side by side; the bytes are the same.

    Raises:
        CellmillError: a library size that is not above 0, or an empty cell that is to be refused.
    """
    laid = vocabulary_files.read(vocabulary, gene_tokens)
    encoder = spec.encoder(laid)
    facts: dict[str, Any] = {
        "tokenizer": spec.kind,
        "spec": spec.model_dump(mode="json"),
        "vocabulary": sha256_of(vocabulary),
        "dtypes": {
            f.name: str(f.type.value_type if pa.types.is_large_list(f.type) else "string") for f in encoder.fields
        },
        "exported": spec.columns,
        "genes": len(laid.token_ids),
        "genes_with_token": int((laid.token_ids >= 0).sum()),
    }
    with CountsPart(processed, threads=threads) as part:
        contract.write(out, encoder.fields, _groups(part, encoder, spec, facts, threads), facts)


def _groups(
    part: CountsPart, encoder: Encoder, spec: Tokenizer, facts: dict[str, Any], threads: int
) -> Iterator[RowGroup]:
    ids = part.cell_ids
    rows = Rows(_library_sizes(part, spec), hash_strings(ids, seed=getattr(spec, "seed", 0), purpose="tokens"))
    tally = _Tally(part, spec)
    with progress(part.n_cells, "cells", "tokenizing") as counter:
        for start, stop, counts, encoded, chunks in _encoded(part, encoder, rows, threads):
            left_out = tally.add(start, stop, counts, encoded)
            yield RowGroup(stop - start, [encode(ids[start:stop]), encode(pa.array(left_out)), *chunks])
            counter.update(stop - start)
    facts.update(tally.facts())


Block = tuple[int, int, tuple[int, int], Encoded, list[Chunk]]


def _encoded(part: CountsPart, encoder: Encoder, rows: Rows, threads: int) -> Iterator[Block]:
    """``(start, stop, (stored values, their sum), tokens, the same as Parquet)`` of every block, in order.

    At most ``threads`` blocks are ahead.
    """

    def work(start: int, stop: int, counts: Any) -> Block:
        encoded = encoder.encode(counts, Rows(rows.totals[start:stop], rows.keys[start:stop]))
        chunks = [encode(column) for column in encoded.columns]
        return start, stop, (counts.nnz, int(counts.data.sum(dtype=np.int64))), encoded, chunks

    if threads == 1:
        yield from (work(*block) for block in part.blocks(contract.GROUP_ROWS))
        return
    waiting: deque[Future[Any]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for block in part.blocks(contract.GROUP_ROWS):
            waiting.append(pool.submit(work, *block))
            if len(waiting) > threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _library_sizes(part: CountsPart, spec: Tokenizer) -> np.ndarray:
    """Library sizes (cells,) float64, checked; ones for a tokenizer that has no such option."""
    if "library_size" not in type(spec).model_fields:
        return np.ones(part.n_cells)
    name = spec.library_size  # type: ignore[union-attr]
    column = part.column("total_counts" if name is None else name)
    totals = column.to_numpy(np.float64)
    if not (totals > 0).all():
        row = int(np.flatnonzero(~(totals > 0))[0])
        raise CellmillError(
            part.path,
            f"the library size of cell '{part.cell_ids[row]}' is {totals[row]} (column '{column.name}').",
            "It must be above 0; name another column in library_size, or null.",
        )
    return totals


class _Tally:
    """What a token file says of its cells, and which of them exports leave out."""

    def __init__(self, part: CountsPart, spec: Tokenizer) -> None:
        self._part, self._spec = part, spec
        self._split = part.column("split").cat
        self._numbers = dict.fromkeys(
            ("cells_cut", "cells_empty", "values", "values_with_token", "counts", "counts_with_token", "tokens"), 0
        )
        self._histogram = np.zeros(0, np.int64)
        self._left_out = np.zeros(len(self._split.categories), np.int64)

    def add(self, start: int, stop: int, counts: tuple[int, int], encoded: Encoded) -> np.ndarray:
        """Count a block; bool (n,): cells that exports leave out.

        Raises:
            CellmillError: an empty cell, where the spec refuses them.
        """
        empty = (encoded.expressed == 0) | (encoded.written < self._spec.shortest)
        if empty.any() and self._spec.empty == "refuse":
            row = int(np.flatnonzero(empty)[0])
            least = f", fewer than {self._spec.shortest}" if self._spec.shortest else ""
            raise CellmillError(
                self._part.path,
                f"cell '{self._part.cell_ids[start + row]}' has {int(encoded.expressed[row])} genes with a token of "
                f"'{self._spec.kind}' and {int(encoded.written[row])} tokens{least}.",
                "Keep it or drop it by the tokenizer's option 'empty', or see why the vocabulary misses its genes.",
            )
        left_out: np.ndarray = empty if self._spec.empty == "drop" else np.zeros(stop - start, np.bool_)
        seen = np.bincount(encoded.written // contract.BIN_TOKENS, minlength=len(self._histogram))
        seen[: len(self._histogram)] += self._histogram
        self._histogram = seen
        codes = self._split.codes.to_numpy()[start:stop]
        self._left_out += np.bincount(codes[left_out], minlength=len(self._left_out))
        for name, number in (
            ("cells_cut", encoded.cut.sum()),
            ("cells_empty", empty.sum()),
            ("values", counts[0]),
            ("values_with_token", encoded.values_with_token),
            ("counts", counts[1]),
            ("counts_with_token", encoded.counts_with_token),
            ("tokens", encoded.written.sum()),
        ):
            self._numbers[name] += int(number)
        return left_out

    def facts(self) -> dict[str, Any]:
        by_split = zip(self._split.categories, self._left_out.tolist(), strict=True)
        return {
            **self._numbers,
            "cells": self._part.n_cells,
            "cells_left_out": {str(split): cells for split, cells in by_split if cells},
            "tokens_per_cell": {"width": contract.BIN_TOKENS, "cells": self._histogram.tolist()},
        }
