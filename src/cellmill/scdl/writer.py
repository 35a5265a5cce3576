"""SCDL archives written as a stream: rows as they come, in the smallest types that hold them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from cellmill.matrix.obs_table import ObsTable
from cellmill.scdl.archive import ARRAYS, NEIGHBORS, SCDL_VERSION, Header, ScdlError
from cellmill.scdl.index.row_feature_index import table_names, write_index
from cellmill.scdl.util.scdl_constants import FileNames

if TYPE_CHECKING:
    import pyarrow as pa

BLOCK = 1 << 20
"""Values that are recast at once."""


def little_endian(values: np.ndarray, dtype: np.dtype[Any]) -> memoryview:
    """The bytes of an array in a type, without a copy where it has it."""
    return np.ascontiguousarray(values, dtype.newbyteorder("<")).view(np.uint8).data


class GrowingArray:
    """A file of numbers in the smallest type that holds all of them.

    It begins narrow; where a value does not fit, what is there is rewritten once in a wider type, block by block.
    Unsigned integers stay integers until a fraction comes: then all are float32, or float64 where float32 is not exact.

    Args:
        dtype: the type that is asked for, and is not left; ``None``: by the values.
        tolerance: how far a value may move by a type that is asked for.
    """

    def __init__(self, path: Path, dtype: np.dtype[Any] | None = None, *, tolerance: float = 0.0) -> None:
        self.path, self.length, self.tolerance = path, 0, tolerance
        self.is_fixed = dtype is not None
        self.dtype = np.dtype(np.uint8) if dtype is None else np.dtype(dtype)
        self._buffer = np.empty(0, self.dtype)
        self._stream: BinaryIO = path.open("wb")

    def append(self, values: np.ndarray) -> None:
        """Append values (n,).

        Raises:
            ScdlError: one does not fit the type that was asked for; says which.
        """
        if self.is_fixed:
            self._check(values)
        elif len(values):
            needed = np.promote_types(self.dtype, smallest_dtype(values))
            if needed != self.dtype:
                self._widen(needed)
        self._stream.write(self._cast(values))
        self.length += len(values)

    def _cast(self, values: np.ndarray) -> memoryview:
        """Their bytes in the type of the file, in memory that is used again: new memory costs ten times the cast."""
        dtype = self.dtype.newbyteorder("<")
        if len(self._buffer) < len(values) or self._buffer.dtype != dtype:
            self._buffer = np.empty(len(values), dtype)
        out = self._buffer[: len(values)]
        np.copyto(out, values, casting="unsafe")
        return out.view(np.uint8).data

    def close(self) -> None:
        self._stream.close()

    def _check(self, values: np.ndarray) -> None:
        if not len(values) or np.can_cast(values.dtype, self.dtype, "safe"):
            return
        if self.dtype.kind == "u" and values.dtype.kind in "iu":
            if values.max() <= np.iinfo(self.dtype).max and values.min() >= 0:
                return
        with np.errstate(all="ignore"):
            moved = np.abs(values.astype(self.dtype).astype(np.float64) - values.astype(np.float64))
        moved[~np.isfinite(moved)] = np.inf
        at = int(np.argmax(moved))
        if moved[at] > self.tolerance:
            raise ScdlError(
                self.path.name,
                f"value {self.length + at:,} is {values[at]}, which {self.dtype} cannot hold.",
                "Ask for a wider type, or for none: then the smallest one that fits is taken.",
            )

    def _widen(self, dtype: np.dtype[Any]) -> None:
        self._stream.close()
        narrow = self.path.with_name(f"{self.path.name}.{self.dtype.name}")
        self.path.rename(narrow)
        recast(narrow, self.path, self.dtype, dtype)
        narrow.unlink()
        self.dtype, self._stream = dtype, self.path.open("ab")


def smallest_dtype(values: np.ndarray) -> np.dtype[Any]:
    """The smallest type that holds values exactly: an unsigned integer, float32 or float64."""
    if values.dtype.kind == "u":
        return np.min_scalar_type(int(values.max(initial=0)))
    with np.errstate(over="ignore"):
        exact = np.array_equal(values.astype(np.float32).astype(values.dtype), values)
    return np.dtype(np.float32 if exact else np.float64)


def recast(source: Path, sink: Path, found: np.dtype[Any], dtype: np.dtype[Any], *, block: int = BLOCK) -> None:
    """Write the numbers of one file to another in another type, block by block."""
    found = found.newbyteorder("<")
    with source.open("rb") as numbers, sink.open("wb") as out:
        while read := numbers.read(found.itemsize * block):
            out.write(little_endian(np.frombuffer(read, found), dtype))


class _ObsTables:
    """Obs columns as Parquet, a file for each run of rows with the same ones."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.ends: list[int] = []
        self.labels: list[str | None] = []
        self._table: ObsTable | None = None

    def begin(self, schema: pa.Schema, label: str | None) -> None:
        if self._table is not None and schema.equals(self._table.schema):
            return
        self.close()
        self._table = ObsTable(self._folder / f"dataframe_{len(self.ends)}.parquet.partial", schema)
        self.ends.append(self.ends[-1] if self.ends else 0)
        self.labels.append(label)

    def add(self, rows: pa.RecordBatch | pa.Table) -> None:
        assert self._table is not None
        self._table.add(rows)
        self.ends[-1] += rows.num_rows

    def close(self) -> None:
        if self._table is not None:
            self._table.close()


class ArchiveWriter:
    """Writes one archive.

    A context manager, so that no file stays open after an error.
    Rows, gene tables, obs tables and neighbours are appended independently of each other, each in the order of rows.

    Args:
        folder: an empty folder.
        column_dtype: type of ``col_ptr.npy``.
        data_dtype: type of ``data.npy``; ``None``: the smallest that holds all values.
        tolerance: how far a value may move by ``data_dtype``.

    Memory: what is appended at once, and the obs columns of one row group.
    """

    def __init__(
        self,
        folder: Path,
        *,
        column_dtype: np.dtype[Any],
        data_dtype: np.dtype[Any] | None = None,
        tolerance: float = 0.0,
    ) -> None:
        self.folder = folder
        self.data = GrowingArray(folder / "data.npy", data_dtype, tolerance=tolerance)
        self._columns = GrowingArray(folder / "col_ptr.npy", column_dtype)
        self._rows = GrowingArray(folder / "row_ptr.npy.uint64", np.dtype(np.uint64))
        self._rows.append(np.zeros(1, np.uint64))
        self._neighbors: dict[str, GrowingArray] = {}
        self._var: list[tuple[pa.Table, int, str | None]] = []
        (folder / "var_features").mkdir()
        (folder / "obs_features").mkdir()
        self._obs = _ObsTables(folder / "obs_features")

    def __enter__(self) -> ArchiveWriter:
        return self

    def __exit__(self, *_: object) -> None:
        """Close the files, after an error, too; an archive is whole after ``close`` only."""
        for array in (self.data, self._columns, self._rows, *self._neighbors.values()):
            array.close()
        self._obs.close()

    @property
    def cells(self) -> int:
        """Rows so far."""
        return self._rows.length - 1

    @property
    def values(self) -> int:
        """Values so far."""
        return self.data.length

    def add_rows(self, values: np.ndarray, columns: np.ndarray, ends: np.ndarray) -> None:
        """Append rows: values and columns (n,) end to end, and where each row ends in them."""
        self._rows.append(np.asarray(ends, np.uint64) + np.uint64(self.values))
        self.data.append(values)
        self._columns.append(columns)

    def add_genes(self, table: pa.Table, *, rows: int, label: str | None) -> None:
        """Append the gene table of the next rows; one that is equal to the last is not written again."""
        if self._var and self._var[-1][0].equals(table):
            self._var[-1] = (self._var[-1][0], self._var[-1][1] + rows, self._var[-1][2])
        else:
            self._var.append((table, rows, label))

    def begin_obs(self, schema: pa.Schema, label: str | None) -> None:
        """Say what obs columns follow; the same as before go on in the same block."""
        self._obs.begin(schema, label)

    def add_obs(self, rows: pa.RecordBatch | pa.Table) -> None:
        """Append obs columns."""
        self._obs.add(rows)

    def add_neighbors(self, counts: np.ndarray, indices: np.ndarray, weights: np.ndarray) -> None:
        """Append neighbours of cells: how many each has, and which, numbered over the whole archive."""
        if not self._neighbors:
            self._neighbors = {name: GrowingArray(self.folder / name, dtype) for name, dtype in NEIGHBORS.items()}
            self._neighbors[FileNames.NEIGHBOR_INDICES_PTR.value].append(np.zeros(1, np.uint64))
        which = self._neighbors[FileNames.NEIGHBOR_INDICES.value]
        ends = np.cumsum(counts, dtype=np.uint64) + np.uint64(which.length)
        self._neighbors[FileNames.NEIGHBOR_INDICES_PTR.value].append(ends)
        which.append(np.asarray(indices, np.uint32))
        self._neighbors[FileNames.NEIGHBOR_VALUES.value].append(np.asarray(weights, np.float32))

    @property
    def neighbors(self) -> int:
        """Neighbours so far."""
        return self._neighbors[FileNames.NEIGHBOR_INDICES.value].length if self._neighbors else 0

    def close(self) -> dict[str, Any]:
        """Write tables, header and what else belongs to an archive; the lengths and types of its arrays.

        Raises:
            ScdlError: there is no value at all, which SCDL cannot map.
        """
        import pyarrow.parquet as pq

        self.__exit__()
        if not self.values:
            raise ScdlError(
                self.folder.name, "has no value at all, and SCDL cannot map an empty file.", "Leave it out."
            )
        if self._neighbors and not self.neighbors:
            for array in self._neighbors.values():  # for the same reason
                array.path.unlink()
        row_dtype = np.min_scalar_type(self.values)
        recast(self._rows.path, self.folder / "row_ptr.npy", self._rows.dtype, row_dtype, block=BLOCK)
        self._rows.path.unlink()
        for name, (table, _, _) in zip(table_names(len(self._var)), self._var, strict=True):
            pq.write_table(table, self.folder / "var_features" / name, compression="zstd")
        obs = self._obs
        for number, name in enumerate(table_names(len(obs.ends))):
            (self.folder / f"obs_features/dataframe_{number}.parquet.partial").rename(
                self.folder / "obs_features" / name
            )
        var_ends = np.cumsum([rows for _, rows, _ in self._var]).tolist()
        arrays = {
            "DATA": (self.values, self.data.dtype),
            "ROWPTR": (self.cells + 1, row_dtype),
            "COLPTR": (self.values, self._columns.dtype),
        }
        tables = (
            ("var_features", var_ends, [label for *_, label in self._var]),
            ("obs_features", obs.ends, obs.labels),
        )
        write_about(self.folder, arrays, tables)
        return {name: {"length": length, "dtype": dtype.name} for name, (length, dtype) in arrays.items()}


def write_about(
    folder: Path,
    arrays: dict[str, tuple[int, np.dtype[Any]]],
    tables: Iterable[tuple[str, list[int], Sequence[str | None]]],
) -> None:
    """Write header, metadata, version, and what stands beside the feature tables ``(folder, ends, labels)``."""
    features = {}
    for name, ends, labels in tables:
        files = write_index(folder / name, ends=ends, labels=labels)
        features[name] = (ends[-1] if ends else 0, tuple(f"{name}/{file}" for file in files))
    (folder / FileNames.HEADER.value).write_bytes(Header(arrays, features).to_bytes())
    (folder / FileNames.METADATA.value).write_text(json.dumps({"num_rows": arrays["ROWPTR"][0] - 1}))
    (folder / FileNames.VERSION.value).write_text(json.dumps(SCDL_VERSION))


def write_zeros(folder: Path, *, rows: int, elements: int, dtype: np.dtype[Any]) -> None:
    """An archive without features, of rows that are empty, to be filled by hand."""
    folder.mkdir(parents=True)
    arrays = {
        "DATA": (elements, dtype),
        "ROWPTR": (rows + 1, np.dtype(np.uint64)),
        "COLPTR": (elements, np.dtype(np.uint32)),
    }
    for name, (length, type_) in arrays.items():
        np.memmap(folder / ARRAYS[name], type_.newbyteorder("<"), "w+", shape=(length,)).flush()
    tables = ("var_features", "obs_features")
    for name in tables:
        (folder / name).mkdir()
    write_about(folder, arrays, [(name, [], []) for name in tables])


def unified(schemas: Sequence[pa.Schema]) -> list[pa.Schema]:
    """For each of consecutive obs tables, the schema of the block that it goes to.

    Tables of the same column names, in any order, are one block; a column of whole numbers here and fractions there
    is fractions, one of text and something else is text.
    """
    blocks: list[tuple[pa.Schema, int]] = []
    for schema in schemas:
        if blocks and set(blocks[-1][0].names) == set(schema.names):
            blocks[-1] = (_common(blocks[-1][0], schema), blocks[-1][1] + 1)
        else:
            blocks.append((schema, 1))
    return [schema for schema, n in blocks for _ in range(n)]


def _common(one: pa.Schema, other: pa.Schema) -> pa.Schema:
    import pyarrow as pa

    fields = []
    for field in one:
        both = [pa.schema([("x", field.type)]), pa.schema([("x", other.field(field.name).type)])]
        try:
            type_ = pa.unify_schemas(both, promote_options="permissive").field("x").type
        except (pa.ArrowInvalid, pa.ArrowTypeError):
            type_ = pa.string()
        fields.append((field.name, type_))
    return pa.schema(fields)
