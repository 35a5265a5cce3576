"""The estimated cost of a run: the figures of docs/scale.md, and what is made of them."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from cellmill.cli import FORMATS
from cellmill.config import load_datasets, load_project
from cellmill.contracts.plan import Member, plan_file, write_plan
from cellmill.costs import estimate, measured
from cellmill.sources.estimate import in_short

TABLE = re.compile(r"^scale: ([\d,]+) cells.*\n.*\n((?:\w+ +\d+ .*\n)+)", re.MULTILINE)


def documented(repo: Path) -> str:
    """``costs.tsv`` as docs/scale.md has it: of each rule the table with the most cells."""
    found: dict[str, tuple[int, str, str]] = {}
    for cells, rows in TABLE.findall((repo / "docs" / "scale.md").read_text()):
        for line in rows.splitlines():
            rule, jobs, seconds, *_ = line.replace(",", "").split()
            found[rule] = max(found.get(rule, (0, "", "")), (int(cells.replace(",", "")), jobs, seconds))
    assert found
    lines = [f"{rule}\t{cells}\t{jobs}\t{seconds}" for rule, (cells, jobs, seconds) in sorted(found.items())]
    return "\n".join(["rule\tcells\tjobs\tseconds", *lines]) + "\n"


def test_the_figures_are_those_of_the_document(repo: Path, request: pytest.FixtureRequest) -> None:
    """Measured once, in one place; ``--fix`` takes over new ones."""
    path = repo / "src" / "cellmill" / "costs.tsv"
    if request.config.getoption("--fix"):
        path.write_text(documented(repo))
    assert path.read_text() == documented(repo), "run: pytest tests/unit/test_costs.py --fix"


def test_the_cost_of_what_was_measured_is_what_was_measured(repo: Path) -> None:
    """For as many cells and the same exports, the seconds that were printed; for ten times as many, ten times them."""
    project = load_project(root=repo)
    stages = {s.stage: s for s in estimate(project, "pbmc68k", cells=2_000_000, parts=2)}
    cost = measured()
    assert stages["raw"].per_part == pytest.approx(cost["retrieve_part"].per_million * 2)
    assert stages["tokenized"].per_part == pytest.approx(
        cost["tokenize_part"].per_million * 2 * len(project.tokenizers_of("pbmc68k"))
    )
    embedding = cost["measure_covariance"].per_million + cost["embed_part"].per_million
    assert stages["embedded"].per_part == pytest.approx(embedding * 2)
    assert stages["embedded"].per_dataset == pytest.approx(cost["fit_pca"].per_million * 2)
    assert stages["exports"].per_part == 0
    hf = cost["export_hf"].per_million * 2  # cells and multiplets
    others = sum(cost[f"export_{f}"].per_million for f in FORMATS if f"export_{f}" in cost and f != "hf")
    assert stages["exports"].per_dataset == pytest.approx((hf + others) * 2)
    more = {s.stage: s for s in estimate(project, "pbmc68k", cells=20_000_000, parts=2)}
    assert more["quality"].per_part == pytest.approx(10 * stages["quality"].per_part)


def test_one_line_says_how_much_a_dataset_is(repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a dry run ends with; while its parts are not planned, where to look."""
    shutil.copytree(repo / "config", tmp_path / "config")
    monkeypatch.chdir(tmp_path)
    name = "scbasecount_mouse"
    project = load_datasets([name])
    assert in_short(project, name).endswith(f"how large they are beforehand: cellmill plan {name}")
    members = [Member(f"{i}", f"SRX{i}", f"gs://bucket/{i}.h5ad", 250_000, 10**9) for i in range(8)]
    write_plan(plan_file(name), members, {})
    stages = estimate(project, name, cells=2_000_000, parts=8)
    hours = sum(s.per_part + s.per_dataset for s in stages) / 3600
    said = "2,000,000 cells; 8 parts; 8.0 GB of raw files, 8.0 GB to download"
    assert in_short(project, name) == f"{name}: {said}; {hours:.2f} core-hours" and hours > 0.1


def test_many_small_parts_cost_their_start(repo: Path) -> None:
    """A thousand jobs of no cells are a thousand processes."""
    project, start = load_project(root=repo), measured()["assign_splits"].seconds
    stages = {s.stage: s for s in estimate(project, "pbmc68k", cells=1, parts=1_000)}
    assert stages["raw"].per_part == 1_000 * start and stages["report"].per_dataset == 3 * start
