"""Typed columns as ``datasets`` knows them: classes, smallest integers, lists of a fixed length.

``load_dataset`` turns dictionaries of Arrow into plain text but keeps ``ClassLabel``: whole numbers in the rows,
and their names in the metadata of the file (key ``huggingface``).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    from cellmill.exports.rows import PartFiles

_KEY = b"huggingface"
_INTEGERS = (pa.uint8(), pa.uint16(), pa.uint32(), pa.int8(), pa.int16(), pa.int32())
"""In the order of preference; what fits none is int64."""


def typed_obs(parts: Sequence[PartFiles], obs: pa.Schema, *, max_classes: int) -> pa.Schema:
    """``obs`` with what ``encode`` needs in the metadata of its fields, found over all parts.

    Text of at most ``max_classes`` different values has ``classes``, sorted; whole numbers have ``integers``, the
    smallest type that holds all of them.
    """
    from cellmill.contracts.counts import CountsPart

    texts: dict[str, set[str]] = {f.name: set() for f in obs if _is_text(f.type) and max_classes}
    ranges: dict[str, list[int]] = {f.name: [] for f in obs if f.type == pa.int64()}
    for part in parts:
        if not (texts or ranges):
            break
        with CountsPart(part.processed) as counts:
            table = counts.obs_table([*texts, *ranges])
        for name in [*texts]:
            texts[name].update(v for v in pc.unique(table[name].cast(pa.string())).to_pylist() if v is not None)
            if len(texts[name]) > max_classes:
                del texts[name]
        for name, ends in ranges.items():
            found = pc.min_max(table[name].cast(pa.int64())).as_py()
            ends += [v for v in found.values() if v is not None]
    fields = []
    for field in obs:
        if texts.get(field.name):
            field = field.with_metadata({"classes": json.dumps(sorted(texts[field.name]), ensure_ascii=False)})
        elif field.name in ranges:
            field = field.with_metadata({"integers": str(smallest_integer(ranges[field.name]))})
        fields.append(field)
    return pa.schema(fields)


def _is_text(type_: pa.DataType) -> bool:
    return bool(pa.types.is_string(type_) or pa.types.is_large_string(type_))


def smallest_integer(values: Sequence[int]) -> pa.DataType:
    """The smallest type that holds all values, unsigned where none is negative; int64 for none at all."""
    low, high = (min(values), max(values)) if values else (-1 << 63, 0)
    for type_ in _INTEGERS:
        signed = pa.types.is_signed_integer(type_)
        if -(1 << type_.bit_width - 1) * signed <= low and high < 1 << type_.bit_width - signed:
            return type_
    return pa.int64()


def classes_of(field: pa.Field) -> list[str] | None:
    """The class names of an obs field of ``typed_obs``, or None."""
    said = (field.metadata or {}).get(b"classes")
    return None if said is None else list(json.loads(said))


def encode(column: pa.Array, field: pa.Field) -> pa.Array:
    """An obs column in the type of its field: codes (int64) of its classes, integers as small as they can be."""
    names = classes_of(field)
    if names is not None:
        return pc.index_in(column.cast(pa.string()), value_set=pa.array(names, pa.string())).cast(pa.int64())
    said = (field.metadata or {}).get(b"integers")
    if said is not None:
        return column.cast(pa.type_for_alias(said.decode()))
    return column.cast(pa.string()) if pa.types.is_large_string(column.type) else column


def with_features(schema: pa.Schema, classes: dict[str, list[str]]) -> pa.Schema:
    """``schema`` with the metadata by which ``load_dataset`` types its columns."""
    features = {f.name: _feature(f.type, classes.get(f.name)) for f in schema}
    return schema.with_metadata({_KEY: json.dumps({"info": {"features": features}}, ensure_ascii=False)})


def _feature(type_: pa.DataType, names: list[str] | None) -> dict[str, Any]:
    """A feature as ``datasets`` writes it; lists are ``Sequence``, which every release of it reads."""
    if names is not None:
        return {"names": names, "_type": "ClassLabel"}
    if pa.types.is_fixed_size_list(type_):
        return {"feature": _feature(type_.value_type, None), "length": type_.list_size, "_type": "Sequence"}
    if pa.types.is_list(type_):
        return {"feature": _feature(type_.value_type, None), "_type": "Sequence"}
    name = {"double": "float64", "float": "float32"}.get(str(type_), str(type_))
    return {"dtype": name, "_type": "Value"}


def decode(table: pa.Table) -> pa.Table:
    """A table that was read from an export by pyarrow, with the names of its classes in place of their codes."""
    said = json.loads((table.schema.metadata or {}).get(_KEY, b"{}")).get("info", {}).get("features", {})
    for i, name in enumerate(table.column_names):
        if said.get(name, {}).get("_type") == "ClassLabel":
            names = pa.array(said[name]["names"], pa.string())
            text = pa.chunked_array([names.take(chunk) for chunk in table[name].chunks], pa.string())
            table = table.set_column(i, name, text)
    return table
