"""Fixtures that every family of tests may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from .workflow.project import Project

REPO = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def repo() -> Path:
    """The root of the repository."""
    return REPO


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real test data: ``CELLMILL_SHARED_DATA``, else ``../shared/data`` beside the repository."""
    folder = Path(os.environ.get("CELLMILL_SHARED_DATA") or REPO.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no real test data in {folder}; name the folder in CELLMILL_SHARED_DATA")
    return folder


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--fix``: write generated files anew where they differ."""
    parser.addoption("--fix", action="store_true", help="write generated files anew where they differ")


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """``snakemake --profile profiles/local`` on the bundled cells, with two cores."""
    project = Project.create(tmp_path_factory.mktemp("finished"))
    project.run(cores=2)
    return project
