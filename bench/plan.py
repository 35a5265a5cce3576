"""How long a plan takes, and the jobs that follow from it: 30,000 samples, and a dry run over their parts."""

from __future__ import annotations

import json
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

REPO = Path(__file__).resolve().parents[1]
SNAKEMAKE = [sys.executable, "-m", "snakemake", "-s", str(REPO / "Snakefile"), "--config", 'datasets=["atlas"]']
ALONE = ["--cores", "1", "--scheduler", "greedy"]
ON_SLURM = ["--profile", str(REPO / "profiles" / "slurm")]
CELLS_PER_SAMPLE = 8_000


def table(samples: int, *, everything: bool) -> str:
    """Seconds and peak memory of the plan and of dry runs of all that follows, and how much these would submit."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        shutil.copytree(REPO / "config", root / "config")
        _release(root / "store", samples)
        _dataset(root, everything=everything)
        lines = [f"{'':<24}{'DAG s':>10}{'seconds':>10}{'CPU s':>10}{'peak MB':>10}{'jobs':>10}{'submissions':>13}"]
        _, seconds, cpu, mb, _ = _measured(root, [*SNAKEMAKE, *ALONE, "--", "results/atlas/plan.tsv"])
        lines.append(f"{'plan':<24}{'':>10}{seconds:>10.1f}{cpu:>10.1f}{mb:>10,.0f}")
        for name, profile in (("dry run, one machine", ALONE), ("dry run, profiles/slurm", ON_SLURM)):
            dag, seconds, cpu, mb, said = _measured(root, [*SNAKEMAKE, *profile, "--dry-run"])
            jobs, submissions = _counted(said)
            lines.append(f"{name:<24}{dag:>10.1f}{seconds:>10.1f}{cpu:>10.1f}{mb:>10,.0f}{jobs:>10,}{submissions:>13,}")
        benchmark = (root / "benchmarks" / "plan_dataset" / "atlas.jsonl").read_text()
        lines.append(f"{'plan_dataset alone':<24}{'':>10}{json.loads(benchmark.splitlines()[0])['s']:>10.1f}")
        facts = json.loads((root / "results/atlas/plan.tsv").open().readline().removeprefix("# "))
        lines.append(f"{facts['members']:,} members in {facts['parts']:,} parts, {facts['cells']:,} cells")
        return "\n".join(lines)


def _release(store: Path, samples: int) -> None:
    """A catalogue and empty files in its folders: a plan reads nothing of them."""
    rng = np.random.default_rng(0)
    names = [f"SRX{i + 10**6}" for i in range(samples)]
    words = {"tissue": ["lung", "liver", "unsure"], "disease": ["none", "cancer"], "tech_10x": ["3_prime_gex"]}
    columns: dict[str, Any] = {name: rng.choice(values, samples) for name, values in words.items()}
    catalogue = pd.DataFrame(
        {"srx_accession": names, "obs_count": rng.poisson(CELLS_PER_SAMPLE, samples) + 1, **columns}
    )
    for what in ("metadata", "h5ad"):
        (store / "2026-01-12" / what / "GeneFull_Ex50pAS" / "Homo_sapiens").mkdir(parents=True)
    folder = store / "2026-01-12" / "metadata" / "GeneFull_Ex50pAS" / "Homo_sapiens"
    catalogue.to_parquet(folder / "sample_metadata.parquet")
    for name in names:
        (store / "2026-01-12" / "h5ad" / "GeneFull_Ex50pAS" / "Homo_sapiens" / f"{name}.h5ad").touch()


def _dataset(root: Path, *, everything: bool) -> None:
    dataset: dict[str, Any] = {
        "title": "Atlas",
        "source": {"kind": "scbasecount", "root": "store"},
        "columns": {"batch": "member"},
        "exports": ["hf/cells", "mds/tokens"] if everything else ["scdl/counts"],
    }
    if not everything:
        dataset |= {"tokenizers": [], "embedders": []}
    (root / "config" / "datasets" / "atlas.yaml").write_text(yaml.safe_dump(dataset))


def _counted(said: str) -> tuple[int, int]:
    """Jobs that a dry run names, without ``all``, and what of them is handed over at once: a group, or a job alone."""
    jobs = re.findall(r"^( *)(?:rule|checkpoint) (?!all:)\w+:$", said, re.MULTILINE)
    groups = re.findall(r"^\[.*\] Group job ", said, re.MULTILINE)
    return len(jobs), len(groups) + jobs.count("")


def _measured(root: Path, command: list[str]) -> tuple[float, float, float, float, str]:
    """Seconds until the DAG is built, all seconds, those of a CPU, the peak MB of the process itself, what it printed.

    The DAG is built when its jobs are counted; a dry run prints each of them after that.
    """
    before, used = time.perf_counter(), _cpu()
    process = subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    peak, done = [0.0], threading.Event()

    def watch() -> None:
        while not done.wait(0.2):
            try:
                status = Path(f"/proc/{process.pid}/status").read_text()
            except OSError:
                return
            peak[0] = max([peak[0], *(int(line.split()[1]) / 1e3 for line in status.splitlines() if "VmHWM" in line)])

    watcher = threading.Thread(target=watch)
    watcher.start()
    dag, said = 0.0, []
    for line in process.stdout or ():
        said.append(line)
        if line.startswith("Job stats:"):
            dag = dag or time.perf_counter() - before
    process.wait()
    done.set()
    watcher.join()
    if process.returncode:
        raise SystemExit("".join(said))
    return dag, time.perf_counter() - before, _cpu() - used, peak[0], "".join(said)


def _cpu() -> float:
    """Seconds of CPU of all processes that ended; on a busy machine they say more than the clock."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return ended.ru_utime + ended.ru_stime
