"""A SLURM of three nodes, shared by all tests of this folder."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..unit.stages import random_counts, write_raw
from ..workflow.project import Project
from .held import Held
from .run import STARTED
from .slurm import Cluster, missing


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """SLURM from Debian's packages; `tests/cluster/install.sh` installs them."""
    if absent := missing():
        pytest.skip(f"no SLURM here ({', '.join(absent)} not found); as root: tests/cluster/install.sh")
    with tempfile.TemporaryDirectory(prefix="slurm-") as run:
        made = Cluster(Path(run))
        try:
            made.start()
            yield made
        finally:
            made.stop()


@pytest.fixture(autouse=True)
def _no_run_left_behind() -> Iterator[None]:
    """Kill what a failed test left at work."""
    yield
    while STARTED:
        run = STARTED.pop()
        if run.poll() is None:
            os.killpg(run.pid, signal.SIGKILL)
        run.wait()


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A fresh working copy."""
    (tmp_path / "project").mkdir()
    return Project.create(tmp_path / "project")


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Held]:
    """A server that gives a file of cells when it is told to: what asks it stays at work until then."""
    with Held(write_raw(tmp_path / "served.h5ad", random_counts(300, 500)).read_bytes()) as server:
        yield server
