"""What a run will cost, from what was measured: seconds per million cells of each rule, and bytes on the disk.

``costs.tsv`` holds the figures of ``docs/scale.md``, of each rule those of the table with the most cells; a test with
``--fix`` takes them over from there.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

from cellmill.embedders import OfCounts
from cellmill.stages import STAGES

if TYPE_CHECKING:
    from cellmill.config import Project

OWN_BYTES_PER_BYTE = 0.67
"""Size of the h5ad that cellmill writes, per byte of the gzip h5ad by anndata that it was made from: 49.0 of 73.1 MB,
the first 20,480 cells of the atlas of ``bench/``."""


@dataclass(frozen=True)
class Cost:
    """What a rule took: seconds of all its jobs for so many cells, and how many jobs these were."""

    cells: int
    jobs: int
    seconds: float

    @property
    def per_million(self) -> float:
        """Seconds for a million cells."""
        return self.seconds / self.cells * 1e6


@cache
def measured() -> dict[str, Cost]:
    """Of each rule what it took."""
    rows = csv.DictReader((files("cellmill") / "costs.tsv").read_text().splitlines(), delimiter="\t")
    return {r["rule"]: Cost(int(r["cells"]), int(r["jobs"]), float(r["seconds"])) for r in rows}


@dataclass(frozen=True)
class StageCost:
    """Core-seconds of a stage: of the jobs that each part has, which run side by side, and of those of the dataset."""

    stage: str
    per_part: float
    per_dataset: float


def estimate(project: Project, dataset: str, *, cells: int, parts: int) -> list[StageCost]:
    """What each stage of a dataset of so many cells is expected to take, by the measured cost per cell.

    A job takes no less than the start of its process: what ``assign_splits`` took, which has next to nothing to do.
    """
    times, start = _times(project, dataset), measured()["assign_splits"].seconds
    stages = []
    for stage, rules in STAGES.items():
        sums = {True: 0.0, False: 0.0}
        for rule, wildcards in rules.items():
            per_part = "part" in wildcards
            cost = measured().get(rule)
            if cost is not None:
                least = start * (parts if per_part else 1)
                sums[per_part] += max(cost.per_million * cells / 1e6, least) * times.get(rule, 1)
        stages.append(StageCost(stage, sums[True], sums[False]))
    return [s for s in stages if s.per_part or s.per_dataset]


def _times(project: Project, dataset: str) -> dict[str, float]:
    """How often a rule runs for the dataset, against how often it ran when it was measured."""
    embedders = [project.config.embedders[name] for name in project.embedders_of(dataset)]
    learning = sum(embedder.kind == "pca" for embedder in embedders)
    exports = [path.partition("/")[0] for path in project.exports_of(dataset)]
    tokenizers = len(project.tokenizers_of(dataset))
    return {
        "build_vocabulary": tokenizers,
        "tokenize_part": tokenizers,
        "measure_covariance": learning,
        "fit_pca": learning,
        "embed_part": sum(isinstance(e, OfCounts) for e in embedders) / 2,  # measured with two, hvg and pca
        **{rule: exports.count(rule.removeprefix("export_")) for rule in STAGES["exports"]},
    }
