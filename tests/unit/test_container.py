"""The image: its recipe is sound, and holds what the workflow needs."""

from __future__ import annotations

import fnmatch
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from packaging.specifiers import SpecifierSet

from ..workflow.project import COPIED


def kept(repo: Path) -> list[str]:
    """What of the repository reaches the engine, by .dockerignore: all is left out but the lines with `!`."""
    lines = [line for line in (repo / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert lines[0] == "*" and lines[-1] == "**/__pycache__"
    return [line.removeprefix("!") for line in lines[1:-1]]


def instructions(repo: Path) -> list[str]:
    """The lines of the Dockerfile, continued ones joined."""
    text = (repo / "Dockerfile").read_text().replace("\\\n", " ")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def test_what_reaches_the_engine_is_what_the_workflow_needs(repo: Path) -> None:
    """Nothing of the working copy but what is named, all of which is there; no results, no keys, no `.git`."""
    assert set(COPIED) <= set(kept(repo))
    assert [name for name in kept(repo) if not (repo / name).exists()] == []
    named = [line.split()[1:-1] for line in instructions(repo) if re.match(r"COPY (?!--|\. )", line)]
    missing = [
        n for names in named for n in names if not any(n == k or fnmatch.fnmatch(n, f"{k}/*") for k in kept(repo))
    ]
    assert named and missing == []


def test_the_image_is_not_of_root_and_of_a_python_that_the_project_runs_on(repo: Path) -> None:
    """Its last USER, and the tag of its base."""
    import tomllib

    lines = instructions(repo)
    assert [line for line in lines if line.startswith("USER")][-1] == "USER 1000"
    (tag,) = [line.partition("=")[2] for line in lines if line.startswith("ARG PYTHON=")]
    supported = tomllib.loads((repo / "pyproject.toml").read_text())["project"]["requires-python"]
    assert SpecifierSet(supported).contains(re.match(r"\d+\.\d+", tag)[0])


def test_the_files_of_the_image_are_enough_for_a_run(repo: Path, tmp_path: Path) -> None:
    """Its entry in a folder that has `config/` alone plans the whole dataset: the workflow may lie elsewhere."""
    image, work = tmp_path / "image", tmp_path / "work"
    for name in kept(repo):
        (image / name).parent.mkdir(parents=True, exist_ok=True)
        if (repo / name).is_dir():
            shutil.copytree(repo / name, image / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(repo / name, image / name)
    shutil.copytree(image / "config", work / "config")
    (entry,) = [line for line in instructions(repo) if line.startswith("ENTRYPOINT")]
    command = yaml.safe_load(entry.removeprefix("ENTRYPOINT "))
    command = [sys.executable, "-m", *(word.replace("/opt/cellmill", str(image)) for word in command), "-n"]
    done = subprocess.run(command, cwd=work, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^write_report +1$", done.stdout, re.MULTILINE), done.stdout
    assert re.search(r"^  pbmc68k: 700 cells; 1 part; .+ to download; [\d.]+ core-hours", done.stdout, re.MULTILINE)


@pytest.fixture
def engine() -> str:
    """A program that builds images and can run them."""
    for name in ("docker", "podman"):
        if shutil.which(name) and subprocess.run([name, "info"], capture_output=True).returncode == 0:
            return name
    pytest.skip("no container engine runs here (docker info, podman info)")


@pytest.mark.slow
def test_the_image_is_built_and_runs(repo: Path, tmp_path: Path, engine: str) -> None:
    """From the base image to a plan, as any user of the host."""
    (base,) = [line.partition("=")[2] for line in instructions(repo) if line.startswith("ARG PYTHON=")]
    if subprocess.run([engine, "pull", f"python:{base}"], capture_output=True).returncode:
        pytest.skip(f"the base image python:{base} cannot be pulled here")
    subprocess.run([engine, "build", "-t", "cellmill:test", str(repo)], check=True)
    shutil.copytree(repo / "config", tmp_path / "config")
    tmp_path.chmod(0o777)
    run = [engine, "run", "--rm", "-v", f"{tmp_path}:/project"]
    done = subprocess.run([*run, "cellmill:test", "-n"], capture_output=True, text=True)
    assert done.returncode == 0 and "write_report" in done.stdout, done.stdout + done.stderr
    done = subprocess.run([*run, "--entrypoint", "cellmill", "cellmill:test", "check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
