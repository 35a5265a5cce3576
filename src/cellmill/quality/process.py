"""The kept cells of a part: raw counts in the dataset's gene space, with split, id and metrics."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from os import PathLike
from typing import Any

import numba
import numpy as np
import pandas as pd
import pyarrow as pa
import scipy.sparse as sp

from cellmill.contracts import genes as gene_files
from cellmill.contracts import quality as contract
from cellmill.contracts import splits as split_files
from cellmill.contracts.counts import DOUBLET_COLUMNS
from cellmill.contracts.doublets import DoubletScores
from cellmill.contracts.versions import CELLS, COUNTS
from cellmill.errors import CellmillError
from cellmill.files import replacing
from cellmill.genes.space import columns_in_space
from cellmill.matrix.reader import CountsFile
from cellmill.matrix.writer import H5adWriter
from cellmill.progress import progress
from cellmill.quality.metrics import obs_column
from cellmill.quality.spec import CellRules
from cellmill.quality.splits import part_outcomes, splits_of
from cellmill.quality.thresholds import KEPT


def process_part(
    raw: str | PathLike[str],
    *,
    quality: str | PathLike[str],
    labels: str | PathLike[str],
    part_genes: str | PathLike[str],
    thresholds: str | PathLike[str],
    doublets: Sequence[str | PathLike[str]] = (),
    duplicates: str | PathLike[str],
    splits: str | PathLike[str],
    space: str | PathLike[str],
    mapping: str | PathLike[str],
    rules: CellRules,
    part: str,
    out: str | PathLike[str],
    out_cells: str | PathLike[str],
    annotations: str | PathLike[str] | None = None,
    threads: int = 1,
) -> None:
    """Write the kept cells of a part, and what became of every raw cell.

    Rows stay in the order of the raw file. Columns that name the same gene are added up;
    those that have no place in the gene space are dropped, and counted.
    """
    measured, measured_facts = contract.read_quality(quality)
    bounds = contract.read_thresholds(thresholds)
    genes = gene_files.read_part_genes(part_genes)
    gene_space = gene_files.read_space(space)
    columns, reasons = columns_in_space(
        genes, gene_space["gene_id"].to_numpy(), in_few_cells=gene_files.genes_in_few_cells(mapping)
    )
    said, (decided, decisions) = contract.read_labels(labels)[0], split_files.read_splits(splits)
    rare = set(decisions["rare"])
    scores = DoubletScores(doublets).of(part, measured.num_rows)
    outcome = part_outcomes(
        measured,
        said,
        part=part,
        thresholds=bounds,
        doublets=scores[1],
        duplicates=duplicates,
        spec=rules.quality,
        rare=rare,
    )
    keep = outcome == KEPT
    ids = measured["cell_id"]
    with CountsFile(raw, measured_facts["counts"], threads=threads, annotations=annotations) as file:
        if file.shape[0] != measured.num_rows:
            raise CellmillError(
                raw, f"{file.shape[0]} cells, {measured.num_rows} were measured.", "Run snakemake again."
            )
        split = splits_of(ids, said, keep, decided, rules.split)
        obs = _kept_obs(file, measured, keep, split, rules, rare)
        if rules.quality.doublets is not None:
            for column, values in zip(DOUBLET_COLUMNS, scores, strict=True):
                obs[column] = values[keep]
        with replacing(out) as aside:
            writer = H5adWriter(aside, n_genes=len(gene_space), dtype=np.dtype(bounds["counts_dtype"]), threads=threads)
            try:
                lost = _copy_counts(file, keep, columns, writer)
                var = gene_space.set_index("gene_id")
                var["gene_symbol"] = var["gene_symbol"].fillna("")
                facts = {
                    "contract": str(COUNTS),
                    "part": part,
                    "cells": int(keep.sum()),
                    "raw_cells": len(keep),
                    "dropped": dict(sorted(Counter(outcome[~keep]).items())),
                    "splits": {s: int((obs["split"] == s).sum()) for s in rules.split.fractions},
                    "counts_from": measured_facts["counts"],
                    **_genes_dropped(reasons, lost),
                    **{key: measured_facts[key] for key in ("subset",) if key in measured_facts},
                }
                writer.close(obs=obs, var=var, uns={"cellmill": json.dumps(facts, sort_keys=True)})
            except BaseException:
                writer.abandon()
                raise
    table = pa.table(
        {
            "cell_id": ids,
            "batch": measured["batch"],
            "outcome": pa.array(outcome, pa.string()),
            "split": pa.array(split, pa.string(), mask=~keep),
        },
        schema=contract.CELLS_SCHEMA,
    )
    contract.write_cells(out_cells, table, {**facts, "contract": str(CELLS)})


def _kept_obs(
    file: CountsFile, measured: pa.Table, keep: np.ndarray, split: np.ndarray, rules: CellRules, rare: set[str]
) -> pd.DataFrame:
    obs = pd.DataFrame(index=pd.Index(measured["cell_id"].to_pandas()[keep].astype(object), name="cell_id"))
    obs["split"] = pd.Categorical(split[keep], categories=list(rules.split.fractions))
    for column in rules.kept_columns:
        values = obs_column(file.obs, column, file.path)[keep]
        if rules.quality.rare is not None and rules.quality.rare.column == column and rare:
            text = values.astype(object)
            values = text.mask(text.astype(str).isin(rare) & text.notna(), rules.quality.rare.into)
        if isinstance(values.dtype, pd.CategoricalDtype):
            values = values.cat.remove_unused_categories()
        is_text = values.dtype == object or isinstance(values.dtype, pd.StringDtype)
        obs[column] = values.to_numpy(object) if is_text else values.array
        if is_text:
            obs[column] = _strings(obs[column])
    for metric in contract.metrics_of(measured):
        obs[metric] = measured[metric].to_numpy()[keep]
    return obs


def _strings(values: pd.Series) -> pd.Series:
    """Strings as categories, which h5ad stores with missing values and in little room."""
    text = values.where(values.isna(), values.astype(str))
    return text.astype("category")


def _genes_dropped(reasons: np.ndarray, lost: np.ndarray) -> dict[str, Any]:
    """Columns of the file and counts of the kept cells that are not in the gene space, by reason; empty if all are."""
    dropped = {
        r: {"columns": int((reasons == r).sum()), "counts": int(lost[reasons == r].sum())}
        for r in sorted(set(reasons) - {""})
    }
    return {"genes_dropped": dropped} if dropped else {}


_DE_BRUIJN = np.uint64(0x03F79D71B4CB0A89)
_PLACE = np.empty(64, np.int64)
"""The place of a single bit of 64, by the upper six bits of its product with a de Bruijn sequence."""
_PLACE[(np.uint64(1) << np.arange(64, dtype=np.uint64)) * _DE_BRUIJN >> np.uint64(58)] = np.arange(64)


@numba.njit(cache=True, nogil=True)
def _move(
    data: np.ndarray,
    indices: np.ndarray,
    indptr: np.ndarray,
    keep: np.ndarray,
    columns: np.ndarray,
    row: np.ndarray,
    lost: np.ndarray,
    moved: np.ndarray,
    moved_columns: np.ndarray,
) -> tuple[np.ndarray, np.uint64]:
    """Rows that stay, in the gene space; offsets (rows + 1,), and the largest value, which may not fit ``moved``.

    ``columns`` (columns,) is where each column goes, -1 for nowhere: what is there is added to ``lost`` (columns,).
    ``row`` (genes,) uint64 is zeros, and is left so. Columns that go to one place are added up.
    """
    offsets = np.zeros(keep.sum() + 1, np.int32)
    words = np.zeros((len(row) + 63) // 64, np.uint64)
    one, end, n, largest = np.uint64(1), 0, 0, np.uint64(0)
    for i in range(len(keep)):
        if not keep[i]:
            continue
        begin, last, rises = end, -1, True
        for k in range(indptr[i], indptr[i + 1]):
            column = columns[indices[k]]
            if column < 0:
                lost[indices[k]] += np.int64(data[k])
                continue
            rises &= column > last
            last = column
            moved[end], moved_columns[end] = data[k], column
            largest = max(largest, np.uint64(data[k]))
            end += 1
        if not rises:  # through a row of all genes, with a bit for each that has a count
            for k in range(indptr[i], indptr[i + 1]):
                column = columns[indices[k]]
                if column >= 0:
                    row[column] += np.uint64(data[k])
                    words[column >> 6] |= one << np.uint64(column & 63)
            end = begin
            for w in range(len(words)):
                word = words[w]
                while word:
                    lowest = word & (~word + one)
                    column = w << 6 | _PLACE[(lowest * _DE_BRUIJN) >> np.uint64(58)]
                    largest = max(largest, row[column])
                    moved[end], moved_columns[end] = row[column], column
                    row[column] = 0
                    end += 1
                    word ^= lowest
                words[w] = 0
        n += 1
        offsets[n] = end
    return offsets, largest


def _copy_counts(file: CountsFile, keep: np.ndarray, columns: np.ndarray, writer: H5adWriter) -> np.ndarray:
    """Write the kept cells in the gene space; the counts of each column (columns,) that has no place there."""
    lost, row = np.zeros(len(columns), np.int64), np.zeros(writer.n_genes, np.uint64)
    with progress(file.shape[0], "cells", "processing") as counter:
        for block in file.blocks():
            counts, mine = block.counts, keep[block.start : block.stop]
            moved, genes = np.empty(counts.nnz, writer.dtype), np.empty(counts.nnz, np.int32)
            offsets, largest = _move(counts.data, counts.indices, counts.indptr, mine, columns, row, lost, moved, genes)
            if largest > np.iinfo(writer.dtype).max:
                raise OverflowError(f"{largest} does not fit {writer.dtype}")
            arrays = (moved[: offsets[-1]], genes[: offsets[-1]], offsets)
            writer.append(sp.csr_matrix(arrays, shape=(len(offsets) - 1, writer.n_genes), copy=False))
            counter.update(counts.shape[0])
    return lost
