"""Cells of an HDF5 export."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa

from cellmill.checks.compare import Rows
from cellmill.checks.problems import UnreadableError
from cellmill.exports.columns import filled
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


def expected(batch: pa.RecordBatch, header: Header, said: dict[str, Any]) -> pa.Table:
    """Ids, counts, the experiment, and the other obs columns with the values that stand for missing ones."""
    experiment = said["facts"]["experiment"]
    columns = {c: batch[c] for c in ("cell_id", "genes", "counts")}
    columns["experiment_ids"] = filled(batch[experiment]) if experiment else pa.repeat(said["dataset"], len(batch))
    return pa.table(columns | {f"obs/{c}": filled(batch[c]) for c in header.obs.names if c != experiment})
