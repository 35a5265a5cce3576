"""AnnData exports, read back with anndata."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from cellmill.errors import CellmillError
from cellmill.exports import h5ad as export
from cellmill.exports.given import Given
from cellmill.exports.h5ad import H5adCounts
from cellmill.matrix import obs_table, writer

from .export_rows import Rows, digests, make_rows, new_folder

WIDTHS = {"pca": 5, "hvg": 40}
SPEC = H5adCounts(embeddings=["hvg", "pca"])


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks, groups and tables of a few rows, so that cells are in several of each."""
    monkeypatch.setattr(writer, "CHUNK_VALUES", 64)
    monkeypatch.setattr(export, "GROUP_ROWS", 16)
    monkeypatch.setattr(obs_table, "CELLS_PER_GROUP", 10)


def written(out: Path, rows: Rows, batches: Any = None, spec: H5adCounts = SPEC, threads: int = 1) -> dict[str, Any]:
    folder = new_folder(out)
    return export.write(Given(folder, rows.header, batches or rows.batches(16), threads=threads), spec)


def plain(value: Any) -> Any:
    """A value of an obs column, None where it is missing."""
    return None if pd.isna(value) else value


@pytest.mark.parametrize("sizes", ["small", None])
@pytest.mark.parametrize("counts_dtype", ["uint8", "uint32"])
def test_anndata_reads_every_cell_as_it_was(
    tmp_path: Path, counts_dtype: str, sizes: str | None, request: pytest.FixtureRequest
) -> None:
    """Counts, obs, missing values, genes and embeddings, of every split, without a warning."""
    if sizes:
        request.getfixturevalue(sizes)
    rows = make_rows(counts_dtype=counts_dtype, widths=WIDTHS)
    facts = written(tmp_path / "out", rows)
    assert facts["splits"] == {"train": "train/cells.h5ad", "test": "test/cells.h5ad"}
    for split, table in rows.tables.items():
        found = anndata.read_h5ad(tmp_path / "out" / facts["splits"][split])
        assert found.X.dtype == np.dtype(counts_dtype) and found.X.has_sorted_indices
        assert [r.data.tolist() for r in found.X] == table["counts"].to_pylist()
        assert [r.indices.tolist() for r in found.X] == table["genes"].to_pylist()
        assert found.obs_names.tolist() == table["cell_id"].to_pylist() and found.obs_names.name == "cell_id"
        assert list(found.obs) == ["donor", "age", "umis", "control"]
        for column in found.obs:
            assert [plain(v) for v in found.obs[column]] == table[column].to_pylist()
        assert found.var_names.tolist() == rows.header.genes["gene_id"].tolist()
        assert found.var["gene_symbol"].tolist() == rows.header.genes["gene_symbol"].fillna("").tolist()
        assert found.var["highly_variable"].tolist() == rows.header.genes["variable"].tolist()
        assert list(found.obsm) == ["X_hvg", "X_pca"]
        for name in WIDTHS:
            assert found.obsm[f"X_{name}"].dtype == np.float32
            assert found.obsm[f"X_{name}"].tolist() == table[f"embedding:{name}"].to_pylist()


def test_categories_are_the_same_in_every_split(tmp_path: Path) -> None:
    """Sorted, so that codes mean the same; columns without a missing value are plain."""
    rows = make_rows(missing=False)
    written(tmp_path / "out", rows, spec=H5adCounts())
    found = {split: anndata.read_h5ad(tmp_path / "out" / split / "cells.h5ad") for split in rows.tables}
    donors = sorted({d for table in rows.tables.values() for d in table["donor"].to_pylist()})
    assert all(f.obs["donor"].cat.categories.tolist() == donors for f in found.values())
    assert {str(t) for t in found["train"].obs.dtypes[1:]} == {"float64", "int64", "bool"}
    assert not found["train"].obsm and not found["train"].layers


@pytest.mark.usefixtures("small")
def test_bytes_do_not_depend_on_batches_or_threads(tmp_path: Path) -> None:
    """The same rows one by one, in uneven batches, as slices and with threads give the same files."""
    rows = make_rows(widths=WIDTHS)
    ways = [(rows.batches(1), 1), (rows.batches(7, 2, 1000), 1), (rows.sliced(37), 2)]
    for number, (batches, threads) in enumerate(ways):
        written(tmp_path / str(number), rows, batches, threads=threads)
    first, *others = (digests(tmp_path / str(number)) for number in range(len(ways)))
    assert all(other == first for other in others)
    assert sorted(first) == ["test/cells.h5ad", "train/cells.h5ad"]


def test_a_split_without_a_count_is_read(tmp_path: Path) -> None:
    """A cell without any gene is a cell."""
    rows = make_rows({"train": 5, "test": 1}, widths=WIDTHS)
    written(tmp_path / "out", rows)
    found = anndata.read_h5ad(tmp_path / "out" / "test" / "cells.h5ad")
    assert (found.shape, found.X.nnz, found.obsm["X_pca"].shape) == ((1, 300), 0, (1, 5))


def test_obs_can_be_left_out(tmp_path: Path) -> None:
    """The ids stay."""
    rows = make_rows()
    written(tmp_path / "out", rows, spec=H5adCounts(columns=[]))
    found = anndata.read_h5ad(tmp_path / "out" / "test" / "cells.h5ad")
    assert found.obs.shape == (23, 0) and found.obs_names.tolist() == rows.tables["test"]["cell_id"].to_pylist()


def test_a_count_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    """The value is named; nothing wraps around."""
    rows = make_rows(counts_dtype="uint16")
    object.__setattr__(rows.header, "counts_dtype", np.dtype("uint8"))
    with pytest.raises(CellmillError, match=r"cell 'train:.*gene 'ENSG.*does not fit uint8, which ends at 255"):
        written(tmp_path / "out", rows, spec=H5adCounts())


def test_facts_are_json_and_count_what_was_missing(tmp_path: Path) -> None:
    """By column."""
    rows = make_rows()
    facts = written(tmp_path / "out", rows, spec=H5adCounts(columns=["age", "donor"]))
    whole = pa.concat_tables(rows.tables.values())
    assert facts["missing"] == {c: whole[c].null_count for c in ("age", "donor")}
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts
