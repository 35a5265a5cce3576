"""Gene statistics over the training cells: sums per part as whole numbers, so that any grouping adds up to the same.

Values are counts per 10,000 of the cell.
Each value is rounded to a fixed grid (2^-32, squares to 2^-28) before it is added:
integer sums do not depend on order, blocks, parts or cores, where floating-point sums would.
"""

from __future__ import annotations

from collections.abc import Iterable
from os import PathLike

import numba
import numpy as np
import pandas as pd

from cellmill.contracts import genes as contract
from cellmill.contracts.counts import CountsPart
from cellmill.progress import progress

TARGET_SUM = 10_000.0
VALUE_BITS = 32
SQUARE_BITS = 28
_LOW = (1 << 32) - 1
_BIN_SHIFT = 16
"""A median's bin is the upper half of a float32: 128 bins per power of two, so to within 0.4 %."""


@numba.njit(cache=True, nogil=True)
def _add_block(
    data: np.ndarray,
    indices: np.ndarray,
    indptr: np.ndarray,
    n_cells: np.ndarray,
    counts: np.ndarray,
    values: np.ndarray,
    squares: np.ndarray,
    bins: np.ndarray,
) -> None:
    """Add the rows of a CSR block to the sums; ``values`` and ``squares`` are (2, genes): upper and lower 32 bits."""
    for i in range(len(indptr) - 1):
        total = np.int64(0)
        for k in range(indptr[i], indptr[i + 1]):
            total += np.int64(data[k])
        for k in range(indptr[i], indptr[i + 1]):
            g = indices[k]
            x = data[k] * (10_000.0 / total)
            n_cells[g] += 1
            counts[g] += np.int64(data[k])
            q = np.int64(np.rint(x * 4294967296.0))
            values[0, g] += q >> 32
            values[1, g] += q & 0xFFFFFFFF
            q = np.int64(np.rint(x * x * 268435456.0))
            squares[0, g] += q >> 32
            squares[1, g] += q & 0xFFFFFFFF
            bins[k] = (np.int64(g) << 32) | np.int64(np.float32(x).view(np.uint32) >> 16)


def measure_genes(processed: str | PathLike[str], *, out: str | PathLike[str]) -> None:
    """Sums over the training cells of one part: cells, counts, values, squares, and a histogram for the medians."""
    with CountsPart(processed) as part:
        n = part.n_genes
        sums = {"n_cells": np.zeros(n, np.int64), "counts": np.zeros(n, np.int64)}
        sums |= {"values": np.zeros((2, n), np.int64), "squares": np.zeros((2, n), np.int64)}
        training = (part.obs["split"] == "train").to_numpy()
        keys, numbers = np.zeros(0, np.int64), np.zeros(0, np.int64)
        with progress(part.n_cells, "cells", "gene statistics") as counter:
            for start, stop, counts in part.blocks():
                rows = counts[training[start:stop]]
                bins = np.empty(rows.nnz, np.int64)
                _add_block(
                    rows.data,
                    rows.indices,
                    rows.indptr,
                    sums["n_cells"],
                    sums["counts"],
                    sums["values"],
                    sums["squares"],
                    bins,
                )
                new_keys, new_numbers = np.unique(bins, return_counts=True)
                keys, numbers = _merge(np.concatenate([keys, new_keys]), np.concatenate([numbers, new_numbers]))
                counter.update(stop - start)
    n_train = np.array([training.sum()], np.int64)
    contract.write_sums(out, {**sums, "n_train": n_train, "bins": keys, "bin_cells": numbers})


def _merge(keys: np.ndarray, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    unique, inverse = np.unique(keys, return_inverse=True)
    merged = np.zeros(len(unique), np.int64)
    np.add.at(merged, inverse, numbers)
    return unique, merged


def add_up(paths: Iterable[str | PathLike[str]]) -> tuple[int, pd.DataFrame]:
    """Training cells, and per gene ``n_cells``, ``counts``, ``mean``, ``variance`` (ddof 1) and ``nonzero_median``."""
    total: dict[str, np.ndarray] = {}
    keys, numbers = np.zeros(0, np.int64), np.zeros(0, np.int64)
    for path in paths:
        arrays = contract.read_sums(path)
        keys, numbers = _merge(
            np.concatenate([keys, arrays.pop("bins")]), np.concatenate([numbers, arrays.pop("bin_cells")])
        )
        total = {name: total[name] + a if name in total else a for name, a in arrays.items()}
    n = int(total["n_train"][0])
    value = _whole(total["values"], VALUE_BITS)
    square = _whole(total["squares"], SQUARE_BITS)
    mean = value / max(n, 1)
    # What lies within the rounding of the grids is no variance: cells that are all alike, or only one.
    rounding = total["n_cells"] * (2.0**-SQUARE_BITS + mean * 2.0**-VALUE_BITS) + square * 2.0**-50
    deviations = square - value * mean
    variance = np.where(deviations > rounding, deviations, 0.0) / max(n - 1, 1)
    medians = _medians(keys, numbers, len(mean))
    return n, pd.DataFrame(
        {
            "n_cells": total["n_cells"],
            "counts": total["counts"],
            "mean": mean,
            "variance": variance,
            "nonzero_median": medians,
        }
    )


def _whole(pair: np.ndarray, bits: int) -> np.ndarray:
    """Two limbs back to float64."""
    exact = [(int(high) << 32) + int(low) for high, low in zip(pair[0], pair[1], strict=True)]
    return np.array([float(v) for v in exact], np.float64) * 2.0**-bits


def _medians(keys: np.ndarray, numbers: np.ndarray, n_genes: int) -> np.ndarray:
    """The lower median of each gene's non-zero values, as the middle of its bin; NaN where a gene has none."""
    out = np.full(n_genes, np.nan)
    if not len(keys):
        return out
    genes = keys >> 32
    starts = np.flatnonzero(np.r_[True, genes[1:] != genes[:-1]])
    cumulative = np.cumsum(numbers)
    before = np.r_[0, cumulative][starts]
    ends = np.r_[starts[1:], len(keys)] - 1
    half = before + (cumulative[ends] - before + 1) // 2
    at = np.searchsorted(cumulative, half, side="left")
    pattern = ((keys[at] & _LOW) << _BIN_SHIFT).astype(np.uint32) | np.uint32(1 << (_BIN_SHIFT - 1))
    out[genes[starts]] = pattern.view(np.float32).astype(np.float64)
    return out
