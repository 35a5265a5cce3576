"""Cells of an h5ad export."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa

from cellmill.checks.compare import Rows
from cellmill.checks.problems import UnreadableError
from cellmill.exports.h5ad import FILE
from cellmill.exports.rows import Header
from cellmill.matrix.tables import column_names, read_table

BLOCK_ROWS = 4_096


def read(folder: Path, split: str, said: dict[str, Any]) -> Iterator[Rows]:
    """The file of a split."""
    if split not in said["facts"]["splits"]:
        return
    name, first = said["facts"]["splits"][split], 0
    try:
        with h5py.File(folder / name, "r") as file:
            obs, matrix, obsm = file["obs"], file["X"], file["obsm"]
            columns = [str(obs.attrs["_index"]), *column_names(obs)]
            pointers = matrix["indptr"][:].astype(np.int64)
            _look_at(name, pointers, matrix, obsm, len(obs[columns[0]]))
            for first in range(0, len(pointers) - 1, BLOCK_ROWS):
                stop = min(first + BLOCK_ROWS, len(pointers) - 1)
                table = {c: _column(obs[c], first, stop) for c in columns}
                offsets = pointers[first : stop + 1]
                for column, values in (("genes", "indices"), ("counts", "data")):
                    found = matrix[values][offsets[0] : offsets[-1]]
                    table[column] = pa.LargeListArray.from_arrays(offsets - offsets[0], found)
                for column in obsm:
                    flat = obsm[column][first:stop].ravel()
                    table[column] = pa.FixedSizeListArray.from_arrays(pa.array(flat), obsm[column].shape[1])
                yield Rows(name, first, pa.table(table))
    except (OSError, KeyError, ValueError, RuntimeError, TypeError, IndexError, pa.ArrowException) as error:
        raise UnreadableError(name, f"not readable behind row {first} ({error})") from error


def _look_at(name: str, pointers: np.ndarray, matrix: h5py.Group, obsm: h5py.Group, cells: int) -> None:
    values = len(matrix["data"])
    sizes = {"obs": cells, **{f"obsm/{key}": len(obsm[key]) for key in obsm}}
    for element, rows in sizes.items():
        if rows != len(pointers) - 1:
            raise UnreadableError(f"{name}/{element}", f"has {rows:,} rows for {len(pointers) - 1:,} rows of X")
    if pointers[0] != 0 or (np.diff(pointers) < 0).any() or not pointers[-1] == len(matrix["indices"]) == values:
        raise UnreadableError(f"{name}/X/indptr", f"does not rise from 0 to {values:,}, the number of values")


def _column(node: h5py.Group | h5py.Dataset, start: int, stop: int) -> pa.Array:
    """Rows of an obs column in one of anndata's encodings, as Arrow."""
    kind = str(node.attrs["encoding-type"])
    if kind == "categorical":
        codes, values = node["codes"][start:stop], pa.array(node["categories"].asstr()[:], pa.large_string())
        return values.take(pa.array(codes, mask=codes < 0))
    if kind.startswith("nullable-"):
        return pa.array(node["values"][start:stop], mask=node["mask"][start:stop])
    if kind == "string-array":
        return pa.array(node.asstr()[start:stop], pa.large_string())
    return pa.array(node[start:stop], from_pandas=True)


def genes(folder: Path, split: str) -> Iterator[tuple[str, list[str]]]:
    """The gene table."""
    path = folder / split / FILE
    if path.is_file():
        with h5py.File(path, "r") as file:
            yield f"{split}/{FILE}/var", read_table(file["var"]).index.astype(str).tolist()


def expected(batch: pa.RecordBatch, header: Header, said: dict[str, Any]) -> pa.Table:
    """Ids, counts, obs and embeddings."""
    columns = dict.fromkeys(["cell_id", "genes", "counts", *said["facts"]["columns"]])
    vectors = {f"X_{name}": batch[f"embedding:{name}"] for name in said["spec"]["embeddings"]}
    return pa.table({c: batch[c] for c in columns} | vectors)
