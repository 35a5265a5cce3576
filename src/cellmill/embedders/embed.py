"""The last step of embedders of counts: the vectors of a part, row-aligned with its counts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from os import PathLike

import numpy as np
import scipy.sparse as sp

from cellmill.contracts import embedding as contract
from cellmill.contracts import genes as gene_files
from cellmill.contracts.counts import CountsPart
from cellmill.embedders import OfCounts
from cellmill.errors import CellmillError
from cellmill.progress import progress


def embed_part(
    processed: str | PathLike[str],
    *,
    genes: str | PathLike[str],
    model: str | None,
    spec: OfCounts,
    out: str | PathLike[str],
    manifest: str | PathLike[str],
) -> None:
    """A vector for every kept cell.

    Raises:
        CellmillError: no gene varies, so that there is nothing to embed.
    """
    table, _ = gene_files.read_genes(genes)
    width, embed = spec.embed(table, model)
    if width == 0:
        raise CellmillError(genes, "no gene varies.", f"Leave '{spec.kind}' out of this dataset's embedders.")
    with CountsPart(processed) as part:
        shape = (part.n_cells, width)
        contract.write(
            out, manifest, _vectors(part, embed), shape=shape, facts={"embedder": spec.model_dump(mode="json")}
        )


def _vectors(part: CountsPart, embed: Callable[[sp.csr_matrix], np.ndarray]) -> Iterator[np.ndarray]:
    with progress(part.n_cells, "cells", "embedding") as counter:
        for start, stop, counts in part.blocks(4_096):
            yield embed(counts)
            counter.update(stop - start)
