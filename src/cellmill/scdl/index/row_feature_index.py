"""Feature tables of an archive: a block of genes or of obs columns for each run of rows.

A table stays on disk until a column of it is asked for; then that column alone is decoded, once.
"""

from __future__ import annotations

import json
import pickle
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np

from cellmill.files import replacing
from cellmill.scdl.archive import SCDL_VERSION, ScdlError

ENDS, LABELS, OLD_LABELS, VERSION = "cumulative_sum_index.npy", "labels.json", "labels.npy", "version.npy"
ROWS_PER_BATCH = 1 << 16


class Block(ABC):
    """Columns of equal length."""

    @property
    @abstractmethod
    def names(self) -> list[str]: ...

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def column(self, name: str) -> np.ndarray:
        """A column; text as objects, ``None`` where it is missing."""

    @abstractmethod
    def value(self, name: str, row: int) -> Any:
        """One value of a column."""

    @abstractmethod
    def batches(self) -> Iterator[Any]:
        """The block as Arrow tables of at most 65,536 rows."""

    @property
    @abstractmethod
    def schema(self) -> Any: ...


class ArrayBlock(Block):
    """Columns in memory."""

    def __init__(self, columns: dict[str, Any]) -> None:
        self._columns = {name: np.asarray(values) for name, values in columns.items()}

    @property
    def names(self) -> list[str]:
        return list(self._columns)

    def __len__(self) -> int:
        return len(next(iter(self._columns.values()), ()))

    def column(self, name: str) -> np.ndarray:
        return self._columns[name]

    def value(self, name: str, row: int) -> Any:
        return self._columns[name][row]

    @cached_property
    def _table(self) -> Any:
        import pyarrow as pa

        return pa.table({name: _arrow(values) for name, values in self._columns.items()})

    @property
    def schema(self) -> Any:
        return self._table.schema

    def batches(self) -> Iterator[Any]:
        for start in range(0, max(len(self), 1), ROWS_PER_BATCH):
            yield self._table.slice(start, ROWS_PER_BATCH)


class FileBlock(Block):
    """A Parquet file of which columns are read when they are asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._numbers: dict[str, np.ndarray] = {}
        self._text: dict[str, Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_numbers": {}, "_text": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    @cached_property
    def _metadata(self) -> Any:
        import pyarrow.parquet as pq

        try:
            return pq.read_metadata(self.path)
        except OSError as error:
            raise ScdlError(self.path, f"not readable as Parquet ({error}).", "Convert the h5ad file again.") from error

    @property
    def schema(self) -> Any:
        return self._metadata.schema.to_arrow_schema()

    @cached_property
    def names(self) -> list[str]:
        return list(self.schema.names)

    def __len__(self) -> int:
        return int(self._metadata.num_rows)

    def _read(self, name: str, *, coded: bool) -> Any:
        import pyarrow.parquet as pq

        return pq.read_table(self.path, columns=[name], read_dictionary=[name] if coded else None)[name]

    def column(self, name: str) -> np.ndarray:
        if name not in self._numbers:
            self._numbers[name] = self._read(name, coded=False).to_numpy()
        return self._numbers[name]

    def value(self, name: str, row: int) -> Any:
        """Text is kept as Arrow, and as codes where the file has it so: a few bytes per row, not an object."""
        import pyarrow as pa

        type_ = self.schema.field(name).type
        if name in self._numbers or not (pa.types.is_string(type_) or pa.types.is_large_string(type_)):
            return self.column(name)[row]
        if name not in self._text:
            self._text[name] = self._read(name, coded=self._is_coded(name))
        return self._text[name][row].as_py()

    def _is_coded(self, name: str) -> bool:
        """Whether the file has the column as codes of few values throughout."""
        number = self.names.index(name)
        groups = (self._metadata.row_group(g).column(number) for g in range(self._metadata.num_row_groups))
        return all(c.has_dictionary_page and c.total_uncompressed_size < 4 * max(c.num_values, 64) for c in groups)

    def batches(self) -> Iterator[Any]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        for batch in pq.ParquetFile(self.path).iter_batches(ROWS_PER_BATCH):
            yield pa.Table.from_batches([batch])


def _arrow(values: np.ndarray) -> Any:
    """An Arrow array; objects of several kinds become text."""
    import pyarrow as pa

    try:
        return pa.array(values, from_pandas=True)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return pa.array([None if v is None or v != v else str(v) for v in values], pa.string())


def are_dicts_equal(dict1: dict[str, np.ndarray], dict2: dict[str, np.ndarray]) -> bool:
    """Whether two tables have the same columns and values; missing ones are equal."""
    return same_block(ArrayBlock(dict1), ArrayBlock(dict2))


def same_block(one: Block, other: Block) -> bool:
    """Whether two blocks have the same columns and values; missing ones are equal."""
    if set(one.names) != set(other.names) or len(one) != len(other):
        return False
    if isinstance(one, FileBlock) and isinstance(other, FileBlock) and one.path == other.path:
        return True
    for name in one.names:
        a, b = one.column(name), other.column(name)
        with np.errstate(invalid="ignore"):
            equal = np.asarray(a == b) | (np.asarray(a != a) & np.asarray(b != b))
        if not np.all(equal):
            return False
    return True


class RowFeatureIndex(ABC):
    """Blocks of features, and the rows that each is for."""

    def __init__(self) -> None:
        self._cumulative_sum_index = np.array([-1], np.int64)
        self._blocks: list[Block] = []
        self._folder: Path | None = None
        self._changed = False
        self._own_labels: list[str | None] | None = []
        self._version = SCDL_VERSION

    @classmethod
    def load(cls, datapath: str | PathLike[str]) -> Self:
        """The index of a folder, of which the tables and labels stay on disk.

        Raises:
            FileNotFoundError: there is no such index.
            ScdlError: there are not as many tables as blocks.
        """
        index = cls()
        folder = Path(datapath)
        index._cumulative_sum_index = np.load(folder / ENDS, allow_pickle=False).astype(np.int64)
        index._blocks = [FileBlock(path) for path in _tables(folder, len(index._cumulative_sum_index) - 1)]
        index._folder, index._own_labels = folder, None
        if (folder / VERSION).is_file():
            index._version = str(np.load(folder / VERSION, allow_pickle=False).item())
        return index

    @property
    def _labels(self) -> list[str | None]:
        if self._own_labels is None:
            assert self._folder is not None
            self._own_labels = read_labels(self._folder)
        return self._own_labels

    def blocks(self) -> tuple[list[int], list[str | None]]:
        """Where each block ends, in rows, and its label."""
        return self._cumulative_sum_index[1:].tolist(), self._labels

    def version(self) -> str:
        """The version of SCDL that wrote it."""
        return self._version

    def __len__(self) -> int:
        """Number of blocks."""
        return len(self._blocks)

    def number_of_rows(self) -> int:
        """Number of rows over all blocks."""
        return max(int(self._cumulative_sum_index[-1]), 0)

    @abstractmethod
    def _width(self, block: Block) -> int: ...

    def column_dims(self) -> list[int]:
        """Genes, or obs columns, of each block."""
        return [self._width(block) for block in self._blocks]

    def number_of_values(self) -> list[int]:
        """Rows times width of each block; ``[0]`` where there is none."""
        rows = np.diff(np.maximum(self._cumulative_sum_index, 0)).tolist()
        return [r * w for r, w in zip(rows, self.column_dims(), strict=True)] or [0]

    def _block_of(self, row: int) -> int:
        if row < 0:
            raise IndexError(f"Row index {row} is not valid. It must be non-negative.")
        if not self._blocks:
            raise IndexError("There are no features to lookup.")
        if row >= self.number_of_rows():
            raise IndexError(f"Row index {row} is outside of the index, which has {self.number_of_rows()} rows.")
        return int(np.searchsorted(self._cumulative_sum_index[1:], row, side="right"))

    def number_vars_at_row(self, row: int) -> int:
        """Genes, or obs columns, of the block of a row."""
        return self._width(self._blocks[self._block_of(row)])

    def _selected(self, block: Block, names: Sequence[str] | None) -> list[str]:
        if names is None:
            return block.names
        for name in names:
            if name not in block.names:
                there = ", ".join(block.names)
                raise ValueError(
                    f"Provided feature column {name} in select_features not present in dataset. There: {there}."
                )
        return list(names)

    def _checked(self, features: dict[str, Any]) -> int:
        """The common length of the columns."""
        if not isinstance(features, dict):
            raise TypeError(
                f"{type(self).__name__}.append_features expects a dict of arrays, not {type(features).__name__}."
            )
        lengths = {len(values) for values in features.values()}
        if len(lengths) > 1:
            raise ValueError(f"All feature arrays must have the same length, found {sorted(lengths)}.")
        return lengths.pop() if lengths else 0

    @abstractmethod
    def _merged(self, last: Block, block: Block) -> Block | None:
        """Both as one block, where they can be."""

    def _append(self, block: Block, rows: int, label: str | None) -> None:
        labels, self._changed = self._labels, True
        end = self.number_of_rows() + rows
        merged = self._merged(self._blocks[-1], block) if self._blocks else None
        if merged is not None:
            self._blocks[-1] = merged
            self._cumulative_sum_index = np.append(self._cumulative_sum_index[:-1], end)
            return
        self._blocks.append(block)
        self._cumulative_sum_index = np.append(self._cumulative_sum_index, end)
        labels.append(None if label is None else str(label))

    def concat(self, other_row_index: RowFeatureIndex) -> Self:
        """Append the blocks of another index, in place; equal neighbours become one."""
        if type(other_row_index) is not type(self):
            raise TypeError(f"Expected a {type(self).__name__} to append, found {type(other_row_index).__name__}.")
        rows = np.diff(np.maximum(other_row_index._cumulative_sum_index, 0)).tolist()
        for block, n, label in zip(list(other_row_index._blocks), rows, list(other_row_index._labels), strict=True):
            self._append(block, n, label)
        return self

    def save(self, datapath: str | PathLike[str]) -> None:
        """Write the index to a folder, in place of one that is there; what is unchanged stays as it is."""
        import pyarrow.parquet as pq

        folder = Path(datapath)
        if self._folder == folder and not self._changed:
            return
        with replacing(folder, directory=True) as aside:
            for name, block in zip(table_names(len(self._blocks)), self._blocks, strict=True):
                with pq.ParquetWriter(aside / name, block.schema, compression="zstd") as writer:
                    for table in block.batches():
                        writer.write_table(table)
            write_index(aside, ends=self._cumulative_sum_index[1:].tolist(), labels=self._labels)
        self.__dict__.update(type(self).load(folder).__dict__)

    def lookup(self, row: int, select_features: Sequence[str] | None = None) -> tuple[list[Any], str | None]:
        """The features of a row and the label of its block."""
        number = self._block_of(row)
        first = max(int(self._cumulative_sum_index[number]), 0)
        block = self._blocks[number]
        names = self._selected(block, select_features)
        return self._looked_up(block, names, row - first), self._labels[number]

    @abstractmethod
    def _looked_up(self, block: Block, names: list[str], row: int) -> list[Any]: ...


class VariableFeatureIndex(RowFeatureIndex):
    """Genes: a lookup gives whole columns of the block of a row; consecutive equal blocks are one."""

    def _width(self, block: Block) -> int:
        return len(block)

    def _merged(self, last: Block, block: Block) -> Block | None:
        return last if same_block(last, block) else None

    def append_features(self, n_obs: int, features: dict[str, Any], label: str | None = None) -> None:
        """Append a block for ``n_obs`` rows."""
        self._checked(features)
        self._append(ArrayBlock(features), n_obs, label)

    def _looked_up(self, block: Block, names: list[str], row: int) -> list[Any]:
        return [block.column(name) for name in names]


class ObservedFeatureIndex(RowFeatureIndex):
    """Obs columns: a lookup gives one value per column; consecutive blocks of the same columns are one."""

    def _width(self, block: Block) -> int:
        return len(block.names)

    def _merged(self, last: Block, block: Block) -> Block | None:
        if set(last.names) != set(block.names):
            return None
        return ArrayBlock({name: np.concatenate([last.column(name), block.column(name)]) for name in last.names})

    def append_features(self, features: dict[str, Any], label: str | None = None) -> None:
        """Append a block, a row per value; one without rows is nothing."""
        rows = self._checked(features)
        if rows:
            self._append(ArrayBlock(features), rows, label)

    def _looked_up(self, block: Block, names: list[str], row: int) -> list[Any]:
        return [block.value(name, row) for name in names]

    def __getitem__(self, idx: int | slice) -> tuple[list[Any], Any]:
        """A row as ``(values, label)``; a slice as ``(tables, labels)``, a table per block, rows rising."""
        if isinstance(idx, slice):
            rows = np.sort(np.arange(self.number_of_rows())[idx])
            numbers = np.searchsorted(self._cumulative_sum_index[1:], rows, side="right")
            tables, labels = [], []
            for number in np.unique(numbers).tolist():
                within = rows[numbers == number] - max(int(self._cumulative_sum_index[number]), 0)
                block = self._blocks[number]
                tables.append({name: block.column(name)[within] for name in block.names})
                labels.append(self._labels[number])
            return tables, labels
        if not isinstance(idx, (int, np.integer)):
            raise TypeError(f"Index must be int or slice, not {type(idx).__name__}.")
        row = int(idx)
        return self.lookup(row + self.number_of_rows() if row < 0 else row)


def table_names(n_blocks: int) -> list[str]:
    """Names of the tables, whose order as text is that of the blocks."""
    digits = len(str(n_blocks))
    return [f"dataframe_{i:0{digits}d}.parquet" for i in range(n_blocks)]


def _tables(folder: Path, n_blocks: int) -> list[Path]:
    """The tables in the order of the blocks.

    BioNeMo-SCDL takes all Parquet files in the order of their names as text.
    That is another order where names are not padded, and another number where it left the table of a smaller
    archive beside those of a larger one.
    """
    expected = [folder / name for name in table_names(n_blocks)]
    if all(path.is_file() for path in expected):
        return expected
    found = [path for path in folder.glob("dataframe_*.parquet") if path.stem.removeprefix("dataframe_").isdigit()]
    if len(found) != n_blocks:
        raise ScdlError(
            folder, f"there are {len(found)} tables for {n_blocks} blocks of features.", "Convert the h5ad files again."
        )
    return sorted(found, key=lambda path: int(path.stem.removeprefix("dataframe_")))


def write_index(folder: Path, *, ends: list[int], labels: Sequence[str | None]) -> list[str]:
    """Write what stands beside the tables; labels twice: for 0.1.3 (npy, no pickle) and for later ones (json)."""
    np.save(folder / ENDS, np.array([-1, *ends], np.int64), allow_pickle=False)
    np.save(folder / OLD_LABELS, np.array(["" if v is None else v for v in labels], np.str_), allow_pickle=False)
    np.save(folder / VERSION, np.array(SCDL_VERSION), allow_pickle=False)
    (folder / LABELS).write_text(json.dumps(list(labels)))
    return [ENDS, OLD_LABELS, LABELS, VERSION, *table_names(len(ends))]


def read_labels(folder: Path) -> list[str | None]:
    """Labels of the blocks: ``labels.json``, else ``labels.npy``.

    0.1.3 pickled paths there; these, text and None are read, by a reader that can make nothing else.
    """
    if (folder / LABELS).is_file():
        return [None if v is None else str(v) for v in json.loads((folder / LABELS).read_text())]
    path = folder / OLD_LABELS
    if not path.is_file():
        raise FileNotFoundError(f"{folder}: no labels file found, neither {LABELS} nor {OLD_LABELS}. Convert again.")
    with path.open("rb") as stream:
        version = np.lib.format.read_magic(stream)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        _, _, dtype = read_header(stream)
        if dtype.hasobject:
            return _Unpickler(stream, path).labels()
    return [str(v) for v in np.load(path, allow_pickle=False).tolist()]


class _Path:
    """In place of a pickled path: its parts as text."""

    def __init__(self, *parts: str) -> None:
        self.text = "/".join(str(p).rstrip("/") for p in parts if p) if len(parts) > 1 else "".join(map(str, parts))


class _Unpickler(pickle.Unpickler):
    """Arrays of text, None and paths; every other name of a pickle is refused before it is looked up."""

    _PATHS = ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath", "Path", "PurePath")

    def __init__(self, stream: BinaryIO, path: Path) -> None:
        super().__init__(stream)
        self._path = path

    def find_class(self, module: str, name: str) -> Any:
        if module in ("pathlib", "pathlib._local") and name in self._PATHS:
            return _Path
        if (module, name) in (("numpy", "ndarray"), ("numpy", "dtype")):
            return getattr(np, name)
        if module in ("numpy._core.multiarray", "numpy.core.multiarray") and name == "_reconstruct":
            return np.zeros(0).__reduce__()[0]
        raise self._refused(f"{module}.{name}")

    def labels(self) -> list[str | None]:
        try:
            found = self.load()
        except (pickle.UnpicklingError, EOFError, TypeError, AttributeError, IndexError) as error:
            raise self._refused(str(error)) from error
        values = found.ravel().tolist() if isinstance(found, np.ndarray) else [found]
        for value in values:
            if not (value is None or isinstance(value, (str, _Path))):
                raise self._refused(type(value).__name__)
        return [value.text if isinstance(value, _Path) else value for value in values]

    def _refused(self, what: str) -> ScdlError:
        return ScdlError(
            self._path,
            f"it contains pickled objects other than text and paths ({what}); they were not loaded.",
            "Convert the h5ad files again, or write the labels as labels.json.",
        )
