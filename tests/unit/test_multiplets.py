"""Cell sentences and negatives."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from cellmill.errors import CellmillError
from cellmill.exports import multiplets
from cellmill.exports.hf import HfMultiplets
from cellmill.exports.multiplets import cell_sentences, draw_negatives, split_multiplets
from cellmill.exports.rows import Header

from .test_keys import slow_key

MASK = (1 << 64) - 1
GENES = [f"G{i}" for i in range(40)]
SPLITS = {"train": 50, "val": 0, "test": 20}


def table(cells: int, *, seed: int = 0, captions: int = 4, prefix: str = "c") -> pa.Table:
    """Random rows with counts and a label."""
    rng = np.random.default_rng(seed)
    genes, counts = [], []
    for _ in range(cells):
        mine = np.sort(rng.choice(40, rng.integers(1, 30), replace=False))
        genes.append(mine.astype(np.uint16))
        counts.append(rng.integers(1, 6, len(mine)).astype(np.uint16))
    return pa.table(
        {
            "cell_id": pa.array([f"{prefix}{i}" for i in range(cells)], pa.large_string()),
            "genes": pa.array(genes, pa.large_list(pa.uint16())),
            "counts": pa.array(counts, pa.large_list(pa.uint16())),
            "label": pa.array([f"type {rng.integers(captions)}" for _ in range(cells)], pa.string()),
        }
    )


TABLES = {split: table(n, seed=i, prefix=split) for i, (split, n) in enumerate(SPLITS.items()) if n}
SYMBOLS = pd.DataFrame({"gene_id": GENES, "gene_symbol": [None if i % 7 == 0 else f"S{i}" for i in range(40)]})
HEADER = Header("heart", SPLITS, SYMBOLS, np.dtype(np.uint16), pa.schema([("label", pa.string())]), label="label")


def batches(tables: dict[str, pa.Table], size: int) -> Any:
    for split, rows in tables.items():
        for start in range(0, rows.num_rows, size):
            yield split, rows.slice(start, size).combine_chunks().to_batches()[0]


def multiplets_of(
    folder: Path, *, size: int = 16, tables: dict[str, pa.Table] | None = None, header: Header = HEADER, **spec: Any
) -> dict[str, list[dict[str, Any]]]:
    """All rows of every split."""
    folder.mkdir(exist_ok=True)
    made = split_multiplets(batches(tables or TABLES, size), header, HfMultiplets(**spec), folder, group_rows=8)
    found: dict[str, list[dict[str, Any]]] = {}
    for split, _, rows in made:
        found.setdefault(split, []).extend(rows.to_pylist())
    return found


def caption_of(split: str) -> dict[str, str]:
    return dict(zip(TABLES[split]["cell_id"].to_pylist(), TABLES[split]["label"].to_pylist(), strict=True))


def slow_sentence(genes: list[int], counts: list[int], limit: int) -> str:
    """Genes by falling count, equal counts in gene order."""
    ranked = sorted(zip(counts, genes, strict=True), key=lambda pair: (-pair[0], pair[1]))
    names = SYMBOLS["gene_symbol"].where(SYMBOLS["gene_symbol"].notna(), SYMBOLS["gene_id"])
    return " ".join(names[gene] for _, gene in ranked[:limit])


def slow_negatives(ids: list[str], captions: list[str], anchor: int, *, k: int, seed: int) -> list[int]:
    """Draws from all cells of another caption, in the order of captions, without drawing a cell twice."""
    others = sorted((c, i) for i, c in enumerate(captions) if c != captions[anchor])
    state, drawn = slow_key(ids[anchor], seed=seed, purpose="negatives"), []
    while len(drawn) < k:
        state = (state + 0x9E3779B97F4A7C15) & MASK
        h = state
        h = ((h ^ (h >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        h = ((h ^ (h >> 27)) * 0x94D049BB133111EB) & MASK
        row = others[(h ^ (h >> 31)) % len(others)][1]
        if row not in drawn:
            drawn.append(row)
    return drawn


# Sentences


@pytest.mark.parametrize("limit", [1, 10, 100])
def test_sentences_name_genes_by_falling_expression(tmp_path: Path, limit: int) -> None:
    """As the slow reference does, by symbol, or by id where there is no symbol."""
    found = multiplets_of(tmp_path, sentence_genes=limit)
    for split, rows in found.items():
        for row, cell in zip(rows, TABLES[split].to_pylist(), strict=True):
            assert row["cell_sentence_1"] == slow_sentence(cell["genes"], cell["counts"], limit)


def test_a_sentence_names_no_gene_without_a_count(tmp_path: Path) -> None:
    """Nor any gene twice."""
    for split, rows in multiplets_of(tmp_path, sentence_genes=100).items():
        for row, cell in zip(rows, TABLES[split].to_pylist(), strict=True):
            words = row["cell_sentence_1"].split(" ")
            assert len(words) == len(set(words)) == len(cell["genes"])


def test_sentences_of_a_slice_are_those_of_the_whole() -> None:
    """Arrays may begin in the middle of a buffer."""
    whole, names = TABLES["train"].to_batches()[0], pa.array(GENES)
    expected = cell_sentences(whole["genes"], whole["counts"], names, 10)
    cut = whole.slice(13, 9)
    assert cell_sentences(cut["genes"], cut["counts"], names, 10).equals(expected.slice(13, 9))


def test_a_cell_without_counts_has_an_empty_sentence() -> None:
    """It is a cell like any other."""
    lists = pa.array([[], [3]], pa.large_list(pa.uint16()))
    assert cell_sentences(lists, lists, pa.array(GENES), 10).to_pylist() == ["", "G3"]


@pytest.mark.parametrize("dtype", [pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()])
def test_the_largest_counts_come_first(dtype: pa.DataType) -> None:
    """In every type, also where all bits are set."""
    largest = 2**dtype.bit_width - 1 if dtype.bit_width < 64 else 2**62
    counts = pa.array([[1, largest, largest // 2 + 1]], pa.large_list(dtype))
    genes = pa.array([[0, 1, 2]], pa.large_list(pa.uint16()))
    assert cell_sentences(genes, counts, pa.array(GENES), 3).to_pylist() == ["G1 G2 G0"]


# Negatives


@pytest.mark.parametrize("k", [1, 2, 5])
def test_negatives_are_as_many_as_asked_for_and_all_different(tmp_path: Path, k: int) -> None:
    """Of the same split, and none with the anchor's own caption."""
    for split, rows in multiplets_of(tmp_path, negatives=k).items():
        captions = caption_of(split)
        assert [r["sample_idx"] for r in rows] == TABLES[split]["cell_id"].to_pylist()
        for row in rows:
            drawn = [row[f"negative_{j}_idx"] for j in range(1, k + 1)]
            assert len(set(drawn)) == k
            assert all(captions[d] != row["positive"] == captions[row["sample_idx"]] for d in drawn)
            assert f"negative_{k + 1}_idx" not in row


def test_resolved_negatives_are_captions_and_sentences_by_turns(tmp_path: Path) -> None:
    """negative_1 and negative_3 a caption, negative_2 and negative_4 a sentence: each that of its cell."""
    for rows in multiplets_of(tmp_path, negatives=4).values():
        of = {r["sample_idx"]: r for r in rows}
        for row in rows:
            for j in (1, 3):
                assert row[f"negative_{j}"] == of[row[f"negative_{j}_idx"]]["positive"]
            for j in (2, 4):
                assert row[f"negative_{j}"] == of[row[f"negative_{j}_idx"]]["cell_sentence_1"]


def test_unresolved_negatives_are_ids_alone(tmp_path: Path) -> None:
    """Smaller files for who looks cells up."""
    row = multiplets_of(tmp_path, negatives=3, resolve_negatives=False)["train"][0]
    ids = [f"negative_{j}_idx" for j in (1, 2, 3)]
    assert list(row) == ["sample_idx", "cell_sentence_1", "positive", *ids]


def test_negatives_equal_the_slow_reference(tmp_path: Path) -> None:
    """Draw for draw."""
    for split, rows in multiplets_of(tmp_path, negatives=3, seed=9).items():
        ids, captions = TABLES[split]["cell_id"].to_pylist(), TABLES[split]["label"].to_pylist()
        for i, row in enumerate(rows):
            expected = slow_negatives(ids, captions, i, k=3, seed=9)
            assert [row[f"negative_{j}_idx"] for j in (1, 2, 3)] == [ids[e] for e in expected]


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_multiplets_do_not_depend_on_batches(tmp_path: Path, size: int) -> None:
    """Cuts change nothing."""
    assert multiplets_of(tmp_path / "a", size=size) == multiplets_of(tmp_path / "b", size=16)


def test_another_seed_draws_other_negatives(tmp_path: Path) -> None:
    """And the same seed the same."""
    runs = [multiplets_of(tmp_path, seed=s)["train"] for s in (0, 0, 1)]
    drawn = [[r["negative_1_idx"] for r in rows] for rows in runs]
    assert drawn[0] == drawn[1]
    assert np.mean(np.array(drawn[0]) == np.array(drawn[2])) < 0.3


def test_negatives_are_uniform_over_all_eligible_cells() -> None:
    """Chi-square over 40,000 draws of each caption; no position and no cell is favoured."""
    rng = np.random.default_rng(0)
    captions = rng.choice(["a", "b", "c"], 600, p=[0.7, 0.2, 0.1]).astype(object)
    ids = pa.array([f"c{i}" for i in range(600)], pa.large_string())
    drawn = [draw_negatives(ids, captions, k=5, seed=s, where="x") for s in range(60)]
    for caption in "abc":
        eligible = np.flatnonzero(captions != caption)
        mine = np.concatenate([d[captions == caption] for d in drawn])
        for chosen in (mine[:, 0], mine[:, 4], mine.ravel()):
            seen = np.bincount(chosen, minlength=600)
            assert seen.sum() == seen[eligible].sum()
            expected = len(chosen) / len(eligible)
            statistic = ((seen[eligible] - expected) ** 2 / expected).sum()
            freedom = len(eligible) - 1
            assert abs(statistic - freedom) < 5 * np.sqrt(2 * freedom)


def test_all_eligible_cells_may_be_asked_for() -> None:
    """Then each is drawn once."""
    ids = pa.array(list("abcdef"), pa.large_string())
    captions = np.array(["x", "x", "x", "y", "y", "y"], object)
    drawn = draw_negatives(ids, captions, k=3, seed=0, where="x")
    assert [sorted(row) for row in drawn] == [[3, 4, 5]] * 3 + [[0, 1, 2]] * 3


@pytest.mark.parametrize(("k", "captions", "there"), [(3, "xxxyy", 2), (1, "xxxxx", 0), (5, "abcde", 4)])
def test_too_few_cells_of_another_caption_are_an_error(k: int, captions: str, there: int) -> None:
    """It says how many there are, and of which caption."""
    ids = pa.array(list("abcde"), pa.large_string())
    expected = (
        f"heart, split train: {k} negatives were asked for, but only {there} of 5 cells have another caption than"
    )
    with pytest.raises(CellmillError, match=expected):
        draw_negatives(ids, np.array(list(captions), object), k=k, seed=0, where="heart, split train")


def test_a_missing_caption_is_an_error(tmp_path: Path) -> None:
    """With the split, the first cell and the column."""
    labels = TABLES["train"]["label"].to_pylist()
    labels[17] = None
    rows = TABLES["train"].set_column(3, "label", pa.array(labels, pa.string()))
    with pytest.raises(CellmillError, match=r"heart, split train: cell 'train17' has no caption \(column 'label'\)"):
        multiplets_of(tmp_path, tables={"train": rows})


def test_no_caption_column_is_an_error(tmp_path: Path) -> None:
    """With the two ways to name one."""
    header = Header("heart", SPLITS, SYMBOLS, np.dtype(np.uint16), pa.schema([]))
    with pytest.raises(CellmillError, match=r"no caption column\. Set columns\.label, or 'caption'"):
        multiplets_of(tmp_path, header=header)


def test_files_are_cut_where_they_are_said_to_be(tmp_path: Path) -> None:
    """And row groups within them."""
    spec = HfMultiplets(cells_per_file=20)
    made = multiplets.split_multiplets(batches(TABLES, 16), HEADER, spec, tmp_path, group_rows=8)
    sizes: Counter[tuple[str, int]] = Counter()
    for split, number, rows in made:
        assert rows.num_rows <= 8
        sizes[split, number] += rows.num_rows
    assert sizes == {("train", 0): 20, ("train", 1): 20, ("train", 2): 10, ("test", 0): 20}
