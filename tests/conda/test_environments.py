"""Environments that Snakemake itself makes, and rules that run in them."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from ..unit.test_environments import PYPI_NAMES
from ..workflow.project import REPO, Project
from .channel import build, canonical

HERE = Path(__file__).parent
CONDA_NAMES = {ours: theirs for theirs, ours in PYPI_NAMES.items()}
pytestmark = pytest.mark.slow


NEEDED = ("sources", "core")
"""Environments of the rules that are run: retrieving, and all that follows."""


def closure(environments: list[Path]) -> dict[str, str]:
    """Every distribution that they end in, with the version that is installed here (that of the lock)."""
    lines = [line for path in environments for line in yaml.safe_load(path.read_text())["dependencies"]]
    named = [line.split(" ")[0] for line in lines]
    todo = [canonical(PYPI_NAMES.get(name, name)) for name in named if name != "python"]
    found: dict[str, str] = {}
    while todo:
        name = todo.pop()
        if name in found:
            continue
        there = distribution(name)
        found[name] = there.version
        for line in there.requires or []:
            wanted = Requirement(line)
            if wanted.marker is None or wanted.marker.evaluate({"extra": ""}):
                todo.append(canonical(wanted.name))
    return found


@pytest.fixture(scope="module")
def conda(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A channel `conda-forge` with the packages of the environments, and the variables by which it is found."""
    pytest.importorskip("rattler", reason="py-rattler is not installed; it stands in for conda")
    folder = tmp_path_factory.mktemp("conda")
    environments = [REPO / "workflow" / "envs" / f"{name}.yaml" for name in NEEDED]
    wanted = [f"{name}=={version}" for name, version in closure(environments).items()]
    pip = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "-q",
        "--no-deps",
        "--only-binary=:all:",
        "-d",
        str(folder / "wheels"),
    ]
    done = subprocess.run([*pip, *wanted], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no package index to make a channel from: {done.stderr.strip().splitlines()[-1]}")
    build(folder / "channels" / "conda-forge", sorted((folder / "wheels").glob("*.whl")), CONDA_NAMES)
    return {
        "CONDA_CHANNEL_ALIAS": f"file://{folder}/channels/",
        "CONDA_PKGS_DIRS": str(folder / "packages"),
        "PATH": f"{HERE / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}",
    }


def test_pins_are_what_snakemake_installs(conda: dict[str, str], tmp_path: Path):
    """`make pins`, and then exactly its packages; where no channel is reached, a sentence and no pin."""
    project = Project.create(tmp_path)
    make = [sys.executable, "workflow/envs/make_pins.py", "workflow/envs/sources.yaml"]
    nowhere = {"CONDA_CHANNEL_ALIAS": (tmp_path / "nowhere").as_uri() + "/"}
    done = subprocess.run(make, cwd=tmp_path, env=project.environment() | nowhere, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("make pins: "), done.stdout + done.stderr
    pin = tmp_path / "workflow/envs/sources.linux-64.pin.txt"
    assert not pin.exists() and "Traceback" not in done.stderr

    environment = project.environment() | conda
    done = subprocess.run(make, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    pinned = [line for line in pin.read_text().splitlines() if line.startswith("file://")]
    assert all(re.fullmatch(r"file://.+\.conda#[0-9a-f]{32}", line) for line in pinned) and len(pinned) > 20
    assert done.stdout == f"{pin.name}: {len(pinned)} packages\n"
    python, _, md5 = pinned[0].partition("#")
    assert hashlib.md5(Path(python.removeprefix("file://")).read_bytes()).hexdigest() == md5

    prefix = tmp_path / "environments"
    command = [*project.command(), "--sdm", "conda", "--conda-prefix", str(prefix), "--conda-create-envs-only"]
    done = subprocess.run(
        [*command, "--", "results/pbmc68k/raw/0.h5ad"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0 and "Using pinnings from" in said and "Failed to install" not in said, said
    (made,) = [path for path in prefix.iterdir() if path.is_dir()]
    installed = [json.loads(path.read_text())["url"] for path in made.glob("conda-meta/*.json")]
    assert sorted(installed) == sorted(line.partition("#")[0] for line in pinned)


def test_rules_run_in_the_environment_that_snakemake_makes(conda: dict[str, str], tmp_path: Path):
    """From raw cells to tokens in `core.yaml`: its own Python, its own packages, and exactly this checkout."""
    project = Project.create(tmp_path)
    command = [*project.command(), "--sdm", "conda", "--conda-prefix", str(tmp_path / "environments")]
    target = "results/pbmc68k/tokenized/rank/0.parquet"
    done = subprocess.run(
        [*command, "--", target], cwd=tmp_path, env=project.environment() | conda, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    made = [p for p in (tmp_path / "environments").iterdir() if p.is_dir()]
    assert len(made) == len(NEEDED)
    (environment,) = [p for p in made if not list(p.glob("lib/python*/site-packages/gcsfs"))]
    assert (project.root / target).exists()
    # Snakemake lends a script its own packages; without them the environment alone must do.
    modules = sorted(
        {
            "cellmill.quality.metrics",
            "cellmill.quality.process",
            "cellmill.tokenizers.tokenize",
            "cellmill.exports.export",
        }
    )
    alone = subprocess.run(
        [
            environment / "bin" / "python",
            "-c",
            f"import sys; sys.path.insert(0, 'src'); import {', '.join(modules)}; print(sys.prefix, cellmill.__file__)",
        ],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert alone.returncode == 0, alone.stderr
    prefix, file = alone.stdout.split()
    assert Path(prefix).resolve() == environment.resolve()
    assert file == "src/cellmill/__init__.py" or Path(file).resolve().is_relative_to(project.root.resolve())
    lock = dict(re.findall(r"^([a-z0-9-]+)==(\S+)$", (REPO / "requirements.lock").read_text(), re.MULTILINE))
    listed = subprocess.run(
        [environment / "bin" / "python", "-c", "import numpy, pyarrow; print(numpy.__version__, pyarrow.__version__)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert listed.stdout.split() == [lock["numpy"], lock["pyarrow"]]
