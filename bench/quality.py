"""The measurement ``quality``: from a raw h5ad to kept cells with variable genes, ours by stages, the peer in memory."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np


def ours(path: Path) -> None:
    """The stages of the workflow, called one after the other as its rules do."""
    from cellmill.config import Dataset
    from cellmill.genes.space import unify_genes
    from cellmill.genes.statistics import measure_genes
    from cellmill.genes.variable import rank_genes
    from cellmill.quality.metrics import measure_quality
    from cellmill.quality.process import process_part
    from cellmill.quality.thresholds import set_thresholds

    raise NotImplementedError((Dataset, unify_genes, measure_genes, rank_genes, measure_quality, process_part, set_thresholds))


def peer(path: Path) -> None:
    """scanpy, with everything in memory, as its best-practice notebooks do."""
    import anndata
    import scanpy as sc

    folder = Path(tempfile.mkdtemp(dir=path.parent))
    try:
        cells = anndata.read_h5ad(path)
        cells.var["mt"] = cells.var["feature_name"].str.startswith("MT-")
        sc.pp.calculate_qc_metrics(cells, qc_vars=["mt"], percent_top=(20, 50, 100, 200, 500), inplace=True)
        keep = np.ones(cells.n_obs, bool)
        for metric in ("log1p_total_counts", "log1p_n_genes_by_counts", "pct_counts_in_top_20_genes", "pct_counts_mt"):
            values = cells.obs[metric].to_numpy()
            center = np.median(values)
            keep &= np.abs(values - center) <= 5 * np.median(np.abs(values - center))
        cells = cells[keep].copy()
        cells.layers["counts"] = cells.X.copy()
        sc.pp.normalize_total(cells, target_sum=1e4)
        sc.pp.log1p(cells)
        sc.pp.highly_variable_genes(cells, n_top_genes=2000)
        cells.X = cells.layers.pop("counts")
        cells.write_h5ad(folder / "out.h5ad", compression="gzip")
    finally:
        shutil.rmtree(folder)
