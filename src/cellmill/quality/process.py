"""The kept cells of a part: raw counts in the dataset's gene space, with split, id and metrics."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from os import PathLike
from typing import Any

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
from cellmill.quality.names import METRICS
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
    rules: CellRules,
    part: str,
    out: str | PathLike[str],
    out_cells: str | PathLike[str],
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
    columns, reasons = columns_in_space(genes, gene_space["gene_id"].to_numpy())
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
    with CountsFile(raw, measured_facts["counts"], threads=threads) as file:
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
    for metric in METRICS:
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


def _copy_counts(file: CountsFile, keep: np.ndarray, columns: np.ndarray, writer: H5adWriter) -> np.ndarray:
    """Write the kept cells in the gene space; the counts of each column (columns,) that has no place there."""
    lost, dropped = np.zeros(len(columns), np.int64), columns < 0
    stays = np.flatnonzero(~dropped)
    with progress(file.shape[0], "cells", "processing") as counter:
        for block in file.blocks():
            counts = block.counts[keep[block.start : block.stop]]
            if dropped.any():
                gone = dropped[counts.indices]
                np.add.at(lost, counts.indices[gone], counts.data[gone].astype(np.int64))
                counts = counts[:, stays]
            moved = sp.csr_matrix(
                (counts.data.astype(np.uint64), columns[stays][counts.indices], counts.indptr),
                shape=(counts.shape[0], writer.n_genes),
            )
            moved.sum_duplicates()
            writer.append(moved)
            counter.update(block.counts.shape[0])
    return lost
