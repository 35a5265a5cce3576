"""The last step of embedders of counts: the vectors of a part, row-aligned with its counts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from os import PathLike

import numpy as np

from cellmill.contracts import embedding as contract
from cellmill.contracts import genes as gene_files
from cellmill.contracts.counts import CountsPart
from cellmill.embedders import OfCounts
from cellmill.embedders.count_spec import Embedding
from cellmill.errors import CellmillError
from cellmill.progress import progress

BLOCK_ROWS = 4_096
BLOCK_VALUES = 1 << 23
"""Values of vectors that are in memory at once: 32 MB of float32."""


def embed_part(
    processed: str | PathLike[str],
    *,
    genes: str | PathLike[str],
    files: Sequence[str],
    spec: OfCounts,
    out: str | PathLike[str],
    manifest: str | PathLike[str],
) -> None:
    """A vector for every kept cell.

    Args:
        files: the fitted model, or the outside files of the embedder.

    Raises:
        CellmillError: no gene varies, so that there is nothing to embed; a cell without any count;
            outside files that cannot be read or do not fit the genes; a value beyond the type of the vectors.
    """
    table, _ = gene_files.read_genes(genes)
    embedding = spec.embedding(table, files)
    if embedding.width == 0:
        raise CellmillError(genes, "no gene varies.", f"Leave '{spec.kind}' out of this dataset's embedders.")
    with CountsPart(processed) as part:
        _check_library_sizes(part)
        contract.write(
            out,
            manifest,
            _vectors(part, embedding),
            shape=(part.n_cells, embedding.width),
            dtype=spec.dtype,
            facts={"embedder": spec.model_dump(mode="json"), **embedding.facts},
        )


def _check_library_sizes(part: CountsPart) -> None:
    """Every cell has a count: without one there is nothing to divide by."""
    empty = np.flatnonzero(part.lengths == 0)
    if len(empty):
        raise CellmillError(
            part.path,
            f"{len(empty):,} of {part.n_cells:,} cells have no count in the gene space, the first "
            f"'{part.cell_ids[int(empty[0])]}': there is nothing to embed.",
            "No row is made up: filter these cells (quality), or widen the gene space (genes.space).",
        )


def _vectors(part: CountsPart, embedding: Embedding) -> Iterator[np.ndarray]:
    rows = max(1, min(BLOCK_ROWS, BLOCK_VALUES // embedding.width))
    with progress(part.n_cells, "cells", "embedding") as counter:
        for start, stop, counts in part.blocks(rows):
            yield embedding.of(counts)
            counter.update(stop - start)
