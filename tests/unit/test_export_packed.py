"""Packed exports, read back by `PackedRows`."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from cellmill.errors import CellmillError
from cellmill.exports import packed
from cellmill.exports.given import Given
from cellmill.exports.packed import PackedCounts
from cellmill.matrix import obs_table
from cellmill.packed.reader import PackedRows

from .export_rows import digests, make_rows, new_folder


@pytest.mark.parametrize("counts_dtype", ["uint8", "uint16", "uint32"])
def test_every_cell_is_read_as_it_was(tmp_path: Path, counts_dtype: str) -> None:
    """Counts in their type, obs values, missing ones and gene names, in every split."""
    rows, out = make_rows(counts_dtype=counts_dtype), new_folder(tmp_path / "out")
    facts = packed.write(Given(out, rows.header, rows.batches(16)), PackedCounts(cells_per_file=30))
    assert [p.name for p in sorted(out.iterdir())] == ["test", "train"]
    for split, table in rows.tables.items():
        archive = PackedRows(out / split)
        archive.check()
        assert (len(archive), archive.n_genes, archive.dtype) == (table.num_rows, 300, np.dtype(counts_dtype))
        indptr, indices, values = archive.read(0, len(archive))
        assert values.dtype == np.dtype(counts_dtype) and indices.dtype == np.uint16
        bounds = list(pairwise(indptr))
        assert [values[a:b].tolist() for a, b in bounds] == table["counts"].to_pylist()
        assert [indices[a:b].tolist() for a, b in bounds] == table["genes"].to_pylist()
        assert archive.genes["gene_id"].tolist() == rows.header.genes["gene_id"].tolist()
        assert archive.obs_columns == ["cell_id", "donor", "age", "umis", "control"]
        for column in archive.obs_columns:
            found = archive.obs(column)
            expected = table[column].to_pylist()
            assert [None if f != f or f is None else f for f in found] == expected
        assert archive.obs("donor").dtype == "category"
        assert facts["splits"][split]["values"] == archive.n_values == len(values)
        stored = sum(p.stat().st_size for p in (out / split).glob("*.cells"))
        assert facts["splits"][split]["bytes_of_counts"] == stored


def test_an_unknown_column_is_named(tmp_path: Path) -> None:
    """With the nearest one."""
    rows, out = make_rows(), new_folder(tmp_path / "out")
    packed.write(Given(out, rows.header, rows.batches(16)), PackedCounts(columns=["donor"]))
    with pytest.raises(CellmillError, match=r"has no column 'donr'.*donor"):
        PackedRows(out / "test").obs("donr")


def test_bytes_do_not_depend_on_the_cut_into_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same rows one by one, in uneven batches and as slices give the same files."""
    monkeypatch.setattr(obs_table, "CELLS_PER_GROUP", 10)
    rows = make_rows()
    ways = [rows.batches(1), rows.batches(7, 2, 1000), rows.sliced(37)]
    for number, batches in enumerate(ways):
        packed.write(Given(new_folder(tmp_path / str(number)), rows.header, batches), PackedCounts(cells_per_file=20))
    first, *others = (digests(tmp_path / str(number)) for number in range(len(ways)))
    assert all(other == first for other in others)
    assert {f"train/0000{i}.cells" for i in range(4)} <= first.keys()


def test_a_count_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    """The value is named; nothing wraps around."""
    rows = make_rows(counts_dtype="uint16")
    object.__setattr__(rows.header, "counts_dtype", np.dtype("uint8"))
    with pytest.raises(CellmillError, match=r"cell 'train:.*gene 'ENSG.*does not fit uint8, which ends at 255"):
        packed.write(Given(tmp_path, rows.header, rows.batches(16)), PackedCounts())


def test_counts_of_64_bits_are_refused(tmp_path: Path) -> None:
    """Before anything is written."""
    rows = make_rows()
    object.__setattr__(rows.header, "counts_dtype", np.dtype("uint64"))
    with pytest.raises(CellmillError, match=r"the counts are uint64; records hold counts up to 2\^32 - 1"):
        packed.write(Given(tmp_path, rows.header, rows.batches(16)), PackedCounts())
    assert list(tmp_path.iterdir()) == []


def test_facts_are_json_and_count_what_was_missing(tmp_path: Path) -> None:
    """Missing values stay missing in Parquet, and are counted."""
    rows, out = make_rows(), new_folder(tmp_path / "out")
    facts = packed.write(Given(out, rows.header, rows.batches(16)), PackedCounts(columns=["age", "donor"]))
    whole = pa.concat_tables(rows.tables.values())
    assert facts["missing"] == {c: whole[c].null_count for c in ("age", "donor")}
    assert list(facts["columns"]) == ["cell_id", "age", "donor"]
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts
