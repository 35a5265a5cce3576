"""Same config, same bytes: any cores, any parts in any order, after any interruption."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import anndata
import numpy as np
import pytest

from .project import EXPORTS, TIMES, Project, digests

SEED = 20_261_120
DATASET = {"title": "Cells", "columns": {"label": "bulk_labels", "keep": ["louvain"]}, "exports": EXPORTS}
MADE_FROM = (r"(^|/)manifest\.json$",)
"""A manifest names its parts and library versions; everything else in an export must be equal."""


def test_one_core_gives_the_bytes_of_two(finished: Project, project: Project):
    """Every file of results/, reports and manifests included, is the same for one core and for two."""
    project.run(cores=1)
    assert digests(project.root / "results", without=TIMES) == digests(finished.root / "results", without=TIMES)


def _whole(project: Project, finished: Project) -> anndata.AnnData:
    raw = anndata.read_h5ad(finished.results("pbmc68k") / "raw" / "0.h5ad")
    (project.root / "data").mkdir()
    return raw


@pytest.fixture(scope="module")
def one_file(finished: Project, tmp_path_factory) -> Project:
    """The bundled cells as one local file."""
    project = Project.create(tmp_path_factory.mktemp("one"))
    _whole(project, finished).write_h5ad(project.root / "data" / "all.h5ad")
    project.write_dataset("cells", source={"kind": "files", "files": {"0": "data/all.h5ad"}}, **DATASET)
    project.run("--config", 'datasets=["cells"]')
    return project


def test_three_files_in_another_order_give_the_bytes_of_one(finished: Project, project: Project, one_file: Project):
    """Cells spread over three files, genes shuffled in one: thresholds, genes, models and exports stay the same."""
    raw = _whole(project, finished)
    rng = np.random.default_rng(SEED)
    order = rng.permutation(raw.n_obs)
    for name, rows in zip("cab", np.split(order, [150, 420]), strict=True):
        part = raw[rows]
        if name == "a":
            part = part[:, rng.permutation(raw.n_vars)]
        part.copy().write_h5ad(project.root / "data" / f"{name}.h5ad")
    files = {name: f"data/{name}.h5ad" for name in "cab"}
    project.write_dataset("cells", source={"kind": "files", "files": files}, **DATASET)
    project.run("--config", 'datasets=["cells"]')
    for made in (project, one_file):
        assert len(list((made.results("cells") / "processed").glob("*.h5ad"))) in (1, 3)
    for path in ("quality/thresholds.json", "genes/genes.parquet", "genes/space.parquet", "embedded/pca/model/pca.npz"):
        assert (project.results("cells") / path).read_bytes() == (one_file.results("cells") / path).read_bytes(), path
    for export in EXPORTS:
        one, three = (digests(p.results("cells") / export, without=MADE_FROM) for p in (one_file, project))
        assert one == three, export
        assert one_file.manifest("cells", export)["ledger"] == project.manifest("cells", export)["ledger"]
    for figure in ("quality.svg", "cells.svg", "genes.svg", "umap.png"):
        paths = [p.results("cells") / "report" / figure for p in (one_file, project)]
        assert paths[0].read_bytes() == paths[1].read_bytes(), figure


def _kill_everything(process) -> None:
    """``kill -9`` of the run and all its jobs at once."""
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


@pytest.mark.parametrize("trial", range(2))
def test_a_killed_run_is_finished_by_a_plain_rerun(finished: Project, project: Project, trial: int):
    """After kill -9 of the whole run at random moments, the same command ends in the same bytes."""
    rng = random.Random(SEED + trial)
    process = project.start(cores=2)
    time.sleep(rng.uniform(4, 25))
    _kill_everything(process)
    for path in (project.root / "results").rglob("*"):
        assert not path.name.endswith(".part"), path
    project.run(cores=2)
    left = (*TIMES, r"\.partial(/|$)", r"\.scratch-")
    assert digests(project.root / "results", without=left) == digests(finished.root / "results", without=TIMES)


def test_nothing_is_left_to_do_after_a_run(rerunnable: Project):
    """A second run does nothing, and says so."""
    assert "Nothing to be done" in rerunnable.run()


def test_a_second_run_beside_the_first_is_refused(project: Project):
    """Two runs in one folder do not mix: the second ends with one sentence."""
    first = project.start(cores=1)
    try:
        deadline = time.monotonic() + 60
        while not (project.root / "logs").exists() and time.monotonic() < deadline:
            time.sleep(0.2)
        output = project.run(cores=1, expect=1)
        assert "Another run is at work in this folder" in output
    finally:
        _kill_everything(first)
    _ = Path
