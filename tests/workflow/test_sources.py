"""Planned sources through the whole workflow: scBaseCount from a store that fails, and slices of a local file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest

from cellmill.cli import main
from cellmill.contracts.plan import Plan, read_plan
from cellmill.contracts.subset import read_subset

from ..unit.release import Release, release, sample
from ..unit.store import Store, cut_at, damage, refuse
from .project import Project

SOURCE = {"kind": "scbasecount", "cells": 500, "seed": 1, "part_cells": 320, "filters": []}
QUALITY = {"mads": {}, "min_counts": 1}
DATASETS = ("atlas", "sliced", "drawn")
ASKED = [
    *("--config", f"datasets={json.dumps(DATASETS)}", "--"),
    *(f"results/{name}/hf/plain/manifest.json" for name in DATASETS),
    "results/atlas/report/index.html",
]


@dataclass(frozen=True)
class Atlas:
    """A finished run, the store it was fetched from, and what lies there."""

    project: Project
    store: Store
    made: Release
    first: str
    """What the dry run before anything said."""
    older: Plan

    @property
    def plan(self) -> Plan:
        return read_plan(self.project.results("atlas") / "plan.tsv")


def write(project: Project, cells: int) -> None:
    said = {"quality": QUALITY, "tokenizers": [], "embedders": [], "exports": ["hf/plain"]}
    columns = {"batch": "member", "keep": ["tech_10x", "cell_line", "cell_type"]}
    project.write_dataset("atlas", title="Atlas", source=SOURCE | {"cells": cells}, columns=columns, **said)
    sliced = {"kind": "files", "files": {"large": "data/large.h5ad"}, "slice": 130}
    project.write_dataset("sliced", title="Sliced", source=sliced, counts="X", keep_raw=False, **said)
    halves, subset = sliced | {"slice": 200}, {"cells": 110, "seed": 2}
    project.write_dataset("drawn", title="Drawn", source=halves, subset=subset, counts="X", keep_raw=False, **said)


@pytest.fixture(scope="module")
def atlas(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Atlas]:
    """Run with every second answer a fault."""
    project = Project.create(tmp_path_factory.mktemp("sources"))
    made = release(tmp_path_factory.mktemp("release"), samples=7, cells=150)
    project.edit_config({"exports": {"hf": {"plain": {"kind": "expression", "max_classes": 0}}}})
    (project.root / "data").mkdir()
    sample("SRX77", 300).write_h5ad(project.root / "data" / "large.h5ad")
    write(project, 500)
    with Store() as store, pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_PROXY", "127.0.0.1")
        patch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:9")
        first = project.run("-n", *ASKED)  # nothing is there to be asked
        patch.setenv("STORAGE_EMULATOR_HOST", store.address)
        store.objects |= made.objects
        for name in made.objects:
            store.faults[name] += [cut_at(3_000), refuse(429, Retry_After="1"), refuse(503)]
        project.run(*ASKED)
        yield Atlas(project, store, made, first, read_plan(project.results("atlas") / "plan.tsv"))


def raw(atlas: Atlas) -> dict[str, anndata.AnnData]:
    folder = atlas.project.results("atlas") / "raw"
    return {part: anndata.read_h5ad(folder / f"{part}.h5ad") for part in atlas.plan.parts}


def test_a_dry_run_without_a_network_shows_the_plan_as_what_it_is(atlas: Atlas) -> None:
    """The plan, what comes after all parts, and no part."""
    stats = dict(line.split() for line in atlas.first.split("Job stats:")[1].splitlines() if len(line.split()) == 2)
    assert stats["plan_dataset"] == "3" and stats["export_hf"] == "3"
    assert "retrieve_part" not in stats
    assert "The run involves checkpoint jobs" in atlas.first


def test_every_cell_of_the_plan_went_through(atlas: Atlas) -> None:
    """Counts as in the samples, the catalogue's columns in the export, and numbers that add up."""
    found = raw(atlas)
    assert len(found) > 1 and sum(data.n_obs for data in found.values()) == atlas.plan.facts["cells"] >= 500
    for part, members in atlas.plan.parts.items():
        expected = np.concatenate([atlas.made.samples[m.name].X.toarray() for m in members])
        np.testing.assert_array_equal(found[part].X.toarray(), expected)
    manifest = atlas.project.manifest("atlas", "hf/plain")
    assert sum(manifest["splits"].values()) == atlas.plan.facts["cells"]
    shards = sorted((atlas.project.results("atlas") / "hf" / "plain").glob("*/*.parquet"))
    cells = pd.concat([pd.read_parquet(path) for path in shards]).set_index("cell_id")
    of = cells.index.str.partition(":").get_level_values(0)
    tech = atlas.made.table.set_index("srx_accession")["tech_10x"].replace("not_applicable", None)
    assert cells["tech_10x"].where(cells["tech_10x"].notna(), None).tolist() == tech[of].tolist()


def test_every_fault_was_met_and_nothing_is_left(atlas: Atlas) -> None:
    """Each sample was cut, refused twice and gone on with; no download stays."""
    for member in atlas.older.members:
        assert atlas.store.fetched(f"{member.name}.h5ad") == [None, *["bytes=3000-"] * 3]
    assert [p for p in atlas.project.root.rglob("*") if ".download" in p.parts or p.name.endswith(".part")] == []


def test_slices_cover_the_file_and_raw_files_that_are_not_kept_are_gone(atlas: Atlas) -> None:
    """Three parts of 130, 130 and 40 cells; their provenance stays."""
    folder = atlas.project.results("sliced")
    said = [json.loads(path.read_text()) for path in sorted((folder / "raw").glob("*.json"))]
    assert [s["members"][0]["rows"] for s in said] == [[0, 130], [130, 260], [260, 300]]
    assert list((folder / "raw").glob("*.h5ad")) == []
    assert sum(atlas.project.manifest("sliced", "hf/plain")["splits"].values()) == 300


def test_a_subset_is_drawn_of_planned_parts(atlas: Atlas) -> None:
    """Exactly so many cells of both slices; neither what was found nor what was drawn is kept."""
    folder = atlas.project.results("drawn")
    assert sum(atlas.project.manifest("drawn", "hf/plain")["splits"].values()) == 110
    _, facts = read_subset(folder / "raw" / "subset.parquet")
    assert (facts["found"], facts["drawn"]) == (300, 110)
    assert [*(folder / "raw").glob("*.h5ad"), *(folder / "found").glob("*.h5ad")] == []


def test_a_larger_draw_fetches_what_is_new_alone(atlas: Atlas, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is done twice; a damaged object is an error that leaves nothing, and is fetched when it is whole."""
    assert atlas.project.planned(*ASKED) == {}
    older, folder = atlas.older, atlas.project.results("atlas") / "raw"
    before = {part: (folder / f"{part}.h5ad").stat().st_mtime_ns for part in older.parts}
    write(atlas.project, 900)
    new = set(atlas.made.samples) - {m.name for m in older.members}
    for name in atlas.made.objects:
        atlas.store.faults[name] = [damage] if Path(name).stem in new else []
    atlas.store.seen.clear()
    output = atlas.project.run("--retries", "0", *ASKED, expect=1)
    assert "has the checksum crc32c:" in output and "Traceback" not in output
    kept = set(list(older.parts)[:-1])
    assert {path.stem for path in folder.glob("*.h5ad")} >= kept
    for name in atlas.made.objects:
        atlas.store.faults[name] = []
    atlas.project.run(*ASKED)
    for part in kept:
        assert (folder / f"{part}.h5ad").stat().st_mtime_ns == before[part]
        for member in older.parts[part]:
            assert atlas.store.fetched(f"{member.name}.h5ad") == []
    assert atlas.plan.facts["cells"] >= 900
    assert sum(atlas.project.manifest("atlas", "hf/plain")["splits"].values()) == atlas.plan.facts["cells"]


def test_the_plan_command_says_what_a_dataset_is(
    atlas: Atlas, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cells, bytes and stages of the plan that is there."""
    monkeypatch.chdir(atlas.project.root)
    assert main(["plan", "atlas", "sliced", "--cores", "4"]) == 0
    text = capsys.readouterr().out
    assert f"{atlas.plan.facts['cells']:,}" in text and "keep_raw: false" in text
    for word in ("download", "disk, raw", "process", "export", "core-hours"):
        assert word in text
