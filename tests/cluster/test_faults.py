"""What goes wrong on clusters: each ends in a finished run, or in an error that names rule, part and log."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..unit.stages import random_counts, write_raw
from ..workflow.project import Project
from .held import Held
from .run import ended, start
from .slurm import Cluster

pytestmark = pytest.mark.slow
RAW, QUALITY = "results/cells/raw/0.h5ad", "results/cells/quality/0.parquet"


@pytest.fixture
def cells(project: Project, held: Held) -> Project:
    """A dataset whose one part comes from the server that holds it back."""
    project.write_dataset("cells", title="Cells", source={"kind": "files", "files": {"0": held.address}}, exports=[])
    project.edit_config({"datasets": ["cells"]})
    return project


def _whole(project: Project, held: Held) -> None:
    """The part is what the server gave, and nothing half-written lies beside it."""
    assert (project.root / RAW).read_bytes() == held.body
    assert not list((project.root / "results").rglob("*.partial*"))


def _at_work(cluster: Cluster) -> str:
    """The id of the one job that runs."""
    (job,) = cluster.jobs("RUNNING")
    return job


def test_a_job_that_the_operator_cancels_runs_again(cells: Project, held: Held, cluster: Cluster):
    run = start(cells, cluster, RAW)
    held.until_asked(run)
    cluster.call("scancel", _at_work(cluster))
    held.until_asked(run, 2)
    held.release()
    ended(run, cells, cluster)
    _whole(cells, held)


def test_a_node_that_goes_down_costs_one_job(cells: Project, held: Held, cluster: Cluster):
    run = start(cells, cluster, RAW)
    held.until_asked(run)
    node = cluster.call("squeue", "-h", "-o", "%N", "-j", _at_work(cluster))
    cluster.call("scontrol", "update", f"nodename={node}", "state=down", "reason=test")
    try:
        held.until_asked(run, 2)
        held.release()
        ended(run, cells, cluster)
    finally:
        cluster.call("scontrol", "update", f"nodename={node}", "state=resume", expect=None)
    _whole(cells, held)


def test_more_memory_than_asked_for_is_tried_again_with_more(cells: Project, held: Held, cluster: Cluster):
    held.release()
    more = ("--set-resources", "measure_quality:mem_mb=350*attempt", "read_labels:mem_mb=350*attempt", "--")
    ended(start(cells, cluster, *more, QUALITY), cells, cluster)
    killed = cluster.call("squeue", "-h", "--states=FAILED,OUT_OF_MEMORY,CANCELLED", "-o", "%k %m")
    assert "measure_quality" in killed or "quality" in killed, cluster.call(
        "squeue", "--states=all", "-o", "%i %T %k %m"
    )
    assert (cells.root / QUALITY).exists()


def test_more_time_than_asked_for_is_tried_again_with_more(cells: Project, held: Held, cluster: Cluster):
    run = start(cells, cluster, "--set-resources", "retrieve_part:runtime=attempt", "--", RAW)
    held.until_asked(run)
    held.until_asked(run, 2, seconds=240)
    held.release()
    ended(run, cells, cluster)
    assert "TIMEOUT" in cluster.call("squeue", "-h", "--states=TIMEOUT", "-o", "%T %k")
    _whole(cells, held)


def test_the_controller_may_be_started_again(cells: Project, held: Held, cluster: Cluster):
    """It is away until a look at the jobs has gone unanswered: they are looked at again, and nothing is done twice."""
    run = start(cells, cluster, "--slurm-status-attempts", "1", "--", RAW)
    held.until_asked(run)
    cluster.stop_daemon("slurmctld")
    until, log = time.monotonic() + 120, cells.root / "run.log"
    while "SLURM does not answer" not in log.read_text():
        assert run.poll() is None and time.monotonic() < until, log.read_text()
        time.sleep(0.5)
    cluster.start_controller()
    held.release()
    ended(run, cells, cluster)
    assert held.asked == 1, "the job went on while the controller was away"
    _whole(cells, held)


def test_a_killed_run_is_taken_up(cells: Project, held: Held, cluster: Cluster):
    """The second run cancels what the first left at work, and does nothing again that was done."""
    made = "results/cells/config.json"
    ended(start(cells, cluster, made), cells, cluster)
    written = (cells.root / made).stat().st_mtime_ns
    run = start(cells, cluster, made, RAW)
    held.until_asked(run)
    left = _at_work(cluster)
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    assert cluster.jobs("RUNNING") == [left], "SLURM's job outlives the run"
    run = start(cells, cluster, made, RAW)
    held.until_asked(run, 2)
    assert left not in cluster.jobs()
    held.release()
    said = ended(run, cells, cluster)
    assert "Cancelled rule_retrieve_part" in said
    assert (cells.root / made).stat().st_mtime_ns == written
    _whole(cells, held)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(folder)], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"no small disk can be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_named(project: Project, cluster: Cluster, small_disk: Path):
    """Rule, part and log stand at the end, and in `cellmill status`; on a larger disk the same command goes on."""
    write_raw(project.root / "cells.h5ad", random_counts(2000, 500))
    project.write_dataset("cells", title="Cells", source={"kind": "files", "files": {"0": "cells.h5ad"}}, exports=[])
    project.edit_config({"datasets": ["cells"]})
    results = project.root / "results"
    results.symlink_to(small_disk)
    said = ended(start(project, cluster, "--retries", "0", "--", QUALITY), project, cluster, expect=1)
    end = said[said.index("did not end well") :]
    assert "measure_quality cells.0: results/cells/quality/0.parquet: the disk is full" in end, end
    assert "log: logs/measure_quality/cells.0.log" in end
    assert not (project.root / QUALITY).exists() and not list(small_disk.rglob("*.partial*"))
    seen = subprocess.run(
        [sys.executable, "-m", "cellmill", "status"],
        cwd=project.root,
        env=project.environment() | {"PYTHONPATH": "src"},
        capture_output=True,
        text=True,
    )
    assert seen.returncode == 0, seen.stderr
    assert "1 failed" in seen.stdout and "logs/measure_quality/cells.0.log" in seen.stdout, seen.stdout
    results.unlink()
    ended(start(project, cluster, QUALITY), project, cluster)
