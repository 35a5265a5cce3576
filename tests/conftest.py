"""Fixtures that every family of tests may use."""

from __future__ import annotations

import fcntl
import gc
import os
import shutil
import sys
import tempfile
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

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
    """``snakemake --profile profiles/local`` on the bundled cells, two cores; one run for all workers of xdist."""
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "finished"
    with (shared.parent / "finished.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if shared.exists():
            return Project(shared)
        making = shared.with_name("finishing")
        shutil.rmtree(making, ignore_errors=True)
        making.mkdir()
        Project.create(making).run(cores=2)
        making.rename(shared)
    return Project(shared)


@pytest.fixture
def streaming(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The `streaming` package, or a skipped test; what it locks and shares is gone after the test.

    Only its base is wanted: the modules for pictures and text ask for torchvision and transformers.
    Each dataset opens the shared memory of all that are there, and lets go of it when the process ends.
    """
    for name in ("vision", "multimodal", "text"):
        sys.modules.setdefault(f"streaming.{name}", types.ModuleType(f"streaming.{name}"))
    module = pytest.importorskip("streaming")
    (tmp_path / "streaming_tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "streaming_tmp"))
    shared: list[Callable[[], None]] = []
    monkeypatch.setattr("streaming.base.shared.memory.atexit", types.SimpleNamespace(register=shared.append))
    yield module
    gc.collect()
    for let_go in shared:
        let_go()
