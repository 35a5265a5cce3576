"""Label conservation and batch mixing of vectors: the numbers of scIB, as scib-metrics computes them.

Source: Luecken et al., Nat. Methods 2022 (https://doi.org/10.1038/s41592-021-01336-8); LISI: Korsunsky et al.,
Nat. Methods 2019; kBET: Büttner et al., Nat. Methods 2019. Numbers of neighbours as in scib-metrics' Benchmarker.
tests/reference compares with scib-metrics, which takes a minute and jax for what takes a second here.
Neighbours are exact, where its default searches approximately. kBET is over all cells (its ``kbet``): by label, the
diffusion maps begin at random.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

from cellmill.contracts.judged import Score
from cellmill.judge.lisi import lisi

if TYPE_CHECKING:
    from cellmill.report.sample import Sample

LEAST_CELLS = 30
"""Fewer cells have no neighbourhoods to speak of."""
LISI_NEIGHBORS, KBET_NEIGHBORS, GRAPH_NEIGHBORS = 90, 50, 15
KBET_LEVEL = 0.05
DISTANCES_MB = 256
"""Distances that are in memory at once."""


def scores(sample: Sample, *, labels: list[str], batch: str | None) -> Iterator[Score]:
    """Every number on the cells that have what it is measured by; where it cannot be measured, why.

    Memory: ``DISTANCES_MB``, and 90 neighbours per cell.
    """
    import sklearn

    with sklearn.config_context(working_memory=DISTANCES_MB):
        for label in labels:
            yield from _measured(sample, _BY_LABEL, label=label)
            if batch is not None:
                yield from _measured(sample, _BY_BOTH, label=label, batch=batch)
        if batch is not None:
            yield from _measured(sample, _BY_BATCH, batch=batch)


def _measured(
    sample: Sample,
    measures: Mapping[str, Callable[[Cells], float]],
    *,
    label: str | None = None,
    batch: str | None = None,
) -> Iterator[Score]:
    columns = [column for column in (label, batch) if column is not None]
    there = np.all([[value is not None for value in sample.columns[c]] for c in columns], axis=0)
    cells = Cells(sample.vectors[there], *(sample.columns[c][there].astype(str) for c in columns))
    why = _problem(cells, columns)
    for name, measure in measures.items():
        yield Score(name, label, batch, len(cells.vectors), None if why else float(measure(cells)), why)


def _problem(cells: Cells, columns: list[str]) -> str | None:
    """Why there is nothing to measure, in words."""
    n, what, different = len(cells.vectors), " and ".join(columns), len(np.unique(cells.codes))
    if n < LEAST_CELLS:
        return f"{n} cells have a value in {what}, {LEAST_CELLS} are needed"
    if len(columns) == 2:
        return None if any(True for _ in cells.mixed()) else f"no {columns[0]} has cells of several {columns[1]}"
    if different == 1:
        return f"all cells have the same {what}"
    return f"every cell has its own {what}" if different == n else None


class Cells:
    """Vectors (n, dimensions), and what the cells are called by one or two columns: strings (n,) each."""

    def __init__(self, vectors: np.ndarray, values: np.ndarray, batches: np.ndarray | None = None) -> None:
        self.vectors = vectors.astype(np.float64)
        self.codes = np.unique(values, return_inverse=True)[1]
        self.batches = np.zeros(len(values), int) if batches is None else np.unique(batches, return_inverse=True)[1]

    def mixed(self) -> Iterator[np.ndarray]:
        """The rows of every label that has cells of several batches, and not each of another."""
        for code in np.unique(self.codes):
            rows = np.flatnonzero(self.codes == code)
            if 1 < len(np.unique(self.batches[rows])) < len(rows):
                yield rows

    @cached_property
    def neighbors(self) -> tuple[np.ndarray, np.ndarray]:
        """Distances and rows (n, k) of the nearest cells of each, by distance, itself among them."""
        from sklearn.neighbors import NearestNeighbors

        search = NearestNeighbors(n_neighbors=min(LISI_NEIGHBORS, len(self.vectors)), algorithm="brute")
        distances, rows = search.fit(self.vectors).kneighbors(self.vectors)
        return distances, rows

    @cached_property
    def clusters(self) -> np.ndarray:
        """int32 (n,): by k-means, as many as there are labels."""
        from sklearn.cluster import KMeans

        means = KMeans(n_clusters=self.codes.max() + 1, n_init=10, random_state=0)
        found: np.ndarray = means.fit_predict(self.vectors)
        return found

    @cached_property
    def median_lisi(self) -> float:
        """Of all cells; from 1 to the number of different values."""
        return float(np.median(lisi(*self.neighbors, self.codes)))


def silhouette_label(cells: Cells) -> float:
    """Average silhouette width of the labels, (s + 1) / 2."""
    from sklearn.metrics import silhouette_score

    return (float(silhouette_score(cells.vectors, cells.codes)) + 1) / 2


def silhouette_batch(cells: Cells) -> float:
    """1 - |silhouette| of the batches within a label: the mean of its cells, averaged over labels."""
    from sklearn.metrics import silhouette_samples

    widths = [silhouette_samples(cells.vectors[rows], cells.batches[rows]) for rows in cells.mixed()]
    return float(np.mean([1 - np.abs(width).mean() for width in widths]))


def clisi(cells: Cells) -> float:
    """1: every neighbourhood has one label; 0: as many as there are, evenly."""
    n = cells.codes.max() + 1
    return float((n - cells.median_lisi) / (n - 1))


def ilisi(cells: Cells) -> float:
    """0: every neighbourhood has one batch; 1: as many as there are, evenly."""
    return float((cells.median_lisi - 1) / cells.codes.max())


def kbet(cells: Cells) -> float:
    """Share of cells whose neighbourhood has the batches of all cells, by a chi-square test."""
    from scipy.special import gammaincc

    rows = cells.neighbors[1][:, :KBET_NEIGHBORS]
    n, (cells_, k) = cells.codes.max() + 1, rows.shape
    place = np.arange(cells_)[:, None] * n + cells.codes[rows]
    found = np.bincount(place.ravel(), minlength=cells_ * n).reshape(cells_, n)
    expected = np.bincount(cells.codes) / cells_ * k
    statistic = ((found - expected) ** 2 / expected).sum(axis=1)
    return float((gammaincc((n - 1) / 2, statistic / 2) >= KBET_LEVEL).mean())


def graph_connectivity(cells: Cells) -> float:
    """Share of a label's cells in its largest strongly connected component of the neighbour graph, averaged."""
    rows = cells.neighbors[1][:, :GRAPH_NEIGHBORS]
    n, k = rows.shape
    graph = sp.csr_matrix((np.ones(n * k), rows.ravel(), np.arange(0, n * k + 1, k)), shape=(n, n))
    shares = []
    for code in np.unique(cells.codes):
        mine = np.flatnonzero(cells.codes == code)
        parts = sp.csgraph.connected_components(graph[mine][:, mine], connection="strong")[1]
        shares.append(np.bincount(parts).max() / len(mine))
    return float(np.mean(shares))


def kmeans_nmi(cells: Cells) -> float:
    """Normalised mutual information of labels and clusters."""
    from sklearn.metrics import normalized_mutual_info_score

    return float(normalized_mutual_info_score(cells.codes, cells.clusters))


def kmeans_ari(cells: Cells) -> float:
    """Adjusted Rand index of labels and clusters."""
    from sklearn.metrics import adjusted_rand_score

    return float(adjusted_rand_score(cells.codes, cells.clusters))


_BY_LABEL = {f.__name__: f for f in (silhouette_label, clisi, graph_connectivity, kmeans_nmi, kmeans_ari)}
_BY_BOTH = {f.__name__: f for f in (silhouette_batch,)}
_BY_BATCH = {f.__name__: f for f in (ilisi, kbet)}
