"""The workflow through a real SLURM: the bytes of one machine, and groups of parts that a plan names."""

from __future__ import annotations

import csv
import re

import pytest

from ..unit.stages import random_counts, write_raw
from ..workflow.project import TIMES, Project, digests
from .run import ended, start
from .slurm import Cluster

pytestmark = pytest.mark.slow
SNAKEMAKE_MB = 250
"""What Snakemake's own processes take beside a job."""
GPU = ("--set-resources", "embed_part:slurm_partition=gpu", "embed_part:gpu=1")


def _jobs(project: Project) -> list[dict[str, str]]:
    """A row for each job of the bundled cells: what it took."""
    with (project.results("pbmc68k") / "report" / "times.tsv").open() as file:
        return list(csv.DictReader(file, delimiter="\t"))


def _line(profile: str, project: Project, submissions: int | None = None) -> str:
    """Seconds from start to end as Snakemake says them, and of all its jobs together."""
    log = min((project.root / ".snakemake" / "log").glob("*.log")).read_text()
    hours, minutes, seconds = re.findall(r"^Elapsed time: (\d+):(\d+):([\d.]+)", log, re.MULTILINE)[-1]
    took = int(hours) * 3600 + int(minutes) * 60 + float(seconds)
    jobs = _jobs(project)
    at_work, cpu = (sum(float(row[column] or 0) for row in jobs) for column in ("seconds", "cpu_seconds"))
    return f"{profile:<16}{len(jobs):>5}{submissions or '–':>13}{took:>9.0f}{at_work:>14.0f}{cpu:>13.0f}"


def test_the_cluster_gives_the_bytes_of_one_machine(
    finished: Project, project: Project, cluster: Cluster, capsys: pytest.CaptureFixture[str]
):
    """Every rule runs in its partition, all of results/ is equal, and memory asked for is near what was used."""
    ended(start(project, cluster, *GPU), project, cluster, seconds=1200)
    assert digests(project.root / "results", without=TIMES) == digests(finished.root / "results", without=TIMES)

    places = cluster.submitted(project.root)
    on_gpus = {rule for rule, partition, _ in places if partition == "gpu"}
    assert on_gpus and all("embed" in rule for rule in on_gpus), places
    assert not [rule for rule, partition, _ in places if partition == "cpu" and "embed_part" in rule], places
    assert {node for _, partition, node in places if partition == "gpu"} == {"g1"}

    rows = _jobs(project)
    assert len({row["rule"] for row in rows}) > 15
    used = {(r["rule"], r["job"]): float(r["peak_mb"]) + SNAKEMAKE_MB for r in rows if r["peak_mb"]}
    asked = {(r["rule"], r["job"]): float(r["asked_mb"]) for r in rows if r["peak_mb"]}
    far = {job: (used[job], asked[job]) for job in used if not 0.35 < used[job] / asked[job] < 1}
    assert not far, "a job and Snakemake's processes beside it need more than was asked for, or much less"
    share = sum(used.values()) / sum(asked.values())
    assert share > 0.45, "some hundred cells use half of it; of 100,000 they use two thirds (docs/scale.md)"
    with capsys.disabled():
        print("\nprofile          jobs  submissions  seconds  seconds in all  CPU seconds")
        print(_line("profiles/local", finished))
        print(_line("profiles/slurm", project, len(places)))
        print(f"of the memory that jobs asked for, {share:.0%} was used")


def test_parts_that_a_plan_names_are_grouped_and_run_once(project: Project, cluster: Cluster):
    """Three parts by two: two submissions for what goes over parts one after another, and no job a second time."""
    write_raw(project.root / "cells.h5ad", random_counts(300, 500))
    source = {"kind": "files", "files": {"all": "cells.h5ad"}, "slice": 100}
    project.write_dataset("sliced", title="Sliced", source=source, exports=[])
    project.edit_config({"datasets": ["sliced"]})
    made = "results/sliced/quality/thresholds.json"
    said = ended(start(project, cluster, "--group-components", "quality=2", "--", made), project, cluster)

    parts = sorted(path.stem for path in (project.results("sliced") / "raw").glob("*.h5ad"))
    assert len(parts) == 3 and (project.root / made).exists()
    submissions = said.split("Group job quality")[1:]
    groups = [re.findall(r"wildcards: dataset=sliced, part=(\w+)", text) for text in submissions]
    assert sorted(len(set(group)) for group in groups) == [1, 2], said
    assert sorted(part for group in groups for part in group) == sorted([*parts, *parts]), said
    submitted = [rule for rule, _, _ in cluster.submitted(project.root)]
    assert sum("retrieve_part" in rule for rule in submitted) == len(parts), submitted
    assert len(submitted) == 1 + len(parts) + len(groups) + 1, "the plan, the parts, the groups, the thresholds"
    runs = {
        path.relative_to(project.root / "benchmarks").as_posix(): len(path.read_text().splitlines())
        for path in (project.root / "benchmarks").rglob("*.jsonl")
    }
    assert len(runs) == 1 + 3 * len(parts) + 1 and set(runs.values()) == {1}, runs
