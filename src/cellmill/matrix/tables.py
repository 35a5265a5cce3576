"""obs and var tables straight from HDF5, without importing anndata: the encodings that nearly every file has."""

from __future__ import annotations

import warnings
from typing import Any

import h5py
import numpy as np
import pandas as pd


def read_table(group: h5py.Group) -> pd.DataFrame:
    """A dataframe in anndata's encoding 0.2.0; what this does not know is read by anndata itself."""
    if _text(group.attrs.get("encoding-type", "")) != "dataframe" or "_index" not in group.attrs:
        return _by_anndata(group)
    try:
        index = _text(group.attrs["_index"])
        columns = {_text(name): _column(group[_text(name)]) for name in group.attrs["column-order"]}
        table = pd.DataFrame(columns, index=pd.Index(_column(group[index])))
    except NotImplementedError:
        return _by_anndata(group)
    table.index.name = None if index == "_index" else index
    return table


def _by_anndata(group: h5py.Group) -> pd.DataFrame:
    import anndata

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that old files should be rewritten
        table: pd.DataFrame = anndata.io.read_elem(group)
    return table


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _column(node: h5py.Group | h5py.Dataset) -> Any:
    kind = _text(node.attrs.get("encoding-type", ""))
    if kind == "string-array":
        return np.asarray(node.asstr()[:], object)
    if kind == "array" and node.dtype.kind in "biuf":
        return node[:]
    if kind == "categorical":
        codes, categories = node["codes"][:], _column(node["categories"])
        return pd.Categorical.from_codes(codes, pd.Index(categories), ordered=bool(node.attrs["ordered"]))
    if kind in ("nullable-integer", "nullable-boolean"):
        array = pd.arrays.IntegerArray if kind == "nullable-integer" else pd.arrays.BooleanArray
        return array(node["values"][:], node["mask"][:].astype(bool))
    raise NotImplementedError(kind)
