"""Archives made of archives: several end to end, or one with its values in another type; in blocks."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cellmill.scdl.archive import ARRAYS, NEIGHBORS, Arrays, Neighbors, ScdlError
from cellmill.scdl.index.row_feature_index import ObservedFeatureIndex, VariableFeatureIndex
from cellmill.scdl.util.scdl_constants import FLOAT_ORDER, INT_ORDER, FileNames
from cellmill.scdl.writer import ArchiveWriter, GrowingArray, unified, write_about

BLOCK = 10 << 20


@dataclass(frozen=True)
class Archive:
    """What an archive consists of."""

    path: Path
    arrays: Arrays
    var: VariableFeatureIndex
    obs: ObservedFeatureIndex
    neighbors: Neighbors | None


def common_dtype(archives: Sequence[Archive]) -> np.dtype:
    """The widest type of the values of all archives.

    Raises:
        ScdlError: some are integers and others are not.
    """
    names = {archive.path.name: archive.arrays.data.dtype.name for archive in archives}
    for order in (INT_ORDER, FLOAT_ORDER):
        if all(name in order for name in names.values()):
            return np.dtype(max(names.values(), key=order.index))
    raise ScdlError(
        archives[0].path,
        f"there is a mix of int and float dtypes: {', '.join(f'{n} is {t}' for n, t in names.items())}.",
        "Cast them to the same kind first: dataset.cast_data_to_dtype('float32').",
    )


def merge(archives: Sequence[Archive], out: Path, *, block: int = BLOCK) -> None:
    """Write the rows of all archives, one after the other, to ``out``, an empty folder.

    Equal gene tables in a row become one block, and so do obs tables of the same columns.
    Neighbours are numbered anew; cells of an archive without any have none.

    Args:
        block: values that are copied at once.
    """
    columns = max((archive.arrays.col_ptr.dtype for archive in archives), key=lambda dtype: dtype.itemsize)
    import pyarrow as pa

    schemas = iter(unified([block.schema for archive in archives for block in archive.obs._blocks]))
    any_neighbors = any(archive.neighbors is not None for archive in archives)
    with ArchiveWriter(out, column_dtype=columns, data_dtype=common_dtype(archives)) as writer:
        for archive in archives:
            first = writer.cells
            _add_rows(writer, archive.arrays, block)
            var_rows = np.diff(np.maximum(archive.var._cumulative_sum_index, 0)).tolist()
            for genes, rows, label in zip(archive.var._blocks, var_rows, archive.var._labels, strict=True):
                writer.add_genes(pa.concat_tables(genes.batches()), rows=rows, label=label)
            for obs, label in zip(archive.obs._blocks, archive.obs._labels, strict=True):
                writer.begin_obs(next(schemas), label)
                for table in obs.batches():
                    writer.add_obs(table)
            if any_neighbors:
                _add_neighbors(writer, archive, first, block)
        writer.close()


def _add_rows(writer: ArchiveWriter, arrays: Arrays, block: int) -> None:
    """Whole rows of about ``block`` values at once; at least one."""
    start = 0
    while start < arrays.cells:
        lo = int(arrays.row_ptr[start])
        fits = int(np.searchsorted(arrays.row_ptr, np.uint64(lo + block), side="right")) - 1
        stop = min(max(fits, start + 1), arrays.cells)
        hi = int(arrays.row_ptr[stop])
        ends = arrays.row_ptr[start + 1 : stop + 1].astype(np.uint64) - np.uint64(lo)
        writer.add_rows(np.asarray(arrays.data[lo:hi]), np.asarray(arrays.col_ptr[lo:hi]), ends)
        start = stop


def _add_neighbors(writer: ArchiveWriter, archive: Archive, first: int, block: int) -> None:
    cells, found = archive.arrays.cells, archive.neighbors
    if found is None:
        writer.add_neighbors(np.zeros(cells, np.uint64), np.empty(0), np.empty(0))
        return
    start = 0
    while start < cells:
        lo = int(found.indptr[start])
        fits = int(np.searchsorted(found.indptr, np.uint64(lo + block), side="right")) - 1
        stop = min(max(fits, start + 1), cells)
        hi = int(found.indptr[stop])
        indices = found.indices[lo:hi].astype(np.uint64) + np.uint64(first)
        writer.add_neighbors(np.diff(found.indptr[start : stop + 1]), indices, found.weights[lo:hi])
        start = stop


def cast(archive: Archive, out: Path, dtype: np.dtype[Any]) -> None:
    """Write an archive with its values in another type to ``out``, an empty folder; what is the same is linked.

    Digits may be lost.

    Raises:
        ScdlError: a value is beyond the type.
    """
    shutil.copytree(archive.path, out, copy_function=_link, dirs_exist_ok=True)
    (out / FileNames.DATA.value).unlink()
    tolerance = 1.0 if dtype.kind == "u" else float(np.finfo(np.float64).max)
    data = archive.arrays.data
    with closing(GrowingArray(out / FileNames.DATA.value, dtype, tolerance=tolerance)) as values:
        for start in range(0, len(data), BLOCK):
            values.append(np.asarray(data[start : start + BLOCK]))
    others = {"ROWPTR": archive.arrays.row_ptr, "COLPTR": archive.arrays.col_ptr}
    arrays = {"DATA": (values.length, dtype)} | {name: (len(array), array.dtype) for name, array in others.items()}
    tables = (("var_features", archive.var), ("obs_features", archive.obs))
    write_about(
        out, arrays, [(name, index._cumulative_sum_index[1:].tolist(), index._labels) for name, index in tables]
    )


def _link(source: str, target: str) -> str:
    """A second name for an array or a table, which are never written again; a copy of the small files, which are."""
    path = Path(source)
    if path.suffix == ".parquet" or path.name in {*ARRAYS.values(), *NEIGHBORS}:
        try:
            os.link(source, target)
            return target
        except OSError:  # a disk without links
            pass
    shutil.copyfile(source, target)
    return target
