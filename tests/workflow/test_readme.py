"""README is run: every command, every Python block, what it says that they print; docs/layout.md is what is there."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from cellmill.config import Dataset

from .project import REPO, Project

README = (REPO / "README.md").read_text()


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


COMMANDS = [line for block in _blocks("bash") for line in block.splitlines() if line and not line.startswith("#")]
PYTHON = _blocks("python")
TITLES = re.findall(r"^\*\*(.+?)\*\*: ", README, flags=re.MULTILINE)


@pytest.fixture(scope="module")
def made(finished: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A copy of the finished run, with its history: README's commands write into it."""
    root = tmp_path_factory.mktemp("readme") / "project"
    shutil.copytree(finished.root, root, symlinks=True)
    return Project(root)


def _run(made: Project, tmp_path: Path, *command: str) -> str:
    """Run a command in the copy as a user does, without network; its output where it succeeds."""
    library = {"PYTHONPATH": str(made.root / "src")}
    homes = {"HF_HOME": str(tmp_path / "hf"), "TMPDIR": str(tmp_path), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=made.root, env=made.environment() | library | homes, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def _make(words: list[str]) -> None:
    """Targets and variables are those of the Makefile; that they work is what runs this test."""
    makefile = (REPO / "Makefile").read_text()
    variables = [w.split("=")[0] for w in words if "=" in w]
    assert [t for t in words if "=" not in t and not re.search(rf"^{t}:", makefile, re.MULTILINE)] == []
    assert [v for v in variables if f"$({v})" not in makefile] == []


def _snakemake(made: Project, tmp_path: Path, words: list[str]) -> None:
    """A dry run; where that finds nothing to do, or is a report, the command itself."""
    command = [sys.executable, "-m", "snakemake", *words]
    if "--report" in words:
        _run(made, tmp_path, *command)
        assert (made.root / words[words.index("--report") + 1]).stat().st_size > 0
        return
    planned = _run(made, tmp_path, sys.executable, "-m", "snakemake", "-n", *words)
    if "Nothing to be done" in planned:
        assert "Nothing to be done" in _run(made, tmp_path, *command)
    else:
        assert "--config" in words and "retrieve_part" in planned, planned


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_works(command: str, made: Project, tmp_path: Path):
    """Every line of README's shell blocks; one that this test does not know fails it."""
    program, *words = shlex.split(command)
    if program == "make":
        _make(words)
    elif program == "snakemake":
        _snakemake(made, tmp_path, words)
    elif program == "cellmill":
        assert _run(made, tmp_path, sys.executable, "-m", "cellmill", *words)
    else:
        assert (program, words) == (".", [".venv/bin/activate"]), f"no test knows: {command}"


@pytest.mark.parametrize("block", PYTHON, ids=TITLES)
def test_every_python_block_runs(block: str, made: Project, tmp_path: Path):
    """As it stands, from the project folder, after `make run`."""
    for library in ("streaming", "bionemo"):
        if re.search(rf"^(?:from|import) {library}\b", block, re.MULTILINE) and find_spec(library) is None:
            pytest.skip(f"{library} is not installed")
    assert _run(made, tmp_path, sys.executable, "-c", block)


def test_the_summary_is_what_make_run_prints(made: Project, tmp_path: Path):
    """README's table is that of `cellmill summary`; sizes may differ with the versions of libraries."""
    shown = re.search(r"<!-- summary -->\n```text\n(.*?)```\n<!-- /summary -->", README, re.DOTALL)[1]
    printed = _run(made, tmp_path, sys.executable, "-m", "cellmill", "summary", "pbmc68k")

    def lines(text: str) -> list[list[str]]:
        return [re.sub(r"[\d.]+ [kMG]?B\b", "SIZE", line).split() for line in text.splitlines()]

    assert lines(shown) == lines(printed)


def test_a_second_run_has_nothing_to_do(made: Project):
    """`make run` twice: the second time Snakemake says what README says it does."""
    (said,) = re.findall(r"`(Nothing to be done[^`]*)`", README)
    assert said in made.run()


def test_the_dataset_of_three_lines_is_valid():
    """README's dataset file is one, and has three lines."""
    (block,) = _blocks("yaml")
    assert len(block.splitlines()) == 3
    assert Dataset.model_validate(yaml.safe_load(block)).source.parts() == ["0"]


def test_the_layout_names_every_file_of_a_run(finished: Project):
    """Every file of results/ stands in docs/layout.md, and every file there is in results/."""
    text = (REPO / "docs" / "layout.md").read_text().split("\n## The results\n", 1)[1].split("\n## ", 1)[0]
    named = re.findall(r"^\| `([^`]+)` \|", text, flags=re.MULTILINE)
    patterns = {n: re.compile(re.sub(r"\\{(\w+)\\}", _any, re.escape(n)) + "$") for n in named}
    base = finished.results("pbmc68k")
    files = [os.path.relpath(p, base) for p in base.rglob("*") if p.is_file()]
    assert [f for f in files if not any(p.match(f) for p in patterns.values())] == []
    optional = tuple(re.findall(r"^- `([^`]+)`: where ", text, flags=re.MULTILINE))
    missing = [n for n, p in patterns.items() if not any(p.match(f) for f in files)]
    assert [n for n in missing if not n.startswith(optional)] == []


def _any(placeholder: re.Match[str]) -> str:
    return {"block": "[^/]+", "store": ".+"}.get(placeholder[1], "[A-Za-z0-9_-]+")
