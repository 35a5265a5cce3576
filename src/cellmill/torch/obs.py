"""Obs columns as numbers: text as integer codes with categories, the rest as it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cellmill.errors import CellmillError

if TYPE_CHECKING:
    import pyarrow as pa


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


def obs_column(name: str, found: pa.ChunkedArray | pa.Array | Any) -> ObsColumn:
    """A column of Arrow or pandas as numbers; what is an ``ObsColumn`` already stays one.

    Raises:
        CellmillError: where the column is neither text, bool nor numbers.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if isinstance(found, ObsColumn):
        return found
    if not isinstance(found, pa.ChunkedArray | pa.Array):
        found = pa.array(found, from_pandas=True)
    column = found if isinstance(found, pa.ChunkedArray) else pa.chunked_array([found])
    type_ = column.type
    if pa.types.is_dictionary(type_) or pa.types.is_string(type_) or pa.types.is_large_string(type_):
        whole = column.dictionary_encode().unify_dictionaries().combine_chunks()
        if isinstance(whole, pa.ChunkedArray):
            whole = whole.chunk(0) if whole.num_chunks else pa.array([], whole.type)
        names = np.array(whole.dictionary.to_pylist(), object)
        order = np.argsort(names.astype(str), kind="stable")
        codes = np.full(len(names) + 1, -1, _code_type(len(names)))
        codes[order] = np.arange(len(names))
        indices = pc.fill_null(whole.indices, len(names)).to_numpy(zero_copy_only=False)
        return ObsColumn(name, codes[indices], names[order])
    if pa.types.is_boolean(type_):
        return ObsColumn(name, pc.fill_null(column.cast(pa.int8()), -1).to_numpy())
    if pa.types.is_integer(type_) and not column.null_count:
        return ObsColumn(name, column.to_numpy())
    if pa.types.is_integer(type_) or pa.types.is_floating(type_):
        return ObsColumn(name, pc.fill_null(column.cast(pa.float64()), float("nan")).to_numpy())
    raise CellmillError(f"column '{name}'", f"is of type {type_}.", "An obs column is text, bool or numbers.")


def _code_type(categories: int) -> np.dtype:
    """The smallest signed type that holds ``categories`` codes and -1."""
    return np.dtype(np.int8 if categories <= 127 else np.int16 if categories <= 32_767 else np.int32)
