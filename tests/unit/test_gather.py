"""Rows in another order are those that Arrow itself takes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from cellmill.exports.gather import joined, take_rows

N = 40


def lists(values: pa.Array) -> pa.Array:
    """Lists of many lengths, some empty, of ``values`` end to end."""
    ends = np.sort(np.random.default_rng(1).integers(0, len(values), N - 1))
    return pa.LargeListArray.from_arrays(pa.array(np.r_[0, ends, len(values)]), values)


def a_batch() -> pa.RecordBatch:
    """Every kind of column that parts have, and some that Arrow takes itself."""
    rng = np.random.default_rng(0)
    text = [None if i % 7 == 0 else "é" * (i % 5) for i in range(N)]
    columns: dict[str, Any] = {
        "genes": lists(pa.array(rng.integers(0, 1 << 16, 500, dtype=np.uint16))),
        "wide": lists(pa.array(rng.integers(0, 1 << 40, 300, dtype=np.uint64))),
        "float": lists(pa.array(rng.random(100, np.float32))),
        "words": lists(pa.array([f"w{i}" for i in range(90)])),
        "flags": lists(pa.array(rng.random(90) < 0.5)),
        "missing": lists(pa.array([None if i % 3 else i for i in range(90)])),
        "no list": pa.array([None if i % 3 else [i, i] for i in range(N)], pa.large_list(pa.int32())),
        "vector": pa.FixedSizeListArray.from_arrays(pa.array(rng.random(3 * N, np.float32)), 3),
        "text": pa.array(text, pa.large_string()),
        "truth": pa.array([None if i % 5 == 0 else i % 2 == 0 for i in range(N)]),
        "number": pa.array(rng.random(N)),
    }
    return pa.RecordBatch.from_pydict(columns)


@pytest.mark.parametrize("order", [np.arange(N)[::-1], np.array([3, 3, 0]), np.array([], np.int64)], ids=str)
def test_rows_are_those_that_arrow_takes(order: np.ndarray) -> None:
    """Values, types and what is missing; of slices, too."""
    batch = a_batch()
    expected = batch.take(pa.array(order))
    found = take_rows(batch, order)
    assert found.schema == expected.schema and found.equals(expected)
    found.validate(full=True)
    cut = batch.slice(5, 20)
    assert take_rows(cut, order % 20).equals(cut.take(pa.array(order % 20)))


def test_pieces_are_joined_in_order() -> None:
    """Slices of a batch and whole ones become one batch again."""
    batch = a_batch()
    pieces = [batch.slice(0, 11), batch.slice(11, 1), batch.slice(12)]
    assert joined(pa.Table.from_batches(pieces)).equals(batch)
    assert joined(pa.Table.from_batches([batch])).equals(batch)
