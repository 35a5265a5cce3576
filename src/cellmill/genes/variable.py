"""Variable genes over the training cells of all parts, in one ranking over all of them or over one per batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike

import numpy as np
import pandas as pd
import pyarrow as pa

from cellmill.contracts import genes as contract
from cellmill.errors import CellmillError
from cellmill.genes.clipped import normalized_variances
from cellmill.genes.spec import VariableGenes
from cellmill.genes.statistics import Sums, add_up

N_BINS = 20
MAD_SCALE = 0.6744897501960817
"""The median absolute deviation of a normal distribution with standard deviation 1."""


@dataclass(frozen=True)
class Scores:
    """How much genes vary in each batch; all arrays are (batches, genes).

    ``values`` are NaN where a gene has no score, ``varies`` says that it is not the same in all cells, and
    ``absent`` that the batch has not looked at it: such a gene counts as 0 in the mean over batches.
    """

    values: np.ndarray
    varies: np.ndarray
    absent: np.ndarray


@dataclass(frozen=True)
class Ranking:
    """The outcome per gene (genes,): its score, its rank or -1, in how many batches it is variable, if it is at all."""

    score: np.ndarray
    rank: np.ndarray
    n_batches: np.ndarray
    variable: np.ndarray


def rank_genes(
    parts: Sequence[str | PathLike[str]],
    *,
    space: str | PathLike[str],
    spec: VariableGenes,
    out: str | PathLike[str],
    model: str | PathLike[str] | None = None,
    clipped: Sequence[str | PathLike[str]] = (),
) -> None:
    """Statistics of every gene over the training cells of all parts, and which genes vary.

    ``model`` and ``clipped`` are what `fit_clip` and `measure_clipped` wrote, for the flavor ``seurat_v3``.
    A batch with a single training cell, or without a model, is left out of the ranking, and the facts name it.

    Raises:
        CellmillError: no training cells.
    """
    genes = contract.read_space(space)
    sums = add_up(sorted(parts, key=str))
    if sums.n_train == 0:
        raise CellmillError(
            out, "there is no training cell.", "Choose another split.seed, or a larger fraction for 'train'."
        )
    if spec.clips:
        fitted = contract.read_clip(_given(model))
        judged = {name: sums.batches[name] for name in fitted.batches}
        values = normalized_variances(judged, model=fitted, clipped=clipped)
        varies = np.stack([batch.mean_and_variance[1] > 0 for batch in judged.values()])
        ranking = rank_by_median(values, varies, n_top=spec.n_top)
    else:
        judged = {name: batch for name, batch in sums.batches.items() if batch.cells > 1}
        ranking = rank_by_batches(scores(judged, spec, len(genes)), spec=spec)
    table = pa.table(
        {
            "gene_id": pa.array(genes["gene_id"], pa.string()),
            "gene_symbol": pa.array(genes["gene_symbol"], pa.string(), from_pandas=True),
            **{name: pa.array(values.to_numpy()) for name, values in sums.statistics.items()},
            "variability": pa.array(ranking.score),
            "variable_rank": pa.array(ranking.rank),
            "variable_batches": pa.array(ranking.n_batches),
            "variable": pa.array(ranking.variable),
        }
    )
    facts = {
        "train_cells": sums.n_train,
        "variable_genes": int(ranking.variable.sum()),
        "flavor": spec.flavor,
        "batches": len(judged),
        "batches_left_out": sorted(sums.batches.keys() - judged.keys()),
    }
    contract.write_genes(out, table, facts | contract.naming_facts(space))


def _given(model: str | PathLike[str] | None) -> str | PathLike[str]:
    if model is None:
        raise ValueError("seurat_v3 needs its model")
    return model


# Scores


def scores(batches: dict[str, Sums], spec: VariableGenes, n_genes: int) -> Scores:
    """What the flavor says of every gene, batch by batch.

    With batches, genes that no cell of a batch has are not looked at there, as scanpy does it.
    The flavor ``dispersion`` does not look at rare genes at all.
    """
    values = np.full((len(batches), n_genes), np.nan)
    varies, absent = np.zeros(values.shape, bool), np.zeros(values.shape, bool)
    for i, batch in enumerate(batches.values()):
        mean, variance = batch.mean_and_variance
        if spec.flavor == "dispersion":
            looked_at = (batch.seen > 0) & (batch.seen / batch.cells >= spec.min_cells_fraction)
        else:
            looked_at = (batch.seen > 0) | (not spec.by_batch)
        if looked_at.any():
            score = {"seurat": normalized_dispersion, "cell_ranger": cell_ranger_dispersion, "dispersion": dispersion}
            values[i, looked_at] = score[spec.flavor](mean[looked_at], variance[looked_at])
        varies[i] = (variance > 0) & ~np.isnan(values[i])
        absent[i] = ~looked_at & spec.by_batch
    return Scores(values, varies, absent)


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


def cell_ranger_dispersion(mean: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Dispersion (genes,) within bins of mean log1p expression; infinite above a bin whose genes are mostly alike.

    variance / mean, less its median and over its median absolute deviation within bins between the 10th, 15th, …,
    100th percentile of the mean.
    Percentiles that coincide are one edge; scanpy refuses such data.
    Source: Zheng et al., Nat. Commun. 2017, as in ``scanpy.pp.highly_variable_genes(flavor="cell_ranger")``.
    """
    safe = np.where(mean == 0, 1e-12, mean)
    ratio = variance / safe
    edges = np.r_[-np.inf, np.unique(np.percentile(safe, np.arange(10, 105, 5))), np.inf]
    bins = np.searchsorted(edges, safe, side="left")
    grouped = pd.Series(ratio).groupby(bins)
    off = ratio - grouped.transform("median").to_numpy()
    spread = pd.Series(np.abs(off)).groupby(bins).transform("median").to_numpy() / MAD_SCALE
    with np.errstate(divide="ignore", invalid="ignore"):  # genes of a bin that are all alike
        return off / spread


def dispersion(mean: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Variance over mean of the counts (genes,); NaN for a gene that does not vary."""
    return np.where(variance > 0, variance / np.where(mean == 0, 1.0, mean), np.nan)


# Rankings


def rank_by_batches(scored: Scores, *, spec: VariableGenes) -> Ranking:
    """By falling number of batches in which a gene is among the first ``n_top``, then by falling mean score.

    Equal genes keep the order of the gene space; a gene that varies in no batch has no rank.
    In a batch, what equals the last of the first ``n_top`` is among them, too: scanpy's rule.
    Where infinite scores go beyond ``n_top``, scanpy takes none of them, and we the first.
    """
    values = scored.values
    chosen = np.zeros(values.shape, bool)
    for i, score in enumerate(values):
        known = np.sort(score[~np.isnan(score)])[::-1]
        if len(known):
            chosen[i] = (score >= known[min(spec.n_top, len(known)) - 1]) & scored.varies[i]
    n_batches = chosen.sum(axis=0).astype(np.int32)
    counted = np.where(scored.absent, 0.0, values)
    known_in = (~np.isnan(counted)).sum(axis=0)
    with np.errstate(invalid="ignore"):
        mean = np.where(np.isnan(counted), 0.0, counted).sum(axis=0) / np.where(known_in, known_in, np.nan)
    unknown = np.isnan(mean)
    order = np.lexsort((np.where(unknown, 0.0, -mean), unknown, -n_batches))
    ranks = _ranks(order, scored.varies)
    variable = (ranks >= 0) & (ranks < spec.n_top) & (n_batches > 0)
    if not spec.by_batch and spec.flavor != "dispersion":
        variable |= (n_batches > 0) & np.isfinite(mean)
    return Ranking(mean, ranks, n_batches, variable)


def rank_by_median(values: np.ndarray, varies: np.ndarray, *, n_top: int) -> Ranking:
    """By rising median rank over the batches in which a gene is among the first ``n_top``, then by their number.

    Genes that are in none come last, by falling mean score.
    Equal genes keep the order of the gene space; a gene that varies in no batch has no rank.
    """
    order = np.argsort(-values, axis=1, kind="stable")
    ranks = np.argsort(order, axis=1, kind="stable").astype(np.float64)
    chosen = (ranks < n_top) & varies
    n_batches = chosen.sum(axis=0).astype(np.int32)
    ranks = np.sort(np.where(chosen, ranks, np.inf), axis=0)
    lower, upper = np.maximum(n_batches - 1, 0) // 2, np.minimum(n_batches // 2, len(values) - 1)
    genes = np.arange(values.shape[1])
    median = (ranks[lower, genes] + ranks[upper, genes]) / 2  # infinite where the gene is in none
    mean = values.sum(axis=0) / len(values)
    order = np.lexsort((np.where(n_batches > 0, 0.0, -mean), -n_batches, median))
    rank = _ranks(order, varies)
    return Ranking(mean, rank, n_batches, (rank >= 0) & (rank < n_top) & (n_batches > 0))


def _ranks(order: np.ndarray, varies: np.ndarray) -> np.ndarray:
    """int32 (genes,): the place of each gene in ``order``, where only genes that vary in a batch have one; else -1."""
    somewhere = np.asarray(varies.any(axis=0))
    ranks = np.full(len(order), -1, np.int32)
    ranks[order[somewhere[order]]] = np.arange(somewhere.sum())
    return ranks
