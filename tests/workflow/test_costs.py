"""What the plan command adds up is what a run does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cellmill.config import load_datasets
from cellmill.costs import runs
from cellmill.stages import JOBS, SHARED

from .project import Project

EMBEDDERS: dict[str, Any] = {
    "scvi": {"kind": "scvi"},
    "panel": {"kind": "genes", "genes": ["CD3E"]},
    "applied": {"kind": "pca", "reference": "cd3e.npz"},
}
SOURCE = {"kind": "bundled", "name": "pbmc68k_reduced"}
DRAWN = {
    "source": SOURCE,
    "columns": {"label": "bulk_labels", "batch": "phase"},
    "join": [{"table": "phases.csv", "by": "phase"}],
    "subset": {"cells": 300},
    "genes": {"min_cells": 2},
    "quality": {"doublets": {}},
    "variable_genes": {"flavor": "seurat_v3"},
    "pseudobulk": {"a": {"by": ["phase"]}, "b": {"by": ["bulk_labels"]}},
    "tokenizers": ["rank", "log"],
    "embedders": ["hvg", "pca", *EMBEDDERS],
    "exports": ["hf/cells", "hf/expression", "zarr/counts"],
}
PASSING = {"source": SOURCE, "keep_raw": False, "missing": True, "embedders": [], "tokenizers": [], "exports": []}


def test_the_rules_that_are_counted_are_those_that_run(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """For datasets of one part, each rule has as many jobs in a dry run as are added up."""
    project.edit_config({"embedders": EMBEDDERS})
    (project.root / "phases.csv").write_text("phase,cycling\nG1,no\nS,yes\nG2M,yes\n")
    np.savez(project.root / "cd3e.npz", components=np.ones((1, 1)), mean=np.zeros(1), genes=np.array(["CD3E"]))
    project.write_dataset("drawn", title="Drawn", **DRAWN)
    project.write_dataset("passing", title="Passing", **PASSING)
    monkeypatch.chdir(project.root)
    for name in ("drawn", "passing", "pbmc68k"):
        counted = runs(load_datasets([name]), name)
        assert counted.keys() == JOBS.keys()
        planned = project.planned("--config", f'datasets=["{name}"]')
        expected = {rule: n for rule, n in counted.items() if n}
        assert {rule: n for rule, n in planned.items() if rule not in SHARED} == expected
