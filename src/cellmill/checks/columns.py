"""Two Arrow tables of the same cells, column by column: which rows differ, and how."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def differing(found: pa.Array, expected: pa.Array) -> np.ndarray:
    """bool (n,): rows whose values differ; missing equals missing, NaN equals NaN, widths of types do not count."""
    if _is_list(found.type) or _is_list(expected.type):
        if not (_is_list(found.type) and _is_list(expected.type)):
            return np.ones(len(found), np.bool_)
        return _differing_lists(found, expected)
    missing, gone = (c.is_null().to_numpy(zero_copy_only=False) for c in (found, expected))
    if missing.all() and gone.all():
        return np.zeros(len(found), np.bool_)
    texts = [_is_text(c.type) for c in (found, expected)]
    if texts[0] != texts[1]:
        return np.asarray(~(missing & gone))
    if texts[0]:
        unlike = pc.not_equal(found.cast(pa.large_string()), expected.cast(pa.large_string()))
        differ = pc.fill_null(unlike, False).to_numpy(zero_copy_only=False)
    else:
        differ = _unlike(_numbers(found), _numbers(expected))
    return np.asarray((differ & ~missing & ~gone) | (missing != gone))


def _is_list(type_: pa.DataType) -> bool:
    return bool(pa.types.is_list(type_) or pa.types.is_large_list(type_) or pa.types.is_fixed_size_list(type_))


def _is_text(type_: pa.DataType) -> bool:
    if pa.types.is_dictionary(type_):
        return _is_text(type_.value_type)
    return bool(pa.types.is_string(type_) or pa.types.is_large_string(type_))


def _numbers(column: pa.Array) -> np.ndarray:
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.int8())
    if pa.types.is_null(column.type):
        return np.zeros(len(column))
    return np.asarray(pc.fill_null(column, pa.scalar(0, column.type)).to_numpy(zero_copy_only=False))


def _unlike(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Elementwise; NaN equals NaN, and no whole number is rounded to a float for it."""
    unlike = a != b
    if a.dtype.kind == "f" and b.dtype.kind == "f":
        unlike &= ~(np.isnan(a) & np.isnan(b))
    return np.asarray(unlike)


def flat(column: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Offsets (n + 1, int64, from 0) and values of a column of lists; a missing list is empty."""
    if pa.types.is_fixed_size_list(column.type):
        width = column.type.list_size
        values = column.flatten() if column.null_count == 0 else column.fill_null([0] * width).flatten()
        return np.arange(len(column) + 1, dtype=np.int64) * width, _numbers(values)
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy().astype(np.int64)
    return np.r_[0, lengths.cumsum()], _numbers(column.flatten())


def _differing_lists(found: pa.Array, expected: pa.Array) -> np.ndarray:
    (f_offsets, f), (e_offsets, e) = flat(found), flat(expected)
    lengths = np.diff(f_offsets)
    if np.array_equal(f_offsets, e_offsets):
        unlike = _unlike(f, e)
        if not unlike.any():
            return np.zeros(len(found), np.bool_)
        return np.bincount(np.repeat(np.arange(len(found)), lengths)[unlike], minlength=len(found)) > 0
    differ = lengths != np.diff(e_offsets)
    same = np.flatnonzero(~differ)
    rows = np.repeat(same, lengths[same])
    within = np.arange(len(rows)) - np.repeat(np.r_[0, lengths[same].cumsum()[:-1]], lengths[same])
    unlike = _unlike(f[f_offsets[rows] + within], e[e_offsets[rows] + within])
    differ[rows[unlike]] = True
    return differ


def told(found: Any, expected: Any) -> str:
    """Two values of a cell, for people: of lists the first place at which they differ."""
    if isinstance(found, list) and isinstance(expected, list):
        at = next(
            (i for i, (a, b) in enumerate(zip(found, expected, strict=False)) if a != b), min(len(found), len(expected))
        )
        sizes = f"{len(found):,} values" if len(found) == len(expected) else f"{len(found):,} and {len(expected):,}"
        return f"value {at} is {_item(found, at)}, expected {_item(expected, at)} (of {sizes})"
    return f"found {_short(found)}, expected {_short(expected)}"


def told_counts(found: dict[str, list[Any]], expected: dict[str, list[Any]], names: list[str]) -> str:
    """The first gene whose count differs; ``genes`` and ``counts`` of one cell on either side."""
    have, want = (dict(zip(c["genes"], c["counts"], strict=False)) for c in (found, expected))
    for gene in sorted(have.keys() | want.keys()):
        if have.get(gene, 0) != want.get(gene, 0):
            name = names[gene] if gene < len(names) else f"number {gene}, outside the gene space"
            return f"gene '{name}': found {have.get(gene, 0)}, expected {want.get(gene, 0)}"
    return "genes in another order, or stored zeros"


def _item(values: list[Any], at: int) -> str:
    return _short(values[at]) if at < len(values) else "missing"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:79] + "…"
