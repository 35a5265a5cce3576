"""Where the time goes, and that memory does not grow: the workflow on an atlas of several files."""

from __future__ import annotations

import time
from collections import defaultdict
from pathlib import Path

from quality import workflow

GENES = ["results/atlas/genes/genes.parquet"]
EXPORTS = ["hf/cells", "mds/tokens", "hdf5/counts", "scdl/counts", "zarr/counts", "packed/counts"]
EVERYTHING = [*GENES, "results/atlas/report/index.html", *(f"results/atlas/{e}/manifest.json" for e in EXPORTS)]


def table(paths: list[Path], *, cells: int, everything: bool) -> str:
    """Seconds, cells per second and the largest job's peak memory, of each rule."""
    before = time.perf_counter()
    jobs = workflow(
        paths, targets=EVERYTHING if everything else GENES, exports=EXPORTS if everything else ["scdl/counts"]
    )
    elapsed = time.perf_counter() - before
    rules: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for job in jobs:
        rules[job["rule"]].append((job["s"], job["mb"]))
    lines = [f"{'rule':<24}{'jobs':>6}{'seconds in all':>16}{'cells/s':>12}{'peak MB':>10}"]
    for rule, found in sorted(rules.items(), key=lambda item: -sum(s for s, _ in item[1])):
        seconds = sum(s for s, _ in found)
        lines.append(
            f"{rule:<24}{len(found):>6}{seconds:>16.1f}{cells / seconds:>12,.0f}{max(m for _, m in found):>10,.0f}"
        )
    peak = max(job["mb"] for job in jobs)
    lines.append(f"{'from start to end':<24}{len(jobs):>6}{elapsed:>16.1f}{cells / elapsed:>12,.0f}{peak:>10,.0f}")
    return "\n".join(lines)
