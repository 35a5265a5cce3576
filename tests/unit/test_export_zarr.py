"""Zarr exports, read back with zarr and anndata, and by cellmill's own reader of zarr."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import zarr

from cellmill.errors import CellmillError
from cellmill.exports import zarr as export
from cellmill.exports.given import Given
from cellmill.exports.zarr import ZarrCounts
from cellmill.matrix import obs_table
from cellmill.matrix.zarr_store import convert_zarr

from .export_rows import digests, make_rows, new_folder

SMALL = {"cells_per_dataset": 25, "values_per_chunk": 64, "chunks_per_shard": 4}


def plain(value: Any) -> Any:
    """A value of an obs column, None where it is missing."""
    return None if pd.isna(value) else value


@pytest.mark.parametrize("sizes", [SMALL, {}], ids=["many shards", "one shard"])
@pytest.mark.parametrize("counts_dtype", ["uint8", "uint32"])
def test_anndata_reads_every_cell_as_it_was(tmp_path: Path, sizes: dict[str, int], counts_dtype: str) -> None:
    """Counts, obs values, missing values and gene names, in every dataset of every split, without a warning."""
    rows, out = make_rows(counts_dtype=counts_dtype), new_folder(tmp_path / "out")
    facts = export.write(Given(out, rows.header, rows.batches(16)), ZarrCounts(**sizes))
    assert [p.name for p in sorted(out.iterdir())] == ["test", "train"]
    for split, table in rows.tables.items():
        parts = [anndata.read_zarr(out / split / f"dataset_{i}") for i in range(len(facts["splits"][split]))]
        assert [p.n_obs for p in parts] == [d["cells"] for d in facts["splits"][split]]
        assert sum(p.n_obs for p in parts) == table.num_rows
        done = 0
        for part in parts:
            expected = table.slice(done, part.n_obs)
            done += part.n_obs
            assert part.X.dtype == np.dtype(counts_dtype) and part.X.has_sorted_indices
            assert [r.data.tolist() for r in part.X] == expected["counts"].to_pylist()
            assert [r.indices.tolist() for r in part.X] == expected["genes"].to_pylist()
            assert part.obs_names.tolist() == expected["cell_id"].to_pylist()
            for column in ("donor", "age", "umis", "control"):
                assert [plain(v) for v in part.obs[column]] == expected[column].to_pylist()
            assert part.var_names.tolist() == rows.header.genes["gene_id"].tolist()
            assert part.var["gene_symbol"].tolist() == rows.header.genes["gene_symbol"].fillna("").tolist()


def test_categories_are_the_same_everywhere(tmp_path: Path) -> None:
    """In every dataset of every split, sorted, so that codes mean the same."""
    rows, out = make_rows(), new_folder(tmp_path / "out")
    export.write(Given(out, rows.header, rows.batches(16)), ZarrCounts(**SMALL))
    found = [anndata.read_zarr(p).obs["donor"].cat.categories.tolist() for p in sorted(out.glob("*/dataset_*"))]
    assert len(found) == 4
    assert all(f == sorted({*rows.tables["train"]["donor"].to_pylist()} - {None}) for f in found)


def test_a_split_is_a_collection_for_annbatch(tmp_path: Path) -> None:
    """Marked as shuffled, with datasets that are opened lazily, and metadata that can be had in one read."""
    rows, out = make_rows(), new_folder(tmp_path / "out")
    export.write(Given(out, rows.header, rows.batches(16)), ZarrCounts(**SMALL))
    group = zarr.open_consolidated(str(out / "train"))
    assert dict(group.attrs) == {"encoding-type": "annbatch-preshuffled", "encoding-version": "0.1.0"}
    assert sorted(group.group_keys()) == ["dataset_0", "dataset_1", "dataset_2"]
    lazy = anndata.io.sparse_dataset(group["dataset_1"]["X"])
    expected = rows.tables["train"].slice(25 + 3, 9)
    assert [r.data.tolist() for r in lazy[3:12]] == expected["counts"].to_pylist()
    assert [r.data.tolist() for r in lazy[np.array([5, 3])]] == expected["counts"].take([2, 0]).to_pylist()


@pytest.mark.parametrize("inner", ["", "dataset_0"])
def test_consolidated_metadata_is_that_of_the_nodes(tmp_path: Path, inner: str) -> None:
    """Each node's own zarr.json, of all nodes, in a collection and in a dataset of it."""
    rows, out = make_rows(), new_folder(tmp_path / "out")
    export.write(Given(out, rows.header, rows.batches(16)), ZarrCounts(**SMALL))
    base = out / "train" / inner
    said = json.loads((base / "zarr.json").read_text())["consolidated_metadata"]["metadata"]
    nodes = {p.parent.relative_to(base).as_posix(): json.loads(p.read_text()) for p in base.rglob("*/zarr.json")}
    assert said.keys() == nodes.keys()
    for name, node in nodes.items():
        for key in ("shape", "data_type", "chunk_grid", "codecs", "fill_value", "attributes", "node_type"):
            assert said[name].get(key) == node.get(key)


def test_shards_hold_what_zarr_would_write(tmp_path: Path) -> None:
    """Every shard is as many chunks as it says, none missing, and zarr writes the same values as the same chunks."""
    rows, out = make_rows(), new_folder(tmp_path / "out")
    export.write(Given(out, rows.header, rows.batches(16)), ZarrCounts(**SMALL))
    array = zarr.open_array(str(out / "train" / "dataset_0" / "X" / "data"), mode="r")
    assert (array.chunks, array.shards) == ((64,), (256,))
    assert array.nchunks_initialized >= array.nchunks  # zarr counts all chunks of a shard
    assert sorted(int(p.name) for p in (array.store.root / "c").iterdir()) == list(range(-(-array.size // 256)))
    again = zarr.create_array(
        str(tmp_path / "again"), data=array[:], chunks=(64,), shards=(256,), compressors=array.compressors
    )
    assert np.array_equal(again[:], array[:])
    sizes = [sum(p.stat().st_size for p in (a.store.root / "c").iterdir()) for a in (array, again)]
    assert sizes[0] == sizes[1]


def test_a_dataset_can_be_a_raw_file_again(tmp_path: Path) -> None:
    """cellmill's own reader of zarr takes it."""
    rows, out = make_rows(), new_folder(tmp_path / "out")
    export.write(Given(out, rows.header, rows.batches(16)), ZarrCounts())
    convert_zarr(out / "test" / "dataset_0", tmp_path / "test.h5ad")
    found = anndata.read_h5ad(tmp_path / "test.h5ad")
    assert [r.data.tolist() for r in found.X] == rows.tables["test"]["counts"].to_pylist()


def test_a_split_without_a_count_is_read(tmp_path: Path) -> None:
    """Cells without any gene are cells, too."""
    rows, out = make_rows({"train": 5, "test": 1}), new_folder(tmp_path / "out")
    export.write(Given(out, rows.header, rows.batches(16)), ZarrCounts())
    found = anndata.read_zarr(out / "test" / "dataset_0")
    assert (found.shape, found.X.nnz) == ((1, 300), 0)


def test_bytes_do_not_depend_on_the_cut_into_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same rows one by one, in uneven batches and as slices give the same files."""
    monkeypatch.setattr(obs_table, "CELLS_PER_GROUP", 10)
    rows = make_rows()
    ways = [rows.batches(1), rows.batches(7, 2, 1000), rows.sliced(37)]
    for number, batches in enumerate(ways):
        export.write(Given(new_folder(tmp_path / str(number)), rows.header, batches), ZarrCounts(**SMALL))
    first, *others = (digests(tmp_path / str(number)) for number in range(len(ways)))
    assert all(other == first for other in others)
    assert not [name for name in first if "parquet" in name]


def test_a_count_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    """The value is named; nothing wraps around."""
    rows = make_rows(counts_dtype="uint16")
    object.__setattr__(rows.header, "counts_dtype", np.dtype("uint8"))
    with pytest.raises(CellmillError, match=r"cell 'train:.*gene 'ENSG.*does not fit uint8, which ends at 255"):
        export.write(Given(tmp_path, rows.header, rows.batches(16)), ZarrCounts())


def test_facts_are_json_and_count_what_was_missing(tmp_path: Path) -> None:
    """By column."""
    rows, out = make_rows(), new_folder(tmp_path / "out")
    facts = export.write(Given(out, rows.header, rows.batches(16)), ZarrCounts(columns=["age", "donor"]))
    whole = pa.concat_tables(rows.tables.values())
    assert facts["missing"] == {c: whole[c].null_count for c in ("age", "donor")}
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts


def test_embeddings_are_seen_by_anndata_and_in_consolidated_metadata(tmp_path: Path) -> None:
    """In `obsm` of every dataset, row by row, in chunks of whole rows, in more shards than one."""
    rows, out = make_rows(widths={"pca": 5, "wide": 90}), new_folder(tmp_path / "out")
    spec = ZarrCounts(embeddings=["pca", "wide"], cells_per_dataset=40, values_per_chunk=25, chunks_per_shard=4)
    facts = export.write(Given(out, rows.header, rows.batches(16)), spec)
    for split, table in rows.tables.items():
        done = 0
        for i, said in enumerate(facts["splits"][split]):
            place = out / split / f"dataset_{i}"
            part, expected = anndata.read_zarr(place), table.slice(done, said["cells"])
            done += said["cells"]
            assert list(part.obsm) == ["X_pca", "X_wide"]
            for name in ("pca", "wide"):
                assert part.obsm[f"X_{name}"].dtype == np.float32
                assert part.obsm[f"X_{name}"].tolist() == expected[f"embedding:{name}"].to_pylist()
            assert zarr.open_consolidated(str(place))["obsm/X_pca"].shape == (part.n_obs, 5)
    array = zarr.open_array(str(out / "train" / "dataset_0" / "obsm" / "X_pca"), mode="r")
    assert (array.chunks, array.shards) == ((5, 5), (20, 5))


def test_embeddings_do_not_depend_on_the_cut_into_batches(tmp_path: Path) -> None:
    """Nor do the exports without any."""
    rows, spec = make_rows(widths={"pca": 5}), ZarrCounts(embeddings=["pca"], **SMALL)
    for number, batches in enumerate([rows.batches(1), rows.batches(7, 2, 1000), rows.sliced(37)]):
        export.write(Given(new_folder(tmp_path / str(number)), rows.header, batches), spec)
    first, *others = (digests(tmp_path / str(number)) for number in range(3))
    assert all(other == first for other in others)
