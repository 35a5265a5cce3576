"""Rows of Arrow batches in another order: Arrow takes lists value by value, compiled loops copy them whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numba
import numpy as np
import pyarrow as pa

if TYPE_CHECKING:
    from collections.abc import Iterator


@numba.njit(cache=True, nogil=True)
def _gather(offsets: np.ndarray, values: np.ndarray, order: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lists ``order`` of those end to end in ``values``: their offsets, from 0, and values."""
    n = len(order)
    starts = np.zeros(n + 1, np.int64)
    for i in range(n):
        starts[i + 1] = starts[i] + offsets[order[i] + 1] - offsets[order[i]]
    out = np.empty(starts[n], values.dtype)
    for i in range(n):
        first, to = offsets[order[i]], starts[i]
        for j in range(starts[i + 1] - to):
            out[to + j] = values[first + j]
    return starts, out


def _plain(values: pa.Array) -> bool:
    """Whether the values are numbers, none of them missing."""
    return (pa.types.is_integer(values.type) or pa.types.is_floating(values.type)) and not values.null_count


def _take(column: pa.Array, order: np.ndarray) -> pa.Array:
    type_ = column.type
    if pa.types.is_large_list(type_) and not column.null_count and _plain(column.values):
        # Of the whole buffer: offsets of a slice do not begin at 0.
        values = column.values.to_numpy()
        bits = values.view(f"u{values.itemsize}")
        starts, taken = _gather(column.offsets.to_numpy(), bits, order)
        return pa.LargeListArray.from_arrays(pa.array(starts), pa.array(taken.view(values.dtype)), type=type_)
    if pa.types.is_fixed_size_list(type_) and not column.null_count and _plain(column.flatten()):
        rows = column.flatten().to_numpy().reshape(-1, type_.list_size)
        return pa.FixedSizeListArray.from_arrays(pa.array(rows[order].ravel()), type=type_)
    return column.take(pa.array(order))


def take_rows(batch: pa.RecordBatch, order: np.ndarray) -> pa.RecordBatch:
    """Rows ``order`` (int64 or uint64) of a batch, as ``batch.take`` gives them."""
    order = order.astype(np.int64, copy=False)
    return pa.RecordBatch.from_arrays([_take(column, order) for column in batch.columns], schema=batch.schema)


def joined(table: pa.Table) -> pa.RecordBatch:
    """A table as one batch; as each column is joined, its pieces go, so that no second copy of all is in memory."""
    schema = table.schema
    columns = [table.column(i) for i in range(table.num_columns)]
    del table

    def arrays() -> Iterator[pa.Array]:
        while columns:
            column = columns.pop(0)
            array = column.combine_chunks()
            yield array.chunk(0) if isinstance(array, pa.ChunkedArray) else array

    return pa.RecordBatch.from_arrays(list(arrays()), schema=schema)
