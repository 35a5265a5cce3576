"""Thousands of parts: what takes Snakemake 9.27 hours, or goes wrong, mended.

- That no group waits for itself is found by a walk over all that a job needs, from every job of every group: hours for
  2,000 parts. Here the groups are sorted once, and a circle is refused.
- When a checkpoint is done, groups are made again out of those that were merged already: eight parts to a group become
  64, and some jobs stand in two groups. Here they are made afresh, and those at work stay as they are.
- For every job that needs what is made over all parts, its file is compared with thousands of inputs of the job that
  makes it. Here it is looked up.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Hashable, Iterable, Mapping
from typing import Any


def circular(needs: Mapping[Hashable, Iterable[Hashable]], group_of: Mapping[Hashable, Hashable]) -> bool:
    """Whether some jobs wait for each other once the jobs of a group start together.

    Args:
        needs: of every job those that it needs.
        group_of: of the jobs that have a group, which.
    """
    waiting: Counter[Hashable] = Counter()
    followers: dict[Hashable, set[Hashable]] = {}
    for job, others in needs.items():
        mine = group_of.get(job, job)
        followers.setdefault(mine, set())
        for other in others:
            theirs = group_of.get(other, other)
            after = followers.setdefault(theirs, set())
            if theirs != mine and mine not in after:
                after.add(mine)
                waiting[mine] += 1
    free = deque(node for node in followers if not waiting[node])
    done = 0
    while free:
        done += 1
        for next_ in followers[free.popleft()]:
            waiting[next_] -= 1
            if not waiting[next_]:
                free.append(next_)
    return done < len(followers)


def mend_groups(dag: Any, refusal: type[Exception]) -> None:
    """Put the first two into Snakemake's ``DAG`` class; into one of another build, or a second time, nothing.

    Args:
        dag: that class.
        refusal: the exception of a workflow that cannot run.
    """
    names = ("validate_group", "_check_groups", "update_groups", "needrun_jobs")
    if not all(hasattr(dag, name) for name in names) or hasattr(dag, "_as_found"):
        return
    dag._as_found = update = dag.update_groups

    def check_once(self: Any) -> None:
        if circular(self._dependencies, {job: id(group) for job, group in self._group.items()}):
            raise refusal(
                "Groups of jobs would wait for each other: a job outside a group needs one inside it and is needed by "
                "another. Correct 'groups' in the profile: rules that follow each other stand in one group."
            )

    def update_afresh(self: Any) -> None:
        at_work = {job: group for group in self._running if group.is_group() for job in group}
        waiting = [job for job in self.needrun_jobs() if job not in at_work]
        self.group_job_factory.cache.clear()
        self.needrun_jobs = lambda: waiting
        try:
            update(self)
        finally:
            del self.needrun_jobs
        self._group.update(at_work)

    dag.validate_group = lambda self, group: None  # `_check_groups` follows, once all groups are known
    dag._check_groups = check_once
    dag.update_groups = update_afresh


def look_up_inputs(files: Any, *, wide: int = 100) -> None:
    """Have ``file in job.input`` look up in a set where there are many; ``files`` is Snakemake's class of inputs."""
    recent: dict[int, tuple[Any, int, set[Any]]] = {}

    def contains(self: Any, file: Any) -> bool:
        if len(self) < wide:
            return list.__contains__(self, file)
        known = recent.get(id(self))  # that of this list: it is held as long as its id is
        if known is None or known[1] != len(self):
            if len(recent) >= 32:
                recent.clear()
            known = recent[id(self)] = (self, len(self), set(self))
        return file in known[2]

    files.__contains__ = contains
