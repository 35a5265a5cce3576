"""Snakemake on the test's cluster, with the profile that users take."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from ..workflow.project import Project
from .slurm import Cluster

QUICK = ("--latency-wait", "10", "--cores", "4")
"""What a small cluster on one machine need not wait for."""
WATCHING = Path(__file__).with_name("watching.py")


STARTED: list[subprocess.Popen[str]] = []
"""Runs of the test at hand; a failed one leaves its run behind."""


def start(project: Project, cluster: Cluster, *args: str) -> subprocess.Popen[str]:
    """Start ``snakemake --profile profiles/slurm`` in a process group of its own; its output goes to ``run.log``.

    It looks at its jobs every second.
    """
    kept = {k: v for k, v in cluster.environment.items() if k not in ("PYTHONPATH", "SNAKEMAKE_PROFILE")}
    environment = kept | {"PATH": f"{cluster.run}/bin:{Path(sys.executable).parent}:{kept['PATH']}"}
    command = [sys.executable, "-P", str(WATCHING), "--profile", "profiles/slurm", *QUICK, *args]
    with (project.root / "run.log").open("a") as log:
        run = subprocess.Popen(
            command,
            cwd=project.root,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
    STARTED.append(run)
    return run


def ended(
    process: subprocess.Popen[str], project: Project, cluster: Cluster, *, expect: int = 0, seconds: float = 600
) -> str:
    """Wait for its end, and give what it printed; its exit status must be ``expect``."""
    try:
        status = process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        status = None
    said = (project.root / "run.log").read_text()
    assert status == expect, (
        f"{status}\n{said}\n{cluster.call('squeue', '--states=all', expect=None)}\n{cluster.logs()}"
    )
    return said
