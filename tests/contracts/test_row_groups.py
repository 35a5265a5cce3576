"""Row groups that threads encode: what pyarrow reads is what was written, as from its own writer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellmill.contracts.row_groups import RowGroupWriter, encode_rows
from cellmill.contracts.tokens import list_field, schema

DTYPES = ["uint8", "uint16", "uint32", "int8", "int16", "int32", "float32"]
METADATA = {b"cellmill": "{'ü': 1}".encode()}


def write(path: Path, batches: list[pa.RecordBatch]) -> pq.ParquetFile:
    with RowGroupWriter(path, batches[0].schema) as file:
        for batch in batches:
            file.append(encode_rows(batch.columns))
        file.close(METADATA)
    return pq.ParquetFile(path)


def batch_of(cells: list[list[Any]], dtype: str) -> pa.RecordBatch:
    fields = [list_field("input_ids", np.dtype(dtype)), pa.field("text", pa.large_string(), nullable=False)]
    columns = {
        "cell_id": [f"zelle-ä{i}" * (i % 3) for i in range(len(cells))],
        "left_out": [i % 3 == 1 for i in range(len(cells))],
        "input_ids": cells,
        "text": [" ".join(map(str, c)) for c in cells],
    }
    return pa.RecordBatch.from_pydict(columns, schema=schema(fields))


@st.composite
def some_cells(draw: Any) -> tuple[list[list[Any]], str]:
    """Lists with and without values, over the whole range of a type."""
    dtype = draw(st.sampled_from(DTYPES))
    if dtype == "float32":
        number: Any = st.floats(width=32, allow_nan=False)
    else:
        number = st.integers(np.iinfo(dtype).min, np.iinfo(dtype).max)
    few = st.lists(number, max_size=3)
    many = st.integers(100, 400).map(lambda n: [1] * n)
    return draw(st.lists(st.one_of(st.just([]), few, many), min_size=1, max_size=40)), dtype


@settings(max_examples=200, deadline=None, derandomize=True)
@given(some_cells(), st.integers(0, 5), st.integers(1, 17))
def test_every_row_is_read_as_it_was(tmp_path_factory: Any, case: Any, skipped: int, size: int) -> None:
    """Also of slices, whose buffers begin elsewhere, in row groups of any size."""
    cells, dtype = case
    whole = batch_of(cells, dtype).slice(min(skipped, len(cells) - 1))
    batches = [whole.slice(i, size) for i in range(0, whole.num_rows, size)]
    path = tmp_path_factory.mktemp("rows") / "x.parquet"
    with write(path, batches) as file:
        assert file.schema_arrow.equals(whole.schema)
        assert file.read().equals(pa.Table.from_batches([whole]))
        assert [file.metadata.row_group(i).num_rows for i in range(len(batches))] == [b.num_rows for b in batches]
        for i, batch in enumerate(batches):
            assert (
                file.read_row_group(i, columns=["input_ids"])["input_ids"].to_pylist() == batch["input_ids"].to_pylist()
            )


def test_the_footer_says_what_pyarrow_s_own_says(tmp_path: Path) -> None:
    """Schema, metadata, rows, and of every column its type, values and size before compression."""
    cells = [list(range(i % 7)) for i in range(300)]
    batches = [batch_of(cells, "uint16"), batch_of(cells[:20], "uint16")]
    split = {"use_byte_stream_split": ["input_ids.list.element"], "use_dictionary": False, "write_statistics": False}
    with pq.ParquetWriter(tmp_path / "own.parquet", batches[0].schema, compression="zstd", **split) as writer:
        for batch in batches:
            writer.write_batch(batch)
        writer.add_key_value_metadata(METADATA)
    with write(tmp_path / "x.parquet", batches) as ours, pq.ParquetFile(tmp_path / "own.parquet") as theirs:
        assert ours.schema.equals(theirs.schema)
        assert ours.metadata.metadata == theirs.metadata.metadata
        assert ours.metadata.num_rows == 320
        for i in range(2):
            for j in range(4):
                mine, other = (f.metadata.row_group(i).column(j) for f in (ours, theirs))
                for name in ("physical_type", "num_values", "path_in_schema", "compression"):
                    assert getattr(mine, name) == getattr(other, name), name
                assert set(mine.encodings) <= set(other.encodings)


@pytest.mark.parametrize("n", [0, 1, 14, 15, 200])
def test_any_number_of_row_groups(tmp_path: Path, n: int) -> None:
    """None at all; and where the length of their list takes another form."""
    batch = batch_of([[1, 2], []], "uint8")
    path = tmp_path / "x.parquet"
    with RowGroupWriter(path, batch.schema) as file:
        for _ in range(n):
            file.append(encode_rows(batch.columns))
        file.close(METADATA)
    table = pq.read_table(path)
    assert table.num_rows == 2 * n and table.schema.equals(batch.schema)
