"""MDS exports, read back with mosaicml-streaming."""

from __future__ import annotations

import dataclasses
import itertools
import json
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from cellmill.errors import CellmillError
from cellmill.exports import mds
from cellmill.exports.given import Given
from cellmill.exports.mds import MdsExpression, MdsTokens
from cellmill.exports.mds_columns import tensor_frame

from .export_rows import Rows, digests, make_rows, new_folder

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
OBS_OF_MISSING = {"donor": "", "umis": -(1 << 63), "control": -1}
numbers = itertools.count()


def read(streaming: Any, folder: Path, **options: Any) -> list[dict[str, Any]]:
    """Every sample in order, by way of a cache, so that the export stays as it is."""
    cache = folder.parent.parent / f"cache{next(numbers)}"
    dataset = streaming.StreamingDataset(remote=str(folder), local=str(cache), shuffle=False, batch_size=1, **options)
    return [dataset[i] for i in range(len(dataset))]


def expected_value(value: Any, column: str) -> Any:
    return OBS_OF_MISSING.get(column, np.nan) if value is None else value


def with_tahoe(rows: Rows, *, fractions: bool = False, seed: int = 1) -> Rows:
    """The same rows with tokens as `tahoe_x1` has them: `<cls>` with -2 first, then genes and counts."""
    rng = np.random.default_rng(seed)
    tokens = rows.header.tokens | {"tahoe": {"genes": "list<int64>", "expressions": "list<float>"}}
    tables = {}
    for split, table in rows.tables.items():
        lengths = rng.integers(1, 400, table.num_rows)  # past 255, where numbers take another byte
        genes, values = [], []
        for n in lengths:
            genes.append(np.r_[1, rng.choice(62_710, n, replace=False) + 3].astype(np.uint16))
            values.append(np.r_[-2, rng.integers(1, 1 << 20, n)])
        offsets = pa.array(np.r_[0, (lengths + 1).cumsum()], pa.int64())
        flat = np.concatenate(values)
        numbers = (flat * np.float32(0.1)).astype(np.float32) if fractions else flat.astype(np.int32)
        for name, column in (("genes", np.concatenate(genes)), ("expressions", numbers)):
            lists = pa.LargeListArray.from_arrays(offsets, pa.array(column))
            table = table.append_column(f"tokens:tahoe:{name}", lists)
        tables[split] = table
    return Rows(dataclasses.replace(rows.header, tokens=tokens), tables)


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
    mds.write(Given(out, rows.header, rows.batches(16)), MdsTokens(compression=compression))
    for split, table in rows.tables.items():
        samples = read(streaming, out / split)
        assert samples[0]["input_ids"].shape == (0,)
        assert_equal_rows(samples, table, ["donor", "age", "umis", "control"])


@pytest.mark.parametrize("algorithm", ["sha1", "xxh64"])
def test_streaming_accepts_the_hashes(streaming: Any, tmp_path: Path, algorithm: str) -> None:
    """The reader recomputes the hash of every shard it fetches."""
    rows, out = make_rows(), new_folder(tmp_path / "out")
    mds.write(Given(out, rows.header, rows.batches(16)), MdsTokens())
    assert len(read(streaming, out / "train", validate_hash=algorithm)) == 70


def test_shards_stay_below_their_size_and_hold_every_cell(streaming: Any, tmp_path: Path) -> None:
    """Several shards in one folder under one index."""
    rows, out = make_rows({"train": 900}, tokens=1500), new_folder(tmp_path / "out")
    facts = mds.write(Given(out, rows.header, rows.batches(128)), MdsTokens(shard_mb=1))
    shards = json.loads((out / "train/index.json").read_text())["shards"]
    assert len(shards) > 2
    assert all(s["raw_data"]["bytes"] <= 1_000_000 for s in shards)
    assert [f["cells"] for f in facts["splits"]["train"]["files"]] == [s["samples"] for s in shards]
    assert_equal_rows(read(streaming, out / "train"), rows.tables["train"], ["donor", "age", "umis", "control"])


def test_a_cell_larger_than_a_shard_has_a_shard_of_its_own(streaming: Any, tmp_path: Path) -> None:
    """It is written, not refused."""
    rows, out = make_rows({"train": 6}, tokens=600_000), new_folder(tmp_path / "out")
    mds.write(Given(out, rows.header, rows.batches(4)), MdsTokens(shard_mb=1, columns=[]))
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
        Given(ours, rows.header, Rows(rows.header, {"train": table}).batches(7)),
        MdsTokens(shard_mb=1, compression=None),
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
        mds.write(Given(new_folder(tmp_path / str(number)), rows.header, batches), MdsTokens(shard_mb=1))
    first, *others = (digests(tmp_path / str(number)) for number in range(len(ways)))
    assert len(first) > 4
    assert all(other == first for other in others)


def test_facts_count_what_was_missing(tmp_path: Path) -> None:
    """Missing values are counted by column and never silently replaced; an empty split has no folder."""
    rows, out = make_rows(), new_folder(tmp_path / "out")
    facts = mds.write(Given(out, rows.header, rows.batches(16)), MdsTokens())
    whole = pa.concat_tables(rows.tables.values())
    assert facts["missing"] == {c: whole[c].null_count for c in ("donor", "age", "umis", "control")}
    assert [p.name for p in sorted(out.iterdir())] == ["test", "train"]
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts


def test_vocabulary_is_sorted_by_id(tmp_path: Path) -> None:
    """The copy beside the shards reads in the order of the ids."""
    rows, out = make_rows(), new_folder(tmp_path / "out")
    mds.write(Given(out, rows.header, rows.batches(16), vocabulary={"b": 1, "a": 2, "<pad>": 0}), MdsTokens())
    assert list(json.loads((out / "vocabulary.json").read_text()).items()) == [("<pad>", 0), ("b", 1), ("a", 2)]


def test_only_the_columns_asked_for_are_written(tmp_path: Path) -> None:
    """`columns` chooses; the index lists names in order."""
    rows, out = make_rows(), new_folder(tmp_path / "out")
    mds.write(Given(out, rows.header, rows.batches(16)), MdsTokens(columns=["umis"]))
    shard = json.loads((out / "train/index.json").read_text())["shards"][0]
    assert shard["column_names"] == ["cell_id", "input_ids", "umis"]
    assert shard["column_encodings"] == ["str", "ndarray:int32", "int"]


def test_an_unknown_column_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    """Where, what, and what to do."""
    rows = make_rows()
    with pytest.raises(CellmillError, match=r"no column 'doner'.*Did you mean 'donor'"):
        mds.write(Given(tmp_path, rows.header, rows.batches(16)), MdsTokens(columns=["doner"]))


def test_cells_that_do_not_come_are_noticed(tmp_path: Path) -> None:
    """The header's number of cells holds."""
    rows = make_rows()
    rows.header.cells["test"] = 24
    with pytest.raises(CellmillError, match=r"split 'test': came with 23 cells, not 24"):
        mds.write(Given(tmp_path, rows.header, rows.batches(16)), MdsTokens())


def test_a_split_that_does_not_come_is_noticed(tmp_path: Path) -> None:
    """As above, for all cells of a split."""
    rows = make_rows()
    rows.header.cells["validation"] = 4
    with pytest.raises(CellmillError, match=r"splits came as \['train', 'test'\]"):
        mds.write(Given(tmp_path, rows.header, rows.batches(16)), MdsTokens())


# --- encodings


@pytest.mark.parametrize("encoding", ["ndarray", "json", "tensors"])
@pytest.mark.parametrize("fractions", [False, True])
def test_genes_and_values_are_read_as_they_were(streaming: Any, tmp_path: Path, encoding: Any, fractions: bool) -> None:
    """In every encoding, with the types that it promises; only tensors are pickled."""
    rows, out = with_tahoe(make_rows(), fractions=fractions), new_folder(tmp_path / "out")
    mds.write(Given(out, rows.header, rows.batches(16)), MdsTokens(tokenizer="tahoe", encoding=encoding, columns=[]))
    types = {"ndarray": (np.int32, np.float32), "json": (list, list), "tensors": (torch.int64, torch.float32)}[encoding]
    if encoding == "tensors":
        with pytest.raises(ValueError, match="contains an unsafe type"):
            read(streaming, out / "train")
    for split, table in rows.tables.items():
        samples = read(streaming, out / split, allow_unsafe_types=encoding == "tensors")
        assert len(samples) == table.num_rows
        for sample, row in zip(samples, table.to_pylist(), strict=True):
            assert sorted(sample) == ["cell_id", "expressions", "genes"]
            for name, type_ in zip(("genes", "expressions"), types, strict=True):
                assert type_ in (type(sample[name]), getattr(sample[name], "dtype", None))
                assert list(map(float, sample[name])) == row[f"tokens:tahoe:{name}"]
            if encoding == "json":
                assert all(type(v) is int for v in sample["genes"])
                assert all(type(v) is float for v in sample["expressions"])


LENGTHS = [*range(4), 5, 31, 32, 254, 255, 256, 257, *range(8_150, 8_195), *range(16_310, 16_400, 3), 65_535, 65_536]
"""Where numbers take another byte, and around the 64 KiB at which pickle cuts its frames."""


@pytest.mark.parametrize("dtype", ["int32", "int64", "float32"])
def test_tensors_are_the_bytes_that_torch_pickles(dtype: str) -> None:
    """Byte for byte what MDSWriter's `pkl` writes, but for the memory address that torch takes as a name."""
    for n in LENGTHS:
        tensor = torch.arange(n).to(getattr(torch, dtype))
        theirs = pickle.dumps(tensor)
        named = re.search(rb"Storage\nq\x01X....(\d+)q\x02", theirs, re.DOTALL)
        assert named is not None
        before, after = tensor_frame(n, dtype, key=named[1])
        assert before + tensor.numpy().tobytes() + after == theirs
        before, after = tensor_frame(n, dtype)
        ours = pickle.loads(before + tensor.numpy().tobytes() + after)
        assert ours.dtype == tensor.dtype and torch.equal(ours, tensor)
        ours.add_(1)  # of its own memory, and writable


def test_json_shards_equal_those_of_mds_writer(streaming: Any, tmp_path: Path) -> None:
    """Byte for byte, index included, where the values are whole numbers."""
    rows = with_tahoe(make_rows({"train": 60}))
    ours, theirs = new_folder(tmp_path / "ours"), tmp_path / "theirs"
    spec = MdsTokens(tokenizer="tahoe", encoding="json", columns=[], shard_mb=1, compression=None)
    mds.write(Given(ours, rows.header, rows.batches(7)), spec)
    options = {"columns": dict(cell_id="str", genes="json", expressions="json"), "size_limit": 1_000_000}
    with streaming.MDSWriter(out=str(theirs), hashes=["sha1", "xxh64"], **options) as writer:
        for row in rows.tables["train"].to_pylist():
            expressions = [float(v) for v in row["tokens:tahoe:expressions"]]
            writer.write(dict(cell_id=row["cell_id"], genes=row["tokens:tahoe:genes"], expressions=expressions))
    assert digests(ours / "train") == digests(theirs)


def test_a_value_that_json_cannot_say_ends_the_job(tmp_path: Path) -> None:
    """The error of a worker is the error of the job."""
    rows = with_tahoe(make_rows({"train": 60}), fractions=True)
    table = rows.tables["train"]
    name = "tokens:tahoe:expressions"
    values = table[name].combine_chunks()
    broken = values.values.to_numpy().copy()
    broken[-1] = np.nan
    lists = pa.LargeListArray.from_arrays(values.offsets, pa.array(broken))
    rows.tables["train"] = table.set_column(table.column_names.index(name), name, lists)
    spec = MdsTokens(tokenizer="tahoe", encoding="json")
    for threads in (1, 2):
        out = new_folder(tmp_path / str(threads))
        with pytest.raises(CellmillError, match="not finite, which JSON cannot say"):
            mds.write(Given(out, rows.header, rows.batches(7), threads=threads), spec)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_shard_that_cannot_be_written_ends_the_job(tmp_path: Path, threads: int) -> None:
    """Where MDSWriter's loop would go on without a word."""
    rows, out = make_rows({"train": 900}, tokens=1500), new_folder(tmp_path / "out")

    def obstructed() -> Any:
        for number, pair in enumerate(rows.batches(100)):
            if number:
                (out / "train/shard.00001.mds").mkdir(exist_ok=True)
            yield pair

    with pytest.raises(OSError, match=r"shard\.00001\.mds"):
        mds.write(Given(out, rows.header, obstructed(), threads=threads), MdsTokens(shard_mb=1, compression=None))


@pytest.mark.parametrize("encoding", ["ndarray", "json", "tensors"])
def test_bytes_do_not_depend_on_threads(tmp_path: Path, encoding: Any) -> None:
    """One thread, two and four, over several shards of several splits."""
    rows = with_tahoe(make_rows({"train": 1500, "test": 40}))
    spec = MdsTokens(tokenizer="tahoe", encoding=encoding, shard_mb=1)
    for threads in (1, 2, 4):
        batches = rows.batches(*((700,) if threads == 1 else (64, 300)))
        mds.write(Given(new_folder(tmp_path / str(threads)), rows.header, batches, threads=threads), spec)
    first, *others = (digests(tmp_path / str(threads)) for threads in (1, 2, 4))
    assert len(first) > 5
    assert all(other == first for other in others)


@pytest.mark.parametrize("counts_dtype", ["uint8", "uint16", "uint32"])
@pytest.mark.parametrize("encoding", ["ndarray", "json", "tensors"])
def test_counts_are_read_as_they_were(streaming: Any, tmp_path: Path, encoding: Any, counts_dtype: str) -> None:
    """The largest count of every type included; `genes.json` names the genes."""
    rows, out = make_rows(counts_dtype=counts_dtype), new_folder(tmp_path / "out")
    facts = mds.write(Given(out, rows.header, rows.batches(16)), MdsExpression(encoding=encoding, columns=["donor"]))
    names = json.loads((out / "genes.json").read_text())
    assert names["gene_id"] == rows.header.genes["gene_id"].tolist()
    assert names["gene_symbol"][2:5] == ["SYM2", None, "SYM4"]
    if encoding == "ndarray":
        assert facts["columns"]["counts"] == f"ndarray:{counts_dtype}"
    for split, table in rows.tables.items():
        samples = read(streaming, out / split, allow_unsafe_types=encoding == "tensors")
        for sample, row in zip(samples, table.to_pylist(), strict=True):
            assert list(sample["genes"]) == row["genes"]
            assert list(sample["counts"]) == row["counts"]
            assert sample["donor"] == (row["donor"] or "")
        assert facts["splits"][split]["values"] == sum(len(r["genes"]) for r in table.to_pylist())


def test_sentences_are_texts(streaming: Any, tmp_path: Path) -> None:
    """A tokenizer's text columns are `str` in any encoding."""
    rows, out = make_rows(), new_folder(tmp_path / "out")
    header = dataclasses.replace(rows.header, tokens={"said": {"cell_sentence_1": "string"}})
    for split, table in rows.tables.items():
        rows.tables[split] = table.append_column("tokens:said:cell_sentence_1", table["cell_id"])
    mds.write(Given(out, header, rows.batches(16)), MdsTokens(tokenizer="said", encoding="tensors", columns=[]))
    samples = read(streaming, out / "train")
    assert [s["cell_sentence_1"] for s in samples] == rows.tables["train"]["cell_id"].to_pylist()


@pytest.mark.parametrize(("level", "said"), [(3, "zstd"), (1, "zstd:1"), (19, "zstd:19")])
def test_level_and_hashes_are_those_asked_for(streaming: Any, tmp_path: Path, level: int, said: str) -> None:
    """The index names them as `streaming` does, which reads the shards."""
    rows, out = make_rows(), new_folder(tmp_path / "out")
    mds.write(Given(out, rows.header, rows.batches(16)), MdsTokens(level=level, hashes=["xxh64"]))
    (shard,) = json.loads((out / "train/index.json").read_text())["shards"]
    assert shard["compression"] == said
    assert list(shard["zip_data"]["hashes"]) == shard["hashes"] == ["xxh64"]
    samples = read(streaming, out / "train", validate_hash="xxh64")
    assert_equal_rows(samples, rows.tables["train"], ["donor", "age", "umis", "control"])
