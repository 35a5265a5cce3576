"""Doublet scores against scanpy.pp.scrublet, called by hand on the same cells; and against doublets that are known."""

from __future__ import annotations

import warnings
from pathlib import Path

import anndata
import numba
import numpy as np
import pandas as pd
import pytest
import scanpy
from sklearn.metrics import roc_auc_score
from threadpoolctl import threadpool_limits

from cellmill.contracts.doublets import DoubletScores, read_doublets
from cellmill.quality.doublets import scrublet
from cellmill.quality.spec import Doublets

from ..unit.cells_and_doublets import planted
from ..unit.stages import NO_MADS, make, write_raw

ALL = {"min_counts": 0, "min_genes": 0}


def by_scanpy(cells: anndata.AnnData, *, exact: bool | None = None) -> pd.DataFrame:
    """Scores and predictions of the cells, in the order of their ids; in one thread, as jobs have it."""
    made = anndata.AnnData(cells.X.astype(np.float32), obs=cells.obs[[]], var=cells.var[[]])
    made = made[np.argsort(made.obs_names.to_numpy(object), kind="stable"), np.argsort(made.var_names)].copy()
    threads = numba.get_num_threads()
    numba.set_num_threads(1)
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scanpy.pp.scrublet(made, use_approx_neighbors=None if exact is None else not exact, verbose=False)
    numba.set_num_threads(threads)
    return made.obs.assign(threshold=made.uns["scrublet"].get("threshold", np.nan))


@pytest.fixture(params=["made up", "pbmc68k_recovered_counts_700", "pbmc4k_soupx_2170"])
def cells(request: pytest.FixtureRequest) -> anndata.AnnData:
    """Made-up cells, and blood cells of two datasets; of the third, 36,000 genes of which many share a name."""
    if request.param == "made up":
        made = planted()
        return anndata.AnnData(made.counts, obs=pd.DataFrame(index=[f"c{i}" for i in range(made.counts.shape[0])]))
    folder: Path = request.getfixturevalue("shared_data")
    found = anndata.read_h5ad(folder / "derived" / f"{request.param}.h5ad")
    return found[:, ~found.var_names.duplicated()].copy()


def test_scores_are_those_of_scanpy(tmp_path: Path, cells: anndata.AnnData) -> None:
    """Every score bit for bit, the predictions and the threshold: raw file in, doublets file out, all defaults."""
    raw = write_raw(tmp_path / "x.h5ad", cells.X, cells=list(cells.obs_names), genes=list(cells.var_names))
    made = make(tmp_path / "made", {"0": raw}, quality={**NO_MADS, **ALL, "doublets": {}})
    table = read_doublets(made.folder / "doublets" / "0.parquet")[0].to_pandas().set_index("cell_id")
    expected = by_scanpy(cells).loc[table.index]
    assert len(table) == cells.n_obs
    np.testing.assert_array_equal(table["doublet_score"], expected["doublet_score"])
    assert table["predicted_doublet"].tolist() == expected["predicted_doublet"].tolist()
    facts = DoubletScores([made.folder / "doublets" / "0.parquet"]).batches["(all)"]
    assert facts["threshold"] == expected["threshold"].iloc[0]
    obs = anndata.read_h5ad(made.file("0", "h5ad")).obs.loc[table.index]
    np.testing.assert_array_equal(obs["doublet_score"], table["doublet_score"])
    assert obs["predicted_doublet"].tolist() == table["predicted_doublet"].tolist()


def test_planted_doublets_score_above_the_other_cells() -> None:
    """40 sums of two cells of different types among 600 cells, in three draws."""
    for seed in range(3):
        made = planted(seed=seed)
        found = scrublet(made.counts, Doublets(expected_rate=0.06))
        assert roc_auc_score(made.doublet, found.scores) > 0.95


def test_planted_doublets_are_predicted_far_more_often_than_by_chance() -> None:
    """By the automatic threshold: most planted ones, and few others."""
    made = planted(seed=1)
    found = scrublet(made.counts, Doublets(expected_rate=0.06))
    assert found.facts["outcome"] == "judged"
    share = made.doublet.mean()
    assert found.predicted[made.doublet].mean() > 0.6
    assert found.predicted[~made.doublet].mean() < 0.02
    assert made.doublet[found.predicted].mean() > 10 * share


def test_neighbors_are_exact_where_scanpys_default_would_not_be() -> None:
    """Beyond some thousand cells scanpy turns to approximate neighbors; asked for exact ones, it gives our scores."""
    made = planted(2_900, 100, genes=200, seed=2)
    names = [f"c{i:05d}" for i in range(made.counts.shape[0])]
    theirs = by_scanpy(anndata.AnnData(made.counts, obs=pd.DataFrame(index=names)), exact=True)["doublet_score"]
    np.testing.assert_array_equal(scrublet(made.counts, Doublets()).scores, theirs)
