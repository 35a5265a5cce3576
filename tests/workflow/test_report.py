"""Pictures for people: Snakemake's own report, and the page of the dataset."""

from __future__ import annotations

import csv
import re

from cellmill.contracts import judged

from .project import Project


def test_snakemakes_report_carries_the_figures(rerunnable: Project):
    """`snakemake --report` writes one file with the five figures and their captions."""
    rerunnable.run("--report", "report.html")
    text = (rerunnable.root / "report.html").read_text()
    for figure in ("quality.svg", "cells.svg", "genes.svg", "umap.png", "embedders.svg"):
        assert f"results/pbmc68k/report/{figure}" in text
    assert "Where the cells went" in text


def test_the_page_needs_nothing_else(finished: Project):
    """results/<dataset>/report/index.html fetches nothing: no script, no outside picture, no style sheet."""
    page = (finished.results("pbmc68k") / "report" / "index.html").read_text()
    assert not re.search(r"<(script|link|iframe)\b|src=\"(?!data:)|url\((?!#|data:)", page)
    assert page.count("<svg") >= 3 and "data:image/png;base64," in page


def test_embedders_are_judged_side_by_side(finished: Project):
    """A row for each in the table and on the page; what the bundled cells must give is so."""
    report = finished.results("pbmc68k") / "report"
    rows = list(csv.DictReader((report / "embedders.tsv").read_text().splitlines(), delimiter="\t"))
    assert [(row["embedder"], row["dimensions"]) for row in rows] == [("hvg", "512"), ("pca", "50")]
    page = (report / "index.html").read_text()
    for row in rows:
        found, facts = judged.read(report / "judged" / f"{row['embedder']}.json")
        probe = facts["probes"]["bulk_labels"]
        assert float(row["probe_accuracy.bulk_labels"]) > probe["accuracy_of_most_frequent"] + 0.2
        assert float(row["clisi.bulk_labels"]) > 0.8 and probe["train_cells"] > 5 * probe["test_cells"]
        cells = {s.metric: s.cells for s in found}
        assert set(cells.values()) == {facts["cells"]["kept"], probe["test_cells"]}
        assert f'<tr><td>{row["embedder"]}</td><td class="n">{row["dimensions"]}</td>' in page
    assert "silhouette of labels<br>bulk_labels" in page and "not judged" not in page


def test_what_was_made_is_listed_with_how_to_load_it(finished: Project):
    """`cellmill summary`, which closes `make run`, names every artefact, its cells, its size and a line of Python."""
    import subprocess
    import sys

    done = subprocess.run(
        [sys.executable, "-m", "cellmill", "summary"],
        cwd=finished.root,
        env=finished.environment() | {"PYTHONPATH": "src"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    for line in (
        'datasets.load_dataset("results/pbmc68k/hf/cells")',
        'SingleCellMemMapDataset("results/pbmc68k/scdl/counts/train")',
        "results/pbmc68k/report/index.html",
    ):
        assert line in done.stdout, done.stdout
