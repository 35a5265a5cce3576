"""Where the time goes, and that memory does not grow: the workflow on an atlas of several files."""

from __future__ import annotations

import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from quality import workflow

GENES = ["results/atlas/genes/genes.parquet"]
EXPORTS = ["hf/cells", "mds/tokens", "geneformer/tokens", "h5ad/cells"]
EXPORTS += [f"{format_}/counts" for format_ in ("hdf5", "scdl", "zarr", "packed")]
EPOCHS = 2
"""Of ``scvi``; ``src/cellmill/costs.py`` knows of it."""
CONFIG = {"embedders": {"scvi": {"kind": "scvi", "train": {"max_epochs": EPOCHS}}}}
COLUMNS = {"label": "cell_type", "batch": "donor"}


def everything(folder: Path, cells: int) -> dict[str, Any]:
    """Keys of a dataset that runs every rule that neither a network nor a GPU is needed for."""
    table = folder / "donors.csv"
    table.write_text("donor,sex\n" + "".join(f"{i},{'fm'[i % 2]}\n" for i in range(30)))
    return {
        "join": [{"table": str(table), "by": "donor"}],
        "subset": {"cells": cells},
        "genes": {"min_cells": 3},
        "quality": {"doublets": {}},
        "variable_genes": {"flavor": "seurat_v3"},
        "pseudobulk": {"types": {"by": ["donor", "cell_type"]}},
        "embedders": ["hvg", "pca", "scvi"],
    }


def table(paths: list[Path], *, cells: int, all_rules: bool) -> str:
    """Seconds of CPU, cells for each and the largest job's peak memory, of each rule; the last line by the clock."""
    before = time.perf_counter()
    if all_rules:
        more = everything(paths[0].parent, cells)
        jobs = workflow(paths, targets=["all"], exports=EXPORTS, columns=COLUMNS, more=more, config=CONFIG)
    else:
        jobs = workflow(paths, targets=GENES, exports=["scdl/counts"])
    elapsed = time.perf_counter() - before
    rules: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for job in jobs:
        rules[job["rule"]].append((job["s"], job["mb"]))
    lines = [f"{'rule':<24}{'jobs':>6}{'CPU s in all':>16}{'cells/CPU s':>12}{'peak MB':>10}"]
    for rule, found in sorted(rules.items(), key=lambda item: -sum(s for s, _ in item[1])):
        seconds = sum(s for s, _ in found)
        lines.append(
            f"{rule:<24}{len(found):>6}{seconds:>16.1f}{cells / seconds:>12,.0f}{max(m for _, m in found):>10,.0f}"
        )
    peak = max(job["mb"] for job in jobs)
    lines.append(f"{'from start to end':<24}{len(jobs):>6}{elapsed:>16.1f}{cells / elapsed:>12,.0f}{peak:>10,.0f}")
    return "\n".join(lines)
