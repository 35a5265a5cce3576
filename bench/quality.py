"""From a raw h5ad to kept cells and variable genes: ours as the workflow, the peer in memory."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import yaml

REPO = Path(__file__).resolve().parents[1]


def ours(path: Path) -> float:
    """Snakemake on two cores, its own start and that of every job included; the largest job's peak memory in MB."""
    folder = Path(tempfile.mkdtemp(dir=path.parent))
    try:
        shutil.copytree(REPO / "config", folder / "config")
        dataset = {"title": "Atlas", "source": {"kind": "files", "files": {"0": str(path)}}, "exports": ["scdl/counts"]}
        (folder / "config" / "datasets" / "atlas.yaml").write_text(yaml.safe_dump(dataset))
        command = [sys.executable, "-m", "snakemake", "-s", str(REPO / "Snakefile"), "--cores", "2"]
        command += ["--scheduler", "greedy", "--quiet", "all", "--config", 'datasets=["atlas"]', "--"]
        subprocess.run([*command, "results/atlas/genes/genes.parquet"], cwd=folder, check=True, capture_output=True)
        jobs = [json.loads(p.read_text().splitlines()[-1]) for p in (folder / "benchmarks").rglob("*.jsonl")]
        return max(float(job["max_rss"] or 0) for job in jobs)
    finally:
        shutil.rmtree(folder)


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
