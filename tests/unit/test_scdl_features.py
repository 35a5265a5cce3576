"""Feature indices: what BioNeMo-SCDL's own tests expect of them, and what they got wrong."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cellmill.scdl.index.row_feature_index import (
    ObservedFeatureIndex,
    RowFeatureIndex,
    VariableFeatureIndex,
    are_dicts_equal,
)


def features(columns: int, rows: int, prefix: str = "c") -> dict[str, np.ndarray]:
    """Columns of different numbers."""
    return {f"{prefix}{i}": np.arange(rows) + 100 * i for i in range(columns)}


def append(index: RowFeatureIndex, columns: int, rows: int, *, n_obs: int, label: str | None = None) -> None:
    """Append a block of `columns` columns for `n_obs` rows."""
    if isinstance(index, VariableFeatureIndex):
        index.append_features(n_obs, features(columns, rows), label)
    else:
        assert isinstance(index, ObservedFeatureIndex)
        index.append_features(features(columns, n_obs), label)


@pytest.mark.parametrize("kind", [VariableFeatureIndex, ObservedFeatureIndex])
def test_an_empty_index_has_nothing(kind: Any) -> None:
    """No block, no row, no value, and no lookup."""
    index = kind()
    assert (len(index), index.number_of_rows(), index.column_dims(), index.number_of_values()) == (0, 0, [], [0])
    with pytest.raises(IndexError, match="There are no features to lookup"):
        index.lookup(row=0)


@pytest.mark.parametrize("kind", [VariableFeatureIndex, ObservedFeatureIndex])
def test_rows_outside_and_unknown_columns_are_refused(kind: Any) -> None:
    """As Python raises, with the name."""
    index = kind()
    append(index, 2, 3, n_obs=3)
    with pytest.raises(IndexError, match=r"Row index -1 is not valid\. It must be non-negative\."):
        index.lookup(-1)
    with pytest.raises(IndexError, match="Row index 3 is outside"):
        index.lookup(3)
    with pytest.raises(ValueError, match=r"Provided feature column x in select_features not present in dataset\."):
        index.lookup(0, select_features=["x"])
    assert index.lookup(0, select_features=[]) == ([], None)


@pytest.mark.parametrize("kind", [VariableFeatureIndex, ObservedFeatureIndex])
def test_only_tables_of_equal_columns_are_appended(kind: Any) -> None:
    """A dataframe is no dictionary, and columns have one length."""
    arguments = [3] if kind is VariableFeatureIndex else []
    with pytest.raises(TypeError, match=r"append_features expects a dict of arrays"):
        kind().append_features(*arguments, pd.DataFrame({"a": [1]}), "LABEL")
    with pytest.raises(ValueError, match="All feature arrays must have the same length"):
        kind().append_features(*arguments, {"a": np.arange(3), "b": np.arange(2)}, "LABEL")


def test_gene_tables_stand_for_their_rows() -> None:
    """A lookup gives whole columns and the label of the block of the row."""
    index = VariableFeatureIndex()
    append(index, 3, 3, n_obs=3, label="A")
    append(index, 2, 5, n_obs=2, label="B")
    assert (len(index), index.number_of_rows(), index.column_dims(), index.number_of_values()) == (
        2,
        5,
        [3, 5],
        [9, 10],
    )
    for row, (columns, rows, label) in enumerate([(3, 3, "A")] * 3 + [(2, 5, "B")] * 2):
        assert index.number_vars_at_row(row) == rows
        found, name = index.lookup(row)
        assert name == label
        assert np.array_equal(found, list(features(columns, rows).values()))


def test_obs_tables_have_a_value_per_row() -> None:
    """A lookup gives one value per column; a slice gives tables by block."""
    index = ObservedFeatureIndex()
    append(index, 2, 0, n_obs=3, label="A")
    append(index, 3, 0, n_obs=5, label="B")
    assert (len(index), index.number_of_rows(), index.column_dims()) == (2, 8, [2, 3])
    assert index.lookup(2) == ([2, 102], "A")
    assert index.lookup(3) == ([0, 100, 200], "B")
    assert index[-1] == ([4, 104, 204], "B")
    tables, labels = index[1:7]
    assert labels == ["A", "B"]
    assert [t["c0"].tolist() for t in tables] == [[1, 2], [0, 1, 2, 3]]
    assert [t["c0"].tolist() for t in index[::2][0]] == [[0, 2], [1, 3]]
    assert index[5:5] == ([], [])
    with pytest.raises(TypeError, match="Index must be int or slice"):
        index["a"]  # type: ignore[index]


def test_equal_blocks_become_one() -> None:
    """Gene tables that are equal, missing values too, and obs tables of the same columns."""
    var, obs = VariableFeatureIndex(), ObservedFeatureIndex()
    genes = {"symbol": np.array(["a", None], object), "length": np.array([1.0, np.nan])}
    for _ in range(3):
        var.append_features(4, genes, "A")
    assert (len(var), var.number_of_rows(), var.number_of_values()) == (1, 12, [24])
    append(obs, 3, 0, n_obs=4)
    obs.concat(obs)
    assert (len(obs), obs.number_of_rows(), obs.number_of_values()) == (1, 8, [24])
    assert are_dicts_equal(genes, {k: v.copy() for k, v in genes.items()})
    assert not are_dicts_equal(genes, genes | {"length": np.array([1.0, 2.0])})


def test_empty_blocks_are_kept_of_genes_and_not_of_obs() -> None:
    """Rows without genes are rows; a table without rows is nothing."""
    var, obs = VariableFeatureIndex(), ObservedFeatureIndex()
    append(var, 3, 2, n_obs=3)
    empty = VariableFeatureIndex()
    empty.append_features(4, {}, "empty")
    var.concat(empty)
    assert (len(var), var.number_of_rows(), var.column_dims(), var.number_of_values()) == (2, 7, [2, 0], [6, 0])
    append(obs, 2, 0, n_obs=3)
    obs.append_features({}, "empty")
    assert len(obs) == 1
    with pytest.raises(TypeError, match="Expected a VariableFeatureIndex to append"):
        var.concat(obs)


@pytest.mark.parametrize("n_blocks", [1, 9, 10, 12, 101])
def test_blocks_are_in_order_after_a_reload(tmp_path: Path, n_blocks: int) -> None:
    """However many there are, each keeps its genes and its label."""
    index = VariableFeatureIndex()
    for i in range(n_blocks):
        index.append_features(2, {"gene": np.array([f"g{i}-{k}" for k in range(i + 1)], object)}, f"file{i}")
    index.save(tmp_path / "var")
    again = VariableFeatureIndex.load(tmp_path / "var")
    assert again.version() == index.version()
    assert again.column_dims() == list(range(1, n_blocks + 1))
    for row in range(2 * n_blocks):
        (genes,), label = again.lookup(row)
        assert (genes[0], len(genes), label) == (f"g{row // 2}-0", row // 2 + 1, f"file{row // 2}")


def test_tables_of_bionemo_are_put_in_order(tmp_path: Path) -> None:
    """A table that it left behind is not read, and names without zeros are numbers, not text."""
    index = VariableFeatureIndex()
    for i in range(12):
        index.append_features(1, {"gene": np.array([f"g{i}"], object)})
    index.save(tmp_path / "var")
    pq.write_table(pa.table({"gene": ["stale"]}), tmp_path / "var/dataframe_0.parquet")
    assert [VariableFeatureIndex.load(tmp_path / "var").lookup(i)[0][0][0] for i in (0, 1, 11)] == ["g0", "g1", "g11"]
    for i in range(12):
        (tmp_path / f"var/dataframe_{i:02d}.parquet").replace(tmp_path / f"var/dataframe_{i}.parquet")
    assert [VariableFeatureIndex.load(tmp_path / "var").lookup(i)[0][0][0] for i in (0, 2, 10)] == ["g0", "g2", "g10"]
    (tmp_path / "var/dataframe_4.parquet").unlink()
    with pytest.raises(ValueError, match="there are 11 tables for 12 blocks"):
        VariableFeatureIndex.load(tmp_path / "var")


def test_a_changed_index_is_saved_over_itself(tmp_path: Path) -> None:
    """Also where the names of its tables change."""
    index = VariableFeatureIndex()
    for i in range(9):
        index.append_features(1, {"gene": np.array([f"g{i}"], object)})
    index.save(tmp_path / "var")
    again = VariableFeatureIndex.load(tmp_path / "var")
    for i in range(9, 12):
        again.append_features(1, {"gene": np.array([f"g{i}"], object)})
    again.save(tmp_path / "var")
    assert [again.lookup(i)[0][0][0] for i in range(12)] == [f"g{i}" for i in range(12)]
    assert len(list((tmp_path / "var").glob("*.parquet"))) == 12


def test_nothing_is_decoded_before_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading reads no table, a value reads one column, and repeated text stays codes."""
    obs = ObservedFeatureIndex()
    rows = 3_000
    obs.append_features(
        {
            "cell_type": np.array([f"a long name of a cell type {i % 3}" for i in range(rows)], object),
            "barcode": np.array([f"AAACCC{i}" for i in range(rows)], object),
            "age": np.arange(rows) / 2,
        }
    )
    obs.save(tmp_path / "obs")
    asked = []
    read_table = pq.read_table

    def noted(path: Any, columns: list[str], **options: Any) -> Any:
        asked.append((columns, options["read_dictionary"]))
        return read_table(path, columns=columns, **options)

    monkeypatch.setattr(pq, "read_table", noted)
    index = ObservedFeatureIndex.load(tmp_path / "obs")
    assert asked == []
    assert index.lookup(7, ["cell_type"])[0] == ["a long name of a cell type 1"]
    assert index.lookup(8, ["cell_type", "barcode"])[0] == ["a long name of a cell type 2", "AAACCC8"]
    assert asked == [(["cell_type"], ["cell_type"]), (["barcode"], None)]
    assert index.lookup(8)[0][2] == 4.0


class _Boom:
    def __reduce__(self) -> Any:
        return os.mkdir, ("boom",)


def test_pickled_labels_are_read_if_they_are_text_or_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """0.1.3 writes paths; anything else is refused, and nothing of it runs."""
    monkeypatch.chdir(tmp_path)
    obs = ObservedFeatureIndex()
    append(obs, 2, 0, n_obs=3, label="A")
    obs.save(tmp_path / "obs")
    assert json.loads((tmp_path / "obs/labels.json").read_text()) == ["A"]
    (tmp_path / "obs/labels.json").unlink()
    assert ObservedFeatureIndex.load(tmp_path / "obs").lookup(0)[1] == "A"
    for label, expected in ((Path("/data/a.h5ad"), "/data/a.h5ad"), (Path("b/c.h5ad"), "b/c.h5ad"), (None, None)):
        np.save(tmp_path / "obs/labels.npy", np.array([label], object), allow_pickle=True)
        assert ObservedFeatureIndex.load(tmp_path / "obs").lookup(0)[1] == expected
    np.save(tmp_path / "obs/labels.npy", np.array([_Boom()], object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"it contains pickled objects other than text and paths \(posix\.mkdir\)"):
        ObservedFeatureIndex.load(tmp_path / "obs").lookup(0)
    assert not (tmp_path / "boom").exists()
    (tmp_path / "obs/labels.npy").unlink()
    with pytest.raises(FileNotFoundError, match="no labels file found"):
        ObservedFeatureIndex.load(tmp_path / "obs").lookup(0)


def test_an_index_pickles_without_what_it_read(tmp_path: Path) -> None:
    """Names of files, not their columns."""
    obs = ObservedFeatureIndex()
    obs.append_features({"x": np.arange(100_000)})
    obs.save(tmp_path / "obs")
    obs.lookup(5)
    assert len(pickle.dumps(obs)) < 10_000
    assert pickle.loads(pickle.dumps(obs)).lookup(5)[0] == [5]
