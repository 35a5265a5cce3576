"""``cellmill status``: of each stage how much is done, what runs, and what failed first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cellmill.contracts.plan import read_plan
from cellmill.errors import CellmillError, nearest
from cellmill.operations.jobs import Job, at_work, jobs
from cellmill.stages import SHARED, STAGES

if TYPE_CHECKING:
    from cellmill.config import Project


@dataclass(frozen=True)
class Stage:
    """One line of a dataset."""

    name: str
    done: int
    of: int
    """Files that it ends in."""
    jobs: Counter[str]
    """Jobs that did not end well, by state."""


def status(project: Project, datasets: list[str], *, folder: Path = Path()) -> str:
    """The table for people.

    Raises:
        CellmillError: where a dataset is not in the configuration.
    """
    for name in datasets:
        if name not in project.datasets:
            raise CellmillError("config/config.yaml", f"has no dataset '{name}'.", nearest(name, project.datasets))
    found = jobs(folder)
    lines = ["a run is at work" if at_work(folder) else "no run is at work in this folder"]
    for name in datasets or list(project.datasets):
        mine = [job for job in found if job.dataset == name]
        rows = list(stages(project, name, mine, folder))
        width = max(len(row.name) for row in rows)
        lines += ["", name]
        for row in rows:
            more = ", ".join(f"{n} {state}" for state, n in sorted(row.jobs.items()) if n)
            lines.append(f"  {row.name:<{width}}  {row.done:>6,} of {row.of:,} done{', ' if more else ''}{more}")
        lines += _first(mine)
    shared = [job for job in found if job.rule in SHARED]
    return "\n".join([*lines, *_first(shared)])


def stages(project: Project, dataset: str, mine: list[Job], folder: Path) -> Iterator[Stage]:
    """The stages of a dataset: its files that are there, of those it will have, and jobs that are not done."""
    for name, rules, files in _files(project, dataset, folder):
        states: Counter[str] = Counter(
            job.state for job in mine if job.rule in rules and job.state != "done" and _of(job, name)
        )
        yield Stage(name, sum((folder / file).exists() for file in files), len(files), states)


def _files(project: Project, dataset: str, folder: Path) -> Iterator[tuple[str, Collection[str], list[str]]]:
    """``(stage, rules, files that it ends in)``; a stage for each tokenizer, embedder and export.

    Where a plan says which parts there are, and is not made yet, it is the only stage that is known.
    """
    base = f"results/{dataset}"
    source = project.datasets[dataset].source
    if source.planned:
        plan = folder / base / "plan.tsv"
        yield "plan", STAGES["plan"], [f"{base}/plan.tsv"]
        if not plan.exists():
            return
        parts = list(read_plan(plan).parts)
    else:
        parts = source.parts()
    yield "raw", STAGES["raw"], [f"{base}/raw/{p}.h5ad" for p in parts]
    yield "quality", STAGES["quality"], [f"{base}/quality/{p}.parquet" for p in parts]
    yield "processed", STAGES["processed"], [f"{base}/processed/{p}.h5ad" for p in parts]
    yield "genes", STAGES["genes"], [f"{base}/genes/genes.parquet"]
    profiles = project.datasets[dataset].pseudobulk
    if profiles:
        yield "pseudobulk", STAGES["pseudobulk"], [f"{base}/pseudobulk/{n}.h5ad" for n in profiles]
    for t in project.tokenizers_of(dataset):
        yield f"tokenized/{t}", STAGES["tokenized"], [f"{base}/tokenized/{t}/{p}.parquet" for p in parts]
    for e in project.embedders_of(dataset):
        yield f"embedded/{e}", STAGES["embedded"], [f"{base}/embedded/{e}/{p}.npy" for p in parts]
    for x in project.exports_of(dataset):
        yield x, (f"export_{x.partition('/')[0]}",), [f"{base}/{x}/manifest.json"]
    yield "report", STAGES["report"], [f"{base}/report/index.html"]


def _of(job: Job, stage: str) -> bool:
    """Whether a job is of this tokenizer, embedder or export, where the stage is of one."""
    _, _, member = stage.partition("/")
    return not member or job.name.split(".")[1:2] == [member]


def _first(mine: list[Job]) -> list[str]:
    """The job that failed or was cut off first, why, and where its log lies."""
    for state in ("failed", "cut off"):
        ended = sorted((job for job in mine if job.state == state), key=lambda job: job.changed)
        if ended:
            first = ended[0]
            why = first.reason or "its log ends without an error: killed, or out of memory or time"
            return [f"  {state} first: {first.rule} {first.name}: {why}", f"    log: {first.log}"]
    return []
