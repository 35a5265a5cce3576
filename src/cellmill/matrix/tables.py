"""obs and var tables from and to HDF5 in anndata's encodings, without importing it, which takes a second.

These are the encodings that nearly every file has; anndata itself is asked for the others.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pandas as pd

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq


def read_table(group: h5py.Group, rows: slice = slice(None)) -> pd.DataFrame:
    """A dataframe in anndata's encoding 0.2.0; what this does not know is read by anndata itself.

    Of ``rows`` alone, what they take is read and nothing else, where this knows all columns.
    """
    if _text(group.attrs.get("encoding-type", "")) != "dataframe" or "_index" not in group.attrs:
        return _by_anndata(group)[rows]
    try:
        index = _text(group.attrs["_index"])
        columns = {name: _column(group[name], rows) for name in column_names(group)}
        table = pd.DataFrame(columns, index=pd.Index(_column(group[index], rows)))
    except NotImplementedError:
        return _by_anndata(group)[rows]
    table.index.name = None if index == "_index" else index
    return table


def column_names(group: h5py.Group) -> list[str]:
    """Names of the columns of a dataframe in anndata's encoding."""
    return [_text(name) for name in group.attrs["column-order"]]


def read_column(group: h5py.Group, name: str, rows: slice = slice(None)) -> pd.Series:
    """One column of it, or its index, numbered from 0; the others are not read."""
    try:
        return pd.Series(_column(group[name], rows), name=name)
    except NotImplementedError:
        return _by_anndata(group)[name][rows].reset_index(drop=True)


def _by_anndata(group: h5py.Group) -> pd.DataFrame:
    import anndata

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that old files should be rewritten
        table: pd.DataFrame = anndata.io.read_elem(group)
    return table


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _column(node: h5py.Group | h5py.Dataset, rows: slice = slice(None)) -> Any:
    kind = _text(node.attrs.get("encoding-type", ""))
    if kind == "string-array":
        return np.asarray(node.asstr()[rows], object)
    if kind == "array" and node.dtype.kind in "biuf":
        return node[rows]
    if kind == "categorical":
        codes, categories = node["codes"][rows], _column(node["categories"])
        return pd.Categorical.from_codes(codes, pd.Index(categories), ordered=bool(node.attrs["ordered"]))
    if kind in ("nullable-integer", "nullable-boolean"):
        array = pd.arrays.IntegerArray if kind == "nullable-integer" else pd.arrays.BooleanArray
        return array(node["values"][rows], node["mask"][rows].astype(bool))
    raise NotImplementedError(kind)


_CHUNK = 1 << 16


def write_table(parent: h5py.Group, name: str, table: pd.DataFrame | ParquetTable) -> None:
    """Write a dataframe in anndata's encoding 0.2.0, gzip."""
    if isinstance(table, ParquetTable):
        table.write(parent, name)
        return
    columns = {str(column): values for column, values in table.items()}
    index = "_index" if table.index.name is None else str(table.index.name)
    if index in columns or not all(map(_is_known, [table.index.to_series(), *columns.values()])):
        from anndata.io import write_elem

        write_elem(parent, name, table, dataset_kwargs={"compression": "gzip", "compression_opts": 4})
        return
    group = _group(parent, name, "dataframe", "0.2.0")
    group.attrs["column-order"] = np.array(list(columns), h5py.string_dtype())
    group.attrs["_index"] = index
    for column, values in {index: table.index.to_series(), **columns}.items():
        _write_column(group, column, values)


def write_dict(parent: h5py.Group, name: str, values: dict[str, str]) -> None:
    """Write a group of texts, or an empty one, as anndata has them in ``uns``."""
    group = _group(parent, name, "dict", "0.1.0")
    for key, text in values.items():
        group.create_dataset(key, data=text, dtype=h5py.string_dtype()).attrs.update(_encoding("string", "0.2.0"))


def _encoding(kind: str, version: str) -> dict[str, str]:
    return {"encoding-type": kind, "encoding-version": version}


def _group(parent: h5py.Group, name: str, kind: str, version: str) -> h5py.Group:
    group = parent.create_group(name)
    group.attrs.update(_encoding(kind, version))
    return group


def _is_known(values: pd.Series) -> bool:
    if isinstance(values.dtype, pd.CategoricalDtype):
        return _is_known(values.cat.categories.to_series())
    if isinstance(values.dtype, np.dtype) and values.dtype.kind in "biuf":
        return True
    return values.dtype == object and all(isinstance(v, str) for v in values)


def _write_column(group: h5py.Group, name: str, values: pd.Series) -> None:
    if isinstance(values.dtype, pd.CategoricalDtype):
        coded = _group(group, name, "categorical", "0.2.0")
        coded.attrs["ordered"] = bool(values.cat.ordered)
        _write_array(coded, "codes", values.cat.codes.to_numpy())
        _write_column(coded, "categories", values.cat.categories.to_series())
    else:
        _write_array(group, name, values.to_numpy())


def _write_array(group: h5py.Group, name: str, values: np.ndarray) -> None:
    text = values.dtype == object
    packed = (
        {"chunks": (min(len(values), _CHUNK),), "compression": "gzip", "compression_opts": 4} if len(values) else {}
    )
    dataset = group.create_dataset(name, data=values, dtype=h5py.string_dtype() if text else values.dtype, **packed)
    dataset.attrs.update(_encoding("string-array" if text else "array", "0.2.0"))


@dataclass(frozen=True)
class ParquetTable:
    """A table that is written from a Parquet file: a column of one row group is in memory at once.

    Columns are string, bool, int64 or float64, the first of them the index;
    text is categorical, numbers with missing values are nullable, fractions that are missing NaN.
    """

    file: pq.ParquetFile
    categories: Mapping[str, pd.Index]
    """Every value of each text column but the index."""

    def __len__(self) -> int:
        return int(self.file.metadata.num_rows)

    def write(self, parent: h5py.Group, name: str) -> None:
        group = _group(parent, name, "dataframe", "0.2.0")
        index, *columns = self.file.schema_arrow.names
        group.attrs["column-order"] = np.array(columns, h5py.string_dtype())
        group.attrs["_index"] = index
        for column in (index, *columns):
            if column in self.categories:
                self._write_codes(group, column)
            else:
                self._write_values(group, column)

    def _pieces(self, column: str) -> Iterator[pa.Array]:
        for number in range(self.file.num_row_groups):
            yield self.file.read_row_group(number, [column], use_threads=False)[column].combine_chunks()

    def _write_codes(self, group: h5py.Group, column: str) -> None:
        import pyarrow as pa
        import pyarrow.compute as pc

        known = self.categories[column]
        coded, values = _group(group, column, "categorical", "0.2.0"), pa.array(known, pa.string())
        coded.attrs["ordered"] = False
        codes = self._empty(coded, "codes", np.result_type(np.int8, np.min_scalar_type(-max(len(known), 1))))
        _fill(codes, (pc.fill_null(pc.index_in(a, value_set=values), -1).to_numpy() for a in self._pieces(column)))
        _write_array(coded, "categories", known.to_numpy(object))

    def _write_values(self, group: h5py.Group, column: str) -> None:
        import pyarrow as pa
        import pyarrow.compute as pc

        type_ = self.file.schema_arrow.field(column).type
        if pa.types.is_string(type_):
            text = self._empty(group, column, h5py.string_dtype(), "string-array")
            _fill(text, (np.asarray(a.to_pylist(), object) for a in self._pieces(column)))
        elif pa.types.is_floating(type_):
            _fill(self._empty(group, column, np.dtype(np.float64)), (a.to_numpy(False) for a in self._pieces(column)))
        else:
            filler = pa.scalar(False if pa.types.is_boolean(type_) else 0, type_)
            dtype, kind = np.dtype(type_.to_pandas_dtype()), "boolean" if pa.types.is_boolean(type_) else "integer"
            missing = any(a.null_count for a in self._pieces(column))
            place = _group(group, column, f"nullable-{kind}", "0.1.0") if missing else group
            values = self._empty(place, "values" if missing else column, dtype)
            _fill(values, (pc.fill_null(a, filler).to_numpy(zero_copy_only=False) for a in self._pieces(column)))
            if missing:
                mask = self._empty(place, "mask", np.dtype(np.bool_))
                _fill(mask, (a.is_null().to_numpy(zero_copy_only=False) for a in self._pieces(column)))

    def _empty(self, group: h5py.Group, name: str, dtype: np.dtype, kind: str = "array") -> h5py.Dataset:
        packed = {"chunks": (min(len(self), _CHUNK),), "compression": "gzip", "compression_opts": 4}
        dataset = group.create_dataset(name, (len(self),), dtype, **(packed if len(self) else {}))
        dataset.attrs.update(_encoding(kind, "0.2.0"))
        return dataset


def _fill(dataset: h5py.Dataset, pieces: Iterable[np.ndarray]) -> None:
    start = 0
    for piece in pieces:
        dataset[start : start + len(piece)] = piece
        start += len(piece)


def storable(table: pd.DataFrame) -> pd.DataFrame:
    """A table as h5ad takes it: text with missing values as categories, and of categories those that are used."""
    columns = {}
    for name, values in table.items():
        if isinstance(values.dtype, pd.CategoricalDtype):
            values = values.cat.remove_unused_categories()
        elif values.dtype == object or isinstance(values.dtype, pd.StringDtype):
            missing = values.isna()
            text = values.astype(object).where(missing, values.astype(str))
            values = text.astype("category") if missing.any() else text
        columns[name] = values
    index = pd.Index(table.index.astype(str).to_numpy(object), name=table.index.name)
    return pd.DataFrame(columns, index=table.index).set_axis(index)
