"""Hugging Face exports, read back by `datasets` itself."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cellmill.config import Columns
from cellmill.errors import CellmillError
from cellmill.exports import parse_export
from cellmill.exports.card import write_card
from cellmill.exports.export import About
from cellmill.exports.features import decode, smallest_integer
from cellmill.exports.given import Given
from cellmill.exports.hf import write

from .export_rows import Rows, digests, make_rows, new_folder

ABOUT = About(
    dataset="heart",
    title="Heart: cells | donors",
    organism="homo_sapiens",
    license="cc-by-4.0",
    columns=Columns(batch="plate", label="type"),
    kept_columns=["plate", "type"],
    split={"by": "cell", "fractions": {"train": 0.8, "validation": 0.0, "test": 0.2}, "seed": 0},
    citation="@article{heart, title={Hearts}}",
)


def typed_rows(cells: dict[str, int] | None = None, *, missing: bool = True) -> Rows:
    """Random rows with two embeddings, sentences, a class, and a small whole number; types as `typed_obs` says."""
    rows = make_rows({"train": 70, "validation": 0, "test": 23} if cells is None else cells, missing=missing)
    rng = np.random.default_rng(5)
    for split, table in rows.tables.items():
        n = table.num_rows
        extra: dict[str, pa.Array] = {
            "type": pa.array(rng.choice(["B", "T", "NK"], n), pa.string()),
            "plate": pa.array(rng.integers(0, 300, n), pa.int64()),
            "embedding:pca": pa.FixedSizeListArray.from_arrays(rng.normal(size=n * 5).astype(np.float32), 5),
            "embedding:hvg": pa.FixedSizeListArray.from_arrays(rng.normal(size=n * 3).astype(np.float32), 3),
            "tokens:sentence:cell_sentence_1": pa.array([f"S{i} S{i + 1}" for i in range(n)], pa.large_string()),
            "tokens:sentence:cell_sentence_2": pa.array([f"S{i}" for i in range(n)], pa.large_string()),
        }
        if missing:
            for name in ("type", "plate"):
                values = extra[name].to_pylist()
                extra[name] = pa.array([None, *values[1:]], extra[name].type)
        for name, column in extra.items():
            table = table.append_column(name, column)
        ids = table["tokens:rank"].cast(pa.large_list(pa.uint16()), safe=False)
        rows.tables[split] = table.set_column(table.schema.get_field_index("tokens:rank"), "tokens:rank", ids)
    obs = rows.header.obs.append(pa.field("type", pa.string(), metadata={"classes": '["B", "NK", "T"]'}))
    obs = obs.append(pa.field("plate", pa.int64(), metadata={"integers": "uint16"}))
    sentence = {"cell_sentence_1": "string", "cell_sentence_2": "string"}
    header = replace(
        rows.header,
        obs=obs,
        tokens=rows.header.tokens | {"sentence": sentence},
        widths={"pca": 5, "hvg": 3},
        batch="plate",
        label="type",
    )
    return Rows(header, rows.tables)


def export(folder: Path, spec: dict[str, Any], rows: Rows, *cuts: int, about: About = ABOUT) -> dict[str, Any]:
    """Write an export with its card; give its facts."""
    parsed = parse_export("hf/x", spec)
    cells = rows.header.cells
    facts = write(
        Given(new_folder(folder), rows.header, rows.batches(*(cuts or (16,))), vocabulary={"<pad>": 0}), parsed
    )
    said = {
        "dataset": "heart",
        "export": "hf/x",
        "title": about.title,
        "organism": about.organism,
        "spec": parsed.model_dump(mode="json"),
        "split": about.split,
        "splits": cells,
        "ledger": {"raw": sum(cells.values()) + 7, "dropped": {"too | few": 7}, "kept": sum(cells.values())},
        "genes": len(rows.header.genes),
        "variable_genes": 10,
        "train_cells": 70,
        "tokens": {},
        "facts": facts,
    }
    write_card(folder / "README.md", said, about, {"T": 50, "B": 3})
    return facts


def load(folder: Path, cache: Path, **more: Any) -> Any:
    import datasets

    return datasets.load_dataset(str(folder), cache_dir=str(cache), **more)


ALL = {"embeddings": ["pca", "hvg"], "columns": ["type", "plate", "donor", "age", "control"]}
KINDS: dict[str, dict[str, Any]] = {
    "tokens": {"kind": "tokens", **ALL},
    "expression": {"kind": "expression", **ALL},
    "single": {"kind": "single", "captions": ["{type} cell"], "missing": "fill", **ALL},
    "pairs": {"kind": "pairs", "negatives": 2, "captions": ["{type} cell"], "missing": "fill", **ALL},
    "multiplets": {"kind": "multiplets", "captions": ["{type} cell"], "missing": "fill", **ALL},
}
EVERY = pytest.mark.parametrize("kind", KINDS)
ROWS = typed_rows()


@EVERY
def test_columns_are_typed_locally_and_streaming(tmp_path: Path, kind: str) -> None:
    """Classes, smallest integers, vectors of a fixed length, by the metadata of the files alone."""
    from datasets import ClassLabel, List, Value

    export(tmp_path / "x", KINDS[kind], ROWS)
    loaded = load(tmp_path / "x", tmp_path / "cache")["train"]
    streamed = load(tmp_path / "x", tmp_path / "cache", streaming=True)["train"]
    assert streamed.features == loaded.features
    found = loaded.features
    assert found["type"] == ClassLabel(names=["B", "NK", "T"])
    assert found["plate"] == Value("uint16") and found["age"] == Value("float64")
    assert found["donor"] == Value("string") and found["control"] == Value("bool")
    assert found["embedding_pca"] == List(Value("float32"), length=5)
    assert list(loaded) == list(streamed)


@EVERY
def test_what_is_loaded_is_what_went_in(tmp_path: Path, kind: str) -> None:
    """Obs columns and embeddings of each cell, missing values as None."""
    export(tmp_path / "x", KINDS[kind], ROWS)
    loaded = load(tmp_path / "x", tmp_path / "cache")
    names = loaded["train"].features["type"]
    for split, table in ROWS.tables.items():
        cells = {row["cell_id"]: row for row in table.to_pylist()}
        seen = set()
        for row in loaded[split]:
            cell = cells[row.get("cell_id", row.get("sample_idx"))]
            seen.add(cell["cell_id"])
            assert (row["type"] if row["type"] is None else names.int2str(row["type"])) == cell["type"]
            assert all(row[c] == cell[c] for c in ("plate", "donor", "age", "control"))
            assert row["embedding_pca"] == cell["embedding:pca"] and row["embedding_hvg"] == cell["embedding:hvg"]
        assert seen == set(cells)


def test_tokens_are_as_small_as_the_vocabulary_lets_them(tmp_path: Path) -> None:
    """input_ids in the type of the token file; vocabulary.json beside them."""
    from datasets import List, Value

    said = export(tmp_path / "x", KINDS["tokens"], ROWS)
    loaded = load(tmp_path / "x", tmp_path / "cache")["train"]
    assert loaded.features["input_ids"] == List(Value("uint16")) and said["vocabulary"] == 1
    assert loaded["input_ids"][:] == ROWS.tables["train"]["tokens:rank"].to_pylist()
    assert json.loads((tmp_path / "x" / "vocabulary.json").read_text()) == {"<pad>": 0}
    torch = loaded.with_format("torch")[0]
    assert torch["input_ids"].dtype.is_signed and torch["embedding_pca"].shape == (5,)


def test_tokens_of_a_published_format_keep_its_types(tmp_path: Path) -> None:
    """As Tahoe-x1's data preparation writes them."""
    from datasets import List, Value

    rows = typed_rows()
    header = replace(rows.header, tokens={"tahoe": {"genes": "list<int64>", "expressions": "list<float>"}})
    for split, table in rows.tables.items():
        for name, column in (("genes", "genes"), ("expressions", "counts")):
            table = table.append_column(f"tokens:tahoe:{name}", table[column])
        rows.tables[split] = table
    export(tmp_path / "x", {"kind": "tokens", "tokenizer": "tahoe", "columns": []}, Rows(header, rows.tables))
    loaded = load(tmp_path / "x", tmp_path / "cache")["test"]
    assert loaded.features["genes"] == List(Value("int64")) and loaded.features["expressions"] == List(Value("float32"))
    assert loaded["expressions"][:] == rows.tables["test"]["counts"].to_pylist()


def test_expression_is_the_counts_with_the_genes_beside_them(tmp_path: Path) -> None:
    """Numbers of genes and counts of each cell, in the smallest types; genes.parquet is the gene table."""
    export(tmp_path / "x", {"kind": "expression", "columns": []}, ROWS)
    loaded = load(tmp_path / "x", tmp_path / "cache")
    assert str(loaded["train"].features["counts"]) == "List(Value('uint16'))"
    for split, table in ROWS.tables.items():
        assert loaded[split]["genes"][:] == table["genes"].to_pylist()
        assert loaded[split]["counts"][:] == table["counts"].to_pylist()
    genes = pq.read_table(tmp_path / "x" / "genes.parquet").to_pandas()
    assert genes["gene_id"].tolist() == ROWS.header.genes["gene_id"].tolist()
    assert genes["gene_symbol"][3] is None


def test_single_has_the_columns_of_adata_hf_datasets(tmp_path: Path) -> None:
    """sample_idx, the cell sentences, and as many captions as are asked for."""
    spec = {"kind": "single", "captions": ["{type}[ on plate {plate}]", "plate"], "missing": "fill", "fill": "some"}
    export(tmp_path / "x", spec, ROWS)
    rows = list(load(tmp_path / "x", tmp_path / "cache")["test"])
    assert list(rows[0]) == ["sample_idx", "cell_sentence_1", "cell_sentence_2", "caption", "caption_2"]
    assert (rows[0]["caption"], rows[0]["caption_2"]) == ("some on plate some", "some")
    cell = ROWS.tables["test"].to_pylist()[1]
    assert (rows[1]["caption"], rows[1]["cell_sentence_2"]) == (f"{cell['type']} on plate {cell['plate']}", "S1")


@EVERY
def test_the_bytes_do_not_depend_on_batches(tmp_path: Path, kind: str) -> None:
    """Cuts change nothing."""
    made = []
    for i, cuts in enumerate([(1,), (7, 30), (1_000,)]):
        export(tmp_path / str(i), KINDS[kind], ROWS, *cuts)
        made.append(digests(tmp_path / str(i)))
    assert made[0] == made[1] == made[2]


@pytest.mark.parametrize(
    ("spec", "train", "test"),
    [
        ({}, [8, 9, 9, 9, 8, 9, 9, 9], [2, 3, 3, 3, 3, 3, 3, 3]),
        ({"min_files": 1}, [70], [23]),
        ({"min_files": 1, "cells_per_file": 30}, [23, 23, 24], [23]),
        ({"min_files": 50, "cells_per_file": 30}, None, [1] * 23),
    ],
)
def test_files_of_a_split_are_alike_and_enough(tmp_path: Path, spec: dict[str, int], train: Any, test: Any) -> None:
    """Within one cell of each other, at least min_files, of at most cells_per_file."""
    said = export(tmp_path / "x", KINDS["tokens"] | spec, ROWS)
    found = {s: [pq.read_metadata(p).num_rows for p in sorted((tmp_path / "x" / s).iterdir())] for s in said["files"]}
    assert {s: list(files.values()) for s, files in said["files"].items()} == found
    assert found["test"] == test and sum(found["train"]) == 70
    assert found["train"] == train if train else len(found["train"]) == 50
    streamed = load(tmp_path / "x", tmp_path / "cache", streaming=True)["train"]
    assert streamed.num_shards == len(found["train"])


def test_files_end_at_the_size_that_is_asked_for(tmp_path: Path) -> None:
    """Of random vectors, which do not compress: with the row group that reaches it."""
    n = 20_000
    rows = make_rows({"train": 1}, missing=False)
    vectors = np.random.default_rng(0).normal(size=n * 50).astype(np.float32)
    table = pa.table(
        {
            "cell_id": pa.array([f"c{i}" for i in range(n)], pa.large_string()),
            "embedding:pca": pa.FixedSizeListArray.from_arrays(vectors, 50),
            "genes": pa.array([[]] * n, pa.large_list(pa.uint16())),
            "counts": pa.array([[]] * n, pa.large_list(pa.uint16())),
        }
    )
    made = Rows(replace(rows.header, cells={"train": n}, widths={"pca": 50}), {"train": table})
    spec = {"kind": "expression", "embeddings": ["pca"], "columns": [], "min_files": 1, "mb_per_file": 1}
    said = export(tmp_path / "x", spec, made, 3_000)
    sizes = [p.stat().st_size for p in sorted((tmp_path / "x" / "train").iterdir())]
    assert list(said["files"]["train"].values()) == [8_192, 8_192, 3_616]
    assert all(1_000_000 < size < 2_000_000 for size in sizes[:-1])


def test_workers_get_every_cell_once(tmp_path: Path) -> None:
    """A streaming dataset over the shards, with two workers of a DataLoader."""
    from torch.utils.data import DataLoader

    export(tmp_path / "x", {"kind": "tokens", "columns": []}, ROWS)
    streamed = load(tmp_path / "x", tmp_path / "cache", streaming=True)["train"].select_columns(["cell_id"])
    seen = [row["cell_id"] for row in DataLoader(streamed, num_workers=2, batch_size=None)]
    assert sorted(seen) == sorted(ROWS.tables["train"]["cell_id"].to_pylist())


def test_names_stand_for_codes_again(tmp_path: Path) -> None:
    """`decode`, for who reads the files by pyarrow or pandas."""
    export(tmp_path / "x", KINDS["tokens"] | {"min_files": 1}, ROWS)
    table = pq.read_table(tmp_path / "x" / "train" / "00000.parquet")
    assert pa.types.is_int64(table["type"].type)
    assert decode(table)["type"].to_pylist() == ROWS.tables["train"]["type"].to_pylist()
    assert decode(table)["donor"].equals(table["donor"])


@pytest.mark.parametrize(
    ("values", "type_"),
    [
        ([0, 255], "uint8"),
        ([0, 256], "uint16"),
        ([0, 1 << 31], "uint32"),
        ([0, 1 << 32], "int64"),
        ([-1, 127], "int8"),
        ([-129, 0], "int16"),
        ([-1, 1 << 31], "int64"),
        ([], "int64"),
    ],
)
def test_integers_are_as_small_as_can_be(values: list[int], type_: str) -> None:
    """Every value fits, and the next smaller type would not hold it."""
    assert str(smallest_integer(values)) == type_


def test_missing_values_are_counted(tmp_path: Path) -> None:
    """By column, over all splits, once per cell."""
    said = export(tmp_path / "x", KINDS["pairs"], ROWS)
    expected = {c: sum(t[c].null_count for t in ROWS.tables.values()) for c in ALL["columns"]}
    assert said["missing"] == {c: n for c, n in sorted(expected.items()) if n}
    assert said["rows"] == {"train": 210, "test": 69}


def test_a_damaged_row_count_is_seen(tmp_path: Path) -> None:
    """Fewer rows than the header has cells cannot end as a shorter export."""
    rows = typed_rows()
    rows.tables["test"] = rows.tables["test"].slice(0, 20)
    with pytest.raises(CellmillError, match="split 'test': came with 20 cells, not 23"):
        export(tmp_path / "x", KINDS["tokens"], rows)


# The card


@EVERY
def test_the_hub_understands_the_card(tmp_path: Path, kind: str) -> None:
    """Its front matter, read by huggingface_hub: licence, tags, size, files of each split, rows."""
    from huggingface_hub import DatasetCard

    facts = export(tmp_path / "x", KINDS[kind], ROWS)
    card = DatasetCard.load(tmp_path / "x" / "README.md")
    said = card.data
    assert (said.license, said.pretty_name, said.size_categories) == ("cc-by-4.0", "Heart: cells | donors", ["n<1K"])
    assert {"single-cell", "homo-sapiens"} <= set(said.tags)
    default = said.configs[0]
    assert [f["split"] for f in default["data_files"]] == ["train", "test"] and default["default"]
    (info,) = said.to_dict()["dataset_info"]
    assert {s["name"]: s["num_examples"] for s in info["splits"]} == facts["rows"]
    sizes = sum(p.stat().st_size for split in ("train", "test") for p in (tmp_path / "x" / split).iterdir())
    assert info["download_size"] == sizes
    text = card.text
    assert "```bibtex\n@article{heart" in text and "| dropped: too | few | 7 |" not in text
    assert (
        f"| train | 70 | {facts['rows']['train']} | 8 |" in text and "| `type` | class, 3 names | obs column |" in text
    )
    assert all(f"| `{column}` |" in text for column in facts["columns"])
    assert "| `embedding_pca` | 5 × float32 | a vector of the cell | 0 |" in text
    assert kind != "tokens" or "| `input_ids` | list of uint16 | tokens of the cell" in text


def test_a_lost_file_is_seen_by_load_dataset(tmp_path: Path) -> None:
    """The card says how many rows there are."""
    from datasets.exceptions import DatasetGenerationError
    from datasets.utils.info_utils import NonMatchingSplitsSizesError

    export(tmp_path / "x", KINDS["tokens"], ROWS)
    (tmp_path / "x" / "train" / "00003.parquet").unlink()
    with pytest.raises((NonMatchingSplitsSizesError, DatasetGenerationError)):
        load(tmp_path / "x", tmp_path / "cache")


def test_the_gene_table_is_a_configuration_of_its_own(tmp_path: Path) -> None:
    """`load_dataset(path, "genes")`; the cells come without a name."""
    export(tmp_path / "x", KINDS["expression"], ROWS)
    genes = load(tmp_path / "x", tmp_path / "cache", name="genes")["genes"]
    assert genes["gene_id"][:] == ROWS.header.genes["gene_id"].tolist()
    assert set(load(tmp_path / "x", tmp_path / "cache")) == {"train", "test"}


def test_the_card_tells_how_captions_and_negatives_were_made(tmp_path: Path) -> None:
    """Templates, the rule for missing values, shares, and the fewest cells to draw from."""
    spec = KINDS["multiplets"] | {"negatives": 4, "shares": {"hard": 0.25, "embedding": "pca"}}
    facts = export(tmp_path / "x", spec, ROWS)
    text = (tmp_path / "x" / "README.md").read_text()
    assert "Captions are made of `{type} cell`; 'unknown' stands for a missing value." in text
    assert "(anywhere: 3, hard: 1); the anchor with the fewest cells to draw from had" in text
    assert f"{facts['fewest_eligible']['test']} in test" in text
    types = ROWS.tables["test"]["type"].to_pylist()
    counts = [sum(t != other for t in types) for other in set(types)]
    assert facts["fewest_eligible"]["test"] == min(counts)


def test_a_card_without_licence_and_citation_says_so(tmp_path: Path) -> None:
    """And a citation that is no BibTeX is text."""
    export(tmp_path / "x", KINDS["tokens"], ROWS, about=replace(ABOUT, license=None, citation=None))
    text = (tmp_path / "x" / "README.md").read_text()
    assert "The licence of the data was not stated" in text and "How to cite the data was not stated." in text
    export(tmp_path / "y", KINDS["tokens"], ROWS, about=replace(ABOUT, citation="Heart et al., 2024"))
    assert (tmp_path / "y" / "README.md").read_text().endswith("\nHeart et al., 2024\n")
