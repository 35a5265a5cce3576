"""Bad input: a clear error, a non-zero exit, nothing half-written under its final name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from .project import Project


def _cells(values: np.ndarray | None = None, *, n: int = 60) -> anndata.AnnData:
    rng = np.random.default_rng(0)
    counts = rng.poisson(2.0, (n, 40)).astype(np.float32) if values is None else values
    obs = pd.DataFrame(index=[f"cell{i}" for i in range(len(counts))])
    return anndata.AnnData(sp.csr_matrix(counts), obs, pd.DataFrame(index=[f"gene{i}" for i in range(40)]))


def _with(value: float) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        cells = _cells()
        cells.X[31, 7] = value
        cells.write_h5ad(path)

    return write


def _duplicated(path: Path) -> None:
    cells = _cells()
    cells.obs_names = ["twin" if i in (3, 9) else f"cell{i}" for i in range(cells.n_obs)]
    cells.write_h5ad(path)


def _truncated(path: Path) -> None:
    _cells().write_h5ad(path)
    path.write_bytes(path.read_bytes()[:-2_000])


def _empty(path: Path) -> None:
    _cells(n=0, values=np.zeros((0, 40), np.float32)).write_h5ad(path)


def _text(path: Path) -> None:
    path.write_text("not an h5ad file\n")


BAD: dict[str, tuple[Callable[[Path], None], tuple[str, ...]]] = {
    "nan": (_with(np.nan), ("cell 'cell31'", "gene 'gene7'", "nan")),
    "negative": (_with(-1), ("cell 'cell31'", "gene 'gene7'", "-1")),
    "fractional": (_with(0.5), ("cell 'cell31'", "gene 'gene7'", "0.5")),
    "infinite": (_with(np.inf), ("cell 'cell31'", "gene 'gene7'", "inf")),
    "duplicated": (_duplicated, ("'twin'", "rows 3, 9")),
    "truncated": (_truncated, ("truncated",)),
    "empty": (_empty, ("0 cells",)),
    "text": (_text, ("truncated or something else",)),
}


def test_each_kind_of_bad_file_is_refused_with_a_reason(project: Project):
    """One run over eight bad datasets: each fails with its own sentence, in output and log, and leaves no artefact."""
    (project.root / "data").mkdir()
    for name, (write, _) in BAD.items():
        write(project.root / "data" / f"{name}.h5ad")
        project.write_dataset(
            name,
            title=name,
            source={"kind": "files", "files": {"0": f"data/{name}.h5ad"}},
            exports=["scdl/counts"],
        )
    datasets = ",".join(f'"{name}"' for name in BAD)
    targets = [f"results/{name}/quality/thresholds.json" for name in BAD]
    output = project.run("--keep-going", "--config", f"datasets=[{datasets}]", "--", *targets, expect=1)
    for name, (_, said) in BAD.items():
        logs = "".join(p.read_text() for p in (project.root / "logs").rglob(f"{name}.0.log"))
        for text in said:
            assert text in logs, (name, text, logs)
        assert said[0] in output, (name, output)
        made = [
            p for p in project.results(name).rglob("*") if p.is_file() and p.suffix != ".json" and "raw" not in p.parts
        ]
        assert made == [], name


def test_a_cell_id_in_two_files_is_refused_with_the_way_out(project: Project):
    """The same barcode in two files: both files are named, and the option that keeps both cells works."""
    (project.root / "data").mkdir()
    for part in "ab":
        _cells().write_h5ad(project.root / "data" / f"{part}.h5ad")
    files = {part: f"data/{part}.h5ad" for part in "ab"}
    dataset = {"title": "Twins", "source": {"kind": "files", "files": files}, "exports": ["scdl/counts"]}
    run = ("--config", 'datasets=["twins"]', "--", "results/twins/quality/thresholds.json")
    project.write_dataset("twins", **dataset)
    output = project.run(*run, expect=1)
    assert "quality/a.parquet" in output and "quality/b.parquet" in output and "cell_ids: part_barcode" in output
    assert not (project.results("twins") / "quality" / "thresholds.json").exists()
    project.write_dataset("twins", **dataset, cell_ids="part_barcode")
    project.run(*run)


def test_a_wrong_configuration_stops_before_the_first_job(project: Project):
    """Every problem is named at once, with what to type, and nothing is made."""
    project.write_dataset(
        "pbmc68k",
        title="PBMC",
        source={"kind": "bundled", "name": "pbmc68k_reduced"},
        exports=["hf/cell"],
        colums={"label": "bulk_labels"},
        columns={"label": "bulk_label"},
        split={"fractions": {"train": 0.8, "val": 0.1}},
    )
    output = project.run(expect=1)
    for text in (
        "Did you mean 'hf/cells'?",
        "Did you mean 'columns'?",
        "add up to 0.9, not to 1",
    ):
        assert text in output, output
    assert "Traceback" not in output
    assert not (project.root / "results").exists()


def test_a_label_that_is_no_column_is_seen_before_the_first_job(project: Project):
    """A label column that the file does not have is named with the nearest one."""
    path = project.root / "config" / "datasets" / "pbmc68k.yaml"
    path.write_text(path.read_text().replace("label: bulk_labels", "label: bulk_label"))
    assert "Did you mean 'bulk_labels'?" in project.run("-n", expect=1)


@pytest.mark.parametrize(
    "target", ["results/nobody/hf/cells/manifest.json", "results/pbmc68k/hf/nothing/manifest.json"]
)
def test_an_unknown_target_says_what_there_is(project: Project, target: str):
    """A target of a dataset or export that no one defined names those that are."""
    output = project.run("-n", "--", target, expect=1)
    assert ("which has: pbmc68k" if "nobody" in target else "which has: hf/cells") in output
