"""A Census release and Tahoe-100M, of plates and of Parquet, through the whole workflow from a store that fails."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest

from cellmill.cli import main
from cellmill.contracts.plan import read_plan
from cellmill.quality.ledger import account

from ..unit import census_release, tahoe_release
from ..unit.store import Store, cut_at, refuse
from .project import REPO, Project

DATASETS = ("census", "plates", "parquet")
ASKED = [
    *("--config", f"datasets={json.dumps(DATASETS)}", "--"),
    *(f"results/{name}/hf/plain/manifest.json" for name in DATASETS),
    "results/census/report/index.html",
]
SHIPPED = sorted(path.stem for path in (REPO / "config" / "datasets").glob("*.yaml"))


@dataclass(frozen=True)
class Atlases:
    """A finished run, the store it was fetched from, and what lies there."""

    project: Project
    store: Store
    census: census_release.Census
    tahoe: tahoe_release.Tahoe
    first: dict[str, int]
    """Jobs of the shipped datasets in a dry run, before anything."""

    def cells(self, dataset: str) -> pd.DataFrame:
        """What was exported, by cell id."""
        shards = sorted((self.project.results(dataset) / "hf" / "plain").glob("*/*.parquet"))
        return pd.concat([pd.read_parquet(path) for path in shards]).set_index("cell_id")

    def ledger(self, dataset: str) -> dict[str, Any]:
        return account(self.project.results(dataset) / "quality" / "ledger.parquet")


def write(project: Project, store: Store) -> None:
    said = {"quality": {"mads": {}, "min_counts": 1}, "tokenizers": [], "embedders": [], "exports": ["hf/plain"]}
    census = {
        "kind": "census",
        "filters": [{"column": "tissue", "not_in": ["blood"]}],
        "part_cells": 400,
        "directory": f"{store.address}/{census_release.DIRECTORY}",
        "catalogue": f"{store.address}/{census_release.CATALOGUE}",
    }
    columns = {"batch": "member", "label": "cell_type", "keep": ["dataset_id", "tissue", "collection_name"]}
    project.write_dataset("census", title="Census", source=census, columns=columns, **said)
    tahoe = {"kind": "tahoe", "repository": f"gs://{tahoe_release.REPOSITORY}"}
    keep = {"keep": ["drug", "drugname_drugconc", "canonical_smiles", "Organ"]}
    plates = tahoe | {"plates": [1], "part_cells": 70}
    project.write_dataset("plates", title="Plates", source=plates, columns=keep, keep_raw=False, **said)
    parquet = tahoe | {"form": "parquet", "part_cells": 400}
    project.write_dataset("parquet", title="Parquet", source=parquet, columns=keep, **said)


@pytest.fixture(scope="module")
def atlases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Atlases]:
    """Every catalogue and file is cut or refused once."""
    project = Project.create(tmp_path_factory.mktemp("atlases"))
    folder = tmp_path_factory.mktemp("made")
    census, tahoe = census_release.census(folder, cells=60), tahoe_release.tahoe(folder, cells=100, files=2)
    project.edit_config({"exports": {"hf": {"plain": {"kind": "expression", "max_classes": 0}}}})
    with Store() as store, pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_PROXY", "127.0.0.1")
        for name in ("STORAGE_EMULATOR_HOST", "AWS_ENDPOINT_URL", "HF_ENDPOINT"):
            patch.setenv(name, "http://127.0.0.1:9")  # nothing is there to be asked
        first = project.planned("--config", f"datasets={json.dumps(SHIPPED)}")
        patch.setenv("STORAGE_EMULATOR_HOST", store.address)
        patch.setenv("AWS_ENDPOINT_URL", f"{store.address}/s3")
        census.put(store)
        store.objects |= tahoe.objects
        write(project, store)
        bucket = census_release.FOLDER.partition("/")[0]
        store.faults[f"list {bucket}"] += [refuse(503)]
        for name in (*census.objects, *(n for n in tahoe.objects if n.endswith("metadata.parquet"))):
            store.faults[name] += [cut_at(300)]
        project.run(*ASKED)
        yield Atlases(project, store, census, tahoe, first)


def test_every_dataset_that_ships_is_shown_by_a_dry_run_without_a_network(atlases: Atlases) -> None:
    """Where a catalogue decides the parts, the plan and no part."""
    planned = {"census_2025_11_08", "scbasecount_human_1m", "scbasecount_mouse", "tahoe_100m"}
    assert planned | {"cellxgene_25k", "pbmc3k"} <= set(SHIPPED)
    assert atlases.first["plan_dataset"] == len(planned)
    assert atlases.first["retrieve_part"] == len(SHIPPED) - len(planned)


def test_cells_of_a_census_release_are_those_that_its_filters_leave(atlases: Atlases) -> None:
    """Copies and other tissues are dropped with their reason; what the catalogue says stays with the others."""
    plan = read_plan(atlases.project.results("census") / "plan.tsv")
    obs = pd.concat([atlases.census.datasets[m.name].obs.assign(member=m.name) for m in plan.members])
    obs.index = obs["member"] + ":" + obs.index
    copies = ~obs["is_primary_data"]
    others = ~copies & (obs["tissue"] == "blood")
    ledger = atlases.ledger("census")
    assert ledger["dropped"] == {"filter is_primary_data": copies.sum(), "filter tissue": others.sum()}
    found = atlases.cells("census")
    assert sorted(found.index) == sorted(obs.index[~copies & ~others])
    assert (found["dataset_id"] == found.index.str.split(":").str[0]).all()
    assert found["tissue"].astype(str).tolist() == obs.loc[found.index, "tissue"].astype(str).tolist()
    assert found["collection_name"].str.fullmatch(r"Collection \d").all()


def test_plates_and_parquet_give_the_same_cells(atlases: Atlases) -> None:
    """Counts and what the tables say; cells that pass the minimal filters alone are dropped of the plates."""
    plates, parquet = (atlases.cells(name) for name in ("plates", "parquet"))
    minimal = (atlases.tahoe.plates["plate1"].obs["pass_filter"] == "minimal").sum()
    assert atlases.ledger("plates")["dropped"] == {"filter pass_filter": minimal} and minimal > 0
    assert len(parquet) == sum(data.n_obs for data in atlases.tahoe.full.values())
    for table in (plates, parquet):
        table.index = table.index.str.split(":").str[-1]
    both = parquet.loc[plates.index]
    for column in plates.columns.intersection(both.columns).drop(["split", "part"], errors="ignore"):
        ours, theirs = plates[column].map(str), both[column].map(str)
        if column == "canonical_smiles":  # of the vehicle, Parquet has an empty text
            theirs = theirs.replace("", "None")
        assert ours.tolist() == theirs.tolist(), column
    part = anndata.read_h5ad(atlases.project.results("parquet") / "raw" / "0000.h5ad")
    expected = np.concatenate([data.X.toarray() for data in atlases.tahoe.full.values()])[: part.n_obs]
    np.testing.assert_array_equal(part.X.toarray(), expected)


def test_nothing_is_left_of_what_was_fetched_and_nothing_is_done_twice(atlases: Atlases) -> None:
    """No download stays; another run has nothing to do."""
    left = [p for p in atlases.project.root.rglob("*") if ".download" in p.parts or p.name.endswith(".part")]
    assert left == []
    assert not any((atlases.project.results("plates") / "raw").glob("*.h5ad"))
    assert atlases.project.planned(*ASKED) == {}


def test_the_plan_command_tells_of_both(
    atlases: Atlases, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the plans that are there, and of one that is made from the catalogue."""
    monkeypatch.chdir(atlases.project.root)
    Path("results/plates/plan.tsv").rename("results/plates/aside.tsv")
    try:
        assert main(["plan", "census", "plates"]) == 0
    finally:
        Path("results/plates/aside.tsv").rename("results/plates/plan.tsv")
    text = capsys.readouterr().out
    assert re.search(r"parts +2 of 1 files\n +cells +101\n", text), text
    assert "Planned now, from the catalogue alone" in text and "core-hours" in text
