"""Working copies."""

from __future__ import annotations

from pathlib import Path

import pytest

from .project import Project


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A fresh working copy."""
    return Project.create(tmp_path)


@pytest.fixture
def rerunnable(finished: Project, tmp_path: Path) -> Project:
    """A copy of the finished run, with its history, to change and run again."""
    import shutil

    shutil.copytree(finished.root, tmp_path / "copy", symlinks=True)
    return Project(tmp_path / "copy")
