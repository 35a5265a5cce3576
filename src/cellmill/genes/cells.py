"""In how many kept cells each gene has a count, for ``genes.min_cells``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from os import PathLike

import numba
import numpy as np
import pandas as pd
import pyarrow as pa

from cellmill.contracts import genes as contract
from cellmill.contracts import quality as quality_files
from cellmill.contracts import splits as split_files
from cellmill.contracts.doublets import DoubletScores
from cellmill.matrix.reader import CountsFile
from cellmill.progress import progress
from cellmill.quality.spec import Quality
from cellmill.quality.splits import part_outcomes
from cellmill.quality.thresholds import KEPT, measured_columns


@numba.njit(cache=True, nogil=True)
def _add_cells(
    indices: np.ndarray, indptr: np.ndarray, rows: np.ndarray, genes: np.ndarray, last: np.ndarray, cells: np.ndarray
) -> None:
    """Count the ``rows`` of a CSR block without stored zeros in which each gene has a count.

    ``genes`` (columns,) is the gene of a column or -1; columns of one gene count once, since ``last`` (genes,) holds
    the cell that was counted last, by its number among all counted so far, which ``last[-1]`` holds itself.
    """
    for i in rows:
        last[-1] += 1
        for k in range(indptr[i], indptr[i + 1]):
            g = genes[indices[k]]
            if g >= 0 and last[g] != last[-1]:
                last[g] = last[-1]
                cells[g] += 1


def count_gene_cells(
    raw: str | PathLike[str],
    *,
    quality: str | PathLike[str],
    labels: str | PathLike[str],
    part_genes: str | PathLike[str],
    thresholds: str | PathLike[str],
    doublets: Sequence[str | PathLike[str]],
    duplicates: str | PathLike[str],
    splits: str | PathLike[str],
    spec: Quality,
    out: str | PathLike[str],
    threads: int = 1,
) -> None:
    """In how many kept cells of a part each of its genes has a count; one pass over the raw counts.

    Columns that name the same gene are one gene; those that are dropped whatever the gene space do not count.
    """
    measured, facts = quality_files.read_quality(quality, columns=measured_columns(spec))
    outcome = part_outcomes(
        measured,
        quality_files.read_labels(labels)[0],
        part=facts["part"],
        thresholds=quality_files.read_thresholds(thresholds),
        doublets=DoubletScores(doublets).of(facts["part"], measured.num_rows)[1],
        duplicates=duplicates,
        spec=spec,
        rare=set(split_files.read_splits(splits)[1]["rare"]),
    )
    keep = outcome == KEPT
    genes = contract.read_part_genes(part_genes)
    codes, ids = pd.factorize(np.where(genes.kept, genes.gene_ids, np.array(None, object)), sort=True)
    cells, last = np.zeros(len(ids), np.int64), np.full(len(ids) + 1, -1, np.int64)
    with CountsFile(raw, facts["counts"], threads=threads) as file:
        with progress(file.shape[0], "cells", "cells of each gene") as counter:
            for block in file.blocks():
                rows = np.flatnonzero(keep[block.start : block.stop])
                _add_cells(block.counts.indices, block.counts.indptr, rows, codes, last, cells)
                counter.update(block.stop - block.start)
    table = pa.table({"gene_id": pa.array(ids, pa.string()), "cells": pa.array(cells)})
    contract.write_gene_cells(out, table, {"part": facts["part"], "kept_cells": int(keep.sum())})


def cells_of_genes(parts: Iterable[str | PathLike[str]]) -> Counter[str]:
    """The kept cells of all parts with a count of each gene; a gene of none has none."""
    total: Counter[str] = Counter()
    for path in parts:
        found = contract.read_gene_cells(path)
        total.update(dict(zip(found["gene_id"], found["cells"].tolist(), strict=True)))
    return total
