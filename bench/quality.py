"""From a raw h5ad to kept cells and variable genes: ours as a library and as the workflow, the peer in memory."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml

REPO = Path(__file__).resolve().parents[1]
TAKEN = re.compile(r"took ([\d.]+) s of CPU and (\d+) MB")


def ours(path: Path, threads: int = 2) -> None:
    """Every stage up to the variable genes, one after another in this process."""
    from cellmill.config import Dataset
    from cellmill.genes.space import unify_genes
    from cellmill.genes.statistics import measure_genes
    from cellmill.genes.variable import rank_genes
    from cellmill.quality.duplicates import find_duplicates
    from cellmill.quality.labels import read_labels
    from cellmill.quality.metrics import measure_quality
    from cellmill.quality.process import process_part
    from cellmill.quality.splits import assign_splits
    from cellmill.quality.thresholds import set_thresholds

    folder = Path(tempfile.mkdtemp(dir=path.parent))
    try:
        source = {"kind": "files", "files": {"0": str(path)}}
        spec = Dataset.model_validate({"title": "Atlas", "source": source, "exports": []})
        names = ("quality", "labels", "genes", "duplicates", "splits", "space", "mapping", "cells", "ranked")
        file = {name: folder / f"{name}.parquet" for name in names}
        thresholds, processed, sums = folder / "thresholds.json", folder / "processed.h5ad", folder / "sums.npz"
        measure_quality(
            path,
            part="0",
            counts="auto",
            genes=spec.gene_rules,
            gene_table=None,
            cell_ids=spec.cell_ids,
            batch=None,
            out=file["quality"],
            out_genes=file["genes"],
            threads=threads,
        )
        read_labels(path, quality=file["quality"], rules=spec.label_rules, out=file["labels"])
        quality, labels = [file["quality"]], [file["labels"]]
        set_thresholds(quality, labels=labels, spec=spec.threshold_rules, out=thresholds)
        decided: dict[str, Any] = {"thresholds": thresholds, "doublets": []}
        find_duplicates(quality, labels=labels, **decided, spec=spec.quality, out=file["duplicates"])
        decided["duplicates"] = file["duplicates"]
        assign_splits(quality, labels=labels, **decided, rules=spec.cell_rules, out=file["splits"])
        unify_genes([file["genes"]], spec=spec.genes, out=file["space"], out_mapping=file["mapping"])
        process_part(
            path,
            quality=file["quality"],
            labels=file["labels"],
            part_genes=file["genes"],
            **decided,
            splits=file["splits"],
            space=file["space"],
            mapping=file["mapping"],
            rules=spec.cell_rules,
            part="0",
            out=processed,
            out_cells=file["cells"],
            threads=threads,
        )
        measure_genes(processed, scale=spec.variable_genes.scale, batch=None, out=sums, threads=threads)
        rank_genes([sums], space=file["space"], spec=spec.variable_genes, out=file["ranked"])
    finally:
        shutil.rmtree(folder)


def workflow(
    paths: list[Path],
    *,
    targets: list[str],
    exports: list[str],
    columns: dict[str, str] | None = None,
    more: dict[str, Any] | None = None,
    config: dict[str, Any] | None = None,
    then: Callable[[Path], None] = lambda folder: None,
) -> list[dict[str, Any]]:
    """The jobs of Snakemake on two cores, to ``targets``: ``rule``, CPU seconds ``s``, ``mb`` and ``asked``.

    Seconds and the peak in MB stand in the last line of each log, the MB asked for in its benchmark file.
    CPU seconds depend little on what else the machine does.
    The start of Snakemake and of every job is in the time that the caller measures.
    ``more`` keys of the dataset; entries of a section of ``config``, such as ``embedders``, are added to those there.
    ``then`` sees the folder before it is deleted.
    """
    folder = Path(tempfile.mkdtemp(dir=paths[0].parent))
    try:
        shutil.copytree(REPO / "config", folder / "config")
        source = {"kind": "files", "files": {str(i): str(path) for i, path in enumerate(paths)}}
        dataset = {"title": "Atlas", "source": source, "columns": columns or {}, "exports": exports, **(more or {})}
        (folder / "config" / "datasets" / "atlas.yaml").write_text(yaml.safe_dump(dataset))
        values = yaml.safe_load((folder / "config" / "config.yaml").read_text())
        for section, entries in (config or {}).items():
            values[section] |= entries
        (folder / "config" / "config.yaml").write_text(yaml.safe_dump(values))
        command = [sys.executable, "-m", "snakemake", "-s", str(REPO / "Snakefile"), "--cores", "2"]
        command += ["--scheduler", "greedy", "--benchmark-extended", "--quiet", "progress", "rules"]
        command += ["--config", 'datasets=["atlas"]']
        if mirror := os.environ.get("CELLMILL_SHARED_DATA"):  # of outside files that tokenizers need
            command.append(f"mirror={mirror}")
        command.append("--")
        done = subprocess.run([*command, *targets], cwd=folder, check=False, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(done.stderr)
        jobs = []
        for log in sorted((folder / "logs").glob("*/*.log")):
            cpu, mb = TAKEN.findall(log.read_text())[-1]
            file = folder / "benchmarks" / log.parent.name / f"{log.stem}.jsonl"
            asked = json.loads(file.read_text().splitlines()[-1])["resources"]["mem_mb"]
            jobs.append({"rule": log.parent.name, "s": float(cpu), "mb": float(mb), "asked": float(asked)})
        then(folder)
        return jobs
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
