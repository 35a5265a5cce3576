"""Variable genes over the training cells of all parts."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike

import numpy as np
import pandas as pd
import pyarrow as pa

from cellmill.config import VariableGenes
from cellmill.contracts import genes as contract
from cellmill.errors import CellmillError
from cellmill.genes.statistics import add_up

N_BINS = 20


def rank_genes(
    parts: Sequence[str | PathLike[str]], *, space: str | PathLike[str], spec: VariableGenes, out: str | PathLike[str]
) -> None:
    """Statistics of every gene over the training cells of all parts, and which genes vary.

    Raises:
        CellmillError: no training cells.
    """
    genes = contract.read_space(space)
    n_train, statistics = add_up(sorted(parts, key=str))
    if n_train == 0:
        raise CellmillError(
            out, "there is no training cell.", "Choose another split.seed, or a larger fraction for 'train'."
        )
    dispersion = normalized_dispersion(statistics["mean"].to_numpy(), statistics["variance"].to_numpy())
    order = np.argsort(-np.nan_to_num(dispersion, nan=-np.inf), kind="stable")
    varying = ~np.isnan(dispersion[order])
    ranks = np.full(len(genes), -1, np.int32)
    ranks[order[varying]] = np.arange(varying.sum())
    table = pa.table(
        {
            "gene_id": pa.array(genes["gene_id"], pa.string()),
            "gene_symbol": pa.array(genes["gene_symbol"], pa.string(), from_pandas=True),
            **{name: pa.array(values.to_numpy()) for name, values in statistics.items()},
            "dispersion_normalized": pa.array(dispersion),
            "variable_rank": pa.array(ranks),
            "variable": pa.array((ranks >= 0) & (ranks < spec.n_top)),
        }
    )
    n_variable = int(min(varying.sum(), spec.n_top))
    facts = {"train_cells": n_train, "variable_genes": n_variable, "flavor": spec.flavor}
    contract.write_genes(out, table, facts | contract.naming_facts(space))


def normalized_dispersion(mean: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Dispersion (genes,) within bins of mean expression; NaN for a gene that does not vary.

    log(variance / mean), less its mean and over its standard deviation within 20 bins of log1p(mean).
    A bin of one gene counts as 1.
    Source: Satija et al., Nat. Biotechnol. 2015, as in ``scanpy.pp.highly_variable_genes(flavor="seurat")``.
    """
    safe = np.where(mean == 0, 1e-12, mean)
    ratio = variance / safe
    dispersion = np.log(np.where(ratio == 0, np.nan, ratio))
    bins = pd.cut(pd.Series(np.log1p(safe)), bins=N_BINS)
    grouped = pd.Series(dispersion).groupby(bins, observed=True)
    center = grouped.mean().reindex(bins).to_numpy()
    spread = grouped.std(ddof=1).reindex(bins).to_numpy()
    alone = np.isnan(spread)
    spread = np.where(alone, center, spread)
    center = np.where(alone, 0.0, center)
    with np.errstate(divide="ignore", invalid="ignore"):  # genes of a bin that are all alike
        return (dispersion - center) / spread
