"""What Snakemake's SLURM plugin 2.8.0 forgets, mended.

Where ``slurmctld`` does not answer a look at the jobs, the plugin drops all of them, and the run waits for ever for
jobs that ended long ago; nor does it then know how long finished jobs are listed, and asks accounting, which many
clusters lack. Here the jobs are kept and looked at again, and what was known of the cluster is taken as it was.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

MIN_JOB_AGE = 300
"""Seconds for which ``squeue`` lists a job after its end, by SLURM's own default."""


def mend_looks(plugin: Any) -> None:
    """Put it into the plugin's module; into one of another build, or a second time, nothing."""
    names = ("Executor", "get_min_job_age", "query_job_status")
    if not all(hasattr(plugin, name) for name in names) or hasattr(plugin, "_as_found"):
        return
    plugin._as_found = look = plugin.Executor.check_active_jobs
    age, ask = plugin.get_min_job_age, plugin.query_job_status
    last: dict[str, Any] = {"age": MIN_JOB_AGE, "silent": False}

    def last_known_age() -> int:
        if (found := age()) is not None:
            last["age"] = found
        return int(last["age"])

    async def asked(command: str, logger: Any) -> Any:
        answer = await ask(command, logger)
        last["silent"] = answer[0] is None
        return answer

    async def looked(self: Any, active_jobs: list[Any]) -> AsyncIterator[Any]:
        last["silent"] = False
        async for job in look(self, active_jobs):
            yield job
        if last["silent"]:
            self.logger.warning("SLURM does not answer; its jobs go on, and are looked at again.")
            for job in active_jobs:
                yield job

    plugin.get_min_job_age = last_known_age
    plugin.query_job_status = asked
    plugin.Executor.check_active_jobs = looked
