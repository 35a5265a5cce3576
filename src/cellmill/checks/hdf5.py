"""Cells of an HDF5 export."""

from __future__ import annotations

import filecmp
import json
import mmap
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa

from cellmill.checks.columns import told
from cellmill.checks.compare import Rows
from cellmill.checks.problems import Problems, UnreadableError
from cellmill.contracts.genes import variable_columns
from cellmill.exports.columns import filled, lists
from cellmill.exports.hdf5 import ACCESSION, MEASURED
from cellmill.exports.hdf5_metadata import write_cells
from cellmill.exports.rows import Header

BLOCK_ROWS = 4_096
BLOCK_VALUES = 1 << 23
"""Values of a dense matrix in memory at once."""


def read(folder: Path, split: str, said: dict[str, Any]) -> Iterator[Rows]:
    """``batch_NNNN.h5`` of a split, sparse or dense."""
    for path in sorted((folder / split).glob("batch_*.h5")):
        name, first = f"{split}/{path.name}", 0
        try:
            with h5py.File(path, "r") as file:
                cells, width = len(file["cell_ids"]), len(file["genes"])
                rows = max(1, min(BLOCK_ROWS, BLOCK_VALUES // max(1, width)))
                for first in range(0, cells, rows):
                    yield Rows(name, first, pa.table(_block(file, first, min(first + rows, cells))))
        except (OSError, KeyError, ValueError, RuntimeError, IndexError, pa.ArrowException) as error:
            raise UnreadableError(name, f"not readable behind row {first} ({error})") from error


def _block(file: h5py.File, start: int, stop: int) -> dict[str, pa.Array]:
    columns = {"cell_id": _strings(file["cell_ids"], start, stop)}
    columns["experiment_ids"] = _strings(file["experiment_ids"], start, stop)
    matrix = file["expression"]
    if isinstance(matrix, h5py.Group):
        offsets = matrix["indptr"][start : stop + 1]
        genes, counts = (matrix[name][offsets[0] : offsets[-1]] for name in ("indices", "data"))
        offsets = offsets - offsets[0]
    else:
        dense = matrix[start:stop]
        at, genes = np.nonzero(dense)
        offsets, counts = np.searchsorted(at, np.arange(stop - start + 1)), dense[at, genes]
    columns["genes"] = pa.LargeListArray.from_arrays(offsets.astype(np.int64), genes)
    columns["counts"] = pa.LargeListArray.from_arrays(offsets.astype(np.int64), counts)
    for alias, name in {"X": "expression", "cells": "cell_ids"}.items():
        if file[alias] != file[name]:
            raise KeyError(f"'{alias}' is not '{name}' under another name")
    for column, values in file["obs"].items():
        text = h5py.check_string_dtype(values.dtype) is not None
        columns[f"obs/{column}"] = _strings(values, start, stop) if text else pa.array(values[start:stop])
    return columns


def _strings(dataset: h5py.Dataset, start: int, stop: int) -> pa.Array:
    return pa.array(dataset.asstr()[start:stop], pa.large_string())


def genes(folder: Path, split: str) -> Iterator[tuple[str, list[str]]]:
    """The gene ids of each file."""
    for path in sorted((folder / split).glob("batch_*.h5")):
        with h5py.File(path, "r") as file:
            yield f"{split}/{path.name}", file["genes"].asstr()[:].tolist()


def written(header: Header, said: dict[str, Any]) -> np.ndarray:
    """bool (genes of the gene space,): which the files have."""
    if said["spec"]["genes"] == "all":
        return np.ones(len(header.genes), np.bool_)
    return header.genes["variable"].to_numpy(np.bool_)


def expected(batch: pa.RecordBatch, header: Header, said: dict[str, Any]) -> pa.Table:
    """Ids, counts, the experiment, and the other obs columns with the values that stand for missing ones."""
    experiment = said["facts"]["experiment"]
    of_all, genes = lists(batch["genes"])
    counts = lists(batch["counts"])[1]
    sums = np.r_[0, counts.cumsum(dtype=np.int64)][of_all]
    chosen = written(header, said)
    kept = chosen[genes]
    offsets, column_of = np.r_[0, kept.cumsum()][of_all], chosen.cumsum() - 1
    columns = {
        "cell_id": batch["cell_id"],
        "genes": pa.LargeListArray.from_arrays(offsets, column_of[genes[kept]]),
        "counts": pa.LargeListArray.from_arrays(offsets, counts[kept]),
        "experiment_ids": filled(batch[experiment]) if experiment else pa.repeat(said["dataset"], len(batch)),
    }
    columns |= {f"obs/{c}": pa.array(np.diff(n)) for c, n in zip(MEASURED, (of_all, sums), strict=True)}
    columns[f"obs/{ACCESSION}"] = columns["experiment_ids"]
    return pa.table(columns | {f"obs/{c}": filled(batch[c]) for c in said["facts"]["columns"]})


def whole(folder: Path, said: dict[str, Any], header: Header | None, problems: Problems) -> None:
    """What stands beside the batches: as the batches are, and of variable genes as ``genes.parquet`` is."""
    name = "config.json"
    try:
        config = json.loads((folder / name).read_text())
        files = [folder / f["file"] for s in said["facts"]["splits"].values() for f in s["files"]]
        counted: Counter[str] = Counter()
        for path in files:
            with h5py.File(path) as file:
                for start in range(0, len(file["experiment_ids"]), BLOCK_ROWS):
                    counted.update(file["experiment_ids"].asstr()[start : start + BLOCK_ROWS].tolist())
        facts = {"total_cells_downloaded": sum(said["splits"].values()), "n_batches": len(files)}
        facts |= {"max_expression_value": said["facts"]["largest_count"]}
        for key, wanted in facts.items():
            if config[key] != wanted:
                problems.add("facts beside the batches", f"{name}, {key}", f"found {config[key]}, expected {wanted}")
        name = "metadata/experiments.json"
        experiments = {e["experiment_id"]: e["n_cells"] for e in json.loads((folder / name).read_text())}
        for experiment in sorted(experiments.keys() | counted.keys()):
            have, want = experiments.get(experiment, 0), counted[experiment]
            if have != want:
                what = f"found {have:,} cells, the batches have {want:,}"
                problems.add("experiments of another size", f"{name}, '{experiment}'", what)
        name = "metadata/cells.json"
        if said["spec"]["cells_json"]:
            with tempfile.TemporaryDirectory() as aside:
                again = Path(aside) / "cells.json"
                write_cells(again, folder, *_in_order(folder / name, folder, said))
                if not filecmp.cmp(folder / name, again, shallow=False):
                    problems.add("facts beside the batches", name, "does not say what the batches hold")
        if header is None:
            return
        name = "config.json"
        _look_at_genes(
            problems, f"{name}, gene_list", config["gene_list"], header.genes["gene_id"][written(header, said)]
        )
        name = "hvg_info.json"
        if "variable_rank" in header.genes:
            variable = variable_columns(header.genes, len(header.genes))
            info = json.loads((folder / name).read_text())
            _look_at_genes(problems, f"{name}, hvg_names", info["hvg_names"], header.genes["gene_id"].iloc[variable])
            places = np.searchsorted(np.flatnonzero(written(header, said)), variable)
            _look_at_genes(problems, f"{name}, hvg_indices", info["hvg_indices"], places)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise UnreadableError(name, f"not readable ({error})") from error


def _in_order(path: Path, folder: Path, said: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Splits and obs columns in the order of ``cells.json``, by where they first stand; the manifest sorts them."""
    splits, columns = said["facts"]["splits"], said["facts"]["columns"]
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as text:
        begin, places = text.find(b"["), {}
        for split, found in splits.items():
            with h5py.File(folder / found["files"][0]["file"]) as file:
                first = file["cell_ids"].asstr()[0]
            places[split] = text.find(json.dumps(first, ensure_ascii=False).encode(), begin)
        lines = {c: text.find(b"\n" + json.dumps(c, ensure_ascii=False).encode() + b": [") for c in columns}
    ordered_columns = {c: columns[c] for c in sorted(lines, key=lines.__getitem__)}
    return {s: splits[s] for s in sorted(places, key=places.__getitem__)}, ordered_columns


def _look_at_genes(problems: Problems, where: str, found: list[Any], wanted: Any) -> None:
    if found != list(wanted):
        problems.add("gene lists", where, told(found, list(wanted)))
