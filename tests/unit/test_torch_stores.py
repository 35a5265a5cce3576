"""Stores give the rows that went into an export, whatever rows are asked for."""

from __future__ import annotations

import json
import pickle
import shutil
import weakref
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cellmill.contracts import tokens as token_files
from cellmill.contracts.parquet import write as write_parquet
from cellmill.contracts.row_groups import encode_rows
from cellmill.contracts.tokens import list_field
from cellmill.contracts.versions import VOCABULARY
from cellmill.errors import CellmillError
from cellmill.exports.mds_columns import MdsColumn, samples
from cellmill.torch import CellStream, Sequential
from cellmill.torch.obs import obs_column
from cellmill.torch.stores import Blocks, open_store

from .loader_exports import COUNTS, FORMATS, TABLES, Made, make_exports

ROWS = np.array([5, 699, 0, 5, 301, 299, 300, 0], np.int64)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make_exports(tmp_path_factory.mktemp("stores"))


@pytest.mark.parametrize("format_", COUNTS)
def test_counts_are_those_that_went_in(format_: str, made: Made):
    """Rows in any order, also twice, and all of them; the first cell has no gene."""
    store = open_store(made.path(format_))
    expected = made.dense()
    assert (store.n_rows, store.n_genes) == expected.shape
    assert list(store.genes["gene_id"]) == list(made.rows.header.genes["gene_id"])
    for rows in (ROWS, np.arange(700), np.empty(0, np.int64)):
        offsets, columns, values = store.take(rows)
        found = np.zeros((len(rows), store.n_genes), np.float32)
        found[np.repeat(np.arange(len(rows)), np.diff(offsets)), columns] = values
        assert np.array_equal(found, expected[rows])
        assert offsets.dtype == np.int64


@pytest.mark.parametrize("format_", TABLES)
def test_tables_are_those_that_went_in(format_: str, made: Made):
    """Tokens and text in the order asked for; a cell without tokens has an empty list."""
    store = open_store(made.path(format_))
    table = made.table()
    assert store.n_rows == table.num_rows
    for rows in (ROWS, np.arange(700), np.empty(0, np.int64)):
        found = store.take(rows, ["input_ids", "cell_id"])
        expected = table.take(pa.array(rows))
        assert found["input_ids"].to_pylist() == expected["tokens:rank"].to_pylist()
        assert found["cell_id"].to_pylist() == expected["cell_id"].to_pylist()


@pytest.mark.parametrize("format_", FORMATS)
def test_obs_values_are_those_that_went_in(format_: str, made: Made):
    """Text as codes of sorted categories, numbers as numbers, missing values missing, in every format."""
    store, table = open_store(made.path(format_)), made.table()
    text = "experiment_id" if format_ in ("hdf5", "dense") else "donor"
    donor = obs_column("donor", store.obs(text))
    assert list(donor.decoded()) == table["donor"].to_pylist()
    assert donor.values.dtype == np.int8 and list(donor.categories) == sorted(donor.categories)
    for name in ("age", "umis", "control"):
        found, missing = obs_column(name, store.obs(name)), table[name].is_null().to_numpy()
        assert np.array_equal(found.values < 0 if name == "control" else np.isnan(found.values), missing)
        expected = [float(v) for v in table[name].drop_null().to_pylist()]
        assert list(found.values[~missing].astype(float)) == expected


@pytest.mark.parametrize("format_", FORMATS)
def test_a_store_pickles_as_its_path(format_: str, made: Made):
    """Also after it was read from."""
    store = open_store(made.path(format_))
    columns = () if format_ in COUNTS else (["cell_id"],)
    store.take(ROWS, *columns)
    data = pickle.dumps(store)
    assert len(data) < 500
    again = pickle.loads(data)
    assert again.n_rows == store.n_rows


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize("row", [-1, 700])
def test_rows_that_are_not_there_are_refused(format_: str, row: int, made: Made):
    """Neither wrapped nor read from elsewhere."""
    columns = () if format_ in COUNTS else (["cell_id"],)
    with pytest.raises(IndexError, match=r"700"):
        open_store(made.path(format_)).take(np.array([0, row]), *columns)


@pytest.mark.parametrize("format_", FORMATS)
def test_an_unknown_obs_column_is_named(format_: str, made: Made):
    """With what is there."""
    with pytest.raises(CellmillError, match=r"(?s)'ages'.*age"):
        open_store(made.path(format_)).obs("ages")


def test_opening_an_archive_decodes_no_table(made: Made, tmp_path: Path):
    """It opens where the tables of genes and cells cannot be read, and in a folder that cannot be written."""
    copy = tmp_path / "train"
    shutil.copytree(made.path("scdl"), copy)
    for table in ("obs_features", "var_features"):
        (copy / table / "dataframe_0.parquet").write_bytes(b"no table")
    for path in (copy, *copy.iterdir()):
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        offsets, _, _ = open_store(copy).take(np.arange(700))
    finally:
        copy.chmod(0o755)
    assert offsets[-1] == np.count_nonzero(made.dense())


def test_nothing_can_be_written_through_a_store(made: Made):
    """The maps are read-only."""
    store = open_store(made.path("scdl"))
    assert not store._data.flags.writeable and not store._offsets.flags.writeable


@pytest.mark.parametrize(
    ("file", "change", "found"),
    [
        ("header.sch", lambda b: b"SCDX" + b[4:], "SCDX"),
        ("header.sch", lambda b: b[:30], "no header of SCDL"),
        ("data.npy", lambda b: b[:-1], "bytes"),
        ("row_ptr.npy", lambda b: b[:-2] + b"\1\0", "offsets that end at 1"),
    ],
)
def test_a_damaged_archive_is_refused(file: str, change, found: str, made: Made, tmp_path: Path):
    """Before anything is read from it."""
    shutil.copytree(made.path("scdl"), tmp_path / "train")
    path = tmp_path / "train" / file
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(CellmillError, match=found):
        open_store(tmp_path / "train")


def test_offsets_that_lead_astray_are_refused(made: Made, tmp_path: Path):
    """Memory outside of the map is never read."""
    shutil.copytree(made.path("scdl"), tmp_path / "train")
    path = tmp_path / "train" / "row_ptr.npy"
    offsets = np.fromfile(path, "<u2" if path.stat().st_size == 701 * 2 else "<u4")
    offsets[3] = np.iinfo(offsets.dtype).max
    offsets.tofile(path)
    with pytest.raises(CellmillError, match="leads outside"):
        open_store(tmp_path / "train").take(np.array([2, 3]))


def test_a_path_that_is_no_split_is_told_which_there_are(made: Made, tmp_path: Path):
    """The folder of an export, an empty one, none."""
    with pytest.raises(CellmillError, match="test, train"):
        open_store(made.folder / "scdl")
    with pytest.raises(CellmillError, match="nothing that a loader reads"):
        open_store(tmp_path)
    with pytest.raises(CellmillError, match="no such folder"):
        open_store(tmp_path / "train")


def test_a_missing_file_of_a_split_is_noticed(made: Made, tmp_path: Path):
    """The second of three HDF5 files."""
    shutil.copytree(made.path("hdf5"), tmp_path / "train")
    (tmp_path / "train" / "batch_0001.h5").unlink()
    with pytest.raises(CellmillError, match="begins with cell 600, not 300"):
        open_store(tmp_path / "train")


@pytest.mark.parametrize("encoding", ["ndarray", "json", "tensors"])
def test_lists_of_mds_are_read_in_every_encoding(encoding: str, tmp_path: Path):
    """Whole numbers and fractions; lists that are empty; of pickles nothing is unpickled."""
    lists = [[5, 6, 70_000], [], [2**31 - 1], *([k] * (k % 300) for k in range(1, 400))]
    fractions = [[value + 0.5 for value in one[:3]] for one in lists]
    dtypes = {"input_ids": "int64" if encoding == "tensors" else "int32", "values": "float32"}
    codes = {"ndarray": "ndarray:{}", "json": "json", "tensors": "pkl"}
    columns = {name: MdsColumn(name, codes[encoding].format(dtype), dtype) for name, dtype in dtypes.items()}
    table = {
        "input_ids": pa.array(lists, pa.large_list(pa.int64())),
        "values": pa.array(fractions, pa.large_list(pa.float64())),
    }
    offsets, data = samples(pa.record_batch(table), columns)
    n = len(lists)
    head = 4 + 4 * (n + 1)
    shard = np.array([n], "<u4").tobytes() + (offsets + head).astype("<u4").tobytes() + data.tobytes()
    (tmp_path / "shard.00000.mds").write_bytes(shard)
    about = {
        "column_names": list(columns),
        "column_encodings": [column.encoding for column in columns.values()],
        "column_sizes": [None, None],
        "samples": n,
        "raw_data": {"basename": "shard.00000.mds", "bytes": len(shard), "hashes": {}},
        "zip_data": None,
    }
    (tmp_path / "index.json").write_text(json.dumps({"shards": [about], "version": 2}))
    rows = np.array([0, 1, 2, n - 1, 0, 150])
    found = open_store(tmp_path).take(rows, ["input_ids", "values"])
    assert found["input_ids"].to_pylist() == [lists[i] for i in rows]
    np.testing.assert_allclose(found["values"][2].as_py(), fractions[2], rtol=1e-6)
    batch = next(iter(CellStream(tmp_path, batch_size=n, sampler=Sequential())))
    assert batch["input_ids"].dtype == torch.int64 and batch["input_ids"][150][: len(lists[150])].tolist() == lists[150]


def test_encodings_that_are_not_read_are_left_to_streaming(made: Made, tmp_path: Path):
    """A column of other pickles, or of another encoding, is not opened; the others are."""
    for encoding in ("pkl", "pil"):
        shutil.rmtree(tmp_path / "train", ignore_errors=True)
        shutil.copytree(made.path("mds"), tmp_path / "train")
        index = tmp_path / "train" / "index.json"
        index.write_text(index.read_text().replace("ndarray:int32", encoding))
        store = open_store(tmp_path / "train")
        assert store.take(ROWS, ["cell_id"]).num_rows == len(ROWS)
        with pytest.raises(CellmillError, match="StreamingDataset"):
            store.take(ROWS, ["input_ids"])


def test_token_files_of_all_parts_are_one_table(tmp_path: Path):
    """In the order of the parts; rows that the tokenizer leaves out are not there, nor is its vocabulary."""
    rng, expected = np.random.default_rng(0), []
    for part in ("b", "a"):
        lengths = rng.integers(0, 9, 2_100)
        ids = [rng.integers(0, 200, n).tolist() for n in lengths]
        out = lengths == 0
        batch = pa.record_batch(
            {
                "cell_id": pa.array([f"{part}{i}" for i in range(len(ids))], pa.large_string()),
                "left_out": pa.array(out),
                "input_ids": pa.array(ids, pa.large_list(pa.uint8())),
            }
        )
        fields = [list_field("input_ids", np.dtype(np.uint8))]
        batch = batch.cast(token_files.schema(fields))
        pieces = [encode_rows(batch.slice(i, 1_024).columns) for i in range(0, batch.num_rows, 1_024)]
        facts = {"cells_left_out": {"train": int(out.sum())}}
        token_files.write(tmp_path / "tokenized" / "rank" / f"{part}.parquet", fields, pieces, facts)
        expected.append([row for row, gone in zip(ids, out, strict=True) if not gone])
    vocabulary = pa.table({"token_id": [1]})
    write_parquet(tmp_path / "tokenized" / "rank" / "gene_tokens.parquet", vocabulary, VOCABULARY)
    store = open_store(tmp_path / "tokenized" / "rank")
    whole = expected[1] + expected[0]
    assert store.n_rows == len(whole) and "left_out" not in store.columns
    rows = rng.integers(0, len(whole), 50)
    assert store.take(rows, ["input_ids"])["input_ids"].to_pylist() == [whole[i] for i in rows]
    one = open_store(tmp_path / "tokenized" / "rank" / "b.parquet")
    assert one.n_rows == len(expected[0])


def test_few_blocks_stay_decoded():
    """The one that was used longest ago goes first."""
    read: list[int] = []
    blocks = Blocks(lambda number: read.append(number) or number, kept=2)
    assert [blocks[i] for i in (0, 1, 0, 2, 0, 1)] == [0, 1, 0, 2, 0, 1]
    assert read == [0, 1, 2, 1]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (pd.Series(["b", None, "a"], dtype="category"), ["b", None, "a"]),
        (pd.Series(["b", None, "a"]), ["b", None, "a"]),
        (pd.Series([3, 1, 2]), [3, 1, 2]),
        (pd.Series([0.5, None, 1.0]), [0.5, float("nan"), 1.0]),
        (pd.Series([True, False]), [1, 0]),
        (pa.array([3, None, 1]), [3.0, float("nan"), 1.0]),
        (pa.array([], pa.string()), []),
    ],
)
def test_a_store_may_give_obs_as_pandas_or_arrow(values: Any, expected: list[Any]):
    """`packed` gives pandas; codes are those of sorted categories either way."""
    found = obs_column("x", values)
    np.testing.assert_array_equal(found.decoded(), np.array(expected, found.decoded().dtype))
    assert len(found) == len(expected)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from(["b", "a", "", "é", None]), max_size=40), st.lists(st.integers(0, 40), max_size=4))
def test_a_column_in_pieces_is_the_column(values: list[str | None], cuts: list[int]):
    """As text or as codes, wherever it is cut; missing values stay missing."""
    bounds = [0, *sorted(min(cut, len(values)) for cut in cuts), len(values)]
    pieces = [pa.array(values[a:b], pa.string()) for a, b in pairwise(bounds)]
    for found in (iter(pieces), iter([piece.dictionary_encode() for piece in pieces]), pa.chunked_array(pieces)):
        column = obs_column("x", found)
        assert list(column.decoded()) == values and column.values.dtype == np.int8
        assert list(column.categories) == sorted({value for value in values if value is not None})


def test_many_categories_get_wider_codes():
    """Those of the first pieces, too."""
    names = [f"{i:04}" for i in range(40_000)]
    column = obs_column("x", iter([pa.array(names[100:150]), pa.array(names), pa.array([None, "0149"])]))
    assert column.values.dtype == np.int32 and list(column.decoded()) == [*names[100:150], *names, None, "0149"]


def test_pieces_of_text_are_not_held():
    """The next is read when the last is gone."""
    before: list[weakref.ref[pa.Array]] = []

    def pieces() -> Iterator[pa.Array]:
        for number in range(50):
            piece = pa.array([str(number % 7)] * 1_000)
            before.append(weakref.ref(piece))
            yield piece
            del piece
            assert sum(one() is not None for one in before) <= 2

    assert len(obs_column("x", pieces())) == 50_000


@pytest.mark.parametrize(("one", "other"), [(["a"], [1]), ([1], ["a"]), ([1], [0.5]), ([True], [1])])
def test_a_column_of_two_types_is_refused(one: list[Any], other: list[Any]):
    """Rather than numbers taken for text."""
    with pytest.raises(
        CellmillError, match=rf"column 'x'.* is {pa.array(one).type} in one .* {pa.array(other).type} in"
    ):
        obs_column("x", iter([pa.array(one), pa.array(other)]))
