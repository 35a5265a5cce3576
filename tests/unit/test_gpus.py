"""One GPU per job: locks that the kernel holds, so that a job that is killed gives its GPU back."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cellmill.operations.gpus import VISIBLE, take_gpu

JOB = """
import sys, time
from pathlib import Path
from cellmill.operations.gpus import take_gpu
print(take_gpu({}, n_gpus=2, folder=Path(sys.argv[1]), wait_s=0.05), flush=True)
time.sleep(60)
"""


def job(folder: Path) -> subprocess.Popen[str]:
    """A process that takes one of two GPUs, says which, and goes on."""
    return subprocess.Popen([sys.executable, "-c", JOB, str(folder)], stdout=subprocess.PIPE, text=True)


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_jobs_have_a_gpu_each_and_the_next_waits_for_one_that_is_free(tmp_path: Path) -> None:
    """The third gets that of the one that is killed."""
    jobs = [job(tmp_path) for _ in range(2)]
    try:
        taken = [said(j) for j in jobs]
        assert sorted(taken) == ["0", "1"]
        jobs.append(job(tmp_path))
        with pytest.raises(subprocess.TimeoutExpired):
            jobs[2].wait(timeout=1)
        jobs[0].kill()
        assert said(jobs[2]) == taken[0]
    finally:
        for j in jobs:
            j.kill()
            j.communicate()


@pytest.mark.parametrize("given", ["3", "GPU-8f2a", "MIG-GPU-8f2a/1/0"])
def test_a_gpu_that_was_given_is_kept(tmp_path: Path, given: str) -> None:
    """As SLURM does; it is not counted, and not locked."""
    environ = {VISIBLE: given}
    assert take_gpu(environ, n_gpus=8, folder=tmp_path) == given and environ == {VISIBLE: given}
    assert not list(tmp_path.iterdir())


def test_of_several_that_were_given_one_is_taken(tmp_path: Path) -> None:
    """In a job of SLURM with several GPUs, whose numbers are its own."""
    first, second, other = ({VISIBLE: "GPU-a, GPU-b"} for _ in range(3))
    assert take_gpu(first, folder=tmp_path) == "GPU-a" == first[VISIBLE]
    assert take_gpu(second, folder=tmp_path) == "GPU-b" == second[VISIBLE]
    other["SLURM_JOB_ID"] = "7"
    assert take_gpu(other, folder=tmp_path) == "GPU-a"


def test_without_a_gpu_nothing_is_taken(tmp_path: Path) -> None:
    """The model says that there is none."""
    for environ in ({}, {VISIBLE: ""}):
        before = dict(environ)
        assert take_gpu(environ, n_gpus=0, folder=tmp_path) is None and environ == before
