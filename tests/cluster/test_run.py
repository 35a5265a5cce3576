"""The bundled cells through a real SLURM: the same bytes as on one machine."""

from __future__ import annotations

import csv
import time

import pytest

from ..workflow.project import TIMES, Project, digests
from .run import ended, start
from .slurm import Cluster

GPU = ("--set-resources", "embed_part:slurm_partition=gpu", "embed_part:gpu=1")


@pytest.mark.slow
def test_the_cluster_gives_the_bytes_of_one_machine(
    finished: Project, project: Project, cluster: Cluster, capsys: pytest.CaptureFixture[str]
):
    """Every rule runs in its partition, all of results/ is equal, no job used more memory than it asked for."""
    before = time.monotonic()
    ended(start(project, cluster, *GPU), project, cluster)
    took = time.monotonic() - before
    assert digests(project.root / "results", without=TIMES) == digests(finished.root / "results", without=TIMES)

    places = cluster.where()
    on_gpus = {rule for rule, (partition, _) in places.items() if partition == "gpu"}
    assert on_gpus and all("embed" in rule for rule in on_gpus), places
    assert not [rule for rule, (partition, _) in places.items() if partition == "cpu" and "embed_part" in rule], places
    assert {node for _, (partition, node) in places.items() if partition == "gpu"} == {"g1"}

    with (project.results("pbmc68k") / "report" / "times.tsv").open() as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert len({row["rule"] for row in rows}) > 15
    over = {
        r["rule"]: (r["peak_mb"], r["asked_mb"])
        for r in rows
        if r["peak_mb"] and float(r["peak_mb"]) + 250 > float(r["asked_mb"])
    }
    assert not over, "a job and Snakemake's own processes beside it need more than was asked for"
    seconds = sum(float(row["seconds"]) for row in rows)
    with capsys.disabled():
        print(
            f"\n{len(rows)} jobs in {len(places)} submissions: {took:.0f} s on SLURM, of which {seconds:.0f} s at work"
        )
