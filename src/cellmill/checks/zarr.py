"""Cells of a zarr export."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from cellmill.checks.compare import Rows
from cellmill.checks.problems import Problems, UnreadableError
from cellmill.errors import CellmillError
from cellmill.exports.rows import Header
from cellmill.exports.zarr import COLLECTION
from cellmill.matrix.zarr_store import ZarrFile

BLOCK_ROWS = 4_096


def read(folder: Path, split: str, said: dict[str, Any]) -> Iterator[Rows]:
    """``dataset_<i>`` of a split; the obs table of one is in memory at once."""
    for number in range(len(said["facts"]["splits"].get(split, []))):
        name, first = f"{split}/dataset_{number}", 0
        try:
            with ZarrFile(folder / name) as store:
                obs = _table(store)
                matrix: Any = store["X"]
                indptr, indices, data = matrix["indptr"], matrix["indices"], matrix["data"]
                pointers = indptr.read(0, len(indptr)).astype(np.int64)
                _look_at(name, pointers, len(indices), len(data), len(obs))
                vectors: dict[str, Any] = {key: store[f"obsm/{key}"] for key in store.names("obsm")}
                for key, array in vectors.items():
                    if len(array) != len(obs):
                        raise UnreadableError(f"{name}/obsm/{key}", f"has {len(array):,} rows for {len(obs):,} cells")
                for first in range(0, len(obs), BLOCK_ROWS):
                    stop = min(first + BLOCK_ROWS, len(obs))
                    offsets = pointers[first : stop + 1]
                    table = obs.slice(first, stop - first)
                    for column, values in (("genes", indices), ("counts", data)):
                        found = values.read(int(offsets[0]), int(offsets[-1]))
                        lists = pa.LargeListArray.from_arrays(offsets - offsets[0], np.asarray(found))
                        table = table.append_column(column, lists)
                    for key, array in vectors.items():
                        flat = pa.array(np.asarray(array.read(first, stop)).ravel())
                        table = table.append_column(key, pa.FixedSizeListArray.from_arrays(flat, array.shape[1]))
                    yield Rows(name, first, table)
        except CellmillError as error:
            raise UnreadableError(name, error.found) from error
        except (OSError, KeyError, ValueError, TypeError, pa.ArrowException) as error:
            raise UnreadableError(name, f"not readable behind row {first} ({error})") from error


def _look_at(name: str, pointers: np.ndarray, indices: int, values: int, cells: int) -> None:
    if len(pointers) != cells + 1:
        raise UnreadableError(f"{name}/X/indptr", f"has {len(pointers):,} numbers for {cells:,} cells")
    if pointers[0] != 0 or (np.diff(pointers) < 0).any() or not pointers[-1] == indices == values:
        what = f"does not rise from 0 to {values:,}, the number of values; there are {indices:,} indices"
        raise UnreadableError(f"{name}/X/indptr", what)


def _table(store: ZarrFile) -> pa.Table:
    """Obs with the ids as a column, and text as text."""
    frame = store.table("obs")
    columns = {"cell_id": pa.array(frame.index.astype(str), pa.large_string())}
    for column in frame:
        values = pa.array(frame[column], from_pandas=True)
        columns[str(column)] = values.cast(pa.large_string()) if pa.types.is_dictionary(values.type) else values
    return pa.table(columns)


def whole(folder: Path, said: dict[str, Any], header: Header | None, problems: Problems) -> None:
    """That collections say that they are shuffled, and that consolidated metadata are those of the nodes."""
    for split, datasets in said["facts"]["splits"].items():
        attributes = _described(folder, split)["attributes"]
        if attributes != COLLECTION:
            problems.add("collections", f"{split}/zarr.json", f"has the attributes {attributes}, expected {COLLECTION}")
        for place in (split, *(f"{split}/dataset_{number}" for number in range(len(datasets)))):
            for name, copied in _described(folder, place)["consolidated_metadata"]["metadata"].items():
                own = _described(folder, f"{place}/{name}")
                for document in (own, copied):
                    document.pop("consolidated_metadata", None)
                if own != copied:
                    what = f"says other things of '{name}' than {place}/{name}/zarr.json"
                    problems.add("consolidated metadata", f"{place}/zarr.json", what)


def _described(folder: Path, place: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((folder / place / "zarr.json").read_text())
        return found
    except (OSError, ValueError) as error:
        raise UnreadableError(f"{place}/zarr.json", f"not readable ({error})") from error


def genes(folder: Path, split: str) -> Iterator[tuple[str, list[str]]]:
    """The genes of every dataset."""
    for path in sorted((folder / split).glob("dataset_*")):
        with ZarrFile(path) as store:
            yield f"{split}/{path.name}/var", store.table("var").index.astype(str).tolist()


def expected(batch: pa.RecordBatch, header: Header, said: dict[str, Any]) -> pa.Table:
    """Ids, counts, obs and embeddings."""
    columns = dict.fromkeys(["cell_id", "genes", "counts", *said["facts"]["columns"]])
    vectors = {f"X_{name}": batch[f"embedding:{name}"] for name in said["spec"].get("embeddings", [])}
    return pa.table({c: batch[c] for c in columns} | vectors)
