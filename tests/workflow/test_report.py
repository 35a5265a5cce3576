"""Pictures for people: Snakemake's own report, and the page of the dataset."""

from __future__ import annotations

import re

from .project import Project


def test_snakemakes_report_carries_the_figures(rerunnable: Project):
    """`snakemake --report` writes one file with the four figures and their captions."""
    rerunnable.run("--report", "report.html")
    text = (rerunnable.root / "report.html").read_text()
    for figure in ("quality.svg", "cells.svg", "genes.svg", "umap.png"):
        assert f"results/pbmc68k/report/{figure}" in text
    assert "Where the cells went" in text


def test_the_page_needs_nothing_else(finished: Project):
    """results/<dataset>/report/index.html fetches nothing: no script, no outside picture, no style sheet."""
    page = (finished.results("pbmc68k") / "report" / "index.html").read_text()
    assert not re.search(r"<(script|link|iframe)\b|src=\"(?!data:)|url\((?!#|data:)", page)
    assert page.count("<svg") >= 3 and "data:image/png;base64," in page


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
