"""What stands beside the HDF5 batches, under the names that the scBaseCount downloader's README gives.

``config.json``, ``metadata/experiments.json``, ``metadata/cells.json``, ``hvg_info.json`` and ``hvg_analysis.png``.
Source of the names: README of github.com/pythonlearner1025/vcc at f92ebf2.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cellmill.exports.columns import MISSING
from cellmill.files import write_json

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from cellmill.exports.rows import Header

MERGED_EVERY = 64
"""Batches after which the tables of experiments are merged into one."""
BLOCK = 1 << 16
"""Values of a column of cells that are in memory at once."""
NAMED = 10
BARS = 20
TRAINING = "train"


class Experiments:
    """Cells per experiment and split, and what all cells of an experiment share; memory grows with experiments."""

    def __init__(self, dataset: str, column: str | None, columns: dict[str, str]) -> None:
        self._dataset, self._column, self._columns = dataset, column, list(columns)
        self._tables: list[pa.Table] = []

    def add(self, split: str, batch: pa.RecordBatch) -> None:
        ids = pa.repeat(self._dataset, batch.num_rows) if self._column is None else batch[self._column]
        found = {"experiment": _text(ids), "split": pa.repeat(split, batch.num_rows)}
        found["cells"] = pa.repeat(pa.scalar(1, pa.int64()), batch.num_rows)
        for i, name in enumerate(self._columns):
            values = batch[name]
            found |= {f"{i}_min": values, f"{i}_max": values, f"{i}_known": pc.cast(values.is_valid(), pa.int64())}
        self._tables.append(self._merged(pa.table(found)))
        if len(self._tables) >= MERGED_EVERY:
            self._tables = [self._merged(pa.concat_tables(self._tables))]

    def _merged(self, table: pa.Table, keys: tuple[str, ...] = ("experiment", "split")) -> pa.Table:
        """A row per experiment and split; values of an experiment are alike where least and greatest are."""
        how = [("cells", "sum")]
        for i in range(len(self._columns)):
            how += [(f"{i}_min", "min"), (f"{i}_max", "max"), (f"{i}_known", "sum")]
        merged = table.group_by(list(keys), use_threads=False).aggregate(how)
        return merged.select([*keys, *(f"{name}_{by}" for name, by in how)]).rename_columns(
            [*keys, *(name for name, _ in how)]
        )

    def write(self, path: Path) -> list[dict[str, Any]]:
        """Write a list of experiments, sorted by id, and return it."""
        table = pa.concat_tables(self._tables)
        whole = self._merged(table, ("experiment",)).sort_by("experiment").to_pylist()
        splits: dict[str, dict[str, int]] = {}
        for row in self._merged(table).sort_by([("experiment", "ascending"), ("split", "ascending")]).to_pylist():
            splits.setdefault(row["experiment"], {})[row["split"]] = row["cells"]
        said = []
        for row in whole:
            shared = {
                name: row[f"{i}_min"]
                for i, name in enumerate(self._columns)
                if row[f"{i}_known"] == row["cells"] and row[f"{i}_min"] == row[f"{i}_max"]
            }
            name = row["experiment"]
            said.append({"experiment_id": name, "n_cells": row["cells"], "splits": splits[name], "obs": shared})
        write_json(path, said)
        return said


def _text(column: pa.Array) -> pa.Array:
    """Ids as they stand in ``experiment_ids``."""
    return pc.fill_null(column.cast(pa.large_string()), "")


def write_cells(path: Path, out: Path, splits: dict[str, Any], columns: dict[str, str]) -> None:
    """Write a map of columns to lists, one value per cell, split by split; a missing value is ``null``.

    ``split``, ``batch_idx`` and ``local_idx`` say where a cell is: the number of the file, and that within it.
    It is read from the files, so that no more than a block of one column is in memory.
    """
    import h5py

    from cellmill.exports.hdf5 import MEASURED

    files = [(split, i, f) for split, said in splits.items() for i, f in enumerate(said["files"])]

    def of_files(name: str) -> Iterator[list[Any]]:
        for split, number, said in files:
            cells = said["cells"]
            if name == "split":
                yield [split] * cells
            elif name == "batch_idx":
                yield [number] * cells
            elif name == "local_idx":
                yield list(range(cells))
            else:
                with h5py.File(out / said["file"]) as file:
                    dataset = file[name]
                    text = dataset.asstr() if dataset.dtype.kind == "S" else dataset
                    for start in range(0, cells, BLOCK):
                        yield _plain(text[start : start + BLOCK], columns.get(name.removeprefix("obs/")))

    sources = {"cell_id": "cell_ids", "experiment_id": "experiment_ids"}
    sources |= {name: name for name in ("split", "batch_idx", "local_idx")}
    sources |= {name: f"obs/{name}" for name in (*columns, *MEASURED)}
    with path.open("w", encoding="utf-8") as stream:
        for i, (name, source) in enumerate(sources.items()):
            stream.write(("{" if i == 0 else ",\n") + json.dumps(name, ensure_ascii=False) + ": [")
            for j, values in enumerate(of_files(source)):
                stream.write(("," if j and values else "") + json.dumps(values, ensure_ascii=False)[1:-1])
            stream.write("]")
        stream.write("}\n")


def _plain(values: np.ndarray, kind: str | None) -> list[Any]:
    """Values as JSON has them; ``kind`` is the type of the obs column they are of."""
    if kind == "float64":
        missing = np.isnan(values)
    elif kind in ("bool", "int64"):
        missing = values == MISSING[kind]
        values = values.astype(np.bool_) if kind == "bool" else values
    else:
        return values.tolist()
    if not missing.any():
        return values.tolist()
    with_gaps = values.astype(object)
    with_gaps[missing] = None
    return with_gaps.tolist()


def write_config(
    path: Path,
    genes: pd.DataFrame,
    splits: dict[str, Any],
    experiments: list[dict[str, Any]],
    cells_per_file: int,
    largest: int,
) -> None:
    """Write what the downloader's ``config.json`` says, without a time."""
    cells = sum(s["cells"] for s in splits.values())
    values, places = sum(s["values"] for s in splits.values()), cells * len(genes)
    samples = [{"srx_accession": e["experiment_id"], "n_cells": e["n_cells"]} | e["obs"] for e in experiments]
    write_json(
        path,
        {
            "total_cells_downloaded": cells,
            "n_batches": sum(len(s["files"]) for s in splits.values()),
            "batch_size": cells_per_file,
            "gene_list": genes["gene_id"].tolist(),
            "max_expression_value": largest,
            "sparsity": 1 - values / places if places else 0.0,
            "source_samples": samples,
        },
    )


# --- variable genes


def write_hvg(out: Path, header: Header, written: np.ndarray) -> int:
    """Write ``hvg_info.json`` and ``hvg_analysis.png``; return the number of variable genes.

    ``written``: the genes of the gene space that the files have, whose places ``hvg_indices`` gives.
    Means and variances are those of ``genes.parquet``, of counts per 10,000 over the training cells.
    """
    from cellmill.contracts.genes import variable_columns

    genes, cells = header.genes, header.cells.get(TRAINING, 0)
    variable = variable_columns(genes, len(genes))
    places = np.searchsorted(written, variable)
    mean, variance = genes["mean"].to_numpy(), genes["variance"].to_numpy()
    with np.errstate(divide="ignore", invalid="ignore"):
        dispersion = variance / mean
    percent = 100 * genes["n_cells"].to_numpy() / max(cells, 1)
    write_json(
        out / "hvg_info.json",
        {
            "hvg_indices": places.tolist(),
            "hvg_names": genes["gene_id"].iloc[variable].tolist(),
            "gene_to_hvg_idx": {str(place): i for i, place in enumerate(places.tolist())},
            "statistics": _statistics(genes, variable, mean, dispersion, percent, cells),
        },
    )
    _draw(out / "hvg_analysis.png", genes, variable, mean, dispersion, percent)
    return len(variable)


def _statistics(
    genes: pd.DataFrame,
    variable: np.ndarray,
    mean: np.ndarray,
    dispersion: np.ndarray,
    percent: np.ndarray,
    cells: int,
) -> dict[str, Any]:
    """Numbers of the variable genes; what has no value, without any of them, is ``null``."""

    def number(function: Any, values: np.ndarray) -> float | None:
        known = values[np.isfinite(values)]
        return float(function(known)) if len(known) else None

    first = variable[:NAMED]
    return {
        "total_cells_analyzed": cells,
        "total_genes": len(genes),
        "expressed_genes": int((genes["n_cells"] > 0).sum()),
        "n_hvgs": len(variable),
        "mean_dispersion": number(np.mean, dispersion[variable]),
        "median_dispersion": number(np.median, dispersion[variable]),
        "min_dispersion": number(np.min, dispersion[variable]),
        "max_dispersion": number(np.max, dispersion[variable]),
        "mean_expression": number(np.mean, mean[variable]),
        "median_pct_cells": number(np.median, percent[variable]),
        "top_10_hvgs": genes["gene_id"].iloc[first].tolist(),
        "top_10_dispersions": [float(d) if np.isfinite(d) else None for d in dispersion[first]],
        "top_10_pct_cells": percent[first].tolist(),
    }


def _draw(
    path: Path,
    genes: pd.DataFrame,
    variable: np.ndarray,
    mean: np.ndarray,
    dispersion: np.ndarray,
    percent: np.ndarray,
) -> None:
    from cellmill.report.drawing import save, style

    with style():
        save(_figure(genes, variable, mean, dispersion, percent), path, "png")


def _figure(
    genes: pd.DataFrame, variable: np.ndarray, mean: np.ndarray, dispersion: np.ndarray, percent: np.ndarray
) -> Figure:
    """Dispersion against mean, means and shares of cells of the variable genes, and the first of them by name."""
    from matplotlib.ticker import NullFormatter

    from cellmill.report.drawing import GREY, KEPT_COLOR, new_figure, shown

    figure = new_figure(11, 8.5)
    ((scatter, means), (shares, bars)) = figure.subplots(2, 2)
    drawn = np.isfinite(dispersion) & (mean > 0) & (dispersion > 0)
    varies = np.zeros(len(genes), np.bool_)
    varies[variable] = True
    for chosen, color, name in ((drawn & ~varies, GREY, "other genes"), (drawn & varies, KEPT_COLOR, "variable genes")):
        label = f"{name} ({chosen.sum():,})"
        scatter.plot(mean[chosen], dispersion[chosen], ".", color=color, markersize=2, label=label)
    scatter.set(xlabel="mean of counts per 10,000", ylabel="variance over mean", title="Dispersion by mean")
    scatter.set_xscale("log")
    scatter.set_yscale("log")
    for axis in (scatter.xaxis, scatter.yaxis):  # powers in words of TeX would show as they are
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(NullFormatter())
    scatter.legend(markerscale=4, fontsize=9)
    positive = mean[variable][mean[variable] > 0]
    means.hist(np.log10(positive), bins=40, color=KEPT_COLOR)
    means.set(xlabel="log10 of the mean of counts per 10,000", ylabel="genes", title="Mean of the variable genes")
    shares.hist(percent[variable], bins=40, color=KEPT_COLOR)
    shares.set(xlabel="training cells with a count, %", ylabel="genes", title="Spread of the variable genes")
    first = variable[:BARS]
    symbols = genes["gene_symbol"].where(genes["gene_symbol"].fillna("") != "", genes["gene_id"]).iloc[first]
    bars.barh(np.arange(len(first)), np.nan_to_num(dispersion[first]), color=KEPT_COLOR)
    bars.set_yticks(np.arange(len(first)), [shown(symbol, 20) for symbol in symbols], fontsize=8)
    bars.invert_yaxis()
    bars.set(xlabel="variance over mean", title=f"The first {len(first)} by rank")
    return figure
