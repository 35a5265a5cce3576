"""Doublets by scanpy's Scrublet, one batch at a time, over all parts."""

from __future__ import annotations

import logging
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from os import PathLike
from typing import Any

import numba
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import scipy.sparse as sp

from cellmill.contracts import doublets as contract
from cellmill.contracts import genes as gene_files
from cellmill.contracts import quality as quality_files
from cellmill.errors import CellmillError
from cellmill.genes.identifiers import PartGenes
from cellmill.matrix.reader import CountsFile
from cellmill.quality.spec import Doublets, Quality
from cellmill.quality.thresholds import KEPT, cell_outcomes, filter_reasons, measured_columns

log = logging.getLogger("cellmill")

JUDGED, TOO_FEW, NO_THRESHOLD, FAILED = "judged", "too few cells", "no threshold", "failed"
"""What becomes of a batch; of all but the first, no cell is predicted."""
BINS = 50
"""Bins of the histogram of simulated scores, from 0 to 1."""


@dataclass(frozen=True)
class PartFiles:
    """What is known of a part before its doublets are."""

    raw: str | PathLike[str]
    quality: str | PathLike[str]
    labels: str | PathLike[str]
    genes: str | PathLike[str]


def part_files(
    raw: Sequence[str | PathLike[str]],
    *,
    quality: Sequence[str | PathLike[str]],
    labels: Sequence[str | PathLike[str]],
    genes: Sequence[str | PathLike[str]],
) -> list[PartFiles]:
    """The files of each part, from lists in the same order."""
    return [PartFiles(*files) for files in zip(raw, quality, labels, genes, strict=True)]


@dataclass(frozen=True)
class Scored:
    """What Scrublet says of the cells of a batch."""

    scores: np.ndarray
    """float64 (cells,), NaN where Scrublet leaves a cell out."""
    predicted: np.ndarray
    """bool (cells,)"""
    facts: dict[str, Any]


def score_doublets(
    parts: Sequence[PartFiles],
    *,
    thresholds: str | PathLike[str],
    spec: Quality,
    share: int,
    shares: int,
    out: str | PathLike[str],
) -> None:
    """Score the cells of some batches: those whose largest piece is in a part whose number leaves ``share``.

    Judged are the cells that pass filters, fixed bounds and thresholds. The cells of a batch are gathered from all
    parts, by the union of their genes, in the order of their ids; so a score depends on the cells of the batch alone.

    Memory: the cells of the batches that are gathered at once, ``max_batch_cells`` of them at most, what Scrublet makes
    of one batch (dense matrices of its variable genes), and the ids of the share.
    Blocks of rows without a cell of the share are not read; a part in CSC is read as a whole.

    Raises:
        CellmillError: a batch with more than ``max_batch_cells`` cells; no scikit-image for the automatic threshold.
    """
    rules = spec.doublets
    assert rules is not None
    _require_skimage(rules)
    cells, names = _cells_of_share(parts, thresholds, spec, share, shares)
    sizes = Counter(cells["batch"])
    _refuse_large(sizes, rules, out)
    facts: dict[str, Any] = {
        n: {"cells": sizes[n], "outcome": TOO_FEW} for n in names if sizes[n] < rules.min_batch_cells
    }
    scores, predicted = np.full(len(cells), np.nan), np.zeros(len(cells), bool)
    for together in _gathered_at_once([n for n in names if n not in facts], sizes, rules.max_batch_cells):
        rows = np.flatnonzero(cells["batch"].isin(together))
        counts = _gather(parts, cells.iloc[rows])
        for name in together:
            mine = np.flatnonzero(cells["batch"].to_numpy()[rows] == name)
            mine = mine[np.argsort(cells["cell_id"].to_numpy()[rows[mine]], kind="stable")]
            found = scrublet(counts[mine], rules)
            scores[rows[mine]], predicted[rows[mine]] = found.scores, found.predicted
            facts[name] = {"cells": len(mine), **found.facts}
            _tell(name, facts[name])
    scored = cells[~np.isnan(scores)]
    columns = {
        **{name: scored[name].to_numpy() for name in ("part", "row", "cell_id", "batch")},
        "doublet_score": scores[~np.isnan(scores)],
        "predicted_doublet": predicted[~np.isnan(scores)],
    }
    arrays = [pa.array(columns[f.name], f.type) for f in contract.DOUBLETS_SCHEMA]
    contract.write_doublets(out, pa.Table.from_arrays(arrays, schema=contract.DOUBLETS_SCHEMA), facts)


def scrublet(counts: sp.csr_matrix, rules: Doublets) -> Scored:
    """Scores of the cells of one batch, from their raw counts (cells, genes), by ``scanpy.pp.scrublet``.

    As scanpy does it, but for exact neighbors at any number of cells: its approximate ones, beyond some thousand cells,
    compile for longer than most batches take, and fail with some versions of pynndescent (0.7.0 with scanpy 1.11.5).
    All of it in one thread: scores differ in the last digit with the number of threads, and the automatic threshold
    then by much more.

    Source: Wolock, Lopez & Klein, Cell Systems 2019.
    """
    import anndata
    import scanpy

    made = anndata.AnnData(counts.astype(np.float32))
    with _one_thread(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scanpy's own: that values are logarithms, that types will change
        try:
            scanpy.pp.scrublet(
                made,
                sim_doublet_ratio=rules.sim_ratio,
                expected_doublet_rate=rules.expected_rate,
                n_prin_comps=rules.n_components,
                threshold=rules.threshold,
                use_approx_neighbors=False,
                random_state=rules.seed,
                verbose=False,
            )
        except ValueError as error:  # too few variable genes for so many components, or none
            nothing = np.full(counts.shape[0], np.nan)
            return Scored(
                nothing, np.zeros(len(nothing), bool), {"outcome": FAILED, "why": " ".join(str(error).split())}
            )
    said = made.uns["scrublet"]
    scores = made.obs["doublet_score"].to_numpy(np.float64)
    predicted = (made.obs["predicted_doublet"] == True).to_numpy(bool)  # noqa: E712  missing where there is no score
    simulated = np.asarray(said["doublet_scores_sim"])
    threshold = said.get("threshold")
    facts = {
        "outcome": NO_THRESHOLD if threshold is None else JUDGED,
        "scored": int((~np.isnan(scores)).sum()),
        "predicted": int(predicted.sum()),
        "threshold": None if threshold is None else float(threshold),
        "detectable": None if threshold is None else float((simulated > threshold).mean()),
        "simulated": np.histogram(simulated, BINS, (0, 1))[0].tolist(),
    }
    return Scored(scores, predicted, facts)


def _tell(name: str, facts: dict[str, Any]) -> None:
    if facts["outcome"] == JUDGED:
        log.info("batch '%s': %d of %d cells are predicted doublets", name, facts["predicted"], facts["scored"])
    else:
        log.warning("batch '%s': %s; all of its cells stay. %s", name, facts["outcome"], facts.get("why", ""))


def _require_skimage(rules: Doublets) -> None:
    if rules.threshold is None and find_spec("skimage") is None:
        raise CellmillError(
            "quality.doublets",
            "the automatic threshold needs scikit-image, which is not installed.",
            "Type: pip install scikit-image (the extra 'doublets'), or set quality.doublets.threshold.",
        )


@contextmanager
def _one_thread() -> Iterator[None]:
    from threadpoolctl import threadpool_limits

    before = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        numba.set_num_threads(before)


# --- which cells


def _cells_of_share(
    parts: Sequence[PartFiles], thresholds: str | PathLike[str], spec: Quality, share: int, shares: int
) -> tuple[pd.DataFrame, list[str]]:
    """The cells that are judged, in the order of parts and rows, and the names of their batches, sorted."""
    pieces: dict[str, dict[int, int]] = {}  # cells by batch and part
    for number, files in enumerate(parts):
        table, _ = quality_files.read_quality(files.quality, columns=["batch"])
        for pair in pc.value_counts(table["batch"]).to_pylist():
            pieces.setdefault(pair["values"], {})[number] = pair["counts"]
    names = sorted(name for name, mine in pieces.items() if max(mine, key=lambda n: (mine[n], -n)) % shares == share)
    bounds = quality_files.read_thresholds(thresholds)
    there = sorted({number for name in names for number in pieces[name]})
    empty = pd.DataFrame(columns=["part", "number", "row", "cell_id", "batch"])
    found = [_cells_of_part(number, parts[number], names, bounds, spec) for number in there]
    return pd.concat(found, ignore_index=True) if found else empty, names


def _cells_of_part(
    number: int, files: PartFiles, names: list[str], bounds: dict[str, Any], spec: Quality
) -> pd.DataFrame:
    """The cells of a part that are judged."""
    table, facts = quality_files.read_quality(files.quality, columns=["cell_id", *measured_columns(spec)])
    filtered = filter_reasons(quality_files.read_labels(files.labels, columns=["filter"])[0])
    passes = cell_outcomes(table, filtered=filtered, spec=spec, thresholds=bounds) == KEPT
    rows = np.flatnonzero(passes & pc.is_in(table["batch"], value_set=pa.array(names, pa.string())).to_numpy())
    mine = table.select(["cell_id", "batch"]).take(pa.array(rows)).to_pandas()
    return mine.assign(part=facts["part"], number=number, row=rows)


def _refuse_large(sizes: Counter[str], rules: Doublets, where: object) -> None:
    large = max(sizes, key=lambda name: (sizes[name], name), default=None)
    if large is not None and sizes[large] > rules.max_batch_cells:
        raise CellmillError(
            where,
            f"batch '{large}' has {sizes[large]:,} cells, and quality.doublets.max_batch_cells is "
            f"{rules.max_batch_cells:,}: all cells of a batch are in memory at once.",
            "Name the column of the lane or library in columns.batch, or raise max_batch_cells.",
        )


def _gathered_at_once(names: Sequence[str], sizes: Counter[str], limit: int) -> Iterator[list[str]]:
    """Batches one after another, as many together as have no more than ``limit`` cells."""
    together: list[str] = []
    for name in names:
        if together and sum(sizes[n] for n in together) + sizes[name] > limit:
            yield together
            together = []
        together.append(name)
    if together:
        yield together


# --- their counts


def _gather(parts: Sequence[PartFiles], cells: pd.DataFrame) -> sp.csr_matrix:
    """Counts (cells, genes) float32 of cells in the order of parts and rows, by the union of the genes of their parts.

    Genes stand in the order of their ids; columns that name the same gene are added up, dropped ones are left out.
    """
    numbers = cells["number"].to_numpy(np.int64)
    by_part = {n: cells["row"].to_numpy(np.int64)[numbers == n] for n in np.unique(numbers).tolist()}
    genes = {n: gene_files.read_part_genes(parts[n].genes) for n in by_part}
    ids = pd.Index(sorted(set().union(*(set(g.gene_ids[g.kept]) for g in genes.values()))))
    found = []
    for number, rows in by_part.items():
        places = _places(genes[number], ids)
        _, facts = quality_files.read_quality(parts[number].quality, columns=[])
        with CountsFile(parts[number].raw, facts["counts"]) as file:
            wanted = np.zeros(file.shape[0], bool)
            wanted[rows] = True
            for block in file.blocks(wanted=wanted):
                lo, hi = np.searchsorted(rows, (block.start, block.stop))
                found.append(block.counts[rows[lo:hi] - block.start].astype(np.float32) @ places)
    counts = sp.vstack(found, format="csr")
    counts.sort_indices()
    return counts


def _places(genes: PartGenes, ids: pd.Index) -> sp.csr_matrix:
    """(columns, genes): where the columns of a part go."""
    columns = np.flatnonzero(genes.kept)
    to = ids.get_indexer(pd.Index(genes.gene_ids[columns]))
    shape = (len(genes.gene_ids), len(ids))
    return sp.csr_matrix((np.ones(len(columns), np.float32), (columns, to)), shape=shape)
