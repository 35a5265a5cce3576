"""Every package of the environments exists, in the version that they name, in the registry that is reached here."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

from ..unit.test_environments import ENVS, PYPI_NAMES

UV = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")


def resolved(*requirements: str) -> subprocess.CompletedProcess[str]:
    """What the index says of wheels for linux-64; nothing is downloaded but their metadata, and nothing installed."""
    assert UV is not None
    pip = [sys.executable, "-m", "pip", "config", "get", "global.index-url"]
    index = os.environ.get("PIP_INDEX_URL") or subprocess.run(pip, capture_output=True, text=True).stdout.strip()
    command = [UV, "pip", "install", "--dry-run", "--no-deps", "--only-binary", ":all:", "--python", sys.executable]
    command += ["--python-version", "3.11", "--python-platform", "x86_64-manylinux_2_28"]
    # uv reads no pip.conf: hand it the index that pip is told to use.
    environment = os.environ | ({"UV_DEFAULT_INDEX": index} if index and "UV_DEFAULT_INDEX" not in os.environ else {})
    with tempfile.TemporaryDirectory() as empty:
        command += ["--target", empty, *requirements]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def registry() -> None:
    """A package index that knows a package which is installed here."""
    if UV is None:
        pytest.skip("uv is not installed (make setup brings it along); it asks the package index")
    done = resolved(f"packaging=={version('packaging')}")
    if done.returncode:
        pytest.skip(f"no package index is reached: {done.stderr.strip().splitlines()[-1]}")


def wanted(environment: Path) -> list[str]:
    """Its packages by the index's names; Python itself is none of them."""
    packages = [entry.split(" ") for entry in yaml.safe_load(environment.read_text())["dependencies"]]
    return [f"{PYPI_NAMES.get(name, name)}{pinned}" for name, pinned in packages if name != "python"]


@pytest.mark.parametrize("path", ENVS, ids=lambda path: path.stem)
def test_every_package_of_an_environment_exists_in_its_version(registry: None, path: Path) -> None:
    """conda-forge is out of reach where this was written; what it builds comes from these releases."""
    done = resolved(*wanted(path))
    assert done.returncode == 0, done.stderr
    found = {line[3:].partition("+")[0] for line in done.stderr.splitlines() if line.startswith(" + ")}
    assert found == set(wanted(path))


def test_a_version_that_does_not_exist_is_noticed(registry: None) -> None:
    """The check can fail."""
    done = resolved("packaging==0.0.1")
    assert done.returncode != 0 and "packaging==0.0.1" in done.stderr, done.stderr
