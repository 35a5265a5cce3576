"""Looks at SLURM jobs that nobody answers: the plugin's own code, with a `squeue` that fails when it is told to."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

LOOKS = """
import asyncio, logging, sys
from types import SimpleNamespace
import snakemake_executor_plugin_slurm as plugin
if sys.argv[1] == "mended":
    from cellmill.operations.slurm import mend_looks
    mend_looks(plugin)
    mend_looks(plugin)

class Free:
    async def __aenter__(self): pass
    async def __aexit__(self, *_): pass

class Looking(plugin.Executor):
    status_rate_limiter = Free()
    def __init__(self): pass
    def report_job_success(self, job): print("success", job.external_jobid)
    def report_job_error(self, job, **_): print("error", job.external_jobid)

me = Looking()
me.logger = logging.getLogger("looks")
settings = SimpleNamespace(
    status_attempts=2, init_seconds_before_status_checks=40, status_command="squeue", keep_successful_logs=True
)
me.workflow = SimpleNamespace(executor_settings=settings)
me.run_uuid, me.next_seconds_between_status_checks = "run", 40
me._status_query_calls = me._status_query_failures = 0
me._status_query_total_seconds, me._status_query_min_seconds, me._status_query_max_seconds = 0.0, None, 0.0
me._status_query_cycle_rows, me._preemption_warning, me._failed_nodes = [], False, []
me.get_status_command = lambda: "squeue"
jobs = [SimpleNamespace(external_jobid=i, aux={"slurm_logfile": None}, job=None) for i in ("7", "8")]

async def look():
    return [job.external_jobid async for job in me.check_active_jobs(jobs)]

print("kept", *asyncio.run(look()))
"""


@pytest.fixture
def slurm(tmp_path: Path) -> Path:
    """Programs of a cluster that says what stands in `answer`; where it does not stand, they fail, as sacct always."""
    for name, text in {
        "squeue": f"cat {tmp_path}/answer",
        "scontrol": f"test -e {tmp_path}/answer && echo 'MinJobAge = 300 sec'",
        "sacct": "echo 'Slurm accounting storage is disabled' >&2; exit 1",
    }.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    return tmp_path


def look(slurm: Path, src: Path, how: str = "mended") -> str:
    environment = os.environ | {"PATH": f"{slurm}:{os.environ['PATH']}", "PYTHONPATH": str(src)}
    command = [sys.executable, "-c", LOOKS, how]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_jobs_stay_known_while_the_controller_is_away(slurm: Path) -> None:
    """As found, the plugin forgets both, and goes on to accounting; mended, it looks at them again."""
    src = Path(__file__).parents[2] / "src"
    assert "kept\n" in look(slurm, src, "as found")
    said = look(slurm, src)
    assert "kept 7 8\n" in said and "SLURM does not answer" in said


def test_jobs_are_told_apart_where_it_answers(slurm: Path) -> None:
    """What runs is kept, what is done is reported once."""
    (slurm / "answer").write_text("7|RUNNING\n8|COMPLETED\n")
    said = look(slurm, Path(__file__).parents[2] / "src")
    assert "success 8\n" in said and "kept 7\n" in said and "SLURM does not answer" not in said
