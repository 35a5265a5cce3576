"""Variable genes against scanpy, for every flavor that it has, with and without batches."""

from __future__ import annotations

import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import scanpy
import scipy.sparse as sp

from cellmill.contracts.genes import read_genes
from cellmill.errors import CellmillError
from cellmill.genes.spec import VariableGenes

from ..unit.stages import Made, make, measure_variable_genes, write_raw

FLAVORS = ["seurat", "cell_ranger", "seurat_v3"]
N_TOP = 300
WITH_AND_WITHOUT = pytest.mark.parametrize("by_batch", [False, True], ids=["no batch", "batch"])


def ranked(made: Made, flavor: str, *, by_batch: bool = False, **options: Any) -> Made:
    """The same processed cells up to ``genes.parquet`` by another flavor."""
    spec = VariableGenes(flavor=flavor, by_batch=by_batch, **options)
    dataset = made.dataset.model_copy(update={"variable_genes": spec})
    measure_variable_genes(again := replace(made, dataset=dataset))
    return again


def training(made: Made) -> anndata.AnnData:
    """The training cells of all parts, counts in float64, batches as text."""
    parts = [anndata.read_h5ad(path) for path in made.files("h5ad")]
    cells = anndata.concat(parts) if len(parts) > 1 else parts[0]
    cells = cells[cells.obs["split"] == "train"].copy()
    cells.X = cells.X.astype(np.float64)
    return cells


class StableNumpy:
    """numpy for scanpy's seurat_v3, whose sort leaves equal genes in no certain order: that of the genes instead."""

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    @staticmethod
    def argsort(values: np.ndarray, axis: int) -> np.ndarray:
        return np.argsort(np.round(values, 12), axis=axis, kind="stable")


def by_scanpy(
    cells: anndata.AnnData, flavor: str, *, batch: str | None = None, n_top: int = N_TOP, stable: bool = False
) -> pd.DataFrame:
    """What scanpy says of the same cells."""
    cells = cells.copy()
    if flavor != "seurat_v3":
        scanpy.pp.normalize_total(cells, target_sum=1e4)
        scanpy.pp.log1p(cells)
    module = sys.modules["scanpy.preprocessing._highly_variable_genes"]
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("ignore")
        if stable:
            patch.setattr(module, "np", StableNumpy())
        return scanpy.pp.highly_variable_genes(cells, flavor=flavor, n_top_genes=n_top, batch_key=batch, inplace=False)


def order_of_scanpy(expected: pd.DataFrame, flavor: str) -> np.ndarray:
    """Scanpy's variable genes by what it sorts them by, equal ones (but for rounding) in the order of the genes."""
    n_batches = -expected.get("highly_variable_nbatches", pd.Series(0, expected.index)).to_numpy()
    if flavor == "seurat_v3":
        order = np.lexsort((n_batches, expected["highly_variable_rank"]))
    else:
        order = np.lexsort((-np.nan_to_num(np.round(expected["dispersions_norm"], 12), nan=-np.inf), n_batches))
    return order[expected["highly_variable"].to_numpy()[order]]


def order_of_ours(found: pd.DataFrame) -> np.ndarray:
    chosen = np.flatnonzero(found["variable"])
    return chosen[np.argsort(found["variable_rank"].to_numpy()[chosen])]


def ties_sorted(order: np.ndarray, scores: pd.Series) -> list[int]:
    """Neighbours that differ by nothing but rounding (two genes in a bin score ±0.7071) in the order of the genes."""
    runs = np.cumsum(np.abs(np.diff(scores.to_numpy()[order], prepend=np.nan)) > 1e-9)
    return order[np.lexsort((order, runs))].tolist()


def synthetic(folder: Path) -> Path:
    """Three batches of unequal size and depth, one gene of which is only in one of them."""
    rng = np.random.default_rng(5)
    batch = np.repeat(["x", "y", "z"], [300, 150, 90])
    depth = np.repeat([1.0, 4.0, 0.5], [300, 150, 90])[:, None]
    rates = rng.gamma(0.5, 2.0, 600) * rng.gamma(2.0, 0.5, (540, 600)) ** rng.integers(0, 3, 600)
    counts = rng.poisson(rates * depth * rng.gamma(4, 0.25, (540, 1)))
    counts[batch != "y", :20] = 0
    return write_raw(folder / "synthetic.h5ad", sp.csr_matrix(counts.astype(np.float32)), obs={"batch": batch})


def thirds(path: Path, folder: Path) -> Path:
    """Real cells with a batch, and none of the genes that no cell has: scanpy's cell_ranger refuses those."""
    cells = anndata.read_h5ad(path)[:1200]
    cells = cells[:, np.asarray(cells.X.sum(axis=0)).ravel() > 20].copy()
    cells.obs["batch"] = np.array(["a", "b", "c"])[np.random.default_rng(0).integers(0, 3, cells.n_obs)]
    cells.write_h5ad(folder / "thirds.h5ad")
    return folder / "thirds.h5ad"


DATA: dict[str, tuple[str | None, str]] = {
    "placenta": ("derived/placenta_ensembl_220.h5ad", "tissue"),
    "pbmc68k": ("derived/pbmc68k_recovered_counts_700.h5ad", "bulk_labels"),
    "pbmc4k": ("derived/pbmc4k_soupx_2170.h5ad", "batch"),
    "synthetic": (None, "batch"),
}


@pytest.fixture(scope="module", params=DATA)
def real(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Cells up to the processed part, with a batch column."""
    folder = tmp_path_factory.mktemp(request.param)
    file, batch = DATA[request.param]
    if file is None:
        raw = synthetic(folder)
    else:
        raw = request.getfixturevalue("shared_data") / file
        raw = thirds(raw, folder) if request.param == "pbmc4k" else raw
    return make(folder, {"0": raw}, columns={"batch": batch})


def compare(made: Made, flavor: str, *, cells: anndata.AnnData, left_out: list[str]) -> None:
    """Ours and scanpy's, of these cells: statistics, sets, ranks, batches."""
    batch = made.dataset.gene_batch
    found, facts = read_genes(made.genes)
    expected = by_scanpy(cells, flavor, batch=batch, stable=batch is not None)
    assert found["gene_id"].tolist() == cells.var_names.tolist()
    statistic = "variances_norm" if flavor == "seurat_v3" else "dispersions_norm"
    np.testing.assert_allclose(found["variability"], expected[statistic], rtol=1e-6, atol=1e-6)
    assert (found["variable"].to_numpy() == expected["highly_variable"].to_numpy()).all()
    in_order = expected if batch or flavor != "seurat_v3" else by_scanpy(cells, flavor, stable=True)
    orders = [order_of_ours(found), order_of_scanpy(in_order, flavor)]
    assert ties_sorted(orders[0], in_order[statistic]) == ties_sorted(orders[1], in_order[statistic])
    assert facts["batches_left_out"] == left_out
    assert facts["batches"] == (cells.obs[batch].nunique() if batch else 1)
    if batch:
        assert (found["variable_batches"].to_numpy() == expected["highly_variable_nbatches"].to_numpy()).all()


NO_CURVE = {"pbmc68k": ["CD34+", "CD4+/CD45RA+/CD25- Naive T"]}
"""Batches in which too few cells give the genes too few different means for scanpy's local regression."""


@WITH_AND_WITHOUT
@pytest.mark.parametrize("flavor", FLAVORS)
def test_variable_genes_are_those_of_scanpy(real: Made, flavor: str, by_batch: bool) -> None:
    """The same genes in the same order, in as many batches, by the same statistics."""
    cells = training(real)
    name = next(n for n in DATA if real.folder.name.startswith(n))
    left_out = NO_CURVE.get(name, []) if by_batch and flavor == "seurat_v3" else []
    if name == "placenta" and (flavor, by_batch) in (("cell_ranger", False), ("seurat_v3", True)):
        pytest.skip("scanpy has no answer here: see the two tests below")
    if left_out:
        with pytest.raises(ValueError, match="near singularities"):
            by_scanpy(cells, flavor, batch=real.dataset.columns.batch)
        cells = cells[~cells.obs[real.dataset.columns.batch].isin(left_out)].copy()
    compare(ranked(real, flavor, by_batch=by_batch, n_top=N_TOP), flavor, cells=cells, left_out=left_out)


@pytest.fixture(scope="module")
def placenta(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Few cells with many genes."""
    folder = tmp_path_factory.mktemp("placenta")
    return make(folder, {"0": shared_data / "derived/placenta_ensembl_220.h5ad"}, columns={"batch": "tissue"})


def test_infinite_dispersions_are_not_lost(placenta: Made) -> None:
    """Where more than n_top genes stand infinitely above their bin, scanpy takes none, and we the first of them."""
    found, facts = read_genes(ranked(placenta, "cell_ranger", n_top=N_TOP).genes)
    expected = by_scanpy(training(placenta), "cell_ranger")
    np.testing.assert_allclose(found["variability"], expected["dispersions_norm"], rtol=1e-6, atol=1e-6)
    assert not expected["highly_variable"].any()
    assert facts["variable_genes"] == found["variable"].sum() == N_TOP
    assert np.isposinf(found["variability"][found["variable"]]).all()
    many = by_scanpy(training(placenta), "cell_ranger", n_top=2000)["highly_variable"]
    finite = np.isfinite(found["variability"].to_numpy())
    ours, _ = read_genes(ranked(placenta, "cell_ranger", n_top=2000).genes)
    assert (ours["variable"].to_numpy()[finite] == many.to_numpy()[finite]).all()


def test_batches_that_no_curve_fits_are_refused(placenta: Made) -> None:
    """Where scanpy ends with an error of its regression; ours says which batches, and what to do."""
    with pytest.raises(ValueError, match=r"condition number|singularities"):
        by_scanpy(training(placenta), "seurat_v3", batch="tissue")
    with pytest.raises(CellmillError, match=r"no curve of variance over mean fits .*'blood'.* Take another flavor"):
        ranked(placenta, "seurat_v3", by_batch=True)
