"""Pairs and multiplets: captions, cell sentences and negatives in rows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cellmill.errors import CellmillError
from cellmill.exports import parse_export
from cellmill.exports.given import Given
from cellmill.exports.hf import write

from .export_rows import Rows, new_folder
from .test_export_hf import typed_rows

ROWS = typed_rows(missing=False)


def made(folder: Path, spec: dict[str, Any], rows: Rows = ROWS, *cuts: int) -> dict[str, list[dict[str, Any]]]:
    """All rows of every split, in order."""
    spec = {"captions": ["{type} cell"]} | spec
    write(Given(new_folder(folder), rows.header, rows.batches(*(cuts or (16,)))), parse_export("hf/x", spec))
    return {
        split: [row for p in sorted((folder / split).iterdir()) for row in pq.read_table(p).to_pylist()]
        for split in rows.tables
    }


def cells_of(split: str, rows: Rows = ROWS) -> dict[str, dict[str, Any]]:
    return {row["cell_id"]: row for row in rows.tables[split].to_pylist()}


@pytest.mark.parametrize("k", [1, 2, 5])
def test_negatives_are_as_many_as_asked_for_and_all_different(tmp_path: Path, k: int) -> None:
    """Of the same split, and none with the anchor's own caption; every cell is an anchor once."""
    for split, rows in made(tmp_path / "x", {"kind": "multiplets", "negatives": k}).items():
        cells = cells_of(split)
        assert [r["sample_idx"] for r in rows] == list(cells)
        for row in rows:
            drawn = [row[f"negative_{j}_idx"] for j in range(1, k + 1)]
            assert len(set(drawn)) == k and f"negative_{k + 1}_idx" not in row
            assert all(cells[d]["type"] != cells[row["sample_idx"]]["type"] for d in drawn)
            assert row["positive"] == f"{cells[row['sample_idx']]['type']} cell"


def test_columns_are_those_of_adata_hf_datasets(tmp_path: Path) -> None:
    """In their order, with more captions behind the first."""
    spec = {"kind": "multiplets", "captions": ["{type}", "plate"], "negatives": 2}
    sentence = ["sample_idx", "cell_sentence_1", "cell_sentence_2"]
    first = made(tmp_path / "a", spec)["train"][0]
    ids = ["negative_1_idx", "negative_2_idx"]
    assert list(first) == [*sentence, "positive", "positive_2", *ids, "negative_1", "negative_2"]
    unresolved = made(tmp_path / "b", spec | {"resolve_negatives": False})["train"][0]
    assert list(unresolved) == [*sentence, "positive", "positive_2", *ids]
    pair = made(tmp_path / "c", spec | {"kind": "pairs"})["train"][0]
    assert list(pair) == [*sentence, "caption", "caption_2", "label"] and pair["label"] == 1.0


def test_resolved_negatives_are_captions_and_sentences_by_turns(tmp_path: Path) -> None:
    """negative_1 and negative_3 a caption, negative_2 and negative_4 a sentence: each that of its cell."""
    for rows in made(tmp_path / "x", {"kind": "multiplets", "negatives": 4}).values():
        of = {r["sample_idx"]: r for r in rows}
        for row in rows:
            for j in (1, 3):
                assert row[f"negative_{j}"] == of[row[f"negative_{j}_idx"]]["positive"]
            for j in (2, 4):
                assert row[f"negative_{j}"] == of[row[f"negative_{j}_idx"]]["cell_sentence_1"]


def test_no_negative_has_the_label_or_any_caption_of_its_anchor(tmp_path: Path) -> None:
    """The label counts, although no caption names it; so does every caption by itself."""
    spec = {"kind": "multiplets", "captions": ["control", "{donor}"], "negatives": 3}
    many = typed_rows({"train": 200}, missing=False)
    for split, rows in made(tmp_path / "x", spec, many).items():
        cells = cells_of(split, many)
        for row in rows:
            anchor = cells[row["sample_idx"]]
            for j in (1, 2, 3):
                other = cells[row[f"negative_{j}_idx"]]
                assert all(other[c] != anchor[c] for c in ("type", "control", "donor"))


def test_pairs_are_the_cell_with_its_caption_and_with_others(tmp_path: Path) -> None:
    """1.0 once and 0.0 as often as asked for; sentence and obs columns stay those of the cell."""
    spec = {"kind": "pairs", "negatives": 2, "columns": ["age"], "embeddings": ["pca"]}
    for split, rows in made(tmp_path / "x", spec).items():
        cells = cells_of(split)
        assert [r["sample_idx"] for r in rows] == [c for c in cells for _ in range(3)]
        assert [r["label"] for r in rows] == [1.0, 0.0, 0.0] * len(cells)
        for row in rows:
            cell = cells[row["sample_idx"]]
            assert (row["caption"] == f"{cell['type']} cell") == bool(row["label"])
            assert row["cell_sentence_1"] == cell["tokens:sentence:cell_sentence_1"]
            assert (row["age"], row["embedding_pca"]) == (cell["age"], cell["embedding:pca"])


def test_shares_of_batches_are_met_by_every_anchor(tmp_path: Path) -> None:
    """Half of its own batch, half of another, in any order."""
    rows = typed_rows({"train": 120}, missing=False)
    plates = pa.array([i % 3 for i in range(120)], pa.int64())
    table = rows.tables["train"]
    table = table.set_column(table.schema.get_field_index("plate"), "plate", plates)
    batched = Rows(rows.header, {"train": table})
    spec = {"kind": "multiplets", "negatives": 4, "shares": {"in_batch": 0.5, "out_of_batch": 0.5}}
    cells, places = cells_of("train", batched), []
    for row in made(tmp_path / "x", spec, batched)["train"]:
        own = [cells[row[f"negative_{j}_idx"]]["plate"] == cells[row["sample_idx"]]["plate"] for j in (1, 2, 3, 4)]
        assert sum(own) == 2
        places.append(tuple(own))
    assert len(set(places)) == 6


def test_hard_negatives_are_nearer(tmp_path: Path) -> None:
    """By the embedding that is named, on average, than those that are not."""
    spec = {"kind": "multiplets", "negatives": 1}
    shares = {"hard": 1.0, "embedding": "pca", "candidates": 20}

    def distance(folder: str, more: dict[str, Any]) -> float:
        cells = cells_of("train")
        pairs = [
            (cells[r["sample_idx"]]["embedding:pca"], cells[r["negative_1_idx"]]["embedding:pca"])
            for r in made(tmp_path / folder, spec | more)["train"]
        ]
        return sum(sum((x - y) ** 2 for x, y in zip(*pair, strict=True)) for pair in pairs)

    assert distance("hard", {"shares": shares}) < 0.6 * distance("any", {})


def test_another_seed_draws_other_negatives(tmp_path: Path) -> None:
    """And the same seed the same."""
    runs = [made(tmp_path / n, {"kind": "multiplets", "seed": s})["train"] for n, s in (("a", 0), ("b", 0), ("c", 1))]
    assert runs[0] == runs[1]
    drawn = [[r["negative_1_idx"] for r in rows] for rows in runs]
    assert sum(a == b for a, b in zip(drawn[0], drawn[2], strict=True)) < 20


@pytest.mark.parametrize("kind", ["pairs", "multiplets"])
def test_too_few_cells_of_another_caption_are_an_error(tmp_path: Path, kind: str) -> None:
    """It says how many there are."""
    with pytest.raises(CellmillError, match=r"split test: 20 negatives were asked for, .* has only \d+ of 23 cells"):
        made(tmp_path / "x", {"kind": kind, "negatives": 20})


def test_too_few_cells_of_the_batch_are_an_error(tmp_path: Path) -> None:
    """Where every cell has a batch of its own."""
    spec = {"kind": "multiplets", "negatives": 2, "shares": {"in_batch": 1.0}}
    expected = "2 negatives of its own batch were asked for, .* has only 0 of 70 cells of its own batch"
    with pytest.raises(CellmillError, match=expected):
        made(tmp_path / "x", spec)


def test_a_missing_caption_is_an_error(tmp_path: Path) -> None:
    """With the split, the first cell and the column."""
    rows = typed_rows()
    rows.tables["train"] = rows.tables["train"].slice(1)
    rows.tables["test"] = rows.tables["test"].slice(0)
    header = replace(rows.header, cells={"train": 69, "validation": 0, "test": 23})
    with pytest.raises(CellmillError, match=r"heart, split test: cell 'test:zelle-ä0' has no caption: column 'type'"):
        made(tmp_path / "x", {"kind": "multiplets"}, Rows(header, rows.tables))


def test_without_sentences_and_with_captions_that_are_all_different(tmp_path: Path) -> None:
    """As for models that take embeddings."""
    spec = {
        "kind": "multiplets",
        "sentences": None,
        "captions": ["{type} {age}"],
        "negatives": 1,
        "embeddings": ["hvg"],
    }
    row = made(tmp_path / "x", spec)["test"][0]
    assert list(row) == ["sample_idx", "positive", "negative_1_idx", "negative_1", "embedding_hvg"]
