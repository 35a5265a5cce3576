"""What a run says at its end of the jobs that failed in it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from cellmill.operations.jobs import jobs


def said_of_failures(folder: Path, *, since: float) -> str:
    """A line for each job that failed since then, with its log; empty where none did.

    A job that never came to write its log, as SLURM refused it, stands in Snakemake's own lines only.
    """
    ended = [job for job in jobs(folder) if job.state in ("failed", "cut off", "running") and job.changed >= since]
    if not ended:
        return ""
    lines = [f"{len(ended)} job{'' if len(ended) == 1 else 's'} did not end well:"]
    for job in ended:
        why = job.reason or "its log ends without an error: killed, or out of memory or time"
        lines += [f"  {job.rule} {job.name}: {why}", f"    log: {job.log}"]
    return "\n".join(lines)


def cancel_leftovers(folder: Path) -> list[str]:
    """Cancel SLURM jobs that a killed run of this folder left at work, and say which; none where there is no SLURM.

    For who holds the folder's lock: no other run is at work here, so that whatever runs here is a leftover.
    """
    if shutil.which("squeue") is None or shutil.which("scancel") is None:
        return []
    asked = ["squeue", "--me", "--noheader", "--format=%i|%j|%k|%Z"]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    mine = [line.split("|", 3) for line in done.stdout.splitlines() if line.count("|") >= 3]
    here = folder.resolve()
    left = [
        (i, comment) for i, name, comment, path in mine if name.startswith(JOB_PREFIX) and Path(path).resolve() == here
    ]
    if left:
        subprocess.run(["scancel", *(i for i, _ in left)], check=False)
    return [comment for _, comment in left]


JOB_PREFIX = "cellmill_"
"""How our SLURM jobs are called: `slurm-jobname-prefix` of profiles/slurm/config.yaml."""
