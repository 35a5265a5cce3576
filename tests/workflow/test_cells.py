"""Every cell is accounted for, and is the same cell in every export."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import scipy.sparse as sp

from .project import EXPORTS, Project

DATASET = "pbmc68k"
SPLITS = ("train", "val", "test")


@pytest.fixture(scope="module")
def processed(finished: Project) -> anndata.AnnData:
    return anndata.read_h5ad(finished.results(DATASET) / "processed" / "0.h5ad")


@pytest.fixture(scope="module")
def tokens(finished: Project) -> dict[str, np.ndarray]:
    table = pq.read_table(finished.results(DATASET) / "tokenized" / "rank" / "0.parquet").to_pandas()
    return dict(zip(table["cell_id"], table["input_ids"], strict=True))


def _hf(finished: Project, name: str, cache: Path) -> Any:
    import datasets

    return datasets.load_dataset(str(finished.results(DATASET) / "hf" / name), cache_dir=str(cache))


def test_every_raw_cell_has_exactly_one_outcome(finished: Project):
    """raw = kept + dropped by reason, cell by cell, and the ids are those of the raw file."""
    raw = anndata.read_h5ad(finished.results(DATASET) / "raw" / "0.h5ad")
    cells = pd.read_parquet(finished.results(DATASET) / "processed" / "0.cells.parquet")
    assert list(cells["cell_id"]) == list(raw.obs_names)
    assert cells["outcome"].notna().all() and cells["cell_id"].is_unique
    assert ((cells["outcome"] == "kept") == cells["split"].notna()).all()


def test_the_numbers_agree_in_manifest_card_and_report(finished: Project):
    """Kept, dropped and split sizes are the same wherever they stand."""
    cells = pd.read_parquet(finished.results(DATASET) / "processed" / "0.cells.parquet")
    dropped = cells.loc[cells["outcome"] != "kept", "outcome"].value_counts().to_dict()
    kept = int((cells["outcome"] == "kept").sum())
    card = (finished.results(DATASET) / "hf" / "cells" / "README.md").read_text()
    page = (finished.results(DATASET) / "report" / "index.html").read_text()
    for export in EXPORTS:
        ledger = finished.manifest(DATASET, export)["ledger"]
        assert (ledger["raw"], ledger["kept"], ledger["dropped"]) == (len(cells), kept, dropped)
    assert f"| raw | {len(cells):,} |" in card and f"| kept | {kept:,} |" in card
    for reason, number in dropped.items():
        assert f"| dropped: {reason} | {number:,} |" in card
        assert reason in page
    assert re.search(rf"\b{kept}\b", page) and re.search(rf"\b{len(cells)}\b", page)


def test_every_kept_cell_is_in_exactly_one_split(finished: Project, processed: anndata.AnnData):
    """The splits are disjoint, and together they are the kept cells."""
    cells = pd.read_parquet(finished.results(DATASET) / "processed" / "0.cells.parquet").set_index("cell_id")
    assert list(processed.obs_names) == list(cells.index[cells["outcome"] == "kept"])
    assert (processed.obs["split"].astype(str) == cells.loc[processed.obs_names, "split"]).all()


def test_hf_cells_are_the_processed_cells(finished: Project, processed, tokens, tmp_path: Path):
    """load_dataset gives each split's cells, with their tokens, embeddings and labels, which are classes."""
    loaded = _hf(finished, "cells", tmp_path)
    vectors = np.load(finished.results(DATASET) / "embedded" / "pca" / "0.npy")
    row_of = {cell: i for i, cell in enumerate(processed.obs_names)}
    assert list(loaded) == list(SPLITS)
    labels = loaded["train"].features["bulk_labels"]
    assert labels.names == sorted(processed.obs["bulk_labels"].cat.categories)
    seen = []
    for split in SPLITS:
        for row in loaded[split]:
            i = row_of[row["cell_id"]]
            assert processed.obs["split"].iloc[i] == split
            assert row["input_ids"] == list(tokens[row["cell_id"]])
            assert np.array_equal(np.float32(row["embedding_pca"]), vectors[i])
            assert labels.int2str(row["bulk_labels"]) == processed.obs["bulk_labels"].iloc[i]
            seen.append(row["cell_id"])
    assert sorted(seen) == sorted(processed.obs_names)


def test_multiplets_never_share_the_anchors_caption(finished: Project, processed, tmp_path: Path):
    """Every kept cell is an anchor once; negatives are other cells of its split with another caption."""
    loaded = _hf(finished, "multiplets", tmp_path)
    label, split_of = processed.obs["bulk_labels"].astype(str), processed.obs["split"].astype(str)
    anchors = []
    for split in SPLITS:
        for row in loaded[split]:
            negatives = [row["negative_1_idx"], row["negative_2_idx"]]
            assert row["positive"] == label[row["sample_idx"]]
            assert len({row["sample_idx"], *negatives}) == 3
            assert all(label[n] != row["positive"] and split_of[n] == split for n in negatives)
            assert row["negative_1"] == label[negatives[0]]
            anchors.append(row["sample_idx"])
    assert sorted(anchors) == sorted(processed.obs_names)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")  # of streaming itself
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # files it leaves to the collector
def test_mds_cells_have_the_same_tokens(finished: Project, processed, tokens, streaming, tmp_path: Path):
    """StreamingDataset reads every kept cell with the tokens of tokenized/."""
    seen = []
    for split in SPLITS:
        remote = finished.results(DATASET) / "mds" / "tokens" / split
        dataset = streaming.StreamingDataset(remote=str(remote), local=str(tmp_path / split), batch_size=1)
        for row in dataset:
            assert np.array_equal(row["input_ids"], tokens[row["cell_id"]])
            assert processed.obs.loc[row["cell_id"], "split"] == split
            assert row["bulk_labels"] == processed.obs.loc[row["cell_id"], "bulk_labels"]
            seen.append(row["cell_id"])
    assert sorted(seen) == sorted(processed.obs_names)


def test_hdf5_cells_have_the_same_counts(finished: Project, processed):
    """h5py and anndata read every kept cell with its counts."""
    seen = []
    for split in SPLITS:
        with h5py.File(finished.results(DATASET) / "hdf5" / "counts" / split / "batch_0000.h5") as file:
            counts: sp.csr_matrix = anndata.io.sparse_dataset(file["expression"]).to_memory()
            ids = file["cell_ids"].asstr()[:]
            assert list(file["genes"].asstr()[:]) == list(processed.var_names)
        assert (processed[ids].X != counts).nnz == 0
        assert (processed.obs.loc[ids, "split"] == split).all()
        seen += list(ids)
    assert sorted(seen) == sorted(processed.obs_names)


def test_h5ad_cells_have_the_same_counts_and_vectors(finished: Project, processed):
    """anndata opens a file per split; counts, genes, obs and embeddings are those of processed/ and embedded/."""
    seen = []
    vectors = {n: np.load(finished.results(DATASET) / "embedded" / n / "0.npy") for n in ("hvg", "pca")}
    for split in SPLITS:
        cells = anndata.read_h5ad(finished.results(DATASET) / "h5ad" / "cells" / split / "cells.h5ad")
        expected = processed[cells.obs_names]
        assert (expected.X != cells.X).nnz == 0 and list(cells.var_names) == list(processed.var_names)
        assert (expected.obs["split"] == split).all()
        assert (expected.obs["bulk_labels"].astype(str) == cells.obs["bulk_labels"].astype(str)).all()
        rows = processed.obs_names.get_indexer(cells.obs_names)
        assert all(np.array_equal(cells.obsm[f"X_{name}"], found[rows]) for name, found in vectors.items())
        seen += list(cells.obs_names)
    assert sorted(seen) == sorted(processed.obs_names)


@pytest.mark.parametrize("library", ["bionemo.scdl", "cellmill.scdl"])
def test_scdl_cells_have_the_same_counts(finished: Project, processed, library: str):
    """Either library opens the archive, with the same names; rows, genes and cell ids are those of processed/."""
    module = pytest.importorskip(f"{library}.io.single_cell_memmap_dataset")
    seen = []
    for split in SPLITS:
        archive = module.SingleCellMemMapDataset(str(finished.results(DATASET) / "scdl" / "counts" / split))
        for row in range(len(archive)):
            (values, columns), genes, (cell_id,) = archive.get_row(
                row,
                return_var_features=True,
                var_feature_names=["gene_id"],
                return_obs_features=True,
                obs_feature_names=["cell_id"],
            )
            expected = processed[cell_id].X
            assert np.array_equal(columns, expected.indices) and np.array_equal(values, expected.data)
            assert list(genes[0]) == list(processed.var_names)
            seen.append(cell_id)
    assert sorted(seen) == sorted(processed.obs_names)


def test_geneformer_cells_have_the_same_tokens(finished: Project, processed, tokens):
    """load_from_disk reads every kept cell with the tokens of tokenized/, as a whole and split by split."""
    import datasets

    folder = finished.results(DATASET) / "geneformer" / "tokens"
    whole = datasets.load_from_disk(str(folder))
    assert list(whole) == list(SPLITS)
    seen = []
    for split in SPLITS:
        one = datasets.load_from_disk(str(folder / split))
        assert one.to_list() == whole[split].to_list()
        for row in one:
            assert row["input_ids"] == list(tokens[row["cell_id"]]) and row["length"] == len(row["input_ids"])
            assert processed.obs.loc[row["cell_id"], "split"] == split
            assert row["bulk_labels"] == processed.obs.loc[row["cell_id"], "bulk_labels"]
            seen.append(row["cell_id"])
    assert sorted(seen) == sorted(processed.obs_names)


def test_zarr_cells_have_the_same_counts(finished: Project, processed):
    """anndata opens the stores; counts, genes and obs are those of processed/."""
    seen = []
    for split in SPLITS:
        cells = anndata.read_zarr(finished.results(DATASET) / "zarr" / "counts" / split / "dataset_0")
        expected = processed[cells.obs_names]
        assert (expected.X != cells.X).nnz == 0 and list(cells.var_names) == list(processed.var_names)
        assert (expected.obs["split"] == split).all()
        assert (expected.obs["bulk_labels"].astype(str) == cells.obs["bulk_labels"].astype(str)).all()
        seen += list(cells.obs_names)
    assert sorted(seen) == sorted(processed.obs_names)


def test_packed_cells_have_the_same_counts(finished: Project, processed):
    """Rows, genes and obs are those of processed/, and every record is whole."""
    from cellmill.packed.reader import PackedRows

    seen = []
    for split in SPLITS:
        cells = PackedRows(finished.results(DATASET) / "packed" / "counts" / split)
        cells.check()
        indptr, indices, values = cells.read(0, len(cells))
        ids = cells.obs("cell_id").tolist()
        expected = processed[ids]
        assert np.array_equal(indptr, expected.X.indptr)
        assert np.array_equal(indices, expected.X.indices) and np.array_equal(values, expected.X.data)
        assert cells.genes["gene_id"].tolist() == list(processed.var_names)
        assert (expected.obs["split"] == split).all()
        assert (expected.obs["bulk_labels"].astype(str).to_numpy() == cells.obs("bulk_labels").astype(str)).all()
        seen += ids
    assert sorted(seen) == sorted(processed.obs_names)


def test_manifests_know_every_file(finished: Project):
    """Every file of an export stands in its manifest with its checksum, and no other."""
    from cellmill.contracts import manifest

    for export in EXPORTS:
        manifest.verify(finished.results(DATASET) / export)


def test_config_is_written_beside_the_results(finished: Project):
    """results/<dataset>/config.json holds the merged configuration, defaults filled in."""
    said = json.loads((finished.results(DATASET) / "config.json").read_text())
    assert said["dataset"]["quality"]["min_counts"] == 1
    assert set(said["exports"]) == set(EXPORTS)
