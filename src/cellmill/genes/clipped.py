"""What ``seurat_v3`` needs beyond sums: a model of the variance, and a second pass over the counts, clipped by it.

Source: Stuart et al., Cell 2019, as in ``scanpy.pp.highly_variable_genes(flavor="seurat_v3")``.
A clipped count is its clip value, so a batch's sums stay whole numbers:
the sums of all counts, less those of the clipped ones, and the number of these.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from os import PathLike

import numba
import numpy as np

from cellmill.contracts import genes as contract
from cellmill.contracts.counts import CountsPart
from cellmill.errors import CellmillError
from cellmill.genes.statistics import Sums, add_up_batches, batches_of, whole
from cellmill.progress import progress

SPAN = 0.3
FEWEST_GENES = 10
"""A curve of degree 2 goes through three points: so many must be in the span."""
LOG = logging.getLogger("cellmill")


@dataclass(frozen=True)
class ClipModel:
    """Per batch by name, sorted: float64 ``mean``, ``std`` and ``clip`` (batches, genes); ``left_out`` have no fit."""

    batches: list[str]
    mean: np.ndarray
    std: np.ndarray
    clip: np.ndarray
    left_out: list[str]


def expected_std(mean: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """The standard deviation (genes,) that a gene of this mean should have; 1 for a gene that does not vary.

    A local regression of degree 2 of log10(variance) on log10(mean), over 0.3 of the varying genes around each.

    Raises:
        ValueError: too few genes vary, or in too few ways, for a fit.
    """
    from skmisc.loess import loess

    varies = variance > 0
    fitted = np.zeros(len(mean))
    if varies.sum() < FEWEST_GENES:  # loess ends the whole process where there are less than 4
        raise ValueError(f"{varies.sum()} genes vary, {FEWEST_GENES} are needed")
    model = loess(np.log10(mean[varies]), np.log10(variance[varies]), span=SPAN, degree=2)
    model.fit()
    fitted[varies] = model.outputs.fitted_values
    if not np.isfinite(fitted).all():
        raise ValueError("the fit is not finite")
    return np.sqrt(10**fitted)


def fit_clip(parts: Sequence[str | PathLike[str]], *, out: str | PathLike[str]) -> None:
    """Per batch, what counts of each gene are clipped at: the mean plus sqrt(cells) expected standard deviations.

    A batch that no curve fits (of one cell, or of few varying genes) is left out, and says so in the log.

    Raises:
        CellmillError: no batch is left.
    """
    batches = add_up_batches(sorted(parts, key=str))
    fitted: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}
    reasons: dict[str, str] = {}
    for name, sums in batches.items():
        mean, variance = sums.mean_and_variance
        try:
            std = expected_std(mean, variance)
        except ValueError as error:
            text = error.args[0].decode() if isinstance(error.args[0], bytes) else str(error)
            reasons[name] = text.strip()
            LOG.warning("batch '%s' (%d training cells) is left out: %s.", name, sums.cells, reasons[name])
        else:
            fitted[name] = (mean, std, std * np.sqrt(sums.cells) + mean)
    if not fitted:
        said = "; ".join(f"'{n}': {r}" for n, r in list(reasons.items())[:3]) or "there is no training cell"
        raise CellmillError(
            out, f"no curve of variance over mean fits the counts ({said}).", "Take another flavor in variable_genes."
        )
    mean, std, clip = (np.stack([values[i] for values in fitted.values()]) for i in range(3))
    contract.write_clip(out, ClipModel(list(fitted), mean, std, clip, list(reasons)))


@numba.njit(cache=True, nogil=True)
def _add_clipped(
    data: np.ndarray,
    indices: np.ndarray,
    indptr: np.ndarray,
    batch: np.ndarray,
    clip: np.ndarray,
    cells: np.ndarray,
    counts: np.ndarray,
    squares: np.ndarray,
) -> None:
    """Add the counts of a CSR block that lie above their clip value; ``counts`` and ``squares`` are in two halves."""
    for i in range(len(indptr) - 1):
        b = batch[i]
        for k in range(indptr[i], indptr[i + 1]):
            g = indices[k]
            if data[k] > clip[b, g]:
                cells[b, g] += 1
                c = np.int64(data[k])
                counts[b, 0, g] += c >> 32
                counts[b, 1, g] += c & 0xFFFFFFFF
                square = np.uint64(data[k]) * np.uint64(data[k])
                squares[b, 0, g] += np.int64(square >> np.uint64(32))
                squares[b, 1, g] += np.int64(square & np.uint64(0xFFFFFFFF))


def measure_clipped(
    processed: str | PathLike[str], *, model: str | PathLike[str], batch: str | None, out: str | PathLike[str]
) -> None:
    """Of the training cells of one part: how many counts are clipped, and the sums of these counts and squares."""
    fitted = contract.read_clip(model)
    with CountsPart(processed) as part:
        names, codes = batches_of(part, batch)
        here = [name for name in fitted.batches if name in set(names)]
        places = np.array([here.index(n) if n in here else -1 for n in names] + [-1])
        codes = places[codes]  # the last place is that of the cells that do not train
        clip = fitted.clip[[fitted.batches.index(name) for name in here]].reshape(len(here), part.n_genes)
        cells = np.zeros((len(here), part.n_genes), np.int64)
        counts, squares = (np.zeros((len(here), 2, part.n_genes), np.int64) for _ in range(2))
        with progress(part.n_cells, "cells", "clipped counts") as counter:
            for start, stop, block in part.blocks():
                mine = codes[start:stop] >= 0
                rows = block[mine]
                _add_clipped(
                    rows.data, rows.indices, rows.indptr, codes[start:stop][mine], clip, cells, counts, squares
                )
                counter.update(stop - start)
    arrays = {"batches": np.array(here, str), "cells": cells, "counts": counts, "squares": squares}
    contract.write_clipped(out, arrays)


def normalized_variances(
    batches: dict[str, Sums], *, model: ClipModel, clipped: Iterable[str | PathLike[str]]
) -> np.ndarray:
    """Variance (batches, genes) of the clipped counts over that expected; the batches are those of the model.

    The counts below their clip value are summed as whole numbers, those above stand sqrt(cells) expected standard
    deviations from the mean.
    """
    total: dict[str, list[np.ndarray]] = {}
    for path in clipped:
        arrays = contract.read_clipped(path)
        for i, name in enumerate(arrays["batches"]):
            mine = [arrays[a][i] for a in ("cells", "counts", "squares")]
            total[name] = [a + b for a, b in zip(total[name], mine, strict=True)] if name in total else mine
    found = np.empty_like(model.std)
    for i, name in enumerate(model.batches):
        n, sums, std = batches[name].cells, batches[name], model.std[i]
        cells, counts, squares = total[name]
        value, k = whole(sums.values), cells.astype(object)
        below, squares_below = value - whole(counts), whole(sums.squares) - whole(squares)
        deviations = n * n * squares_below - 2 * n * value * below + (n - k) * value * value
        spread = (deviations / (n * n)).astype(np.float64)
        found[i] = (spread / std**2 + cells * float(n)) / (n - 1)
    return found
