"""HDF5 exports, read back with h5py and anndata."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import anndata.io
import h5py
import numpy as np
import pyarrow as pa
import pytest

from cellmill.errors import CellmillError
from cellmill.exports import hdf5, hdf5_metadata
from cellmill.exports.given import Given
from cellmill.exports.hdf5 import Hdf5Counts

from .export_rows import digests, make_rows, new_folder

LAYOUTS = pytest.mark.parametrize("layout", ["csr", "dense"])
OBS_OF_MISSING = {"donor": "", "age": np.nan, "umis": -(1 << 63), "control": -1}


@pytest.fixture
def drawn() -> None:
    """For tests that look at the figure."""


@pytest.fixture(autouse=True)
def figures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The figure takes a second, longer than all the rest: tests of something else do without."""
    if "drawn" not in request.fixturenames:
        monkeypatch.setattr(hdf5_metadata, "_draw", lambda path, *_: path.touch())


def dense(table: pa.Table, genes: int) -> np.ndarray:
    matrix = np.zeros((table.num_rows, genes), np.uint64)
    for i, row in enumerate(table.to_pylist()):
        matrix[i, row["genes"]] = row["counts"]
    return matrix


def expression(file: h5py.File) -> np.ndarray:
    if isinstance(file["expression"], h5py.Dataset):
        return file["expression"][:]
    return anndata.io.sparse_dataset(file["expression"])[:].toarray()


@LAYOUTS
def test_every_count_is_read_as_it_was(tmp_path: Path, layout: Any) -> None:
    """All files of all splits together are the counts, cells and obs values that went in, in order."""
    rows, out = make_rows(), new_folder(tmp_path / "out")
    facts = hdf5.write(Given(out, rows.header, rows.batches(16)), Hdf5Counts(layout=layout, cells_per_file=30))
    beside = ["config.json", "hvg_analysis.png", "hvg_info.json", "metadata"]
    assert [p.name for p in sorted(out.iterdir())] == [*beside, "test", "train"]
    assert [f["cells"] for f in facts["splits"]["train"]["files"]] == [30, 30, 10]
    for split, table in rows.tables.items():
        for number, known in enumerate(facts["splits"][split]["files"]):
            part = table.slice(number * 30, 30)
            with h5py.File(out / known["file"]) as file:
                found = expression(file)
                assert found.dtype == np.uint16
                np.testing.assert_array_equal(found, dense(part, 300))
                assert file["cell_ids"].asstr()[:].tolist() == part["cell_id"].to_pylist()
                assert file["genes"].asstr()[:].tolist() == rows.header.genes["gene_id"].tolist()
                assert file["gene_symbols"].asstr()[2:5].tolist() == ["SYM2", "", "SYM4"]
                assert set(file["experiment_ids"].asstr()[:]) == {"heart"}
                assert sorted(file["obs"]) == sorted(["SRX_accession", "gene_count", "umi_count", *OBS_OF_MISSING])
                for column, missing in OBS_OF_MISSING.items():
                    values = file["obs"][column]
                    values = values.asstr()[:] if column == "donor" else values[:]
                    expected = [missing if v is None else v for v in part[column].to_pylist()]
                    np.testing.assert_array_equal(values, np.array(expected, values.dtype))


def test_csr_is_what_anndata_reads(tmp_path: Path) -> None:
    """`anndata.io.read_elem` gives a canonical scipy matrix of the right shape, empty last columns included."""
    rows, out = make_rows(), new_folder(tmp_path / "out")
    hdf5.write(Given(out, rows.header, rows.batches(16)), Hdf5Counts())
    with h5py.File(out / "train/batch_0000.h5") as file:
        matrix = anndata.io.read_elem(file["expression"])
        assert {k: file["expression"].attrs[k] for k in ("encoding-type", "encoding-version")} == {
            "encoding-type": "csr_matrix",
            "encoding-version": "0.1.0",
        }
    assert matrix.shape == (70, 300)
    assert matrix.has_canonical_format
    np.testing.assert_array_equal(matrix.toarray(), dense(rows.tables["train"], 300))


@pytest.mark.parametrize(("experiment", "batch"), [("donor", None), (None, "donor"), ("donor", "umis")])
def test_an_obs_column_names_the_experiments(tmp_path: Path, experiment: str | None, batch: str | None) -> None:
    """`experiment`, or else the batch column, goes to `experiment_ids` and not to `obs`."""
    rows, out = make_rows(), new_folder(tmp_path / "out")
    header = dataclasses.replace(rows.header, batch=batch)
    facts = hdf5.write(Given(out, header, rows.batches(16)), Hdf5Counts(experiment=experiment))
    with h5py.File(out / "train/batch_0000.h5") as file:
        assert file["experiment_ids"].asstr()[:].tolist() == [
            v or "" for v in rows.tables["train"]["donor"].to_pylist()
        ]
        assert "donor" not in file["obs"]
    assert facts["missing"]["donor"] == sum(t["donor"].null_count for t in rows.tables.values())


@LAYOUTS
@pytest.mark.parametrize("chunk", [None, 50])
def test_bytes_do_not_depend_on_the_cut_into_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: Any, chunk: int | None
) -> None:
    """The same rows one by one, in uneven batches and as slices give the same files, also over many chunks."""
    if chunk is not None:
        monkeypatch.setattr(hdf5, "CHUNK_VALUES", chunk)
        monkeypatch.setattr(hdf5, "CHUNK_BYTES", chunk * 60)
        monkeypatch.setattr(hdf5, "CHUNK_STRINGS", 9)
    rows = make_rows()
    ways = [rows.batches(1), rows.batches(7, 2, 1000), rows.sliced(37)]
    spec = Hdf5Counts(layout=layout, cells_per_file=41)
    for number, batches in enumerate(ways):
        hdf5.write(Given(new_folder(tmp_path / str(number)), rows.header, batches), spec)
    first, *others = (digests(tmp_path / str(number)) for number in range(len(ways)))
    assert len(first) == 8
    assert all(other == first for other in others)
    with h5py.File(tmp_path / "0/train/batch_0001.h5") as file:
        np.testing.assert_array_equal(expression(file), dense(rows.tables["train"].slice(41), 300))


@LAYOUTS
def test_a_count_that_does_not_fit_is_refused(tmp_path: Path, layout: Any) -> None:
    """Cell, gene and value are named; nothing wraps around."""
    rows = make_rows(counts_dtype="uint16", seed=3)
    table = rows.tables["train"]
    values = table["counts"].combine_chunks().flatten().to_numpy().astype(np.uint32)
    offsets = table["counts"].combine_chunks().offsets
    values[offsets[5].as_py() + 1] = 70_000
    wide = pa.LargeListArray.from_arrays(offsets, pa.array(values))
    rows.tables["train"] = table.set_column(table.column_names.index("counts"), "counts", wide)
    gene = rows.header.genes["gene_id"].iloc[table["genes"][5][1].as_py()]
    with pytest.raises(CellmillError, match=f"cell 'train:zelle-ä35', gene '{gene}': the count 70,000 does not fit"):
        hdf5.write(Given(tmp_path, rows.header, rows.batches(4)), Hdf5Counts(layout=layout))


def test_facts_are_json_and_count_what_was_missing(tmp_path: Path) -> None:
    """What the manifest says: types, sizes, files, and missing values by column."""
    rows, out = make_rows(), new_folder(tmp_path / "out")
    facts = hdf5.write(Given(out, rows.header, rows.batches(16)), Hdf5Counts())
    whole = pa.concat_tables(rows.tables.values())
    assert facts["missing"] == {c: whole[c].null_count for c in OBS_OF_MISSING}
    assert facts["genes_without_symbol"] == 1
    assert facts["splits"]["test"]["values"] == sum(len(g) for g in rows.tables["test"]["genes"].to_pylist())
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts


def test_a_column_with_a_slash_is_refused(tmp_path: Path) -> None:
    """HDF5 would make a group of it."""
    rows = make_rows()
    obs = rows.header.obs.append(pa.field("a/b", pa.int64()))
    object.__setattr__(rows.header, "obs", obs)
    with pytest.raises(CellmillError, match="'a/b' has a '/'"):
        hdf5.write(Given(tmp_path, rows.header, rows.batches(4)), Hdf5Counts())


@LAYOUTS
def test_bytes_do_not_depend_on_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: Any) -> None:
    """One thread and three, over many chunks of several files."""
    monkeypatch.setattr(hdf5, "CHUNK_VALUES", 50)
    monkeypatch.setattr(hdf5, "CHUNK_BYTES", 1200)
    monkeypatch.setattr(hdf5, "RUN", 3)
    rows = make_rows()
    for threads in (1, 3):
        spec, out = Hdf5Counts(layout=layout, cells_per_file=41), new_folder(tmp_path / str(threads))
        hdf5.write(Given(out, rows.header, rows.batches(16), threads=threads), spec)
    assert digests(tmp_path / "1") == digests(tmp_path / "3")
    with h5py.File(tmp_path / "3/train/batch_0000.h5") as file:
        np.testing.assert_array_equal(expression(file), dense(rows.tables["train"].slice(0, 41), 300))


@LAYOUTS
def test_a_row_is_read_by_small_chunks(tmp_path: Path, layout: Any) -> None:
    """At most 32,768 values, or whole rows of at most 256 KiB."""
    rows, out = make_rows({"train": 400}, genes=2_000), new_folder(tmp_path / "out")
    hdf5.write(Given(out, rows.header, rows.batches(64)), Hdf5Counts(layout=layout))
    with h5py.File(out / "train/batch_0000.h5") as file:
        if layout == "csr":
            assert file["expression/data"].chunks == file["expression/indices"].chunks == (1 << 15,)
        else:
            assert file["expression"].chunks == ((1 << 18) // 4_000, 2_000)
        np.testing.assert_array_equal(expression(file), dense(rows.tables["train"], 2_000))


# --- types


@LAYOUTS
@pytest.mark.parametrize(("counts_dtype", "dtype"), [("uint32", "smallest"), ("uint16", "int32"), ("uint8", "int16")])
def test_wide_counts_are_kept(tmp_path: Path, layout: Any, counts_dtype: str, dtype: Any) -> None:
    """40,000 stays 40,000; a type that holds all counts is taken as asked for."""
    rows, out = make_rows(counts_dtype=counts_dtype), new_folder(tmp_path / "out")
    facts = hdf5.write(Given(out, rows.header, rows.batches(16)), Hdf5Counts(layout=layout, dtype=dtype))
    with h5py.File(out / "train/batch_0000.h5") as file:
        found = expression(file)
        assert found.dtype == np.dtype(counts_dtype if dtype == "smallest" else dtype) == facts["counts_dtype"]
        np.testing.assert_array_equal(found, dense(rows.tables["train"], 300))
        assert found.max() > np.iinfo(counts_dtype).max // 2
        assert facts["largest_count"] == max(
            int(t["counts"].combine_chunks().flatten().to_numpy().max()) for t in rows.tables.values()
        )


@LAYOUTS
@pytest.mark.parametrize("dtype", ["uint8", "int16"])
def test_a_type_that_is_too_small_is_refused(tmp_path: Path, layout: Any, dtype: Any) -> None:
    """Where the downloader's int16 makes -25,536 of 40,000."""
    rows = make_rows(counts_dtype="uint16")
    with pytest.raises(
        CellmillError, match=rf"gene 'ENSG\d+': the count [\d,]+ does not fit {dtype}.*dtype: smallest, .* uint16"
    ):
        hdf5.write(Given(tmp_path, rows.header, rows.batches(4)), Hdf5Counts(layout=layout, dtype=dtype))


# --- variable genes and what stands beside the batches


@LAYOUTS
def test_variable_genes_alone_are_written(tmp_path: Path, layout: Any) -> None:
    """In the order of the gene space; what is measured of a cell still counts all genes."""
    rows, out = make_rows(), new_folder(tmp_path / "out")
    hdf5.write(Given(out, rows.header, rows.batches(16)), Hdf5Counts(layout=layout, genes="variable"))
    chosen = rows.header.genes["variable"].to_numpy()
    info = json.loads((out / "hvg_info.json").read_text())
    for split, table in rows.tables.items():
        whole = dense(table, 300)
        with h5py.File(out / split / "batch_0000.h5") as file:
            assert file["genes"].asstr()[:].tolist() == rows.header.genes["gene_id"][chosen].tolist()
            np.testing.assert_array_equal(expression(file), whole[:, chosen])
            np.testing.assert_array_equal(file["obs/umi_count"][:], whole.sum(axis=1))
            np.testing.assert_array_equal(file["obs/gene_count"][:], (whole > 0).sum(axis=1))
            assert file["genes"].asstr()[:][info["hvg_indices"]].tolist() == info["hvg_names"]
    assert sorted(info["hvg_indices"]) == list(range(chosen.sum()))


def test_hvg_info_has_the_four_keys(tmp_path: Path, drawn: None) -> None:
    """Ranks, and numbers that equal those of the gene table; JSON has text for keys."""
    rows, out = make_rows(), new_folder(tmp_path / "out")
    facts = hdf5.write(Given(out, rows.header, rows.batches(16)), Hdf5Counts())
    genes = rows.header.genes
    info = json.loads((out / "hvg_info.json").read_text())
    assert sorted(info) == ["gene_to_hvg_idx", "hvg_indices", "hvg_names", "statistics"]
    ranked = genes[genes["variable"]].sort_values("variable_rank")
    assert info["hvg_indices"] == ranked.index.tolist()
    assert info["hvg_names"] == ranked["gene_id"].tolist()
    assert info["gene_to_hvg_idx"] == {str(g): i for i, g in enumerate(ranked.index)}
    said, known = info["statistics"], ranked[ranked["mean"] > 0]
    dispersion = known["variance"] / known["mean"]
    assert (said["total_cells_analyzed"], said["total_genes"], said["n_hvgs"]) == (70, 300, len(ranked))
    assert facts["variable_genes"] == len(ranked)
    assert said["expressed_genes"] == (genes["n_cells"] > 0).sum()
    assert said["top_10_hvgs"] == ranked["gene_id"].tolist()[:10]
    for name, expected in (("mean", dispersion.mean()), ("median", dispersion.median()), ("max", dispersion.max())):
        assert said[f"{name}_dispersion"] == pytest.approx(expected)
    assert said["median_pct_cells"] == pytest.approx(100 * ranked["n_cells"].median() / 70)
    figure = (out / "hvg_analysis.png").read_bytes()
    assert figure.startswith(b"\x89PNG")
    hdf5.write(Given(new_folder(tmp_path / "again"), rows.header, rows.batches(7)), Hdf5Counts(genes="variable"))
    assert (tmp_path / "again/hvg_analysis.png").read_bytes() == figure


@pytest.mark.parametrize("files", [30, 1000])
def test_cells_json_has_every_cell(tmp_path: Path, files: int) -> None:
    """Columns of one value per cell; `null` for a missing number; where each cell is."""
    rows, out = make_rows(), new_folder(tmp_path / "out")
    header = dataclasses.replace(rows.header, batch="donor")
    hdf5.write(Given(out, header, rows.batches(16)), Hdf5Counts(cells_per_file=files))
    cells = json.loads((out / "metadata/cells.json").read_text())
    whole = pa.concat_tables(rows.tables.values())
    assert cells["cell_id"] == whole["cell_id"].to_pylist()
    assert cells["experiment_id"] == [v or "" for v in whole["donor"].to_pylist()]
    for column in ("age", "umis", "control"):
        assert cells[column] == whole[column].to_pylist()
    for i, place in enumerate(zip(cells["split"], cells["batch_idx"], cells["local_idx"], strict=True)):
        with h5py.File(out / place[0] / f"batch_{place[1]:04d}.h5") as file:
            assert file["cell_ids"].asstr()[place[2]] == cells["cell_id"][i]
            assert file["obs/umi_count"][place[2]] == cells["umi_count"][i] == sum(whole["counts"][i].as_py())


def test_cells_json_can_be_left_out(tmp_path: Path) -> None:
    """It is the only file with text per cell."""
    rows, out = make_rows(), new_folder(tmp_path / "out")
    hdf5.write(Given(out, rows.header, rows.batches(16)), Hdf5Counts(cells_json=False))
    assert [p.name for p in (out / "metadata").iterdir()] == ["experiments.json"]


def test_experiments_say_what_their_cells_share(tmp_path: Path) -> None:
    """Cells by split, and only such obs values as all cells of the experiment have."""
    rows, out = make_rows(missing=False), new_folder(tmp_path / "out")
    for split, table in rows.tables.items():
        tissue = [f"tissue of {d}" for d in table["donor"].to_pylist()]
        rows.tables[split] = table.append_column("tissue", pa.array(tissue, pa.large_string()))
    obs = rows.header.obs.append(pa.field("tissue", pa.large_string()))
    header = dataclasses.replace(rows.header, batch="donor", obs=obs)
    hdf5.write(Given(out, header, rows.batches(5)), Hdf5Counts())
    said = json.loads((out / "metadata/experiments.json").read_text())
    whole = pa.concat_tables(rows.tables.values()).to_pandas()
    assert [e["experiment_id"] for e in said] == sorted(set(whole["donor"]))
    for experiment in said:
        name = experiment["experiment_id"]
        assert experiment["n_cells"] == (whole["donor"] == name).sum() == sum(experiment["splits"].values())
        assert experiment["splits"]["test"] == (rows.tables["test"].to_pandas()["donor"] == name).sum()
        assert experiment["obs"] == {"tissue": f"tissue of {name}"}
    config = json.loads((out / "config.json").read_text())
    assert config["total_cells_downloaded"] == 93 and config["n_batches"] == 2
    assert config["source_samples"][0]["tissue"] == said[0]["obs"]["tissue"]
    values = sum(map(len, whole["genes"]))
    assert config["sparsity"] == pytest.approx(1 - values / (93 * 300))
    assert config["max_expression_value"] == max(max(c, default=0) for c in whole["counts"])


def test_a_value_that_some_cells_miss_is_not_shared(tmp_path: Path) -> None:
    """One experiment, one tissue, one cell without."""
    rows, out = make_rows({"train": 20}), new_folder(tmp_path / "out")
    table = rows.tables["train"]
    tissue = pa.array(["liver"] * 19 + [None], pa.large_string())
    rows.tables["train"] = table.append_column("tissue", tissue).append_column("assay", pa.array(["10x"] * 20))
    obs = pa.schema([pa.field("tissue", pa.large_string()), pa.field("assay", pa.string())])
    hdf5.write(Given(out, dataclasses.replace(rows.header, obs=obs), rows.batches(7)), Hdf5Counts())
    (experiment,) = json.loads((out / "metadata/experiments.json").read_text())
    assert experiment == {"experiment_id": "heart", "n_cells": 20, "splits": {"train": 20}, "obs": {"assay": "10x"}}


def test_the_names_of_the_downloaders_code_lead_to_the_same_data(tmp_path: Path) -> None:
    """`X`, `cells` and `obs/SRX_accession`, without a second copy."""
    rows, out = make_rows(), new_folder(tmp_path / "out")
    hdf5.write(
        Given(out, dataclasses.replace(rows.header, batch="donor"), rows.batches(16)), Hdf5Counts(layout="dense")
    )
    with h5py.File(out / "train/batch_0000.h5") as file:
        links = {"X": "expression", "cells": "cell_ids", "obs/SRX_accession": "experiment_ids"}
        assert all(file[one] == file[other] for one, other in links.items())
        cell = file["X"][5, :].astype(np.float32)
        assert cell.sum() == file["obs/umi_count"][5]


def test_obs_columns_under_the_names_of_measures_stay(tmp_path: Path) -> None:
    """What the dataset says of its cells is not written over."""
    rows, out = make_rows({"train": 12}, missing=False), new_folder(tmp_path / "out")
    table = rows.tables["train"].rename_columns({"umis": "umi_count", "donor": "SRX_accession"})
    rows.tables["train"] = table
    obs = pa.schema([pa.field("SRX_accession", pa.large_string()), pa.field("umi_count", pa.int64())])
    hdf5.write(Given(out, dataclasses.replace(rows.header, obs=obs), rows.batches(7)), Hdf5Counts())
    with h5py.File(out / "train/batch_0000.h5") as file:
        assert file["obs/umi_count"][:].tolist() == table["umi_count"].to_pylist()
        assert file["obs/SRX_accession"].asstr()[:].tolist() == table["SRX_accession"].to_pylist()
        assert set(file["experiment_ids"].asstr()[:]) == {"heart"}
