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
from cellmill.quality.labels import refuse_unknown_values
from cellmill.quality.names import HARD_BOUNDS

log = logging.getLogger("cellmill")

KEPT = "kept"
ONLY_UPPER = ("pct_counts_mt",)
"""Metrics of which only too much is bad."""


def set_thresholds(
    parts: Sequence[str | PathLike[str]],
    *,
    labels: Sequence[str | PathLike[str]],
    spec: Quality,
    out: str | PathLike[str],
) -> None:
    """Median ± n MADs of each metric, per batch, over the cells that pass the filters and the fixed bounds.

    The medians are exact, over all parts at once; the result does not depend on parts or their order.
    Also finds the type that holds every count, and proves that no cell id stands in two parts.

    Raises:
        CellmillError: a cell id in two parts, a filter's value that no cell has, or no cell that passes.
    """
    wanted = ["cell_id", *measured_columns(spec)]
    tables, filtered, largest = [], [], 0
    said = [contract.read_labels(path) for path in labels]
    refuse_unknown_values([facts["filters"] for _, facts in said], spec, where=out)
    for path, (part_labels, _) in zip(parts, said, strict=True):
        table, facts = contract.read_quality(path, columns=wanted)
        tables.append(table)
        filtered.append(filter_reasons(part_labels))
        largest = max(largest, facts["max_count"])
    table = pa.concat_tables(tables).combine_chunks()
    _refuse_shared_ids(table["cell_id"], parts, [t.num_rows for t in tables])
    eligible = fixed_outcome(table, spec, np.concatenate(filtered)) == KEPT
    if not eligible.any():
        _refuse_to_drop_all(out, table.num_rows, spec)
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
            "fixed": {name: getattr(spec, name) for name in HARD_BOUNDS},
            "dataset": everything,
            "batches": batches,
        },
    )


def measured_columns(spec: Quality) -> list[str]:
    """The columns of a quality file that decide about a cell."""
    return list(dict.fromkeys(["batch", *HARD_BOUNDS.values(), *spec.mads]))


def filter_reasons(labels: pa.Table) -> np.ndarray:
    """The filter that each cell fails (cells,), ``kept`` where it passes all."""
    reasons: np.ndarray = pc.fill_null(labels["filter"], KEPT).to_numpy(zero_copy_only=False)
    return reasons


def _refuse_to_drop_all(where: object, cells: int, spec: Quality) -> None:
    fixed = {name: getattr(spec, name) for name in HARD_BOUNDS}
    bounds = [f"{name} {value:.10g}" for name, value in fixed.items() if value is not None]
    filters = [f"the filter on '{rule.column}'" for rule in spec.filters]
    raise CellmillError(
        where,
        f"none of {cells} cells passes {', '.join([*filters, *bounds])}.",
        "Lower the bounds under 'quality:' in the dataset's file.",
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


def fixed_outcome(table: pa.Table, spec: Quality, filtered: np.ndarray) -> np.ndarray:
    """Outcome (cells,) by filters and fixed bounds alone: ``kept`` or the first that a cell fails."""
    outcome = filtered.astype(object)
    for name, metric in HARD_BOUNDS.items():
        bound = getattr(spec, name)
        if bound is not None:
            values = table[metric].to_numpy()
            _drop(outcome, values < bound if name.startswith("min_") else values > bound, name)
    return outcome


def cell_outcomes(table: pa.Table, *, filtered: np.ndarray, spec: Quality, thresholds: dict[str, Any]) -> np.ndarray:
    """Outcome (cells,) of quality rows: ``kept``, or the first reason why not, such as ``high pct_counts_mt``."""
    outcome = fixed_outcome(table, spec, filtered)
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
