"""Judging embedders: known answers, what cannot be measured, and the tables side by side."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from cellmill.contracts import judged
from cellmill.contracts.judged import Score
from cellmill.judge import metrics
from cellmill.judge.judge import judge_embedder
from cellmill.judge.probe import METRICS, probe
from cellmill.judge.spec import JudgeRules
from cellmill.report.embedders import Measure, compare_embedders, compared
from cellmill.report.page import _why_not_judged
from cellmill.report.sample import Sample

from .stages import Made
from .test_report import dataset, embedded

CELLS = 240
RULES = JudgeRules(labels=["cell_type"], batch="donor", cells=150, tested_on="test")


def sample(*, labels_apart: float, batches_apart: float, cells: int = CELLS, seed: int = 0) -> Sample:
    """Three labels and two batches, each so far apart, in dimensions of their own."""
    rng = np.random.default_rng(seed)
    label, batch = rng.integers(0, 3, cells), rng.integers(0, 2, cells)
    vectors = rng.normal(size=(cells, 8)) + labels_apart * np.eye(3, 8)[label] + batches_apart * np.eye(2, 8, 5)[batch]
    names = {"type": np.array([f"t{i}" for i in label], object), "donor": np.array([f"d{i}" for i in batch], object)}
    return Sample(vectors.astype(np.float32), names)


def values(some: Sample) -> dict[str, Any]:
    return {s.metric: s.value for s in metrics.scores(some, labels=["type"], batch="donor")}


def test_labels_apart_score_high_and_random_ones_low() -> None:
    """Every number of labels, at both ends of its range; cLISI and NMI among them."""
    apart = values(sample(labels_apart=30, batches_apart=0))
    mixed = values(sample(labels_apart=0, batches_apart=0))
    for name in ("silhouette_label", "clisi", "graph_connectivity", "kmeans_nmi", "kmeans_ari"):
        assert apart[name] > 0.9, name
    assert mixed["silhouette_label"] == pytest.approx(0.5, abs=0.02)  # of 0 to 1: neither near nor far
    assert mixed["clisi"] < 0.3 and mixed["kmeans_nmi"] < 0.1 and abs(mixed["kmeans_ari"]) < 0.1


def test_mixed_batches_score_high_and_separate_ones_low() -> None:
    """Within labels that stay apart."""
    mixed = values(sample(labels_apart=30, batches_apart=0))
    apart = values(sample(labels_apart=30, batches_apart=30))
    assert mixed["silhouette_batch"] > 0.95 and mixed["ilisi"] > 0.8 and mixed["kbet"] > 0.7
    assert apart["silhouette_batch"] < 0.4 and apart["ilisi"] < 0.02 and apart["kbet"] < 0.02


def test_a_label_in_two_pieces_is_not_connected() -> None:
    """Half of each label lies elsewhere: its largest component is half of it."""
    some = sample(labels_apart=30, batches_apart=1000)
    assert values(some)["graph_connectivity"] == pytest.approx(0.5, abs=0.1)


def test_scores_depend_on_neither_scale_nor_place() -> None:
    """Distances of a thousand and a million times are the same neighbourhoods."""
    some = sample(labels_apart=1, batches_apart=1)
    expected = values(some)
    for scale in (1e3, 1e6):
        assert values(Sample(some.vectors * np.float32(scale), some.columns)) == pytest.approx(expected, abs=1e-4)


def test_cells_without_a_value_do_not_count() -> None:
    """Of a label, of a batch, and of either where both are needed."""
    some = sample(labels_apart=1, batches_apart=1)
    labels, batches = some.columns["type"].copy(), some.columns["donor"].copy()
    labels[:40], batches[30:50] = None, None
    found = metrics.scores(Sample(some.vectors, {"type": labels, "donor": batches}), labels=["type"], batch="donor")
    cells = {s.metric: s.cells for s in found}
    assert cells["clisi"] == CELLS - 40 and cells["ilisi"] == CELLS - 20 and cells["silhouette_batch"] == CELLS - 50


@pytest.mark.parametrize(
    ("change", "metric", "why"),
    [
        (lambda c: c["type"].fill("t"), "clisi", "all cells have the same type"),
        (lambda c: c["type"].__setitem__(slice(None), [f"t{i}" for i in range(CELLS)]), "clisi", "has its own type"),
        (lambda c: c["type"].__setitem__(slice(20, None), None), "clisi", "20 cells have a value in type, 30 are"),
        (lambda c: c["donor"].fill("d"), "ilisi", "all cells have the same donor"),
        (lambda c: c["donor"].__setitem__(slice(None), c["type"]), "silhouette_batch", "no type has cells of several"),
    ],
)
def test_what_cannot_be_measured_says_why(change: Any, metric: str, why: str) -> None:
    """No number is made up; the others are measured."""
    some = sample(labels_apart=1, batches_apart=1)
    change(some.columns)
    found = {s.metric: s for s in metrics.scores(some, labels=["type"], batch="donor")}
    assert found[metric].value is None and why in str(found[metric].why)
    assert any(s.value is not None for s in found.values())


def test_a_probe_finds_what_a_line_divides() -> None:
    """All of what lies apart, and no more than chance of what does not."""
    train, test = (sample(labels_apart=30, batches_apart=0, cells=600, seed=i) for i in (0, 1))
    assert [s.value for s in probe(train, test, "type")[0]] == [1.0, 1.0, 1.0]
    found, facts = probe(train, test, "donor")
    assert abs(found[0].value - 0.5) < 0.1 and abs(facts["accuracy_of_most_frequent"] - 0.5) < 0.1


def test_classes_that_no_training_cell_has_are_counted_and_left_out() -> None:
    """They say nothing of the vectors; how many there are is said."""
    train, test = sample(labels_apart=30, batches_apart=0), sample(labels_apart=30, batches_apart=0, seed=1)
    test.columns["type"][:7], test.columns["type"][7:9], train.columns["type"][:5] = "new", "other", None
    found, facts = probe(train, test, "type")
    assert facts["unseen_classes"] == ["new", "other"] and facts["unseen_cells"] == 9
    assert facts["train_cells"] == CELLS - 5 and {s.cells for s in found} == {CELLS - 9}
    assert [s.value for s in found] == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("of", ["train", "test"])
def test_a_probe_without_classes_or_cells_says_why(of: str) -> None:
    """One class to train on, or no cell to test on."""
    train, test = sample(labels_apart=1, batches_apart=0), sample(labels_apart=1, batches_apart=0)
    (train if of == "train" else test).columns["type"].fill("x")
    found, _ = probe(train, test, "type")
    assert [s.metric for s in found] == list(METRICS) and {s.value for s in found} == {None}
    said = "the training cells have 1 type" if of == "train" else "no cell to test on has a type of the training cells"
    assert {s.why for s in found} == {said}


# --- the step, and embedders side by side


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return dataset(tmp_path_factory.mktemp("made"))


def judge(some: Made, vectors: list[Path], out: Path, rules: JudgeRules = RULES) -> bytes:
    judge_embedder(some.files("h5ad"), embedding=vectors, embedder=out.stem, rules=rules, out=out)
    return out.read_bytes()


def test_scores_are_the_same_bytes_in_parts_and_in_one(tmp_path: Path, made: Made) -> None:
    """On fewer cells than there are; and so is a second run."""
    apart = dataset(tmp_path, parts=True)
    first = judge(made, embedded(made), tmp_path / "a" / "pca.json")
    assert judge(made, embedded(made), tmp_path / "b" / "pca.json") == first
    assert judge(apart, embedded(apart), tmp_path / "c" / "pca.json") == first
    found, facts = judged.read(tmp_path / "a" / "pca.json")
    assert facts["cells"]["looked_at"] == 150 < facts["cells"]["kept"] and facts["dimensions"] == 6
    assert facts["probes"]["cell_type"]["train_cells"] <= 150
    assert [s.metric for s in found][-3:] == list(METRICS)


def test_labels_alone_or_batches_alone_can_be_judged(tmp_path: Path, made: Made) -> None:
    """And a dataset without a split to test on has no probe."""
    vectors = embedded(made)
    judge(made, vectors, tmp_path / "x.json", JudgeRules(labels=[], batch="donor", cells=150, tested_on="test"))
    assert [s.metric for s in judged.read(tmp_path / "x.json")[0]] == ["ilisi", "kbet"]
    judge(made, vectors, tmp_path / "x.json", JudgeRules(labels=["cell_type"], batch=None, cells=150, tested_on=None))
    found, facts = judged.read(tmp_path / "x.json")
    assert {s.batch for s in found} == {None} and facts["probes"] == {} and "probe_accuracy" not in str(found)


def test_the_page_says_why_nothing_is_judged() -> None:
    """No embedder, `judge: null`, or no column to judge by."""
    said = [
        _why_not_judged({"embedders": embedders, "dataset": {"judge": judge}})
        for embedders, judge in (({}, {}), ({"pca": {}}, None), ({"pca": {}}, {"labels": None}))
    ]
    assert "no embedding" in said[0] and "judge is null" in said[1] and "neither columns.label nor" in said[2]


def write_scores(folder: Path, **of: dict[str, float | None]) -> list[Path]:
    files = []
    for name, scores in of.items():
        rows = [Score(m, "type", None, 90, v, None if v is not None else "too few") for m, v in scores.items()]
        facts = {"embedder": name, "dimensions": 8, "probes": {}, "cells": {"kept": 99, "looked_at": 90}}
        judged.write(folder / f"{name}.json", rows, facts)
        files.append(folder / f"{name}.json")
    return files


def test_the_best_of_each_measure_is_marked(tmp_path: Path) -> None:
    """All that have the highest value; none where one embedder alone has a value."""
    files = write_scores(
        tmp_path,
        hvg={"clisi": 0.5, "kmeans_nmi": 0.25, "kmeans_ari": None, "silhouette_label": None},
        pca={"clisi": 0.75, "kmeans_nmi": 0.25, "kmeans_ari": 0.125, "silhouette_label": None},
    )
    found = compared(files)
    best = {m.metric: found.best(m) for m in found.measures}
    assert best == {"silhouette_label": set(), "clisi": {"pca"}, "kmeans_nmi": {"hvg", "pca"}, "kmeans_ari": set()}
    assert Measure("silhouette_batch", "type", "donor").name == "silhouette_batch.type.donor"


def test_the_table_has_a_row_per_embedder_and_the_figure_a_line_per_measure(tmp_path: Path) -> None:
    """Empty where there is no value, and said so in the figure; the same bytes every time."""
    files = write_scores(tmp_path, hvg={"clisi": 0.5, "kmeans_ari": -0.1}, pca={"clisi": 0.75, "kmeans_ari": None})
    made = []
    for name in ("a", "b"):
        out = {"table": tmp_path / name / "embedders.tsv", "figure": tmp_path / name / "embedders.svg"}
        compare_embedders(files, **out)
        made.append([path.read_bytes() for path in out.values()])
    assert made[0] == made[1]
    rows = list(csv.reader(made[0][0].decode().splitlines(), delimiter="\t"))
    assert rows[0] == ["embedder", "dimensions", "clisi.type", "kmeans_ari.type"]
    assert rows[1:] == [["hvg", "8", "0.5000", "-0.1000"], ["pca", "8", "0.7500", ""]]
    texts = ["".join(e.itertext()) for e in ElementTree.fromstring(made[0][1]).iter("{http://www.w3.org/2000/svg}text")]
    assert "cLISI  (type)" in texts and "ARI with k-means  (type)" in texts and {"hvg", "pca"} <= set(texts)
