"""A subset through the whole workflow: exact sizes, the same cells for any parts, and numbers that add up."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest

from cellmill.cli import main
from cellmill.contracts.subset import read_subset

from ..unit.stages import split_raw
from .project import Project, digests

PARTS = ["a", "b", "none"]
FILES = {part: f"data/{part}.raw.h5ad" for part in PARTS}
SUBSET = {"cells": 240, "stratify": ["bulk_labels", "phase"], "seed": 3}


def write_dataset(project: Project, name: str, files: dict[str, str], **values: Any) -> None:
    asked = {
        "title": name,
        "source": {"kind": "files", "files": files},
        "columns": {"label": "bulk_labels"},
        "quality": {"filters": [{"column": "phase", "in": ["G1", "S"]}], "mads": {}},
        "subset": SUBSET,
        "tokenizers": [],
        "embedders": [],
        "exports": ["hf/plain"],
    }
    project.write_dataset(name, **(asked | values))


def write_parts(project: Project, source: Path, parts: dict[str, np.ndarray]) -> dict[str, str]:
    """Parts of a raw file below the project; their paths, as the config has them."""
    made = split_raw(source, project.root / "data", parts)
    return {part: path.relative_to(project.root).as_posix() for part, path in made.items()}


def config(*names: str) -> tuple[str, str]:
    return "--config", f"datasets={json.dumps(list(names))}"


def results(name: str) -> list[str]:
    return [f"results/{name}/{end}" for end in ("config.json", "report/index.html", "hf/plain/manifest.json")]


def drawn_cells(project: Project, name: str, parts: list[str]) -> list[str]:
    return [c for p in parts for c in anndata.read_h5ad(project.results(name) / "raw" / f"{p}.h5ad").obs_names]


@pytest.fixture(scope="module")
def subset(finished: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The same subset of the bundled cells in one part and in three; no cell of one of these passes the filter."""
    project = Project.create(tmp_path_factory.mktemp("subset"))
    project.edit_config({"exports": {"hf": {"plain": {"kind": "expression"}}}})
    raw = finished.results("pbmc68k") / "raw" / "0.h5ad"
    dropped = np.flatnonzero(anndata.read_h5ad(raw, backed="r").obs["phase"] == "G2M")
    order = np.setdiff1d(np.random.default_rng(0).permutation(700), dropped[:10], assume_unique=True)
    parts = {"a": order[:200], "b": order[200:], "none": dropped[:10], "whole": np.arange(700)}
    files = write_parts(project, raw, parts)
    write_dataset(project, "parts", {part: files[part] for part in PARTS})
    write_dataset(project, "one", {"whole": files["whole"]})
    project.run(*config("parts", "one"), "--", *results("parts"), "results/one/hf/plain/manifest.json")
    return project


def test_the_subset_is_exact_and_the_same_for_any_parts(subset: Project):
    """Exactly the cells that are asked for, the same of one part and of two, with their counts and obs."""
    parts, one = drawn_cells(subset, "parts", PARTS), drawn_cells(subset, "one", ["whole"])
    assert len(parts) == SUBSET["cells"] and sorted(parts) == sorted(one)
    source = anndata.read_h5ad(subset.root / "data" / "whole.raw.h5ad")
    raw = anndata.read_h5ad(subset.results("one") / "raw" / "whole.h5ad")
    assert list(raw.obs_names) == [c for c in source.obs_names if c in set(one)]
    assert np.array_equal(raw.X.toarray(), source[raw.obs_names].X.toarray())
    assert raw.var.equals(source.var) and list(raw.obs.columns) == list(source.obs.columns)
    assert raw.obs["bulk_labels"].astype(str).equals(source.obs.loc[one, "bulk_labels"].astype(str))
    assert set(raw.obs["phase"]) == {"G1", "S"}


def test_exports_of_one_part_and_of_two_are_the_same_bytes(subset: Project):
    """Everything after the draw holds what the subset does, whatever the parts; one of them has no cell."""
    without = ("manifest.json", "README.md")
    one, parts = (digests(subset.results(name) / "hf" / "plain", without=without) for name in ("one", "parts"))
    assert one == parts and one
    assert anndata.read_h5ad(subset.results("parts") / "processed" / "none.h5ad").shape == (0, 765)


def test_the_numbers_add_up_everywhere(subset: Project, capsys: pytest.CaptureFixture[str]):
    """Found = dropped by filters + not drawn + raw, in table, provenance, manifest, card, page and summary."""
    table, facts = read_subset(subset.results("parts") / "raw" / "subset.parquet")
    found = table.to_pandas()
    said = subset.manifest("parts", "hf/plain")["subset"]
    assert found["found"].sum() == facts["found"] == said["found"] == 700
    assert found["drawn"].sum() == facts["drawn"] == said["drawn"] == 240
    filtered = int((found["found"] - found["passed"]).sum())
    assert said["dropped"] == {"filter phase": filtered} and said["not_drawn"] == 700 - filtered - 240
    assert subset.manifest("parts", "hf/plain")["ledger"]["raw"] == 240
    for part, cells_found in {"a": 200, "b": 490, "none": 10}.items():
        provenance = json.loads((subset.results("parts") / "raw" / f"{part}.json").read_text())
        mine = found[found["part"] == part]
        assert provenance["subset"]["found"] == mine["found"].sum() == cells_found
        assert provenance["subset"]["drawn"] == mine["drawn"].sum()
        assert provenance["path"] == f"data/{part}.raw.h5ad" and provenance["subset"]["counts_from"] == "X"
        cells = pd.read_parquet(subset.results("parts") / "processed" / f"{part}.cells.parquet")
        assert len(cells) == mine["drawn"].sum()
    card = (subset.results("parts") / "hf" / "plain" / "README.md").read_text()
    for line in (f"| dropped before the draw: filter phase | {filtered} |", "| found | 700 |", "| raw | 240 |"):
        assert line in card
    page = (subset.results("parts") / "report" / "index.html").read_text()
    assert "What was drawn" in page and "found cells" in page
    raw = anndata.read_h5ad(subset.results("one") / "raw" / "whole.h5ad")
    shown = raw.obs.groupby(["bulk_labels", "phase"], observed=True).size()
    row = f"<tr><td>{shown.idxmax()[0]}</td><td>{shown.idxmax()[1]}</td>"
    assert row in page.replace("&#43;", "+") and f'<td class="n">{shown.max()}</td>' in page
    assert main(["summary", "parts", "--results", str(subset.root / "results")]) == 0
    assert "a subset of the 700 cells that were found" in capsys.readouterr().out


def test_what_was_found_is_gone_and_its_source_is_not(subset: Project):
    """The parts as found are temporary; the user's own files stay."""
    assert not list((subset.results("parts") / "found").glob("*"))
    assert (subset.root / "data" / "a.raw.h5ad").stat().st_size > 0
    assert subset.planned(*config("one", "parts"), "--", *results("parts")) == {}


def test_a_larger_subset_holds_the_smaller_one(subset: Project, tmp_path: Path):
    """More cells: found and drawn again, and none is lost; the source is not asked twice for what is there."""
    project = subset.copy(tmp_path / "copy")
    before = drawn_cells(project, "parts", PARTS)
    write_dataset(project, "parts", FILES, subset=SUBSET | {"cells": 300})
    planned = project.planned(*config("parts"))
    assert (planned["retrieve_found"], planned["draw_subset"], planned["take_subset"]) == (3, 1, 3)
    project.run(*config("parts"), "--until", "measure_quality")
    after = drawn_cells(project, "parts", PARTS)
    assert len(after) == 300 and set(before) < set(after)


def test_another_source_or_a_newer_file_is_drawn_from_again(subset: Project, tmp_path: Path):
    """Though what was found is gone, a changed source is seen."""
    project = subset.copy(tmp_path / "copy")
    target = (*config("parts"), "--", "results/parts/raw/a.h5ad")
    assert project.planned(*target) == {}
    anndata.read_h5ad(project.root / FILES["a"])[:150].copy().write_h5ad(project.root / FILES["a"])
    assert project.planned(*target) == {"retrieve_found": 3, "draw_subset": 1, "take_subset": 1}
    project = subset.copy(tmp_path / "other")
    shutil.copy2(project.root / "data" / "a.raw.h5ad", project.root / "data" / "c.h5ad")
    write_dataset(project, "parts", FILES | {"a": "data/c.h5ad"})
    assert project.planned(*target) == {"retrieve_found": 3, "draw_subset": 1, "take_subset": 1}


def test_a_dataset_without_a_subset_has_the_jobs_that_it_had(project: Project):
    """Neither the plan nor a file changes because others may draw subsets; both plans stand in one dry run."""
    source = {"kind": "bundled", "name": "pbmc68k_reduced"}
    write_dataset(project, "drawn", {}, source=source, exports=["hf/cells"])
    whole, both = project.planned(), project.planned(*config("pbmc68k", "drawn"))
    assert not {"retrieve_found", "draw_subset", "take_subset"} & set(whole)
    assert {rule: both[rule] for rule in ("retrieve_part", "retrieve_found", "draw_subset", "take_subset")} == {
        "retrieve_part": 1,
        "retrieve_found": 1,
        "draw_subset": 1,
        "take_subset": 1,
    }


def test_a_misspelt_column_and_too_many_cells_are_refused(project: Project, finished: Project):
    """A column that no file has stops the dry run; more cells than pass, the draw, before anything is written."""
    raw = finished.results("pbmc68k") / "raw" / "0.h5ad"
    files = write_parts(project, raw, {"whole": np.arange(700)})
    write_dataset(project, "wrong", files, exports=["hf/cells"], subset={"cells": 10, "stratify": ["bulk_label"]})
    output = project.run("-n", *config("wrong"), expect=1)
    assert "subset.stratify: no column 'bulk_label'" in output and "Did you mean 'bulk_labels'?" in output
    write_dataset(project, "wrong", files, exports=["hf/cells"], subset={"cells": 690})
    output = project.run(*config("wrong"), "--until", "take_subset", expect=1)
    assert "690 are asked for, but only" in output and "of 700 cells pass quality.filters" in output
    assert not list((project.results("wrong") / "raw").glob("*"))
