"""What a run will cost, from what was measured: seconds of each rule by cells and jobs, and bytes on the disk.

``costs.tsv`` holds the figures of ``docs/scale.md``, of each rule those of the table with the most cells; a test with
``--fix`` takes them over from there. A rule that no table has is said to be not measured.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

from cellmill.embedders import OfCells, OfCounts, OfTokens
from cellmill.judge.spec import Judge
from cellmill.sources.census import Census
from cellmill.sources.stores import is_address
from cellmill.sources.tahoe import Tahoe
from cellmill.stages import JOBS, SAME, STAGES

if TYPE_CHECKING:
    from cellmill.config import Project

OWN_BYTES_PER_BYTE = 0.67
"""Size of the h5ad that cellmill writes, per byte of the gzip h5ad by anndata that it was made from: 49.0 of 73.1 MB,
the first 20,480 cells of the atlas of ``bench/``."""
EPOCHS = 2
"""Of the training that ``fit_scvi`` was measured with (``bench/scale.py``)."""
JUDGED = Judge().cells
"""Cells that ``judge_embedder`` looked at when it was measured, or all where there were fewer."""


@dataclass(frozen=True)
class Cost:
    """What a rule took: seconds of all its jobs for so many cells in so many parts, and how many jobs these were."""

    cells: int
    parts: int
    jobs: int
    seconds: float
    start: float
    """Of them those of the start of a job: what ``assign_splits`` took in the same table, which has little to do."""


@cache
def measured() -> dict[str, Cost]:
    """What each rule took; one of those that do the same stands for all."""
    rows = csv.DictReader((files("cellmill") / "costs.tsv").read_text().splitlines(), delimiter="\t")
    kinds = {"cells": int, "parts": int, "jobs": int, "seconds": float, "start": float}
    found = {row["rule"]: Cost(**{k: kind(row[k]) for k, kind in kinds.items()}) for row in rows}
    return {rule: found[SAME.get(rule, rule)] for rule in JOBS if SAME.get(rule, rule) in found}


def seconds_of(rule: str, *, cells: int, parts: int) -> float:
    """What one run of a measured rule over the dataset takes: the start of its jobs, and so much per cell.

    One run of ``embed_part`` is that of one embedder; of ``judge_embedder`` cells are those that it looks at.
    """
    cost, wildcards = measured()[rule], JOBS[rule]
    per_part = "part" in wildcards
    runs = 1 if "share" in wildcards else cost.jobs / (cost.parts if per_part else 1)
    of_cells = min(cost.cells, JUDGED) if rule == "judge_embedder" else cost.cells
    for_cells = max(cost.seconds - cost.jobs * cost.start, 0) / runs / of_cells * cells
    return cost.start * (parts if per_part else 1) + for_cells


@dataclass(frozen=True)
class StageCost:
    """Core-seconds of a stage: of the jobs that each part has, which run side by side, and of those of the dataset."""

    stage: str
    per_part: float
    per_dataset: float
    not_measured: tuple[str, ...] = ()
    """Rules that run, and that nobody knows the cost of."""


def estimate(project: Project, dataset: str, *, cells: int, parts: int) -> list[StageCost]:
    """What each stage of a dataset is expected to take, by the measured cost of a cell and of the start of a job."""
    spec, times = project.datasets[dataset], _times(project, dataset, cells)
    looked_at = {"judge_embedder": min(cells, spec.judge.cells if spec.judge else 0)}
    gpu = _on_gpu(project, dataset)
    stages = []
    for stage, rules in STAGES.items():
        sums, unknown = {True: 0.0, False: 0.0}, []
        for rule, wildcards in rules.items():
            if times[rule] and (rule not in measured() or rule in gpu):
                unknown.append(rule)
            elif times[rule]:
                seconds = seconds_of(rule, cells=looked_at.get(rule, cells), parts=parts)
                sums["part" in wildcards] += seconds * times[rule]
        stages.append(StageCost(stage, sums[True], sums[False], tuple(unknown)))
    return [s for s in stages if s.per_part or s.per_dataset or s.not_measured]


def runs(project: Project, dataset: str) -> dict[str, int]:
    """How often each rule runs over the dataset, or over each of its parts: 0 where it does not.

    Outside files that are fetched once are not counted: how many there are, only a plan says.
    """
    spec = project.datasets[dataset]
    embedders = [project.config.embedders[name] for name in project.embedders_of(dataset)]
    exports = [path.partition("/")[0] for path in project.exports_of(dataset)]
    cuts = isinstance(spec.source, Census | Tahoe) or getattr(spec.source, "slice", None) is not None
    drawn, annotated, kept = spec.subset is not None, spec.obs_rules.needed, spec.keep_raw
    doublets, clips = spec.quality.doublets is not None, spec.variable_genes.clips
    fitted = sum(e.kind == "pca" and e.learns for e in embedders)
    trained = sum(isinstance(e, OfCells) and e.learns for e in embedders)
    judged = len(embedders) if spec.judge_rules is not None else 0
    often = {"pseudobulk": len(spec.pseudobulk), "tokenizer": len(project.tokenizers_of(dataset))}
    found = {rule: next((often[w] for w in wildcards if w in often), 1) for rule, wildcards in JOBS.items()}
    return found | {
        "plan_dataset": int(spec.source.planned),
        "retrieve_file": int(cuts),
        "retrieve_part": int(not drawn and kept),
        "retrieve_passing": int(not drawn and not kept),
        "retrieve_found": int(drawn),
        "retrieve_table": sum(is_address(join.table) for join in spec.join),
        "enrich_samples": int(spec.enrich is not None),
        "annotate_part": int(annotated and not drawn),
        "annotate_found": int(annotated and drawn),
        "draw_subset": int(drawn),
        "take_subset": int(drawn and kept),
        "take_passing": int(drawn and not kept),
        "score_doublets": int(doublets),
        "draw_doublets": int(doublets),
        "count_gene_cells": int(spec.genes.min_cells > 0),
        "fit_clip": int(clips),
        "measure_clipped": int(clips),
        "measure_covariance": fitted,
        "fit_pca": fitted,
        "embed_part": sum(isinstance(e, OfCounts) for e in embedders),
        "gather_training": trained,
        "fit_scvi": trained,
        "embed_scvi": sum(isinstance(e, OfCells) for e in embedders),
        "embed_tokens": sum(isinstance(e, OfTokens) for e in embedders),
        **{rule: exports.count(rule.removeprefix("export_")) for rule in STAGES["exports"]},  # 0 of what publishes
        "judge_embedder": judged,
        "compare_embedders": int(judged > 0),
    }


def _times(project: Project, dataset: str, cells: int) -> dict[str, float]:
    """How often each rule runs, against how it was measured: a training by its epochs, were all cells kept."""
    share = project.datasets[dataset].split.fractions.get("train", 1.0)
    trainings = [e.train for e in _models(project, dataset) if e.train is not None]
    epochs = sum(train.epochs(int(cells * share * (1 - train.held_out))) for train in trainings)
    return {**runs(project, dataset), "fit_scvi": epochs / EPOCHS}


def _on_gpu(project: Project, dataset: str) -> set[str]:
    """Rules of scvi-tools, where one of their models runs on a GPU: they were measured without."""
    return {"fit_scvi", "embed_scvi"} if any(e.gpus for e in _models(project, dataset)) else set()


def _models(project: Project, dataset: str) -> list[OfCells]:
    embedders = (project.config.embedders[name] for name in project.embedders_of(dataset))
    return [e for e in embedders if isinstance(e, OfCells)]
