"""The estimated cost of a run: the figures of docs/scale.md, and what is made of them."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import yaml

from cellmill.cli import FORMATS
from cellmill.config import Project, load_datasets, load_project
from cellmill.contracts.plan import Member, plan_file, write_plan
from cellmill.costs import EPOCHS, JUDGED, Cost, estimate, measured, runs, seconds_of
from cellmill.sources.estimate import describe, in_short
from cellmill.stages import JOBS, SAME

TABLE = re.compile(r"^scale: ([\d,]+) cells, .* in (\d+) files.*\n.*\n((?:\w+ +\d+ .*\n)+)", re.MULTILINE)


def documented(repo: Path) -> str:
    """``costs.tsv`` as docs/scale.md has it: of each rule the table with the most cells."""
    found: dict[str, tuple[int, str, str, str, str]] = {}
    for cells, parts, rows in TABLE.findall((repo / "docs" / "scale.md").read_text()):
        table = {name: figures for name, *figures in (line.replace(",", "").split() for line in rows.splitlines())}
        start = table["assign_splits"][1]
        for name, (jobs, seconds, *_) in table.items():
            rule, row = SAME.get(name, name), (int(cells.replace(",", "")), parts, jobs, seconds, start)
            found[rule] = max(found.get(rule, row), row)
    assert found
    lines = ["\t".join(map(str, (rule, *row))) for rule, row in sorted(found.items())]
    return "\n".join(["rule\tcells\tparts\tjobs\tseconds\tstart", *lines]) + "\n"


def test_the_figures_are_those_of_the_document(repo: Path, request: pytest.FixtureRequest) -> None:
    """Measured once, in one place; ``--fix`` takes over new ones."""
    path = repo / "src" / "cellmill" / "costs.tsv"
    if request.config.getoption("--fix"):
        path.write_text(documented(repo))
    assert path.read_text() == documented(repo), "run: pytest tests/unit/test_costs.py --fix"


def test_the_cost_of_what_was_measured_is_what_was_measured() -> None:
    """For as many cells and parts, the seconds that were printed; for twice as many, at most twice as many."""
    for rule, cost in measured().items():
        times = 1 if "share" in JOBS[rule] else cost.jobs / (cost.parts if "part" in JOBS[rule] else 1)
        cells = min(cost.cells, JUDGED) if rule == "judge_embedder" else cost.cells
        once = seconds_of(rule, cells=cells, parts=cost.parts)
        assert once == pytest.approx(max(cost.seconds / times, cost.start * cost.jobs / times)), rule
        assert once <= seconds_of(rule, cells=2 * cells, parts=2 * cost.parts) <= 2 * once + 1e-9, rule


def test_a_stage_costs_what_its_rules_cost(repo: Path) -> None:
    """Each as often as the dataset has tokenizers, embedders and exports; jobs of parts apart, as they run abreast."""
    project, cells, parts = load_project(root=repo), 1_000_000, 10
    stages = {s.stage: s for s in estimate(project, "pbmc68k", cells=cells, parts=parts)}

    def seconds(rule: str) -> float:
        return seconds_of(rule, cells=cells, parts=parts)

    assert stages["raw"].per_part == pytest.approx(measured()["retrieve_part"].seconds)
    tokenizers = len(project.tokenizers_of("pbmc68k"))
    assert stages["tokenized"].per_part == pytest.approx(measured()["tokenize_part"].seconds * tokenizers)
    # Measured with the two embedders that the dataset has, of which one is fitted.
    embedding = measured()["measure_covariance"].seconds + measured()["embed_part"].seconds
    assert stages["embedded"].per_part == pytest.approx(embedding)
    assert stages["embedded"].per_dataset == pytest.approx(measured()["fit_pca"].seconds)
    assert stages["exports"].per_part == 0
    exports = [path.partition("/")[0] for path in project.exports_of("pbmc68k")]
    assert sorted(set(exports)) == sorted(FORMATS) and exports.count("hf") == 2
    known = [f"export_{f}" for f in exports if f"export_{f}" in measured()]
    assert stages["exports"].per_dataset == pytest.approx(sum(map(seconds, known)))
    assert set(stages["exports"].not_measured) == {f"export_{f}" for f in exports} - set(known)


@pytest.fixture
def everything(repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project with a dataset of all that costs, by models on a CPU and, in ``other``, on a GPU."""
    shutil.copytree(repo / "config", tmp_path / "config")
    monkeypatch.chdir(tmp_path)
    values = yaml.safe_load(Path("config/config.yaml").read_text())
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"model_type": "bert", "hidden_size": 8, "num_hidden_layers": 1}')
    (tmp_path / "model" / "model.safetensors").touch()
    values["embedders"] |= {
        "short": {"kind": "scvi", "train": {"max_epochs": 10 * EPOCHS}},
        "long": {"kind": "scvi"},
        "gpu": {"kind": "scvi", "device": "cuda"},
        "tokens": {"kind": "transformer", "tokenizer": "rank", "model": "model"},
    }
    Path("config/config.yaml").write_text(yaml.safe_dump(values))
    spec = yaml.safe_load(Path("config/datasets/pbmc68k.yaml").read_text())
    Path("config/datasets/one.yaml").write_text(yaml.safe_dump(spec | {"embedders": ["short", "long"]}))
    Path("config/datasets/other.yaml").write_text(
        yaml.safe_dump(spec | {"embedders": ["gpu", "tokens"], "exports": []})
    )
    return load_datasets(["one", "other"])


def test_a_training_costs_its_epochs_and_a_judgement_its_sample(
    everything: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Epochs fall with the cells as scvi-tools has it; more cells than are looked at cost nothing more."""
    cost = Cost(cells=20_000, parts=1, jobs=2, seconds=30.0, start=1.0)
    monkeypatch.setattr("cellmill.costs.measured", lambda: dict.fromkeys(("fit_scvi", "judge_embedder"), cost))
    cells, parts = 1_000_000, 4

    def of(stage: str, cells: int) -> float:
        found = {s.stage: s for s in estimate(everything, "one", cells=cells, parts=parts)}
        return found[stage].per_dataset

    epochs = 10 * EPOCHS + round(20_000 / (cells * 0.8 * 0.9) * 400)
    assert of("embedded", cells) == pytest.approx((1 + 14 * cells / 20_000) * epochs / EPOCHS)
    judged = runs(everything, "one")["judge_embedder"]
    assert of("report", cells) == of("report", 2 * cells) == pytest.approx(judged * (1 + 14))
    assert of("report", JUDGED // 2) == pytest.approx(judged * (1 + 7))


def test_what_nobody_measured_is_said(everything: Project) -> None:
    """A model over tokens, and one on a GPU: named, and neither guessed nor left out."""
    stages = {s.stage: s for s in estimate(everything, "other", cells=1_000, parts=2)}
    assert stages["embedded"].not_measured == ("fit_scvi", "embed_scvi", "embed_tokens")
    (line,) = (line for line in describe("other", cores=2).splitlines() if line.startswith("  embedded "))
    assert line.endswith("and not measured: fit_scvi, embed_scvi, embed_tokens")
    assert in_short(everything, "other").endswith("core-hours, and what is not measured")


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
    unknown = "and what is not measured"  # how long a plan takes
    assert in_short(project, name) == f"{name}: {said}; {hours:.2f} core-hours, {unknown}" and hours > 0.1


def test_many_small_parts_cost_their_start(repo: Path) -> None:
    """A thousand jobs of next to no cells are a thousand processes."""
    project = load_project(root=repo)
    stages = {s.stage: s for s in estimate(project, "pbmc68k", cells=1, parts=1_000)}
    assert stages["raw"].per_part == pytest.approx(1_000 * measured()["retrieve_part"].start, rel=1e-3)
