"""Doublets through the whole workflow: scored per lane over all files, dropped, and told everywhere."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest

from cellmill.contracts.ledger import read_ledger
from cellmill.quality.ledger import account

from ..unit.cells_and_doublets import planted
from ..unit.stages import split_raw, write_raw
from .project import TIMES, Project, digests

CONFIG = ("--config", 'datasets=["lanes"]')
DOUBLETS = {"rule": "drop", "n_components": 20}


def described(project: Project, **doublets: object) -> None:
    """A dataset of two files with two lanes, both of them in both files."""
    project.write_dataset(
        "lanes",
        title="Lanes",
        source={"kind": "files", "files": {"a": "data/a.raw.h5ad", "b": "data/b.raw.h5ad"}},
        columns={"batch": "lane", "label": "kind"},
        quality={"mads": {}, "doublets": {**DOUBLETS, **doublets}},
        embedders=[],
        tokenizers=[],
        exports=["hf/plain"],
    )


def lanes(folder: Path) -> Project:
    project, rng = Project.create(folder), np.random.default_rng(0)
    made = planted(560, 40, genes=300)
    obs = {"lane": rng.permutation(np.repeat(["one", "two"], 300)), "kind": np.where(made.doublet, "doublet", "cell")}
    whole = write_raw(project.root / "data" / "whole.h5ad", made.counts, obs=obs)
    split_raw(whole, project.root / "data", {"a": np.arange(350), "b": np.arange(350, 600)})
    project.edit_config({"exports": {"hf": {"plain": {"kind": "expression"}}}})
    described(project)
    return project


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Finished with two cores."""
    project = lanes(tmp_path_factory.mktemp("lanes"))
    project.run(*CONFIG)
    return project


def test_predicted_doublets_are_dropped_from_every_file(made: Project):
    """Processed parts and the export have none, the ledger counts them, and most of the planted are among them."""
    results = made.results("lanes")
    obs = pd.concat([anndata.read_h5ad(results / "processed" / f"{part}.h5ad").obs for part in "ab"])
    exported = pd.concat([pd.read_parquet(results / "hf" / "plain" / split) for split in ("train", "val", "test")])
    dropped = account(results / "quality" / "ledger.parquet")["dropped"]["doublet"]
    assert len(obs) == len(exported) == 600 - dropped
    assert not obs["predicted_doublet"].any() and not exported["predicted_doublet"].any()
    assert obs["doublet_score"].notna().all()
    assert exported["doublet_score"].sort_values().tolist() == obs["doublet_score"].sort_values().tolist()
    assert (obs["kind"] == "doublet").sum() < 20 and dropped < 60
    assert read_ledger(results / "quality" / "ledger.parquet")[1]["doublets"]["predicted"] == dropped


def test_the_page_says_what_became_of_the_doublets(made: Project):
    """Its own figure and the share, and both lanes in the table."""
    results = made.results("lanes")
    page = (results / "report" / "index.html").read_text()
    dropped = account(results / "quality" / "ledger.parquet")["dropped"]["doublet"]
    assert re.search(rf"Predicted: {dropped} of 600 cells .*they are dropped", page)
    assert "2 judged" in page and "<td>one</td>" in page and "<td>two</td>" in page
    assert (results / "report" / "doublets.svg").read_text().count("simulated doublets") == 1


def test_one_core_gives_the_same_scores(made: Project, tmp_path: Path):
    """Every file of results/, byte for byte: the scores and all that follows from them are made again."""
    again = made.copy(tmp_path / "again")
    shutil.rmtree(again.results("lanes") / "quality" / "doublets")
    again.run("--forcerun", "score_doublets", *CONFIG, cores=1)
    assert digests(again.root / "results", without=TIMES) == digests(made.root / "results", without=TIMES)


def test_another_fate_of_doublets_scores_none_again(made: Project):
    """From `drop` to `report`: the scores stay; another rate scores again; both leave what was measured."""
    measured = {"retrieve_part", "measure_quality", "read_labels", "set_thresholds", "unify_genes"}
    try:
        described(made, rule="report")
        planned = made.planned(*CONFIG)
        assert "process_part" in planned and not (measured | {"score_doublets"}) & set(planned)
        described(made, expected_rate=0.1)
        planned = made.planned(*CONFIG)
        assert planned["score_doublets"] == 2 and planned["draw_doublets"] == 1 and not measured & set(planned)
    finally:
        described(made)


def test_who_does_not_ask_for_doublets_gets_none(finished: Project):
    """No job, no file, no column."""
    results = finished.results("pbmc68k")
    assert not (results / "quality" / "doublets").exists() and not (results / "report" / "doublets.svg").exists()
    assert not (finished.root / "logs" / "score_doublets").exists()
    assert "doublet_score" not in anndata.read_h5ad(results / "processed" / "0.h5ad").obs
