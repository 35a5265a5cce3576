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
from cellmill.exports import hdf5
from cellmill.exports.hdf5 import Hdf5Counts

from .export_rows import digests, make_rows, new_folder

LAYOUTS = pytest.mark.parametrize("layout", ["csr", "dense"])
OBS_OF_MISSING = {"donor": "", "age": np.nan, "umis": -(1 << 63), "control": -1}


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
    facts = hdf5.write(out, rows.header, rows.batches(16), Hdf5Counts(layout=layout, cells_per_file=30))
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
    hdf5.write(out, rows.header, rows.batches(16), Hdf5Counts())
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
    facts = hdf5.write(out, header, rows.batches(16), Hdf5Counts(experiment=experiment))
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
        hdf5.write(new_folder(tmp_path / str(number)), rows.header, batches, spec)
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
        hdf5.write(tmp_path, rows.header, rows.batches(4), Hdf5Counts(layout=layout))


def test_facts_are_json_and_count_what_was_missing(tmp_path: Path) -> None:
    """What the manifest says: types, sizes, files, and missing values by column."""
    rows, out = make_rows(), new_folder(tmp_path / "out")
    facts = hdf5.write(out, rows.header, rows.batches(16), Hdf5Counts())
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
        hdf5.write(tmp_path, rows.header, rows.batches(4), Hdf5Counts())
