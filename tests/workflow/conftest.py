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
    """A copy of the finished run."""
    return finished.copy(tmp_path / "copy")
