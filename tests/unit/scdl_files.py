"""h5ad files like those that BioNeMo-SCDL is tested with, and its own classes."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

SAMPLE_AT = ([0, 2, 3, 6, 7], [2, 2, 2, 3, 8])
SAMPLE_VALUES = [6.0, 19.0, 12.0, 16.0, 1.0]


def theirs() -> Any:
    """`SingleCellMemMapDataset` of BioNeMo-SCDL; what its import warns of is not ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("bionemo.scdl.io.single_cell_memmap_dataset").SingleCellMemMapDataset


def make_adata(x: Any, *, name: str = "s", raw: bool = True) -> anndata.AnnData:
    """A matrix with names, a gene column and three obs columns; `raw` is the same matrix."""
    cells, genes = x.shape
    obs = pd.DataFrame(
        {
            "cell_type": pd.Categorical([("B", "T", None)[i % 3] for i in range(cells)]),
            "age": np.arange(cells) / 2,
            "n": np.arange(cells),
        },
        index=[f"{name}-cell{i}" for i in range(cells)],
    )
    var = pd.DataFrame({"feature_name": [f"{name}-SYM{i}" for i in range(genes)]}, index=_ids(name, genes))
    adata = anndata.AnnData(x, obs, var)
    if raw:
        adata.raw = adata.copy()
    return adata


def _ids(name: str, genes: int) -> list[str]:
    return [f"ENSG-{name}-{i}" for i in range(genes)]


def sample0() -> anndata.AnnData:
    """8 × 10 with five values."""
    return make_adata(sp.csr_matrix((SAMPLE_VALUES, SAMPLE_AT), shape=(8, 10), dtype=np.float32), name="s0")


def random_counts(cells: int, genes: int, values: int, *, seed: int, high: int = 100) -> sp.csr_matrix:
    """Counts from 1 to `high` at so many places."""
    rng = np.random.default_rng(seed)
    at = rng.choice(cells * genes, values, replace=False)
    data = rng.integers(1, high, values, endpoint=True).astype(np.float32)
    return sp.csr_matrix((data, np.divmod(at, genes)), shape=(cells, genes))


def three_samples(folder: Path) -> list[Path]:
    """Files of 8 × 10, 6 × 2 and 100 × 20 with 57 values in all."""
    folder.mkdir(parents=True, exist_ok=True)
    samples = [
        sample0(),
        make_adata(random_counts(6, 2, 4, seed=1), name="s1"),
        make_adata(random_counts(100, 20, 48, seed=2), name="s2"),
    ]
    paths = [folder / f"adata_sample{i}.h5ad" for i in range(3)]
    for path, sample in zip(paths, samples, strict=True):
        sample.write_h5ad(path)
    return paths


def neighbor_sample(path: Path) -> Path:
    """`sample0` with 29 neighbours; cells 0 and 1 have none."""
    adata = sample0()
    rng = np.random.default_rng(3)
    at = rng.choice(6 * 8, 29, replace=False)
    weights = rng.random(29) + 0.5
    links = sp.csr_matrix((weights, (2 + at // 8, at % 8)), shape=(8, 8))
    adata.obsp["next_cell_ids"] = links
    path.parent.mkdir(parents=True, exist_ok=True)
    adata.write_h5ad(path)
    return path
