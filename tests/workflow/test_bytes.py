"""Same config, same bytes: any cores, any parts in any order, after any interruption."""

from __future__ import annotations

import os
import random
import signal
import time

import anndata
import numpy as np
import pytest
import yaml

from .project import EXPORTS, TIMES, Project, digests

SEED = 20_261_120
DATASET = "pbmc68k"
MADE_FROM = (r"(^|/)manifest\.json$",)
"""A manifest names its parts and library versions; everything else in an export must be equal."""


def test_three_files_in_another_order_give_the_bytes_of_one(finished: Project, project: Project):
    """Cells spread over three files, genes shuffled in one: thresholds, genes, models and exports stay the same."""
    raw = anndata.read_h5ad(finished.results(DATASET) / "raw" / "0.h5ad")
    rng = np.random.default_rng(SEED)
    order = rng.permutation(raw.n_obs)
    (project.root / "data").mkdir()
    for name, rows in zip("cab", np.split(order, [150, 420]), strict=True):
        part = raw[rows]
        if name == "a":
            part = part[:, rng.permutation(raw.n_vars)]
        part.copy().write_h5ad(project.root / "data" / f"{name}.h5ad")
    said = yaml.safe_load((project.root / "config" / "datasets" / f"{DATASET}.yaml").read_text())
    files = {name: f"data/{name}.h5ad" for name in "cab"}
    project.write_dataset(DATASET, **said | {"source": {"kind": "files", "files": files}})
    project.run()
    one, three = (made.results(DATASET) for made in (finished, project))
    assert [len(list((base / "processed").glob("*.h5ad"))) for base in (one, three)] == [1, 3]
    for path in ("quality/thresholds.json", "genes/genes.parquet", "genes/space.parquet", "embedded/pca/model/pca.npz"):
        assert (one / path).read_bytes() == (three / path).read_bytes(), path
    for export in EXPORTS:
        assert digests(one / export, without=MADE_FROM) == digests(three / export, without=MADE_FROM), export
        assert finished.manifest(DATASET, export)["ledger"] == project.manifest(DATASET, export)["ledger"]
    for figure in ("quality.svg", "cells.svg", "genes.svg", "umap.png"):
        assert (one / "report" / figure).read_bytes() == (three / "report" / figure).read_bytes(), figure


def _kill_everything(process) -> None:
    """``kill -9`` of the run and all its jobs at once."""
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


@pytest.mark.parametrize("cores", [2, 1], ids=["two_cores", "one_core"])
def test_a_killed_run_is_finished_by_a_plain_rerun(finished: Project, project: Project, cores: int):
    """After kill -9 of the whole run at a random moment, the same command ends in the same bytes.

    Every file of results/, reports and manifests included, is the same for one core and for two.
    """
    rng = random.Random(SEED + cores)
    process = project.start(cores=cores)
    time.sleep(rng.uniform(4, 25))
    _kill_everything(process)
    for path in (project.root / "results").rglob("*"):
        assert not path.name.endswith(".part"), path
    project.run(cores=cores)
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
