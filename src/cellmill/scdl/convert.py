"""h5ad files to one SCDL archive, straight from the stream: ``cellmill convert``.

The archive holds the rows of all files in their order; each run of files with the same genes is a block of genes.
Memory: two blocks of values, the obs and var tables of one file, and the different var tables.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from cellmill.ahead import ahead
from cellmill.errors import nearest
from cellmill.files import replacing
from cellmill.matrix.reader import CountsFile
from cellmill.matrix.zarr_store import is_zarr
from cellmill.progress import Counter, progress
from cellmill.scdl.archive import ScdlError
from cellmill.scdl.util.scdl_constants import FLOAT_ORDER, INT_ORDER
from cellmill.scdl.values import ValuesFile
from cellmill.scdl.writer import ArchiveWriter, unified

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

log = logging.getLogger("cellmill")
NEIGHBOR_KEY = "next_cell_ids"
"""Where SCDL looks for neighbours in ``obsp``, unless told otherwise."""
NEIGHBOR_BLOCK = 1 << 20
BLOCK_ROWS = 512
"""Rows that are read at once: several blocks are under way side by side."""


@dataclass(frozen=True)
class Options:
    """How h5ad files become an archive."""

    matrix: str = "auto"
    """``raw``, ``X`` or ``layers/<name>``; ``auto``: ``raw`` where a file has it, else ``X``."""
    data_dtype: str | None = None
    """Type of the values; ``None``: the smallest unsigned integer that holds all counts, float32 for other values."""
    tolerance: float = 1e-8
    """How far a value may move by ``data_dtype``."""
    neighbors: str | None = "auto"
    """Key of ``obsp``, which every file must have; ``auto``: ``next_cell_ids`` where a file has it; ``None``: none."""
    threads: int = 1
    """Threads that decompress."""
    var_index: str = "var_feature_id"
    """Column for the index of ``var``, after the others."""
    obs_index: str = "obs_feature_id"
    """Column for the index of ``obs``, after the others."""


@dataclass(frozen=True)
class Source:
    """What is known of a file before its values are read."""

    path: Path
    matrix: str
    cells: int
    stored: int | None
    """Stored values, zeros among them; ``None`` for a dense matrix."""
    genes: pa.Table
    obs: pa.Schema
    neighbors: str | None
    """Key of ``obsp``."""

    @property
    def n_genes(self) -> int:
        return int(self.genes.num_rows)


def find_files(inputs: Iterable[str | PathLike[str]]) -> list[Path]:
    """The files that are named, and the h5ad files below the folders that are named, sorted within each.

    Raises:
        ScdlError: one is not there or comes twice, or a folder has no h5ad file.
    """
    files: list[Path] = []
    for path in map(Path, inputs):
        if path.is_dir() and not is_zarr(path):
            found = sorted(path.rglob("*.h5ad"))
            if not found:
                raise ScdlError(path, "there is no h5ad file in this folder or below it.", "Name another folder.")
            files += found
        elif path.exists():
            files.append(path)
        else:
            raise ScdlError(path, "there is no such file or folder.", "Correct the name.")
    seen: set[Path] = set()
    for path in files:
        if path.resolve() in seen:
            raise ScdlError(path, "this file is named twice.", "Its cells would be in the archive twice: name it once.")
        seen.add(path.resolve())
    return files


def look(paths: Sequence[Path], options: Options) -> list[Source]:
    """What the files hold, without a look at their values; all problems that can be seen so are raised here.

    Raises:
        ScdlError: a file has not what the options name, or its tables cannot be written.
    """
    if options.data_dtype is not None and options.data_dtype not in INT_ORDER + FLOAT_ORDER:
        fix = f"Take one of {', '.join(INT_ORDER + FLOAT_ORDER)}."
        raise ScdlError("data dtype", f"there is no type '{options.data_dtype}'.", fix)
    sources: list[Source] = []
    with progress(len(paths), "files", "looking at the tables") as counter:
        for path in paths:
            source = _look(path, options)
            if sources and sources[-1].genes.equals(source.genes):
                source = Source(**{**source.__dict__, "genes": sources[-1].genes})  # one table, not one per file
            sources.append(source)
            counter.update(1)
    return sources


def _look(path: Path, options: Options) -> Source:
    there = CountsFile.candidates(path)
    matrix = options.matrix if options.matrix != "auto" else ("raw" if "raw" in there else "X")
    if matrix not in there:
        raise ScdlError(path, f"it has no matrix '{matrix}'.", nearest(matrix, there))
    with ValuesFile(path, matrix) as file:
        stored = None if file.layout == "dense" else len(file._matrix["data"])
        return Source(
            path=path,
            matrix=matrix,
            cells=file.shape[0],
            stored=stored,
            genes=as_table(file.var, options.var_index, where=f"{path}, var"),
            obs=as_table(file.obs, options.obs_index, where=f"{path}, obs").schema,
            neighbors=_neighbor_key(path, options.neighbors, file.shape[0]),
        )


def as_table(frame: pd.DataFrame, index_name: str, *, where: str, schema: pa.Schema | None = None) -> pa.Table:
    """A dataframe as Arrow: categories as their values, missing values as null, and the index as the last column.

    Args:
        schema: what the same function found of the whole dataframe, of which this is a slice.

    Raises:
        ScdlError: another column has the name that the index gets.
    """
    import pyarrow as pa

    def arrow(values: pd.Series, name: str) -> pa.Array:
        return _arrow(values, None if schema is None else schema.field(name).type)

    columns = {str(name): arrow(frame[name], str(name)) for name in frame.columns}
    index = arrow(frame.index.to_series(), index_name)
    if index_name in columns and not columns[index_name].equals(index):
        raise ScdlError(
            where,
            f"the column '{index_name}' is not the index, which SCDL keeps under this name.",
            "Rename the column in the h5ad file.",
        )
    return pa.table(columns | {index_name: index})


def _arrow(values: pd.Series, type_: pa.DataType | None) -> pa.Array:
    """Plain types only: BioNeMo-SCDL knows no dictionaries, and no type that is null throughout."""
    import pandas as pd
    import pyarrow as pa

    try:
        array = pa.array(values, type_ if values.dtype == object else None, from_pandas=True)
    except (pa.ArrowInvalid, pa.ArrowTypeError):  # objects of several kinds
        array = pa.array([None if pd.isna(v) else str(v) for v in values], pa.string())
    if pa.types.is_dictionary(array.type):
        array = array.cast(array.type.value_type)
    if pa.types.is_null(array.type) or pa.types.is_large_string(array.type):
        array = array.cast(pa.string())
    return array


def _neighbor_key(path: Path, asked: str | None, cells: int) -> str | None:
    """The key of ``obsp``, where neighbours are wanted and there; the matrix is square, sparse and CSR."""
    if asked is None or is_zarr(path):
        if asked not in (None, "auto"):
            raise ScdlError(path, "neighbours are read of h5ad files, and this is zarr.", "Write it as h5ad.")
        return None
    key = NEIGHBOR_KEY if asked == "auto" else asked
    with h5py.File(path, "r") as file:
        there = sorted(file["obsp"]) if "obsp" in file else []
        if key not in there:
            if asked == "auto":
                return None
            raise ScdlError(path, f"obsp has no '{key}'.", nearest(key, there))
        node = file["obsp"][key]
        kind = node.attrs.get("encoding-type", "dense") if isinstance(node, h5py.Group) else "dense"
        shape = tuple(int(n) for n in node.attrs["shape"]) if isinstance(node, h5py.Group) else node.shape
        if kind != "csr_matrix" or shape != (cells, cells):
            raise ScdlError(
                path,
                f"obsp/{key} is {kind} of {' × '.join(map(str, shape))}, expected a CSR matrix of {cells} × {cells}.",
                "Write it as scipy.sparse.csr_matrix, a row per cell.",
            )
    return key


def convert(
    sources: Sequence[Source], out: str | PathLike[str], options: Options, *, force: bool = False
) -> dict[str, Any]:
    """Write the archive, whole or not at all, and say what is in it.

    Args:
        sources: what ``look`` found, in the order of the rows.
        out: the folder of the archive.
        force: replace a folder that is there.

    Raises:
        FileExistsError: ``out`` is there.
        ScdlError: values are not finite, do not fit ``data_dtype``, or are counts in one file and fractions in another.
    """
    out = Path(out)
    if out.exists() and not force:
        raise FileExistsError(f"{out}: it is already there. Delete it, name another folder, or use --force.")
    genes = max((source.n_genes for source in sources), default=1)
    dtype = None if options.data_dtype is None else np.dtype(options.data_dtype)
    schemas = unified([source.obs for source in sources])
    any_neighbors = any(source.neighbors for source in sources)
    columns = np.min_scalar_type(max(genes - 1, 0))
    with (
        replacing(out, directory=True) as folder,
        ArchiveWriter(folder, column_dtype=columns, data_dtype=dtype, tolerance=options.tolerance) as writer,
        progress(sum(source.cells for source in sources), "cells", "converting") as counter,
    ):
        kinds: dict[str, Path] = {}
        for source, schema in zip(sources, schemas, strict=True):
            first = writer.cells
            kinds.setdefault(_add_values(writer, source, options, counter), source.path)
            if dtype is None and len(kinds) == 2:
                raise ScdlError(
                    kinds["fractions"],
                    f"its matrix is no counts, and that of {kinds['counts']} is.",
                    "Name a matrix that holds the same in all files (--matrix), or a type (--data-dtype float32).",
                )
            _add_tables(writer, source, schema, options)
            if any_neighbors:
                _add_neighbors(writer, source, first)
        if not writer.values:
            raise ScdlError(
                out, "there is no value in any file, and SCDL cannot map an empty file.", "Name other files."
            )
        neighbors, arrays = writer.neighbors, writer.close()
    return {
        "cells": sum(source.cells for source in sources),
        "files": len(sources),
        "gene_blocks": _runs([id(source.genes) for source in sources]),
        "values": arrays["DATA"]["length"],
        "neighbors": neighbors,
        "cells_without_neighbors": sum(s.cells for s in sources if not s.neighbors) if neighbors else 0,
        "dtypes": {name: said["dtype"] for name, said in arrays.items()},
    }


def _runs(items: Sequence[Any]) -> int:
    return sum(i == 0 or items[i - 1] != item for i, item in enumerate(items))


def _add_values(writer: ArchiveWriter, source: Source, options: Options, counter: Counter) -> str:
    """The rows of a file; whether they are ``counts`` or ``fractions``."""
    kind = "counts"
    with ValuesFile(source.path, source.matrix, threads=options.threads) as file:
        blocks = file.blocks(BLOCK_ROWS)
        for block in ahead(blocks, depth=1) if options.threads > 1 else blocks:
            matrix = block.counts
            if matrix.data.dtype.kind == "f":
                kind = "fractions"
            try:
                writer.add_rows(matrix.data, matrix.indices, matrix.indptr[1:])
            except ScdlError as error:
                raise ScdlError(f"{source.path}, rows from {block.start:,}", error.found, error.fix) from error
            counter.update(matrix.shape[0])
    return kind


def _add_tables(writer: ArchiveWriter, source: Source, schema: pa.Schema, options: Options) -> None:
    label = source.path.as_posix()
    writer.add_genes(source.genes, rows=source.cells, label=label)
    with ValuesFile(source.path, source.matrix) as file:
        obs = file.obs
    writer.begin_obs(schema, label)
    for start in range(0, len(obs), 1 << 16):
        rows = obs.iloc[start : start + (1 << 16)]
        table = as_table(rows, options.obs_index, where=f"{source.path}, obs", schema=source.obs)
        writer.add_obs(table)


def _add_neighbors(writer: ArchiveWriter, source: Source, first: int) -> None:
    """Neighbours numbered over the whole archive; cells of a file that has none have none."""
    if source.neighbors is None:
        writer.add_neighbors(np.zeros(source.cells, np.uint64), np.empty(0), np.empty(0))
        return
    with h5py.File(source.path, "r") as file:
        node = file["obsp"][source.neighbors]
        for counts, indices, weights in _neighbor_blocks(node):
            if len(indices) and not 0 <= int(indices.min()) <= int(indices.max()) < source.cells:
                found = f"obsp/{source.neighbors} names a cell outside of {source.cells:,}."
                raise ScdlError(source.path, found, "The file is damaged; write it again.")
            writer.add_neighbors(counts, indices.astype(np.uint64) + np.uint64(first), weights)


def _neighbor_blocks(node: h5py.Group) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    indptr = node["indptr"][:].astype(np.int64)
    n, start = len(indptr) - 1, 0
    while start < n:
        fits = int(np.searchsorted(indptr, indptr[start] + NEIGHBOR_BLOCK, side="right")) - 1
        stop = min(max(fits, start + 1), n)
        lo, hi = int(indptr[start]), int(indptr[stop])
        yield np.diff(indptr[start : stop + 1]), node["indices"][lo:hi], node["data"][lo:hi]
        start = stop


def convert_each(
    sources: Sequence[Source], out: str | PathLike[str], options: Options, *, force: bool = False
) -> dict[str, dict[str, Any]]:
    """An archive per file, ``out/<name of the file>``; what is in each.

    Raises:
        ScdlError: two files have the same name.
        FileExistsError: one of the archives is there; nothing is written.
    """
    folders = {source.path: Path(out) / source.path.stem for source in sources}
    for source in sources:
        same = [path for path, folder in folders.items() if folder == folders[source.path]]
        if len(same) > 1:
            raise ScdlError(same[1], f"it has the name of {same[0]}.", "Rename one, or write one archive of all.")
        if folders[source.path].exists() and not force:
            raise FileExistsError(f"{folders[source.path]}: it is already there. Delete it, or use --force.")
    one = partial(convert, options=options, force=force)
    return {str(folder): one([source], folder) for source, folder in zip(sources, folders.values(), strict=True)}
