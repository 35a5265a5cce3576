"""Rows as exports receive them: every kept cell once, in an order of its own, with what belongs to it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from cellmill.contracts import embedding, tokens
from cellmill.contracts.counts import CountsPart
from cellmill.contracts.genes import read_genes
from cellmill.contracts.row_groups import encode_rows
from cellmill.errors import CellmillError
from cellmill.exports.rows import Header, PartFiles, common_schema, in_groups, needs, ordered
from cellmill.keys import hash_strings

from .stages import Made, make, random_counts, split_raw, three_parts, write_raw

N = 300
COLUMNS = needs(counts=True, tokens=("t",), embeddings=("e",))


@dataclass(frozen=True)
class Rows:
    """What ``ordered`` takes, and the cells it is made of."""

    made: Made
    parts: list[PartFiles]
    header: Header


def of_cell(cell: str, salt: int) -> np.ndarray:
    """Numbers that belong to this cell and to no other."""
    return np.random.default_rng([int(cell[1:]), salt]).integers(0, 1000, 3 + int(cell[1:]) % 5)


def prepare(folder: Path, raws: dict[str, Path]) -> Rows:
    """Processed parts, with tokens and vectors that bear the name of their cell."""
    made = make(folder, raws, columns={"batch": "batch", "keep": ["age", "flag"]})
    files = []
    for name in made.parts:
        with CountsPart(made.file(name, "h5ad")) as part:
            cells = part.obs.index.tolist()
        token_file, vector_file = made.file(name, "t.parquet"), made.file(name, "e.npy")
        ids = tokens.list_field("input_ids", np.dtype(np.uint16))
        lists = pa.array([of_cell(c, 0).tolist() for c in cells], ids.type)
        whole = pa.table([pa.array(cells, pa.large_string()), [False] * len(cells), lists], schema=tokens.schema([ids]))
        batches = whole.to_batches(max_chunksize=tokens.GROUP_ROWS)
        groups = [encode_rows(batch.columns) for batch in batches]
        tokens.write(token_file, [ids], groups, {"tokenizer": "t", "cells_left_out": {}})
        vectors = np.array([of_cell(c, 1)[:3] for c in cells], np.float32).reshape(-1, 3)
        embedding.write(vector_file, vector_file.with_suffix(".json"), [vectors], shape=vectors.shape, facts={})
        files.append(PartFiles(str(made.file(name, "h5ad")), {"t": str(token_file)}, {"e": str(vector_file)}))
    genes, _ = read_genes(made.genes)
    sizes = {split: 0 for split in made.dataset.split.fractions}
    for file in files:
        with CountsPart(file.processed) as part:
            for split, n in part.obs["split"].value_counts().items():
                sizes[split] += n
            dtype = part.dtype
    schema = common_schema(files, made.dataset.kept_columns)
    header = Header("d", sizes, genes[["gene_id", "gene_symbol"]], dtype, schema, {"e": 3}, batch="batch")
    return Rows(made, files, header)


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cells with columns of several kinds."""
    rng = np.random.default_rng(1)
    obs = {
        "batch": np.where(rng.random(N) < 0.5, "x", "y").astype(object),
        "age": np.where(rng.random(N) < 0.1, np.nan, rng.integers(20, 90, N)),
        "flag": rng.random(N) < 0.5,
    }
    return write_raw(tmp_path_factory.mktemp("raw") / "x.h5ad", random_counts(N, 60), obs=obs)


@pytest.fixture(scope="module")
def one(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Rows:
    """In one part."""
    return prepare(tmp_path_factory.mktemp("one"), {"0": raw})


@pytest.fixture(scope="module")
def three(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Rows:
    """The same cells in three parts and another order."""
    folder = tmp_path_factory.mktemp("three")
    return prepare(folder, split_raw(raw, folder / "raws", three_parts(N)))


def gather(rows: Rows, scratch: Path, **options: Any) -> dict[str, pa.Table]:
    """All rows by split."""
    scratch.mkdir(exist_ok=True)
    batches: dict[str, list[pa.RecordBatch]] = {}
    for split, batch in ordered(rows.parts, header=rows.header, columns=COLUMNS, scratch=scratch, **options):
        assert not batches or split == list(batches)[-1] or split not in batches
        batches.setdefault(split, []).append(batch)
    assert list(scratch.iterdir()) == []
    return {split: pa.Table.from_batches(b).combine_chunks() for split, b in batches.items()}


def test_every_kept_cell_comes_exactly_once(one: Rows, tmp_path: Path) -> None:
    """In its own split, and the splits in the order of the config."""
    found = gather(one, tmp_path / "s")
    obs = anndata.read_h5ad(one.parts[0].processed).obs
    assert list(found) == ["train", "val", "test"]
    for split, table in found.items():
        assert sorted(table["cell_id"].to_pylist()) == sorted(obs.index[obs["split"] == split])
        assert table.num_rows == one.header.cells[split]


def test_the_order_is_that_of_a_hash(one: Rows, tmp_path: Path) -> None:
    """Which depends on the cell id alone."""
    for table in gather(one, tmp_path / "s").values():
        keys = hash_strings(table["cell_id"].combine_chunks(), seed=0, purpose="order")
        assert (np.diff(keys.astype(object)) > 0).all()


def test_columns_belong_to_their_cell(three: Rows, raw: Path, tmp_path: Path) -> None:
    """Counts, tokens, vectors and obs."""
    whole = anndata.read_h5ad(raw)
    genes = three.header.genes["gene_id"].tolist()
    for table in gather(three, tmp_path / "s").values():
        for row in table.to_pylist():
            cell = row["cell_id"]
            expected = whole[cell].X.toarray()[0]
            found = dict(zip((genes[g] for g in row["genes"]), row["counts"], strict=True))
            assert found == {g: n for g, n in zip(whole.var_names, expected, strict=True) if n}
            assert row["genes"] == sorted(row["genes"])
            assert row["tokens:t"] == of_cell(cell, 0).tolist()
            assert row["embedding:e"] == of_cell(cell, 1)[:3].tolist()
            obs = whole.obs.loc[cell]
            assert row["batch"] == obs["batch"]
            assert row["flag"] == obs["flag"]
            assert row["age"] == (None if np.isnan(obs["age"]) else obs["age"])


def test_types_are_those_that_exports_are_promised(one: Rows, tmp_path: Path) -> None:
    """As ``needs`` and ``Header`` say."""
    schema = gather(one, tmp_path / "s")["train"].schema
    found = {f.name: str(f.type) for f in schema}
    assert found.pop("embedding:e").startswith("fixed_size_list<") and schema.field("embedding:e").type.list_size == 3
    assert {k: v.split("<")[0] for k, v in found.items()} == {
        **{"cell_id": "large_string", "genes": "large_list", "counts": "large_list", "tokens:t": "large_list"},
        **{"batch": "string", "age": "double", "flag": "bool"},
    }
    assert schema.field("counts").type.value_type == pa.from_numpy_dtype(one.header.counts_dtype)


@pytest.mark.parametrize("bucket_bytes", [1 << 28, 30_000, 2_000, 100])
def test_rows_do_not_depend_on_parts_or_buckets(one: Rows, three: Rows, tmp_path: Path, bucket_bytes: int) -> None:
    """One part or three, in memory or in buckets on disk."""
    expected = gather(one, tmp_path / "a")
    for rows in (one, three, Rows(three.made, three.parts[::-1], three.header)):
        found = gather(rows, tmp_path / "b", bucket_bytes=bucket_bytes)
        assert list(found) == list(expected)
        assert all(found[s].equals(expected[s]) for s in expected)


def test_rows_do_not_depend_on_blocks(one: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Emitted rows are cut elsewhere, and are the same."""
    from cellmill.exports import rows as module

    expected = gather(one, tmp_path / "a")
    monkeypatch.setattr(module, "EMITTED_ROWS", 7)
    found = gather(one, tmp_path / "a")
    assert all(found[s].equals(expected[s]) for s in expected)


def test_files_that_are_not_aligned_are_refused(one: Rows, three: Rows, tmp_path: Path) -> None:
    """With both numbers."""
    wrong = PartFiles(three.parts[0].processed, one.parts[0].tokens, three.parts[0].embeddings)
    with pytest.raises(CellmillError, match=r"150 cells, but 't' has 300"):
        gather(Rows(three.made, [wrong], three.header), tmp_path / "s")


def test_a_part_without_cells_changes_nothing(raw: Path, tmp_path: Path) -> None:
    """It is a part like any other."""
    whole = anndata.read_h5ad(raw)
    whole.X = whole.X.toarray() * (np.arange(N) >= 20)[:, None]
    whole.write_h5ad(tmp_path / "raw.h5ad")
    parts = {"p": np.arange(20), "q": np.arange(20, N)}
    rows = prepare(tmp_path / "made", split_raw(tmp_path / "raw.h5ad", tmp_path / "raws", parts))
    assert sum(t.num_rows for t in gather(rows, tmp_path / "s").values()) == sum(rows.header.cells.values()) == N - 20


# Types over all parts


def schema_of(folder: Path, *values: Any) -> pa.Schema:
    """``common_schema`` of one part per entry, each with an obs column ``c``."""
    raws = {}
    for i, column in enumerate(values):
        names = [f"p{i}c{j}" for j in range(len(column))]
        raws[f"p{i}"] = write_raw(
            folder / f"p{i}.raw.h5ad", np.ones((len(column), 3), np.float32), cells=names, obs={"c": column}
        )
    made = make(folder, raws, columns={"keep": ["c"]})
    return common_schema([PartFiles(str(p)) for p in made.files("h5ad")], ["c"])


TEXT, WHOLE, SHARE, TRUTH = ["a", "b"], [1, 2], [0.5, 1.0], [True, False]
NOTHING, NO_TEXT = [np.nan, np.nan], pd.Categorical([None, None], categories=["x"])


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([TEXT, TEXT], pa.string()),
        ([WHOLE, WHOLE], pa.int64()),
        ([WHOLE, SHARE], pa.float64()),
        ([SHARE, WHOLE], pa.float64()),
        ([TRUTH], pa.bool_()),
        ([NOTHING, TEXT], pa.string()),
        ([TEXT, NOTHING], pa.string()),
        ([NO_TEXT, WHOLE], pa.int64()),
        ([NOTHING, NO_TEXT], pa.string()),
        ([pd.array([1, None], "Int64"), WHOLE], pa.int64()),
        ([pd.Categorical([1, 2])], pa.int64()),
    ],
    ids=str,
)
def test_a_column_has_one_type_over_all_parts(tmp_path: Path, values: list[Any], expected: pa.DataType) -> None:
    """Missing values fit any; whole numbers and fractions are fractions."""
    assert schema_of(tmp_path, *values).field("c").type == expected


@pytest.mark.parametrize("values", [[TEXT, WHOLE], [WHOLE, TEXT], [TRUTH, WHOLE], [TRUTH, TEXT]], ids=str)
def test_a_column_of_two_kinds_is_refused(tmp_path: Path, values: list[Any]) -> None:
    """With the part, the column and both types."""
    with pytest.raises(CellmillError, match=r"p1\.h5ad: obs column 'c' is \w+, \w+ in another part"):
        schema_of(tmp_path, *values)


@pytest.mark.parametrize("values", [[WHOLE, SHARE], [NOTHING, TEXT], [NO_TEXT, WHOLE], [NOTHING, NO_TEXT]], ids=str)
def test_rows_have_the_common_type(tmp_path: Path, values: list[Any]) -> None:
    """Whatever type their own part has."""
    schema = schema_of(tmp_path, *values)
    parts = [PartFiles(str(tmp_path / f"p{i}.h5ad")) for i in range(len(values))]
    sizes = {split: 4 for split in ("train", "val", "test")}
    header = Header("d", sizes, pd.DataFrame({"gene_id": list("abc"), "gene_symbol": None}), np.dtype("u1"), schema)
    rows = list(ordered(parts, header=header, columns=(), scratch=tmp_path))
    assert sum(batch.num_rows for _, batch in rows) == 4
    assert all(batch.schema.field("c").type == schema.field("c").type for _, batch in rows)


# Groups


@pytest.mark.parametrize(("group_rows", "file_rows"), [(10, 25), (10, 20), (7, 1000), (100, 9), (1, 1)])
@pytest.mark.parametrize("rows", [83, 3, 20])
def test_groups_do_not_depend_on_batches(rows: int, group_rows: int, file_rows: int) -> None:
    """Cut at every group and at every file."""
    table = pa.table({"x": range(rows)})

    def grouped(sizes: list[int]) -> list[tuple[int, list[int]]]:
        def batches() -> Any:
            start = turn = 0
            while start < rows:
                size = sizes[turn % len(sizes)]
                yield table.slice(start, size).combine_chunks().to_batches()[0]
                start, turn = start + size, turn + 1

        groups = in_groups(batches(), group_rows=group_rows, file_rows=file_rows)
        return [(number, batch["x"].to_pylist()) for number, batch in groups]

    expected = [
        (file, list(range(start, min(start + group_rows, (file + 1) * file_rows, rows))))
        for file in range(-(-rows // file_rows))
        for start in range(file * file_rows, min((file + 1) * file_rows, rows), group_rows)
    ]
    for sizes in ([1000], [1], [4, 9, 2], [25], [83]):
        assert grouped(sizes) == expected


def test_facts_of_a_part_are_json(one: Rows) -> None:
    """They stand in the file itself."""
    facts = json.loads(anndata.read_h5ad(one.parts[0].processed).uns["cellmill"])
    assert facts["cells"] == sum(one.header.cells.values())
