"""`cellmill`: what was made, and whether it is as it was written."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cellmill import __version__
from cellmill.cli import main
from cellmill.contracts import manifest
from cellmill.report.loading import how_to_load

from .stages import make, random_counts, write_raw

EXPORTS = {"hf/cells": "tokens", "mds/tokens": "tokens", "hdf5/counts": "counts", "scdl/counts": "counts"}
EXPORTS |= {"geneformer/tokens": "tokens", "h5ad/cells": "counts"}
EXPORTS |= {"zarr/counts": "counts", "packed/counts": "counts"}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make_export(folder: Path, path: str = "hf/cells", kind: str = "tokens") -> Path:
    """An export as the manifest knows it, with one file of 2,000 bytes."""
    out = folder / path
    (out / "train").mkdir(parents=True)
    (out / "train" / "0").write_bytes(bytes(2_000))
    format_ = path.split("/")[0]
    said = {"contract": str(manifest.CONTRACTS[format_]), "export": path, "spec": {"kind": kind}}
    manifest.write(out, said | {"splits": {"train": 1_000, "test": 234}})
    return out


def make_dataset(folder: Path) -> None:
    """A processed part, an export of each format and a page."""
    made = make(folder / "work", {"0": write_raw(folder / "work" / "raw.h5ad", random_counts(40, 30))})
    (folder / "processed").mkdir()
    shutil.copy(made.file("0", "h5ad"), folder / "processed" / "0.h5ad")
    for path, kind in EXPORTS.items():
        make_export(folder, path, kind)
    (folder / "report").mkdir()
    (folder / "report" / "index.html").write_text("<!doctype html>")


def test_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]):
    """`cellmill --version`."""
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"cellmill {__version__}\n"


def test_summary_of_nothing_is_a_sentence(here: Path, capsys: pytest.CaptureFixture[str]):
    """It says that there is nothing, and what makes something."""
    assert main(["summary"]) == 0
    assert capsys.readouterr().out == "Nothing has been made in results/ yet. Make it: make run\n"


def test_summary_names_everything_that_was_made(here: Path, capsys: pytest.CaptureFixture[str]):
    """Processed cells, every export with cells, size and a line that loads it, and the page, in 120 columns."""
    make_dataset(here / "results" / "demo")
    assert main(["summary"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("demo\n")
    assert 'anndata.read_h5ad("results/demo/processed/0.h5ad")' in out
    for path, kind in EXPORTS.items():
        line = next(line for line in out.splitlines() if line.strip().startswith(path))
        assert line.split(maxsplit=4)[1:4] == ["1,234", "2.0", "kB"]
        assert line.endswith(how_to_load("demo", path, kind))
    assert "results/demo/report/index.html" in out
    assert max(len(line) for line in out.splitlines()) <= 120


def test_summary_of_one_dataset_leaves_out_the_others(here: Path, capsys: pytest.CaptureFixture[str]):
    """Only what was asked for; another folder of results is named in the lines."""
    for name in ("one", "two"):
        make_export(here / "elsewhere" / name)
    assert main(["summary", "two", "--results", "elsewhere"]) == 0
    out = capsys.readouterr().out
    assert "one" not in out and 'load_dataset("elsewhere/two/hf/cells")' in out


def test_summary_of_an_unknown_dataset_names_the_nearest(here: Path, capsys: pytest.CaptureFixture[str]):
    """Its text on stderr, exit 1, no traceback."""
    make_export(here / "results" / "pbmc68k")
    assert main(["summary", "pbmc86k"]) == 1
    assert "Did you mean 'pbmc68k'?" in capsys.readouterr().err


def test_summary_leaves_out_unfinished_exports(here: Path, capsys: pytest.CaptureFixture[str]):
    """Without a manifest there is no export."""
    (make_export(here / "results" / "demo") / "manifest.json").unlink()
    assert main(["summary"]) == 0
    assert capsys.readouterr().out.startswith("Nothing has been made")


def test_check_of_a_sound_configuration(repo: Path, here: Path, capsys: pytest.CaptureFixture[str]):
    """The configuration we ship has no problems."""
    shutil.copytree(repo / "config", here / "config")
    assert main(["check"]) == 0
    assert capsys.readouterr().out == "1 dataset, no problems.\n"


def test_check_tells_every_problem_of_a_configuration(repo: Path, here: Path, capsys: pytest.CaptureFixture[str]):
    """All at once, on stderr, with exit 1."""
    shutil.copytree(repo / "config", here / "config")
    (here / "config" / "config.yaml").write_text("datasets: [pbmc68k, nowhere]\ncolour: blue\n")
    assert main(["check"]) == 1
    err = capsys.readouterr().err
    assert "unknown key 'colour'" in err and "no file config/datasets/nowhere.yaml" in err


def test_check_without_a_configuration_says_where_it_looked(here: Path, capsys: pytest.CaptureFixture[str]):
    """No traceback in a folder that is not ours."""
    assert main(["check"]) == 1
    assert f"config/config.yaml: there is no such file in {here}" in capsys.readouterr().err


def test_check_of_a_sound_export(here: Path, capsys: pytest.CaptureFixture[str]):
    """The folder or its manifest; it says what it found."""
    make_export(here / "x")
    assert main(["check", "--files-only", "x/hf/cells", "x/hf/cells/manifest.json"]) == 0
    assert "x/hf/cells: 1 files, 1,234 cells, as they were written." in capsys.readouterr().out


@pytest.mark.parametrize("damage", ["changed", "missing", "surplus", "no manifest"])
def test_check_finds_damage_and_goes_on(here: Path, capsys: pytest.CaptureFixture[str], damage: str):
    """Exit 1 with a sentence; the exports after it are still verified."""
    broken, sound = make_export(here / "a"), make_export(here / "b")
    file = broken / "train" / "0"
    if damage == "changed":
        file.write_bytes(bytes(1_999) + b"x")
    elif damage == "missing":
        file.unlink()
    elif damage == "surplus":
        (broken / "train" / "1").write_bytes(b"")
    else:
        (broken / "manifest.json").unlink()
    assert main(["check", "--files-only", str(broken), str(sound)]) == 1
    said = capsys.readouterr()
    assert str(broken) in said.err and f"{sound}: 1 files" in said.out


def test_a_command_is_needed(capsys: pytest.CaptureFixture[str]):
    """Alone it says how it is used."""
    with pytest.raises(SystemExit, match="2"):
        main([])
    assert "usage: cellmill" in capsys.readouterr().err


def test_it_runs_as_a_module_without_heavy_imports(repo: Path, here: Path):
    """`python -m cellmill` starts as fast as the configuration is read."""
    code = (
        "import sys, cellmill.cli; sys.argv = ['cellmill', 'check']; cellmill.cli.main(['summary']); "
        "sys.exit(', '.join({'numpy', 'pandas', 'pyarrow', 'matplotlib', 'umap', 'torch'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=_environment(repo))
    assert done.returncode == 0, done.stderr
    version = [sys.executable, "-m", "cellmill", "--version"]
    assert subprocess.run(version, capture_output=True, text=True, env=_environment(repo)).stdout.startswith(
        "cellmill "
    )


def _environment(repo: Path) -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": str(repo / "src")}


def test_plan_says_what_a_dataset_comes_to(
    repo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Of the bundled cells: one part, nothing to download, and every stage."""
    monkeypatch.chdir(repo)
    assert main(["plan", "pbmc68k", "--cores", "2"]) == 0
    lines = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines() if line.strip()}
    assert lines["parts"] == ["1"] and lines["cells"] == ["700"] and lines["download"] == ["0", "B"]
    assert {"raw", "quality", "processed", "genes", "tokenized", "embedded", "exports", "report"} <= lines.keys()


def test_plan_of_no_dataset_is_a_sentence(
    repo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """With the nearest name."""
    monkeypatch.chdir(repo)
    assert main(["plan", "pbmc68"]) == 1
    assert "Did you mean 'pbmc68k'?" in capsys.readouterr().err
