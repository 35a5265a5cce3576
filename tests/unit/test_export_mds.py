"""MDS exports, read back with mosaicml-streaming."""

from __future__ import annotations

import itertools
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from cellmill.errors import CellmillError
from cellmill.exports import mds
from cellmill.exports.mds import MdsTokens

from .export_rows import Rows, digests, import_streaming, make_rows, new_folder

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
OBS_OF_MISSING = {"donor": "", "umis": -(1 << 63), "control": -1}
numbers = itertools.count()


@pytest.fixture
def streaming(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`streaming`, with its lock files in the test's own folder."""
    module = import_streaming()
    monkeypatch.setattr(tempfile, "tempdir", str(new_folder(tmp_path / "tmp")))
    return module


def read(streaming: Any, folder: Path, **options: Any) -> list[dict[str, Any]]:
    """Every sample in order, by way of a cache, so that the export stays as it is."""
    cache = folder.parent.parent / f"cache{next(numbers)}"
    dataset = streaming.StreamingDataset(remote=str(folder), local=str(cache), shuffle=False, batch_size=1, **options)
    return [dataset[i] for i in range(len(dataset))]


def expected_value(value: Any, column: str) -> Any:
    return OBS_OF_MISSING.get(column, np.nan) if value is None else value


def assert_equal_rows(samples: list[dict[str, Any]], table: pa.Table, columns: list[str]) -> None:
    assert len(samples) == table.num_rows
    for sample, row in zip(samples, table.to_pylist(), strict=True):
        assert sorted(sample) == sorted(["cell_id", "input_ids", *columns])
        assert sample["cell_id"] == row["cell_id"]
        assert sample["input_ids"].dtype == np.int32
        assert sample["input_ids"].tolist() == row["tokens:rank"]
        for column in columns:
            np.testing.assert_equal(sample[column], expected_value(row[column], column))


@pytest.mark.parametrize("compression", ["zstd", None])
def test_streaming_reads_every_cell_as_it_was(streaming: Any, tmp_path: Path, compression: Any) -> None:
    """Ids, tokens, obs values, missing values and a cell without tokens, in order, in every split."""
    rows, out = make_rows(), new_folder(tmp_path / "out")
    mds.write(out, rows.header, rows.batches(16), MdsTokens(compression=compression))
    for split, table in rows.tables.items():
        samples = read(streaming, out / split)
        assert samples[0]["input_ids"].shape == (0,)
        assert_equal_rows(samples, table, ["donor", "age", "umis", "control"])


@pytest.mark.parametrize("algorithm", ["sha1", "xxh64"])
def test_streaming_accepts_the_hashes(streaming: Any, tmp_path: Path, algorithm: str) -> None:
    """The reader recomputes the hash of every shard it fetches."""
    rows, out = make_rows(), new_folder(tmp_path / "out")
    mds.write(out, rows.header, rows.batches(16), MdsTokens())
    assert len(read(streaming, out / "train", validate_hash=algorithm)) == 70


def test_shards_stay_below_their_size_and_hold_every_cell(streaming: Any, tmp_path: Path) -> None:
    """Several shards in one folder under one index."""
    rows, out = make_rows({"train": 900}, tokens=1500), new_folder(tmp_path / "out")
    facts = mds.write(out, rows.header, rows.batches(128), MdsTokens(shard_mb=1))
    shards = json.loads((out / "train/index.json").read_text())["shards"]
    assert len(shards) > 2
    assert all(s["raw_data"]["bytes"] <= 1_000_000 for s in shards)
    assert [f["cells"] for f in facts["splits"]["train"]["files"]] == [s["samples"] for s in shards]
    assert_equal_rows(read(streaming, out / "train"), rows.tables["train"], ["donor", "age", "umis", "control"])


def test_a_cell_larger_than_a_shard_has_a_shard_of_its_own(streaming: Any, tmp_path: Path) -> None:
    """It is written, not refused."""
    rows, out = make_rows({"train": 6}, tokens=600_000), new_folder(tmp_path / "out")
    mds.write(out, rows.header, rows.batches(4), MdsTokens(shard_mb=1, columns=[]))
    assert_equal_rows(read(streaming, out / "train"), rows.tables["train"], [])


def test_shards_equal_those_of_mds_writer(streaming: Any, tmp_path: Path) -> None:
    """Byte for byte, and so does the index (tokens of every width of a length; no empty cell, which it refuses)."""
    rows = make_rows({"train": 40}, tokens=70_000, missing=False)
    table = rows.tables["train"]
    full = table.filter(pa.compute.greater(pa.compute.list_value_length(table["tokens:rank"]), 0))
    short = full.set_column(
        full.column_names.index("tokens:rank"), "tokens:rank", pa.compute.list_slice(full["tokens:rank"], 0, 200)
    )
    table = pa.concat_tables([full, short.cast(full.schema)]).combine_chunks()
    rows.header.cells["train"] = table.num_rows
    ours, theirs = new_folder(tmp_path / "ours"), tmp_path / "theirs"
    mds.write(
        ours, rows.header, Rows(rows.header, {"train": table}).batches(7), MdsTokens(shard_mb=1, compression=None)
    )
    columns = dict(cell_id="str", input_ids="ndarray:int32", donor="str", age="float64", umis="int", control="int8")
    options: dict[str, Any] = {"columns": columns, "hashes": ["sha1", "xxh64"], "size_limit": 1_000_000}
    with streaming.MDSWriter(out=str(theirs), **options) as writer:
        for row in table.to_pylist():
            sample = {c: row[c] for c in columns if c != "input_ids"}
            writer.write({**sample, "input_ids": np.array(row["tokens:rank"], np.int32)})
    assert digests(ours / "train") == digests(theirs)


def test_bytes_do_not_depend_on_the_cut_into_batches(tmp_path: Path) -> None:
    """The same rows one by one, in uneven batches and as slices give the same files."""
    rows = make_rows({"train": 300, "test": 23}, tokens=2500)
    ways = [rows.batches(1), rows.batches(7, 64, 1000), rows.sliced(37), rows.sliced(1000)]
    for number, batches in enumerate(ways):
        mds.write(new_folder(tmp_path / str(number)), rows.header, batches, MdsTokens(shard_mb=1))
    first, *others = (digests(tmp_path / str(number)) for number in range(len(ways)))
    assert len(first) > 4
    assert all(other == first for other in others)


def test_facts_count_what_was_missing(tmp_path: Path) -> None:
    """Missing values are counted by column and never silently replaced; an empty split has no folder."""
    rows, out = make_rows(), new_folder(tmp_path / "out")
    facts = mds.write(out, rows.header, rows.batches(16), MdsTokens())
    whole = pa.concat_tables(rows.tables.values())
    assert facts["missing"] == {c: whole[c].null_count for c in ("donor", "age", "umis", "control")}
    assert [p.name for p in sorted(out.iterdir())] == ["test", "train"]
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts


def test_vocabulary_is_sorted_by_id(tmp_path: Path) -> None:
    """The copy beside the shards reads in the order of the ids."""
    rows, out = make_rows(), new_folder(tmp_path / "out")
    mds.write(out, rows.header, rows.batches(16), MdsTokens(), vocabulary={"b": 1, "a": 2, "<pad>": 0})
    assert list(json.loads((out / "vocabulary.json").read_text()).items()) == [("<pad>", 0), ("b", 1), ("a", 2)]


def test_only_the_columns_asked_for_are_written(tmp_path: Path) -> None:
    """`columns` chooses; the index lists names in order."""
    rows, out = make_rows(), new_folder(tmp_path / "out")
    mds.write(out, rows.header, rows.batches(16), MdsTokens(columns=["umis"]))
    shard = json.loads((out / "train/index.json").read_text())["shards"][0]
    assert shard["column_names"] == ["cell_id", "input_ids", "umis"]
    assert shard["column_encodings"] == ["str", "ndarray:int32", "int"]


def test_an_unknown_column_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    """Where, what, and what to do."""
    rows = make_rows()
    with pytest.raises(CellmillError, match=r"no column 'doner'.*Did you mean 'donor'"):
        mds.write(tmp_path, rows.header, rows.batches(16), MdsTokens(columns=["doner"]))


def test_cells_that_do_not_come_are_noticed(tmp_path: Path) -> None:
    """The header's number of cells holds."""
    rows = make_rows()
    rows.header.cells["test"] = 24
    with pytest.raises(CellmillError, match=r"split 'test': came with 23 cells, not 24"):
        mds.write(tmp_path, rows.header, rows.batches(16), MdsTokens())


def test_a_split_that_does_not_come_is_noticed(tmp_path: Path) -> None:
    """As above, for all cells of a split."""
    rows = make_rows()
    rows.header.cells["validation"] = 4
    with pytest.raises(CellmillError, match=r"splits came as \['train', 'test'\]"):
        mds.write(tmp_path, rows.header, rows.batches(16), MdsTokens())
