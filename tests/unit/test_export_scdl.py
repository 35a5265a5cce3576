"""SCDL exports, read back with BioNeMo-SCDL."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cellmill.errors import CellmillError
from cellmill.exports import scdl
from cellmill.exports.given import Given
from cellmill.exports.scdl import ScdlCounts
from cellmill.matrix import obs_table
from cellmill.scdl import writer

from .export_rows import digests, make_rows, new_folder


@pytest.fixture(scope="module")
def dataset_class() -> Any:
    """`SingleCellMemMapDataset`; what its import warns of is not ours."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("bionemo.scdl.io.single_cell_memmap_dataset").SingleCellMemMapDataset


@pytest.mark.parametrize(("genes", "counts_dtype"), [(300, "uint16"), (200, "uint8"), (300, "uint32")])
def test_bionemo_reads_every_cell_as_it_was(tmp_path: Path, dataset_class: Any, genes: int, counts_dtype: str) -> None:
    """Counts, padded counts, obs values, missing values and gene names, without a warning, in every split."""
    rows, out = make_rows(genes=genes, counts_dtype=counts_dtype), new_folder(tmp_path / "out")
    scdl.write(Given(out, rows.header, rows.batches(16)), ScdlCounts())
    assert [p.name for p in sorted(out.iterdir())] == ["test", "train"]
    for split, table in rows.tables.items():
        dataset = dataset_class(str(out / split))
        assert len(dataset) == table.num_rows
        assert dataset.shape() == (table.num_rows, [genes])
        assert dataset.data.dtype == np.dtype(counts_dtype)
        names = ["cell_id", "donor", "age", "umis", "control"]
        for i, row in enumerate(table.to_pylist()):
            (values, columns), var, obs = dataset.get_row(
                i, return_var_features=True, return_obs_features=True, obs_feature_names=names
            )
            assert values.tolist() == row["counts"]
            assert columns.tolist() == row["genes"]
            for name, found in zip(names, obs, strict=True):
                absent = found is None or found != found
                assert absent if row[name] is None else found == row[name]
            padded, _, _ = dataset.get_row_padded(i)
            assert padded.shape == (genes,)
            assert padded[row["genes"]].tolist() == row["counts"]
            assert np.count_nonzero(padded) == len(row["counts"])
        assert var[0].tolist() == rows.header.genes["gene_id"].tolist()
        assert var[1].tolist() == rows.header.genes["gene_symbol"].tolist()


def test_bionemo_finds_a_gene_by_its_column(tmp_path: Path, dataset_class: Any) -> None:
    """`get_row_column` relies on rising columns."""
    rows, out = make_rows(), new_folder(tmp_path / "out")
    scdl.write(Given(out, rows.header, rows.batches(16)), ScdlCounts())
    dataset, row = dataset_class(str(out / "test")), rows.tables["test"].to_pylist()[4]
    assert [dataset.get_row_column(4, gene) for gene in row["genes"]] == row["counts"]


def test_the_header_is_what_bionemo_writes(tmp_path: Path, dataset_class: Any) -> None:
    """Read and serialised by the library's own header class, it is the same bytes."""
    from bionemo.scdl.schema.header import SCDLHeader

    rows, out = make_rows(), new_folder(tmp_path / "out")
    facts = scdl.write(Given(out, rows.header, rows.batches(16)), ScdlCounts())
    header = SCDLHeader.load(str(out / "train/header.sch"))
    header.validate()
    assert header.serialize() == (out / "train/header.sch").read_bytes()
    nnz = facts["splits"]["train"]["values"]
    assert [(a.name, a.length) for a in header.arrays] == [("DATA", nnz), ("ROWPTR", 71), ("COLPTR", nnz)]
    files = [f for index in header.feature_indices for f in index.index_files]
    assert len(files) == 10
    assert all((out / "train" / f).is_file() for f in files)


def test_an_archive_survives_save_and_concat(tmp_path: Path, dataset_class: Any) -> None:
    """The library can go on from our files: one split appended to another."""
    rows, out = make_rows(counts_dtype="uint8"), new_folder(tmp_path / "out")
    scdl.write(Given(out, rows.header, rows.batches(16)), ScdlCounts())
    dataset = dataset_class(str(out / "train"))
    dataset.concat(dataset_class(str(out / "test")))
    assert dataset.number_of_rows() == 93
    (values, _), _, obs = dataset.get_row(72, return_obs_features=True, obs_feature_names=["cell_id"])
    assert values.tolist() == rows.tables["test"]["counts"][2].as_py()
    assert obs == ["test:zelle-ä14"]


def test_types_are_the_smallest_that_hold_the_values(tmp_path: Path) -> None:
    """Offsets and columns are as narrow as SCDL allows."""
    rows, out = make_rows({"train": 70, "test": 2}, genes=200), new_folder(tmp_path / "out")
    facts = scdl.write(Given(out, rows.header, rows.batches(16)), ScdlCounts())
    assert facts["splits"]["train"]["dtypes"] == {"DATA": "uint16", "ROWPTR": "uint16", "COLPTR": "uint8"}
    assert facts["splits"]["test"]["dtypes"]["ROWPTR"] == "uint8"
    assert (out / "train/row_ptr.npy").stat().st_size == 71 * 2
    assert not list(out.rglob("*.uint64"))


def test_labels_need_no_pickle(tmp_path: Path) -> None:
    """Both kinds of labels are there, and plain."""
    rows, out = make_rows(), new_folder(tmp_path / "out")
    scdl.write(Given(out, rows.header, rows.batches(16)), ScdlCounts())
    folder = out / "train/obs_features"
    assert np.load(folder / "labels.npy", allow_pickle=False).tolist() == ["heart"]
    assert json.loads((folder / "labels.json").read_text()) == ["heart"]
    assert np.load(folder / "version.npy", allow_pickle=False).item() == "0.1.3"


def test_bytes_do_not_depend_on_the_cut_into_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same rows one by one, in uneven batches and as slices give the same files, also over many row groups."""
    monkeypatch.setattr(obs_table, "CELLS_PER_GROUP", 10)
    monkeypatch.setattr(writer, "BLOCK", 8)
    rows = make_rows()
    ways = [rows.batches(1), rows.batches(7, 2, 1000), rows.sliced(37)]
    for number, batches in enumerate(ways):
        scdl.write(Given(new_folder(tmp_path / str(number)), rows.header, batches), ScdlCounts())
    first, *others = (digests(tmp_path / str(number)) for number in range(len(ways)))
    assert all(other == first for other in others)
    path = tmp_path / "0/train/obs_features/dataframe_0.parquet"
    assert pq.ParquetFile(path).num_row_groups == 7
    assert pq.read_table(path)["cell_id"].to_pylist() == rows.tables["train"]["cell_id"].to_pylist()


def test_a_count_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    """The value is named; nothing wraps around."""
    rows = make_rows(counts_dtype="uint16")
    object.__setattr__(rows.header, "counts_dtype", np.dtype("uint8"))
    with pytest.raises(CellmillError, match=r"cell 'train:.*gene 'ENSG.*does not fit uint8, which ends at 255"):
        scdl.write(Given(tmp_path, rows.header, rows.batches(16)), ScdlCounts())


def test_a_split_without_a_count_is_refused(tmp_path: Path) -> None:
    """SCDL maps files, and an empty file cannot be mapped."""
    rows = make_rows({"train": 5, "test": 1})
    with pytest.raises(CellmillError, match="split 'test': has no count"):
        scdl.write(Given(tmp_path, rows.header, rows.batches(16)), ScdlCounts())


def test_facts_are_json_and_count_what_was_missing(tmp_path: Path) -> None:
    """Missing values stay missing in Parquet, and are counted."""
    rows, out = make_rows(), new_folder(tmp_path / "out")
    facts = scdl.write(Given(out, rows.header, rows.batches(16)), ScdlCounts(columns=["age", "donor"]))
    whole = pa.concat_tables(rows.tables.values())
    assert facts["missing"] == {c: whole[c].null_count for c in ("age", "donor")}
    assert list(facts["columns"]) == ["cell_id", "age", "donor"]
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts
