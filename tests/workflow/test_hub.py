"""Repositories of the Hub, slices of one of their files, and ARCHS4, through the whole workflow."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import anndata
import numpy as np
import pytest

from cellmill.contracts.plan import read_plan

from ..unit.archs4 import archs4
from ..unit.fake_hub import TOKEN, Hub, Repo
from ..unit.release import h5ad, sample
from ..unit.store import Store, cut_at, refuse
from ..unit.test_hub import GENES, TOKENS, counts, filled
from .project import Project

DATASETS = ("files", "shards", "sliced", "bulk")
ASKED = [
    *("--config", f"datasets={json.dumps(DATASETS)}", "--"),
    *(f"results/{name}/hf/plain/manifest.json" for name in DATASETS),
    "results/bulk/report/index.html",
]


@dataclass(frozen=True)
class Finished:
    """A finished run, and what it was made of."""

    project: Project
    hub: Hub
    store: Store
    repo: Repo
    samples: np.ndarray
    first: str
    """What the dry run before anything said."""

    def raw(self, dataset: str) -> anndata.AnnData:
        folder = self.project.results(dataset)
        parts = read_plan(folder / "plan.tsv").parts
        return anndata.concat([anndata.read_h5ad(folder / "raw" / f"{part}.h5ad") for part in parts], join="outer")

    def exported(self, dataset: str) -> int:
        return sum(self.project.manifest(dataset, "hf/plain")["splits"].values())


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Finished]:
    """A private repository, a bucket that cuts and refuses, and a token in the environment."""
    project = Project.create(tmp_path_factory.mktemp("hub"))
    made = tmp_path_factory.mktemp("made")
    project.edit_config({"exports": {"hf": {"plain": {"kind": "expression", "max_classes": 0}}}})
    said = {"quality": {"mads": {}, "min_counts": 1}, "tokenizers": [], "embedders": [], "exports": ["hf/plain"]}
    atlas = {"kind": "hub", "repo": "own/atlas"}
    project.write_dataset("files", title="Files", source=atlas | {"files": ["data/*.h5ad"], "part_cells": 70}, **said)
    shards = atlas | {"files": ["shards/*.parquet"], "parquet": TOKENS}
    project.write_dataset("shards", title="Shards", source=shards, columns={"keep": ["drug"]}, **said)
    sliced = atlas | {"files": ["large/*.h5ad"], "slice": 60}
    project.write_dataset("sliced", title="Sliced", source=sliced, **said)
    bulk = {"kind": "geo_archs4", "file": "gs://archs4/human_gene.h5", "max_single_cell": 0.5, "part_cells": 40}
    project.write_dataset("bulk", title="Bulk", source=bulk, columns={"keep": ["title", "series_id"]}, **said)
    samples, _ = archs4(made / "human_gene.h5", 120, genes=60)
    with Hub() as hub, Store() as store, pytest.MonkeyPatch.context() as patch:
        repo = filled(hub, made, private=True)
        repo.commit("more", repo.files | {"large/all of it.h5ad": h5ad(sample("SRX9", 150, genes=GENES), made)})
        patch.setenv("NO_PROXY", "127.0.0.1")
        patch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
        patch.setenv("STORAGE_EMULATOR_HOST", store.address)
        first = project.run("-n", *ASKED)  # nothing is there to be asked
        patch.setenv("HF_ENDPOINT", hub.address)
        patch.setenv("HF_TOKEN", TOKEN)
        name = "archs4/human_gene.h5"
        store.objects[name] = (made / "human_gene.h5").read_bytes()
        store.faults[name] = [refuse(503, Retry_After="0")]
        project.run("--until", "plan_dataset", *ASKED)
        store.faults[name] = [cut_at(3_000), refuse(429, Retry_After="0")]
        repo.commit("later", {"data/other.h5ad": b"after the plan"})
        project.run(*ASKED)
        yield Finished(project, hub, store, repo, samples, first)


def test_a_dry_run_asks_nobody(finished: Finished) -> None:
    """It shows the plans, and no part."""
    stats = dict(line.split() for line in finished.first.split("Job stats:")[1].splitlines() if len(line.split()) == 2)
    assert stats["plan_dataset"] == "4" and "retrieve_file" not in stats and "retrieve_part" not in stats


def test_files_of_the_commit_that_was_planned_went_through(finished: Finished) -> None:
    """h5ad and Parquet, counts as they are there, though the branch went on."""
    expected = [sample(f"SRX{i}", 30 + i, genes=GENES).X.toarray() for i in (1, 2)]
    np.testing.assert_array_equal(finished.raw("files").X.toarray(), np.concatenate(expected))
    np.testing.assert_array_equal(finished.raw("shards").X.toarray(), np.concatenate([counts(20, 0), counts(20, 1)]))
    assert (finished.exported("files"), finished.exported("shards")) == (63, 40)


def test_a_sliced_file_was_fetched_once_and_is_gone(finished: Finished) -> None:
    """Three parts with its rows; its name may have spaces."""
    folder = finished.project.results("sliced")
    rows = [json.loads(p.read_text())["members"][0]["rows"] for p in sorted((folder / "raw").glob("*.json"))]
    assert rows == [[0, 60], [60, 120], [120, 150]]
    np.testing.assert_array_equal(finished.raw("sliced").X.toarray(), sample("SRX9", 150, genes=GENES).X.toarray())
    assert not list((folder / "whole").glob("*.h5")) and finished.exported("sliced") == 150


def test_samples_of_archs4_were_fetched_once_through_faults(finished: Finished) -> None:
    """The bulk ones, with what GEO says of them in the export."""
    plan = read_plan(finished.project.results("bulk") / "plan.tsv")
    assert len(plan.parts) > 1 and 0 < plan.facts["taken"] < 120 and finished.exported("bulk") == plan.facts["taken"]
    fetched = finished.store.fetched(".h5")
    assert fetched[-3:] == [None, "bytes=3000-", "bytes=3000-"]
    assert finished.raw("bulk").X.sum() < finished.samples.sum()


def test_nothing_is_left_to_do_and_no_token_is_anywhere(finished: Finished) -> None:
    """Neither in logs nor in results."""
    assert finished.project.planned(*ASKED) == {}
    texts = [p for f in ("logs", "results") for p in (finished.project.root / f).rglob("*") if p.is_file()]
    assert texts and [p for p in texts if TOKEN[:12].encode() in p.read_bytes()] == []
    assert [
        p for p in Path(finished.project.root).rglob("*") if ".download" in p.parts or p.name.endswith(".part")
    ] == []
