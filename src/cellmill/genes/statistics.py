"""Gene statistics over the training cells: sums per part as whole numbers, so that any grouping adds up to the same.

Values are counts per 10,000 of the cell; variable genes may be judged by log1p of these, or by the counts themselves.
Each value is rounded to a fixed grid (``GRID_BITS``) before it is added:
integer sums do not depend on order, blocks, parts or cores, where floating-point sums would.
Means and variances are formed from the whole numbers, so that nothing cancels, whatever the means of the parts are.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from os import PathLike

import numba
import numpy as np
import pandas as pd

from cellmill.contracts import genes as contract
from cellmill.contracts.counts import CountsPart
from cellmill.genes.histogram import Histogram
from cellmill.progress import progress
from cellmill.quality.metrics import obs_strings

TARGET_SUM = 10_000.0
GRID_BITS = {"normalized": (32, 28), "log1p": (32, 32), "counts": (0, 0)}
"""Of each scale: values are rounded to multiples of 2^-first, squares to 2^-second."""
_SCALES = list(GRID_BITS)


@numba.njit(cache=True, nogil=True, inline="always")
def _add(sums: np.ndarray, first: int, value: np.int64, square: np.int64) -> None:
    sums[first] += value >> 32
    sums[first + 1] += value & 0xFFFFFFFF
    sums[first + 2] += square >> 32
    sums[first + 3] += square & 0xFFFFFFFF


@numba.njit(cache=True, nogil=True)
def _factors(data: np.ndarray, indptr: np.ndarray, batch: np.ndarray) -> np.ndarray:
    """What makes counts of a row counts per 10,000 (n,); 0 of rows that are not of any batch (-1)."""
    factors = np.zeros(len(batch))
    for i in range(len(batch)):
        total = np.int64(0)
        for k in range(indptr[i], indptr[i + 1]):
            total += np.int64(data[k])
        if batch[i] >= 0 and total > 0:
            factors[i] = 10_000.0 / total
    return factors


@numba.njit(cache=True, nogil=True)
def _add_block(
    data: np.ndarray,
    indices: np.ndarray,
    indptr: np.ndarray,
    factors: np.ndarray,
    batch: np.ndarray,
    scale: int,
    sums: np.ndarray,
    own: np.ndarray,
) -> None:
    """Add the rows of a CSR block whose factor is above 0.

    ``sums`` (batches, genes, 8) int64, a cache line per gene: cells, counts, and of counts per 10,000 and their squares
    the upper and lower 32 bits. ``own`` (batches, genes, 4): the same of another scale, where there is one.
    """
    for i in range(len(factors)):
        if factors[i] <= 0:
            continue
        b = batch[i]
        for k in range(indptr[i], indptr[i + 1]):
            g, x = indices[k], data[k] * factors[i]
            of_gene = sums[b, g]
            of_gene[0] += 1
            of_gene[1] += np.int64(data[k])
            _add(of_gene, 2, np.int64(np.rint(x * 4294967296.0)), np.int64(np.rint(x * x * 268435456.0)))
            if scale == 1:
                y = math.log1p(x)
                _add(own[b, g], 0, np.int64(np.rint(y * 4294967296.0)), np.int64(np.rint(y * y * 4294967296.0)))
            elif scale == 2:
                own[b, g, 1] += np.int64(data[k])
                square = np.uint64(data[k]) * np.uint64(data[k])  # counts are 32 bits at most
                own[b, g, 2] += np.int64(square >> np.uint64(32))
                own[b, g, 3] += np.int64(square & np.uint64(0xFFFFFFFF))


def batches_of(part: CountsPart, column: str | None) -> tuple[np.ndarray, np.ndarray]:
    """Names of the batches of the training cells, sorted, and int64 (cells,): each cell's, -1 where it does not train.

    Without a column all cells are of the batch ``(all)``; cells without a value are of the batch ``(missing)``.
    """
    training = (part.column("split") == "train").to_numpy()
    found = np.full(part.n_cells, -1, np.int64)
    if column is None:
        found[training] = 0
        return np.array(["(all)"] * bool(training.any()), str), found
    values = obs_strings(part.column(column).to_frame(), column, part.path)
    names, found[training] = np.unique(values[training].astype(str), return_inverse=True)
    return names, found


def measure_genes(
    processed: str | PathLike[str], *, scale: str, batch: str | None, out: str | PathLike[str], threads: int = 1
) -> None:
    """Sums over the training cells of one part: cells, counts, values, squares, and a histogram for the medians.

    Args:
        scale: ``normalized``, ``log1p`` or ``counts``: what the sums per batch are of.
        batch: obs column of the batch; None: one batch.

    Raises:
        CellmillError: no such column.
    """
    with CountsPart(processed, threads=threads) as part:
        names, codes = batches_of(part, batch)
        n, n_batches = part.n_genes, len(names)
        sums = np.zeros((n_batches, n, 8), np.int64)
        own = np.zeros((n_batches, n, 4) if scale != "normalized" else (1, 1, 4), np.int64)
        histogram = Histogram(n)
        with progress(part.n_cells, "cells", "gene statistics") as counter, ThreadPoolExecutor(1) as beside:
            counted: Future[None] | None = None
            for start, stop, block in part.blocks():
                batches = codes[start:stop]
                factors = _factors(block.data, block.indptr, batches)
                if counted is not None:
                    counted.result()
                counted = beside.submit(histogram.add, block, factors)
                arrays = (block.data, block.indices, block.indptr, factors)
                _add_block(*arrays, batches, _SCALES.index(scale), sums, own)
                if threads == 1:
                    counted.result()
                counter.update(stop - start)
            if counted is not None:
                counted.result()
    seen, counts, values, squares = sums[..., 0], sums[..., 1], _pairs(sums[..., 2:4]), _pairs(sums[..., 4:6])
    overall = {"n_cells": seen.sum(axis=0), "counts": counts.sum(axis=0), "values": values.sum(axis=0)}
    overall |= {"squares": squares.sum(axis=0), **histogram.bins()}
    if scale != "normalized":
        values, squares = _pairs(own[..., :2]), _pairs(own[..., 2:])
    per_batch = {"cells": np.bincount(codes[codes >= 0], minlength=n_batches), "seen": seen}
    per_batch |= {"values": values, "squares": squares}
    contract.write_sums(
        out,
        {
            "n_train": np.array([(codes >= 0).sum()], np.int64),
            **overall,
            "scale": np.array([scale]),
            "batches": names,
            **{f"batch_{name}": array for name, array in per_batch.items()},
        },
    )


def _pairs(of_genes: np.ndarray) -> np.ndarray:
    """Upper and lower halves (batches, genes, 2) as (batches, 2, genes)."""
    return np.ascontiguousarray(of_genes.transpose(0, 2, 1))


@dataclass(frozen=True)
class Sums:
    """Sums of training cells: ``cells`` of them; int64 ``seen`` (genes,), and ``values`` and ``squares`` (2, genes)."""

    cells: int
    seen: np.ndarray
    values: np.ndarray
    squares: np.ndarray
    scale: str

    def __add__(self, other: Sums) -> Sums:
        return replace(
            self,
            cells=self.cells + other.cells,
            seen=self.seen + other.seen,
            values=self.values + other.values,
            squares=self.squares + other.squares,
        )

    @property
    def mean_and_variance(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and variance (ddof 1; 0 of a single cell) of every gene (genes,)."""
        value_bits, square_bits = GRID_BITS[self.scale]
        value, square = whole(self.values), whole(self.squares)
        n = max(self.cells, 1)
        mean = (value / (n << value_bits)).astype(np.float64)
        deviations = n * square * (1 << (2 * value_bits - square_bits)) - value * value
        spread = (deviations / (n << 2 * value_bits)).astype(np.float64)
        # What lies within the rounding of the grids is no variance: cells that are all alike, or only one.
        squared = (square / (1 << square_bits)).astype(np.float64)
        rounding = self.seen * (2.0**-square_bits + mean * 2.0**-value_bits) + squared * 2.0**-50
        exact = value_bits == 0
        return mean, np.where(spread > (0 if exact else rounding), spread, 0.0) / max(n - 1, 1)


@dataclass(frozen=True)
class GeneSums:
    """Sums over all parts: the number of training cells, statistics of every gene, and sums per batch by name."""

    n_train: int
    statistics: pd.DataFrame
    batches: dict[str, Sums]


def add_up(paths: Iterable[str | PathLike[str]]) -> GeneSums:
    """The sums of all parts.

    The statistics are ``n_cells``, ``counts``, ``mean``, ``variance`` (ddof 1) and ``nonzero_median`` per gene.
    """
    total: dict[str, np.ndarray] = {}
    batches: dict[str, Sums] = {}
    histogram: Histogram | None = None
    for path in paths:
        arrays = contract.read_sums(path)
        histogram = histogram or Histogram(len(arrays["n_cells"]))
        histogram.add_bins(arrays["bin_starts"], arrays["bins"], arrays["bin_cells"])
        for name, sums in _batches(arrays):
            batches[name] = batches[name] + sums if name in batches else sums
        for name in ("n_train", "n_cells", "counts", "values", "squares"):
            total[name] = total[name] + arrays[name] if name in total else arrays[name]
    assert histogram is not None, "a dataset has a part"
    n = int(total["n_train"][0])
    overall = Sums(n, total["n_cells"], total["values"], total["squares"], "normalized")
    mean, variance = overall.mean_and_variance
    statistics = pd.DataFrame(
        {
            "n_cells": total["n_cells"],
            "counts": total["counts"],
            "mean": mean,
            "variance": variance,
            "nonzero_median": histogram.medians(),
        }
    )
    return GeneSums(n, statistics, dict(sorted(batches.items())))


def add_up_batches(paths: Iterable[str | PathLike[str]]) -> dict[str, Sums]:
    """The sums per batch alone, by sorted name."""
    batches: dict[str, Sums] = {}
    for path in paths:
        for name, sums in _batches(contract.read_sums(path)):
            batches[name] = batches[name] + sums if name in batches else sums
    return dict(sorted(batches.items()))


def _batches(arrays: dict[str, np.ndarray]) -> Iterator[tuple[str, Sums]]:
    scale = str(arrays["scale"][0])
    for i, name in enumerate(arrays["batches"]):
        seen, values, squares = (arrays[f"batch_{a}"][i] for a in ("seen", "values", "squares"))
        yield str(name), Sums(int(arrays["batch_cells"][i]), seen, values, squares, scale)


def whole(pair: np.ndarray) -> np.ndarray:
    """Upper and lower halves (2, genes) as Python's whole numbers (genes,), which have no largest."""
    high, low = pair.astype(object)
    return high * (1 << 32) + low
