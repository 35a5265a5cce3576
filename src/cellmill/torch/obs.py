"""Obs columns as numbers: text as integer codes with categories, the rest as it is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cellmill.errors import CellmillError

if TYPE_CHECKING:
    import pyarrow as pa

ROWS = 65_536
"""Rows of a column that are decoded at once."""


@dataclass(frozen=True)
class ObsColumn:
    """One obs column of all rows of a store."""

    name: str
    values: np.ndarray
    """(n_rows,): codes in the smallest signed integer, -1 for missing; or int8 of bool (-1 for missing), int64 or
    float64 (NaN for missing, also of whole numbers)."""
    categories: np.ndarray | None = None
    """What the codes mean, sorted; ``None``: ``values`` are no codes."""

    def __len__(self) -> int:
        return len(self.values)

    def decoded(self, rows: np.ndarray | slice = slice(None)) -> np.ndarray:
        """The values of ``rows`` as they were: text as objects, ``None`` for missing."""
        values = self.values[rows]
        if self.categories is None:
            return values
        return np.array([*self.categories, None], object)[values]

    def recoded(self, categories: Sequence[str]) -> ObsColumn:
        """The same column with the codes of other categories, such as those of the training split.

        Raises:
            CellmillError: a value is none of them, or the column has no categories.
        """
        if self.categories is None:
            raise CellmillError(f"obs column '{self.name}'", "holds numbers.", "Give categories of text columns only.")
        code_of = {name: code for code, name in enumerate(categories)}
        new = np.array([code_of.get(name, -1) for name in self.categories] + [-1], _code_type(len(code_of)))
        used = np.unique(self.values[self.values >= 0])
        unknown = [str(self.categories[code]) for code in used if new[code] < 0]
        if unknown:
            shown = ", ".join(f"'{name}'" for name in unknown[:5])
            raise CellmillError(
                f"obs column '{self.name}'",
                f"has {len(unknown)} values that are none of the {len(code_of)} categories given, such as {shown}.",
                "Give the categories of all splits, or leave these cells out with 'only'.",
            )
        return ObsColumn(self.name, new[self.values], np.array(list(categories), object))


def obs_column(name: str, found: pa.ChunkedArray | pa.Array | Iterator[pa.Array] | Any) -> ObsColumn:
    """A column of Arrow or pandas as numbers; what is an ``ObsColumn`` already stays one.

    Of an iterator of Arrow arrays, one of text is held at a time, beside the codes of those before it.

    Raises:
        CellmillError: where the column is neither text, bool nor numbers.
    """
    import pyarrow as pa

    if isinstance(found, ObsColumn):
        return found
    if not isinstance(found, pa.ChunkedArray | pa.Array | Iterator):
        found = pa.array(found, from_pandas=True)
    if isinstance(found, pa.ChunkedArray):
        found = iter(found.chunks or [pa.array([], found.type)])
    pieces = iter([found]) if isinstance(found, pa.Array) else found
    first = next(pieces)
    column = (_codes if _is_text(first.type) else _numbers)(name, chain([first], _alike(name, first.type, pieces)))
    # What Arrow freed it keeps for itself: some 20 MB for as long as the process lives.
    pa.default_memory_pool().release_unused()
    return column


def parquet_column(name: str, files: Iterable[Path]) -> Iterator[pa.Array]:
    """A column of Parquet files in pieces of ``ROWS``, text as codes, for ``obs_column``."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for path in files:
        with pq.ParquetFile(path, read_dictionary=[name], pre_buffer=False, buffer_size=1 << 16) as file:
            yield pa.array([], file.schema_arrow.field(name).type)
            for batch in file.iter_batches(ROWS, columns=[name], use_threads=False):
                yield batch.column(0)


def _is_text(type_: pa.DataType) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_dictionary(type_) or pa.types.is_string(type_) or pa.types.is_large_string(type_))


def _alike(name: str, type_: pa.DataType, pieces: Iterable[pa.Array]) -> Iterator[pa.Array]:
    """The pieces; refuses one of another type than the first, but for text, which has several."""
    for piece in pieces:
        if piece.type != type_ and not (_is_text(piece.type) and _is_text(type_)):
            found = f"is {type_} in one file, and {piece.type} in another."
            raise CellmillError(f"column '{name}'", found, "Write the export again, with one type for the column.")
        yield piece
        del piece  # it is not needed while the next is read


def _codes(name: str, pieces: Iterable[pa.Array]) -> ObsColumn:
    """Text as codes: as they come at first, then as the categories are sorted."""
    import pyarrow.compute as pc

    code_of: dict[Any, int] = {}
    blocks: list[np.ndarray] = []
    for piece in pieces:
        coded = piece.dictionary_encode()
        here = [-1 if one is None else code_of.setdefault(one, len(code_of)) for one in coded.dictionary.to_pylist()]
        codes = np.array([*here, -1], _code_type(len(code_of)))
        indices = pc.fill_null(coded.indices, 0).to_numpy(zero_copy_only=False)
        blocks.append(np.where(coded.indices.is_valid().to_numpy(zero_copy_only=False), codes[indices], codes[-1]))
    names = np.array(list(code_of), object)
    order = np.argsort(names.astype(str), kind="stable")
    rank = np.full(len(names) + 1, -1, _code_type(len(names)))
    rank[order] = np.arange(len(names))
    return ObsColumn(name, np.concatenate([rank[block] for block in blocks]), names[order])


def _numbers(name: str, pieces: Iterable[pa.Array]) -> ObsColumn:
    import pyarrow as pa
    import pyarrow.compute as pc

    column = pa.chunked_array(pieces)
    if pa.types.is_boolean(column.type):
        return ObsColumn(name, pc.fill_null(column.cast(pa.int8()), -1).to_numpy())
    if pa.types.is_integer(column.type) and not column.null_count:
        return ObsColumn(name, column.to_numpy())
    if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
        return ObsColumn(name, pc.fill_null(column.cast(pa.float64()), float("nan")).to_numpy())
    raise CellmillError(f"column '{name}'", f"is of type {column.type}.", "An obs column is text, bool or numbers.")


def _code_type(categories: int) -> np.dtype:
    """The smallest signed type that holds ``categories`` codes and -1."""
    return np.dtype(np.int8 if categories <= 127 else np.int16 if categories <= 32_767 else np.int32)
