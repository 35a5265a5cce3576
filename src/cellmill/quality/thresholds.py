"""Thresholds over all parts, per batch, and the outcome of every cell."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from os import PathLike
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cellmill.config import Quality
from cellmill.contracts import quality as contract
from cellmill.errors import CellmillError
from cellmill.keys import hash_strings

log = logging.getLogger("cellmill")

KEPT = "kept"
ONLY_UPPER = ("pct_counts_mt",)
"""Metrics of which only too much is bad."""


def set_thresholds(parts: Sequence[str | PathLike[str]], *, spec: Quality, out: str | PathLike[str]) -> None:
    """Median ± n MADs of each metric, per batch, over the cells that pass the fixed bounds.

    The medians are exact, over all parts at once; the result does not depend on parts or their order.
    Also finds the type that holds every count, and proves that no cell id stands in two parts.

    Raises:
        CellmillError: a cell id in two parts, or no cell that passes the fixed bounds.
    """
    columns = ["cell_id", "batch", "total_counts", "n_genes_by_counts", "pct_counts_mt"]
    wanted = list(dict.fromkeys([*columns, *spec.mads]))
    tables, largest = [], 0
    for path in parts:
        table, facts = contract.read_quality(path, columns=wanted)
        tables.append(table)
        largest = max(largest, facts["max_count"])
    table = pa.concat_tables(tables).combine_chunks()
    _refuse_shared_ids(table["cell_id"], parts, [t.num_rows for t in tables])
    eligible = fixed_outcome(table, spec) == KEPT
    if not eligible.any():
        raise CellmillError(
            out,
            f"none of {table.num_rows} cells passes min_counts {spec.min_counts}, min_genes {spec.min_genes}"
            + (f", max_pct_mt {spec.max_pct_mt:g}" if spec.max_pct_mt is not None else "")
            + ".",
            "Lower the bounds under 'quality:' in the dataset's file.",
        )
    batch_values = table["batch"].combine_chunks().dictionary_encode()
    names, codes = batch_values.dictionary.to_pylist(), batch_values.indices.to_numpy()
    metrics = {m: table[m].to_numpy() for m in spec.mads}
    everything = {m: _bounds(v[eligible], m, spec.mads[m]) for m, v in metrics.items()}
    batches = {}
    for code, name in sorted(enumerate(names), key=lambda pair: pair[1]):
        mine = eligible & (codes == code)
        own = int(mine.sum()) >= spec.min_batch_cells
        bounds = {m: _bounds(v[mine], m, spec.mads[m]) for m, v in metrics.items()} if own else everything
        batches[name] = {
            "cells": int((codes == code).sum()),
            "thresholds_of": "batch" if own else "dataset",
            "bounds": bounds,
        }
    contract.write_thresholds(
        out,
        {
            "cells": table.num_rows,
            "max_count": largest,
            "counts_dtype": smallest_unsigned(largest).name,
            "fixed": {"min_counts": spec.min_counts, "min_genes": spec.min_genes, "max_pct_mt": spec.max_pct_mt},
            "dataset": everything,
            "batches": batches,
        },
    )


def smallest_unsigned(largest: int) -> np.dtype:
    """The smallest unsigned integer type that holds ``largest``."""
    return next(np.dtype(t) for t in (np.uint8, np.uint16, np.uint32, np.uint64) if largest <= np.iinfo(t).max)


def _refuse_shared_ids(ids: pa.ChunkedArray, parts: Sequence[str | PathLike[str]], lengths: list[int]) -> None:
    """Equal ids have equal keys; only where keys meet are the ids themselves compared."""
    keys = hash_strings(ids.combine_chunks(), seed=0, purpose="unique")
    order = np.argsort(keys, kind="stable")
    meet = np.flatnonzero(keys[order][1:] == keys[order][:-1])
    edges = np.cumsum(lengths)
    for at in meet:
        one, two = int(order[at]), int(order[at + 1])
        if ids[one].as_py() == ids[two].as_py():
            files = [str(parts[int(np.searchsorted(edges, row, side="right"))]) for row in (one, two)]
            raise CellmillError(
                files[1],
                f"cell id '{ids[one]}' stands in {files[0]}, too.",
                "Set 'cell_ids: part_barcode' if these are different cells; leave one file out if they are the same.",
            )


def _bounds(values: np.ndarray, metric: str, n_mads: float | None) -> dict[str, Any]:
    values = values[~np.isnan(values)]
    if n_mads is None or len(values) == 0:
        return {"applied": False, "why": "switched off" if n_mads is None else "no cell has this metric"}
    median = float(np.median(values))
    mad = float(np.median(np.abs(values - median)))
    if mad == 0:
        return {"applied": False, "why": "the median absolute deviation is 0", "median": median, "mad": mad}
    lower = None if metric in ONLY_UPPER else median - n_mads * mad
    return {"applied": True, "median": median, "mad": mad, "lower": lower, "upper": median + n_mads * mad}


def fixed_outcome(table: pa.Table, spec: Quality) -> np.ndarray:
    """Outcome (cells,) by the fixed bounds alone: ``kept`` or the first bound that fails."""
    outcome = np.full(table.num_rows, KEPT, object)
    _drop(outcome, table["total_counts"].to_numpy() < spec.min_counts, "min_counts")
    _drop(outcome, table["n_genes_by_counts"].to_numpy() < spec.min_genes, "min_genes")
    if spec.max_pct_mt is not None:
        _drop(outcome, table["pct_counts_mt"].to_numpy() > spec.max_pct_mt, "max_pct_mt")
    return outcome


def cell_outcomes(table: pa.Table, *, spec: Quality, thresholds: dict[str, Any]) -> np.ndarray:
    """Outcome (cells,) of quality rows: ``kept``, or the first reason why not, such as ``high pct_counts_mt``."""
    outcome = fixed_outcome(table, spec)
    batches = table["batch"].to_numpy(zero_copy_only=False)
    for name in pc.unique(table["batch"]).to_pylist():
        mine = batches == name
        bounds = thresholds["batches"][name]["bounds"]
        for metric, bound in ((metric, bounds[metric]) for metric in spec.mads):
            if not bound["applied"]:
                continue
            values = table[metric].to_numpy()
            if bound["lower"] is not None:
                _drop(outcome, mine & (values < bound["lower"]), f"low {metric}")
            _drop(outcome, mine & (values > bound["upper"]), f"high {metric}")
    return outcome


def _drop(outcome: np.ndarray, fails: np.ndarray, reason: str) -> None:
    outcome[fails & (outcome == KEPT)] = reason
