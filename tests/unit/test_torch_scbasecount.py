"""The scBaseCount downloader's datasets: its names and items, without its defects."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from cellmill.errors import CellmillError
from cellmill.torch import HVGDataset, ScRNADataset, create_dataloader, create_hvg_dataloader

from .loader_exports import Made, make_exports

HVGS = [40, 3, 119, 0, 77]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    made = make_exports(tmp_path_factory.mktemp("scbasecount"))
    names = made.rows.header.genes["gene_id"].to_numpy()[HVGS].tolist()
    info = {
        "hvg_indices": HVGS,
        "hvg_names": names,
        "gene_to_hvg_idx": {name: i for i, name in enumerate(names)},
        "statistics": {},
    }
    for format_ in ("hdf5", "dense"):
        (made.folder / format_ / "hvg_info.json").write_text(json.dumps(info))
    return made


@pytest.mark.parametrize("format_", ["hdf5", "dense"])
def test_items_are_those_of_the_downloader(format_: str, made: Made):
    """A float tensor of all genes, and three facts; counts above 32,767 stay what they are."""
    dataset, expected, table = ScRNADataset(made.folder / format_), made.dense(), made.table()
    assert len(dataset) == 700 and expected.max() > 40_000
    for row in (0, 1, 299, 300, 699, -1):
        counts, about = dataset[row]
        assert counts.dtype == torch.float32 and np.array_equal(counts.numpy(), expected[row])
        assert about == {
            "gene_count": np.count_nonzero(expected[row]),
            "umi_count": expected[row].astype(float).sum(),
            "srx_accession": table["donor"][row % 700].as_py() or "",
        }
    for row in (700, -701):
        with pytest.raises(IndexError):
            dataset[row]


def test_a_loader_gives_every_cell_once(made: Made):
    """As create_dataloader makes it, with workers."""
    loader = create_dataloader(made.folder / "hdf5", num_workers=2)
    batches = list(loader)
    assert loader.batch_size == 32 and len(batches) == 22
    counts = torch.cat([counts for counts, _ in batches]).numpy()
    order = np.lexsort(made.dense().T)
    assert np.array_equal(counts[np.lexsort(counts.T)], made.dense()[order])
    assert len(batches[0][1]["srx_accession"]) == 32 and batches[0][1]["gene_count"].dtype == torch.int64


def test_genes_can_be_cut_and_transformed(made: Made):
    """max_genes leaves the two facts as they are; another split."""
    dataset = ScRNADataset(made.folder / "hdf5", torch.log1p, 7, split="test")
    expected = made.dense("test")
    assert len(dataset) == 23 and len(dataset.genes) == 7
    counts, about = dataset[5]
    np.testing.assert_allclose(counts.numpy(), np.log1p(expected[5, :7]), rtol=1e-6)
    assert about["gene_count"] == np.count_nonzero(expected[5])


@pytest.mark.parametrize("n_hvgs", [1, 3, 5])
def test_a_variable_gene_keeps_its_place_and_its_count(n_hvgs: int, made: Made):
    """Column i is gene i of hvg_info.json in every cell, 0 where the cell has none; also when read again."""
    for _ in range(2):
        dataset = HVGDataset(made.folder / "hdf5", n_hvgs)
        assert dataset.hvg_names == made.rows.header.genes["gene_id"].to_numpy()[HVGS[:n_hvgs]].tolist()
        found = torch.stack([counts for counts, _ in dataset.__getitems__(range(700))]).numpy()
        assert np.array_equal(found, made.dense()[:, HVGS[:n_hvgs]])


def test_a_cell_knows_where_it_is(made: Made):
    """Its id, and the file and row that hold it."""
    dataset = HVGDataset(made.folder / "dense", 5)
    _, about = dataset[300]
    assert about == {
        "cell_id": made.table()["cell_id"][300].as_py(),
        "experiment_id": made.table()["donor"][300].as_py() or "",
        "batch_idx": 1,
        "local_idx": 0,
    }
    batch = next(iter(create_hvg_dataloader(made.folder / "dense", 5, shuffle=False)))
    assert batch[0].shape == (32, 5) and batch[1]["local_idx"].tolist() == list(range(32))


def test_what_is_not_there_is_refused(made: Made, tmp_path: Path):
    """More genes than are known, no table of them, no export."""
    with pytest.raises(CellmillError, match="6 variable genes were asked for, there are 5"):
        HVGDataset(made.folder / "hdf5", 6)
    shutil.copytree(made.path("hdf5"), tmp_path / "hdf5" / "train")
    with pytest.raises(CellmillError, match=r"hvg_info\.json"):
        HVGDataset(tmp_path / "hdf5", 5)
    assert len(ScRNADataset(tmp_path / "hdf5" / "train")) == 700
    with pytest.raises(CellmillError, match=r"batch_0000\.h5"):
        ScRNADataset(tmp_path)
