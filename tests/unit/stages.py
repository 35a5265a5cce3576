"""Raw files to make, and the stages of the workflow run on them one after another."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import scipy.sparse as sp

from cellmill.config import Dataset
from cellmill.genes.cells import count_gene_cells
from cellmill.genes.clipped import fit_clip, measure_clipped
from cellmill.genes.files import gene_list, gene_set_files, gene_table
from cellmill.genes.space import unify_genes
from cellmill.genes.spec import GeneRules
from cellmill.genes.statistics import measure_genes
from cellmill.genes.variable import rank_genes
from cellmill.quality.doublets import part_files, score_doublets
from cellmill.quality.duplicates import find_duplicates
from cellmill.quality.labels import read_labels
from cellmill.quality.ledger import write_ledger
from cellmill.quality.metrics import measure_quality
from cellmill.quality.process import process_part
from cellmill.quality.spec import LabelRules
from cellmill.quality.splits import assign_splits
from cellmill.quality.thresholds import set_thresholds
from cellmill.sources.annotate import annotate_part

NO_MADS: dict[str, Any] = {"mads": {}}


def random_counts(cells: int, genes: int, *, seed: int = 0, dtype: Any = np.float32) -> sp.csr_matrix:
    """Random counts (cells, genes) with a gene-wise rate, about a third of them not zero."""
    rng = np.random.default_rng(seed)
    rates = rng.gamma(0.6, 1.0, genes)
    return sp.csr_matrix(rng.poisson(rates * rng.gamma(4, 0.25, (cells, 1))).astype(dtype))


def write_raw(
    path: Path,
    counts: Any,
    *,
    cells: list[str] | None = None,
    genes: list[str] | None = None,
    obs: dict[str, Any] | None = None,
    var: dict[str, Any] | None = None,
) -> Path:
    """An h5ad file as somebody else would write it; X is written as it is given."""
    n, m = counts.shape
    cell_index = pd.Index(cells if cells is not None else [f"c{i}" for i in range(n)])
    gene_index = pd.Index(genes if genes is not None else [f"ENSG{i:011d}" for i in range(m)])
    made = anndata.AnnData(counts, obs=pd.DataFrame(obs, index=cell_index), var=pd.DataFrame(var, index=gene_index))
    path.parent.mkdir(parents=True, exist_ok=True)
    made.write_h5ad(path)
    return path


@dataclass(frozen=True)
class Made:
    """The files of one dataset."""

    folder: Path
    parts: list[str]
    dataset: Dataset

    def file(self, part: str, suffix: str) -> Path:
        return self.folder / f"{part}.{suffix}"

    @property
    def genes(self) -> Path:
        return self.folder / "genes.parquet"

    @property
    def thresholds(self) -> Path:
        return self.folder / "thresholds.json"

    @property
    def duplicates(self) -> Path:
        return self.folder / "duplicates.parquet"

    @property
    def splits(self) -> Path:
        return self.folder / "splits.parquet"

    @property
    def ledger(self) -> Path:
        return self.folder / "ledger.parquet"

    def files(self, suffix: str) -> list[Path]:
        return [self.file(p, suffix) for p in self.parts]


def annotate(folder: Path, raws: dict[str, Path], dataset: Dataset) -> dict[str, Path]:
    """``annotate_part`` of every part, where the dataset has rules for obs; the file of each part."""
    rules = dataset.obs_rules
    files = {part: folder / f"{part}.obs.parquet" for part in raws} if rules.needed else {}
    for part, out in files.items():
        annotate_part(raws[part], rules=rules, tables=[join.table for join in rules.joins], out=out)
    return files


def measure(
    folder: Path,
    raws: dict[str, Path],
    annotations: dict[str, Path] | None = None,
    *,
    batch: str | None = None,
    rules: GeneRules | None = None,
    **options: Any,
) -> list[Path]:
    """``measure_quality`` of every part; the quality files."""
    asked = {"counts": "auto", "gene_table": None, "cell_ids": "barcode"} | options
    asked["genes"] = rules or GeneRules(organism="homo_sapiens")
    for part, raw in raws.items():
        asked["annotations"] = (annotations or {}).get(part)
        out, out_genes = folder / f"{part}.quality.parquet", folder / f"{part}.genes.parquet"
        measure_quality(raw, part=part, batch=batch, out=out, out_genes=out_genes, **asked)
    return [folder / f"{p}.quality.parquet" for p in raws]


def label(
    folder: Path,
    raws: dict[str, Path],
    rules: LabelRules | None = None,
    annotations: dict[str, Path] | None = None,
) -> list[Path]:
    """``read_labels`` of every part; the files."""
    for part, raw in raws.items():
        quality, out = folder / f"{part}.quality.parquet", folder / f"{part}.labels.parquet"
        mine = (annotations or {}).get(part)
        read_labels(raw, quality=quality, rules=rules or LabelRules(), out=out, annotations=mine)
    return [folder / f"{p}.labels.parquet" for p in raws]


def make(folder: Path, raws: dict[str, Path], **spec: Any) -> Made:
    """Every stage up to ``genes.parquet``; ``spec`` goes into the dataset's config."""
    source = {"kind": "files", "files": {p: str(r) for p, r in raws.items()}}
    values = {"title": "t", "source": source, "exports": [], "quality": NO_MADS} | spec
    dataset = Dataset.model_validate(values)
    made = Made(folder, list(raws), dataset)
    files = {"gene_table": next(iter(gene_table(dataset.genes.table, dataset.organism)), None)}
    annotations = annotate(folder, raws, dataset)
    options = {"batch": dataset.columns.batch, "cell_ids": dataset.cell_ids, "rules": dataset.gene_rules}
    measure(folder, raws, annotations, **options, **files, gene_set_files=gene_set_files(dataset.genes.sets))
    space = folder / "space.parquet"
    files |= {"gene_list": next(iter(gene_list(dataset.genes.space)), None)}
    labels = label(folder, raws, dataset.label_rules, annotations)
    set_thresholds(made.files("quality.parquet"), labels=labels, spec=dataset.quality, out=made.thresholds)
    decided = {"labels": labels, "thresholds": made.thresholds, "doublets": score(made, raws, labels)}
    find_duplicates(made.files("quality.parquet"), **decided, spec=dataset.quality, out=made.duplicates)
    assign_splits(
        made.files("quality.parquet"),
        **decided,
        duplicates=made.duplicates,
        rules=dataset.cell_rules,
        out=made.splits,
    )
    if dataset.genes.min_cells:
        files |= {"gene_cells": made.files("gene_cells.parquet")}
        count_cells(made, raws, decided["doublets"])
    unify_genes(
        made.files("genes.parquet"), spec=dataset.genes, out=space, out_mapping=folder / "mapping.parquet", **files
    )
    for part, raw in raws.items():
        process_part(
            raw,
            quality=made.file(part, "quality.parquet"),
            labels=made.file(part, "labels.parquet"),
            part_genes=made.file(part, "genes.parquet"),
            thresholds=made.thresholds,
            doublets=decided["doublets"],
            duplicates=made.duplicates,
            splits=made.splits,
            space=space,
            mapping=folder / "mapping.parquet",
            rules=dataset.cell_rules,
            part=part,
            out=made.file(part, "h5ad"),
            out_cells=made.file(part, "cells.parquet"),
            annotations=annotations.get(part),
        )
    write_ledger(
        made.files("cells.parquet"),
        labels=labels,
        doublets=decided["doublets"],
        duplicates=made.duplicates,
        rules=dataset.cell_rules,
        out=made.ledger,
        annotations=list(annotations.values()),
    )
    measure_variable_genes(made)
    return made


def count_cells(made: Made, raws: dict[str, Path], doublets: list[Path]) -> None:
    """``count_gene_cells`` of every part."""
    for part, raw in raws.items():
        count_gene_cells(
            raw,
            quality=made.file(part, "quality.parquet"),
            labels=made.file(part, "labels.parquet"),
            part_genes=made.file(part, "genes.parquet"),
            thresholds=made.thresholds,
            doublets=doublets,
            duplicates=made.duplicates,
            splits=made.splits,
            spec=made.dataset.quality,
            out=made.file(part, "gene_cells.parquet"),
        )


def score(made: Made, raws: dict[str, Path], labels: list[Path]) -> list[Path]:
    """``score_doublets`` of every share, where the dataset looks for doublets; the files."""
    spec = made.dataset
    quality, genes = made.files("quality.parquet"), made.files("genes.parquet")
    parts = part_files(list(raws.values()), quality=quality, labels=labels, genes=genes)
    files = []
    shares = spec.doublet_shares(list(raws))
    for share in shares:
        files.append(made.folder / "doublets" / f"{share}.parquet")
        score_doublets(
            parts,
            thresholds=made.thresholds,
            spec=spec.doublet_rules,
            share=int(share),
            shares=len(shares),
            out=files[-1],
        )
    return files


def measure_variable_genes(made: Made) -> None:
    """From the processed parts to ``genes.parquet``."""
    spec, batch = made.dataset.variable_genes, made.dataset.gene_batch
    for part in made.parts:
        measure_genes(made.file(part, "h5ad"), scale=spec.scale, batch=batch, out=made.file(part, "npz"))
    clip: dict[str, Any] = {}
    if spec.clips:
        clip = {"model": made.folder / "clip.npz", "clipped": made.files("clipped.npz")}
        fit_clip(made.files("npz"), out=clip["model"])
        for part in made.parts:
            out = made.file(part, "clipped.npz")
            measure_clipped(made.file(part, "h5ad"), model=clip["model"], batch=batch, out=out)
    rank_genes(made.files("npz"), space=made.folder / "space.parquet", spec=spec, out=made.genes, **clip)


def split_raw(raw: Path, folder: Path, rows: dict[str, np.ndarray]) -> dict[str, Path]:
    """A raw file cut into several, one per entry of ``rows``."""
    whole = anndata.read_h5ad(raw)
    folder.mkdir(parents=True, exist_ok=True)
    for part, mine in rows.items():
        whole[mine].copy().write_h5ad(folder / f"{part}.raw.h5ad")
    return {part: folder / f"{part}.raw.h5ad" for part in rows}


def three_parts(cells: int, *, seed: int = 0) -> dict[str, np.ndarray]:
    """All rows in three parts of unequal size, in another order."""
    order = np.random.default_rng(seed).permutation(cells)
    return {
        "z": order[: cells // 2],
        "a": order[cells // 2 : cells // 2 + cells // 5],
        "m": order[cells // 2 + cells // 5 :],
    }
