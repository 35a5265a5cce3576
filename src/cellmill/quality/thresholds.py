"""Thresholds over all parts, per batch, and the outcome of every cell."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cellmill.contracts import quality as contract
from cellmill.errors import CellmillError
from cellmill.files import scratch
from cellmill.keys import hash_strings
from cellmill.quality.names import METRICS, bounded_metric
from cellmill.quality.select import Spill, medians, sortable, unsortable
from cellmill.quality.spec import Quality

log = logging.getLogger("cellmill")

File = str | PathLike[str]
KEPT = "kept"
IDS_AT_ONCE = 1 << 21
MEETINGS_AT_ONCE = 100_000
ONLY_UPPER = ("pct_counts_mt",)
"""Metrics of which only too much is bad, as it is of the gene sets of the configuration."""


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

    Memory: the rows of one part, two million values (:mod:`cellmill.quality.select`) and a row per batch, whatever the
    number of cells. The values wait on the scratch disk: 24 bytes per cell, one metric after another.
    One pass over the parts for the ids, and one for each metric.

    Raises:
        CellmillError: a cell id in two parts, a filter's value that no cell has, or no cell that passes.
    """
    from cellmill.quality.labels import refuse_unknown_values

    said = [contract.read_labels(path, columns=[])[1] for path in labels]
    if not any("subset" in facts for facts in said):  # draw_subset has looked, at all cells that were found
        refuse_unknown_values([facts["filters"] for facts in said], spec.filters, where=out)
    with scratch(out) as folder:
        cells = sum(contract.count_cells(path) for path in parts)
        refuse_shared_ids(parts, folder, cells=cells, keys=_measured_keys, ids=_measured_ids)
        batches, largest = _batches(parts, labels, spec)
        if not any(eligible for _, eligible in batches.values()):
            _refuse_to_drop_all(out, sum(cells for cells, _ in batches.values()), spec)
        names = sorted(batches)
        own = np.array([batches[name][1] >= spec.min_batch_cells for name in names])
        found = {m: _metric_bounds(parts, labels, m, names, own, spec, folder) for m in spec.mads}
    everything = {m: bounds[-1] for m, bounds in found.items()}
    contract.write_thresholds(
        out,
        {
            "cells": sum(cells for cells, _ in batches.values()),
            "max_count": largest,
            "counts_dtype": smallest_unsigned(largest).name,
            "fixed": spec.fixed_bounds,
            "dataset": everything,
            "batches": {
                name: {
                    "cells": batches[name][0],
                    "thresholds_of": "batch" if mine else "dataset",
                    "bounds": {m: bounds[code] for m, bounds in found.items()} if mine else everything,
                }
                for code, (name, mine) in enumerate(zip(names, own.tolist(), strict=True))
            },
        },
    )


def _batches(
    parts: Sequence[str | PathLike[str]], labels: Sequence[str | PathLike[str]], spec: Quality
) -> tuple[dict[str, tuple[int, int]], int]:
    """Raw cells and eligible cells of each batch, and the largest count."""
    raw, passed, largest = Counter[str](), Counter[str](), 0
    for path, labels_path in zip(parts, labels, strict=True):
        table, facts = contract.read_quality(path, columns=["batch", *_bounded(spec)])
        largest = max(largest, facts["max_count"])
        eligible = _eligible(table, labels_path, spec)
        for counter, batch in ((raw, table["batch"]), (passed, table["batch"].filter(eligible))):
            counter.update({pair["values"]: pair["counts"] for pair in pc.value_counts(batch).to_pylist()})
    return {name: (cells, passed[name]) for name, cells in raw.items()}, largest


def _eligible(table: pa.Table, labels: str | PathLike[str], spec: Quality) -> np.ndarray:
    """Which cells (cells,) of a part pass the filters and the fixed bounds."""
    filtered = filter_reasons(contract.read_labels(labels, columns=["filter"])[0])
    passes: np.ndarray = fixed_outcome(table, spec, filtered) == KEPT
    return passes


def _metric_bounds(
    parts: Sequence[str | PathLike[str]],
    labels: Sequence[str | PathLike[str]],
    metric: str,
    names: list[str],
    own: np.ndarray,
    spec: Quality,
    folder: Path,
) -> list[dict[str, Any]]:
    """The bounds of one metric for each batch that has its own (for others they say nothing), and for all cells."""
    n_mads = spec.mads[metric]
    if n_mads is None:
        return [{"applied": False, "why": "switched off"}] * (len(names) + 1)
    values, all_values = Spill(folder, "values", np.uint64), Spill(folder, "all", np.uint64)
    columns = list(dict.fromkeys(["batch", *_bounded(spec), metric]))
    for path, labels_path in zip(parts, labels, strict=True):
        table, _ = contract.read_quality(path, columns=columns)
        mine = table[metric].to_numpy().astype(np.float64)
        there = _eligible(table, labels_path, spec) & ~np.isnan(mine)
        codes = pc.index_in(table["batch"], value_set=pa.array(names, pa.string())).to_numpy()
        keys = sortable(mine[there])
        all_values.append(np.zeros(len(keys), np.int32), keys)
        by_batch = own[codes[there]]
        values.append(codes[there][by_batch], keys[by_batch])
    found = [*_center_and_spread(values, len(names), folder), *_center_and_spread(all_values, 1, folder)]
    return [_bounds(n, median, mad, metric, n_mads) for n, median, mad in found]


def _center_and_spread(values: Spill, groups: int, folder: Path) -> list[tuple[int, float, float]]:
    """Number of values, median, and median absolute deviation from it, of each group; ``values`` is used up."""
    n, center = medians(values, groups)
    deviations = Spill(folder, "deviations", np.uint64)
    for codes, keys in values.chunks():
        deviations.append(codes, sortable(np.abs(unsortable(keys) - center[codes])))
    values.close()
    _, spread = medians(deviations, groups)
    deviations.close()
    return list(zip(n.tolist(), center.tolist(), spread.tolist(), strict=True))


def measured_columns(spec: Quality) -> list[str]:
    """The columns of a quality file that decide about a cell."""
    return ["batch", *spec.metrics]


def _bounded(spec: Quality) -> list[str]:
    """The metrics that have a fixed bound, each once."""
    return list(dict.fromkeys(map(bounded_metric, spec.fixed_bounds)))


def filter_reasons(labels: pa.Table) -> np.ndarray:
    """The filter that each cell fails (cells,), ``kept`` where it passes all."""
    reasons: np.ndarray = pc.fill_null(labels["filter"], KEPT).to_numpy(zero_copy_only=False)
    return reasons


def _refuse_to_drop_all(where: object, cells: int, spec: Quality) -> None:
    bounds = [f"{name} {value:.10g}" for name, value in spec.fixed_bounds.items() if value is not None]
    filters = [f"the filter on '{rule.column}'" for rule in spec.filters]
    raise CellmillError(
        where,
        f"none of {cells} cells passes {', '.join([*filters, *bounds])}.",
        "Lower the bounds under 'quality:' in the dataset's file.",
    )


def smallest_unsigned(largest: int) -> np.dtype:
    """The smallest unsigned integer type that holds ``largest``."""
    return next(np.dtype(t) for t in (np.uint8, np.uint16, np.uint32, np.uint64) if largest <= np.iinfo(t).max)


def refuse_shared_ids(
    parts: Sequence[File],
    folder: Path,
    *,
    cells: int,
    keys: Callable[[Any], np.ndarray],
    ids: Callable[[Any], pa.ChunkedArray],
) -> None:
    """No cell id may stand in two parts.

    Equal ids have equal keys of 64 bits; these are sorted in buckets on the disk, a bucket for every two million cells.
    Only where keys meet, which one pair of distinct ids in 10^19 does, are the ids themselves compared.

    Args:
        folder: for the buckets.
        cells: of all parts.
        keys: of a part, the keys of its cell ids (cells,) uint64.
        ids: of a part, its cell ids (cells,).

    Raises:
        CellmillError: an id in two parts; names it and both.
    """
    if len(parts) < 2:
        return  # within a part, ids are unique
    n_buckets = max(1, -(-cells // IDS_AT_ONCE))
    buckets = [folder / f"{i}.ids" for i in range(n_buckets)]
    for path in parts:
        mine = keys(path)
        bucket = (mine >> np.uint64(32)) * np.uint64(n_buckets) >> np.uint64(32)
        for i in range(n_buckets):
            with open(buckets[i], "ab") as stream:
                stream.write(mine[bucket == i].tobytes())
    for bucket_file in buckets:
        rising = np.sort(np.fromfile(bucket_file, np.uint64))
        bucket_file.unlink()
        meet = np.unique(rising[1:][rising[1:] == rising[:-1]])
        for start in range(0, len(meet), MEETINGS_AT_ONCE):
            _compare_ids(parts, meet[start : start + MEETINGS_AT_ONCE], keys, ids)


def _measured_ids(path: File) -> pa.ChunkedArray:
    return contract.read_quality(path, columns=["cell_id"])[0]["cell_id"]


def _measured_keys(path: File) -> np.ndarray:
    return hash_strings(_measured_ids(path).combine_chunks(), seed=0, purpose="unique")


def _compare_ids(
    parts: Sequence[File],
    meet: np.ndarray,
    keys: Callable[[Any], np.ndarray],
    ids: Callable[[Any], pa.ChunkedArray],
) -> None:
    seen: dict[str, File] = {}
    for path in parts:
        for name in ids(path).filter(np.isin(keys(path), meet)).to_pylist():
            if name in seen:
                raise CellmillError(
                    path,
                    f"cell id '{name}' stands in {seen[name]}, too.",
                    "Set 'cell_ids: part_barcode' if these are different cells; "
                    "leave one file out if they are the same.",
                )
            seen[name] = path


def _bounds(n: int, median: float, mad: float, metric: str, n_mads: float) -> dict[str, Any]:
    if n == 0:
        return {"applied": False, "why": "no cell has this metric"}
    if mad == 0:
        return {"applied": False, "why": "the median absolute deviation is 0", "median": median, "mad": mad}
    lower = None if metric in ONLY_UPPER or metric not in METRICS else median - n_mads * mad
    return {"applied": True, "median": median, "mad": mad, "lower": lower, "upper": median + n_mads * mad}


def fixed_outcome(table: pa.Table, spec: Quality, filtered: np.ndarray) -> np.ndarray:
    """Outcome (cells,) by filters and fixed bounds alone: ``kept`` or the first that a cell fails."""
    outcome = filtered.astype(object)
    for name, bound in spec.fixed_bounds.items():
        if bound is not None:
            values = table[bounded_metric(name)].to_numpy()
            drop(outcome, values < bound if name.startswith("min_") else values > bound, name)
    return outcome


def cell_outcomes(
    table: pa.Table,
    *,
    filtered: np.ndarray,
    spec: Quality,
    thresholds: dict[str, Any],
    doublets: np.ndarray | None = None,
) -> np.ndarray:
    """Outcome (cells,) of quality rows: ``kept``, or the first reason why not, such as ``high pct_counts_mt``.

    ``doublets`` (cells,) is boolean: the predicted ones; None: they are not looked for, or not yet.
    """
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
                drop(outcome, mine & (values < bound["lower"]), f"low {metric}")
            drop(outcome, mine & (values > bound["upper"]), f"high {metric}")
    if doublets is not None and spec.doublets is not None and spec.doublets.rule == "drop":
        drop(outcome, doublets, "doublet")
    return outcome


def drop(outcome: np.ndarray, fails: np.ndarray, reason: str) -> None:
    """Give the reason to the cells that fail and have none yet."""
    outcome[fails & (outcome == KEPT)] = reason
