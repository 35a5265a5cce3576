"""Memory that does not grow with the cells: measured in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa

from cellmill.contracts.quality import LABELS_SCHEMA, QUALITY_SCHEMA, read_thresholds, write_labels, write_quality
from cellmill.quality.names import METRICS

CELLS, PARTS, BATCHES = 2_000_000, 20, 40
CODE = """
import json, resource, sys
from pathlib import Path
import cellmill.quality.thresholds as t
from cellmill.quality.spec import Quality
folder = Path(sys.argv[1])
def run(parts):
    spec = Quality(mads={"log1p_total_counts": 5, "pct_counts_mt": 3})
    quality, labels = ([folder / f"{p}.{s}" for p in range(parts)] for s in ("parquet", "labels.parquet"))
    t.set_thresholds(quality, labels=labels, spec=spec, out=folder / f"{parts}.json")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps([run(2), run(int(sys.argv[2]))]))
"""


def write_part(folder: Path, part: int, cells: int) -> np.ndarray:
    """A quality file of made-up metrics; log1p_total_counts."""
    rng = np.random.default_rng(part)
    values = rng.normal(8, 1, cells)
    columns = {m: pa.array(values if m.startswith("log1p") else rng.random(cells) * 10) for m in METRICS}
    columns["total_counts"] = columns["n_genes_by_counts"] = pa.array(np.full(cells, 500))
    columns["cell_id"] = pa.array([f"part{part}-cell{i}-AAACCTGAGAAACCAT-1" for i in range(cells)], pa.large_string())
    columns["batch"] = pa.array([f"batch{i}" for i in range(BATCHES)]).take(pa.array(rng.integers(0, BATCHES, cells)))
    columns["content_1"] = columns["content_2"] = pa.array(np.zeros(cells, np.uint64))
    batch = pa.RecordBatch.from_arrays([columns[f.name] for f in QUALITY_SCHEMA], schema=QUALITY_SCHEMA)
    write_quality(folder / f"{part}.parquet", [batch], {"max_count": 9, "part": str(part)})
    labels = [pa.nulls(cells).cast(f.type) for f in LABELS_SCHEMA]
    write_labels(folder / f"{part}.labels.parquet", pa.table(labels, schema=LABELS_SCHEMA), {"filters": []})
    return values


def test_thresholds_of_two_million_cells_take_little_more_memory_than_of_two_parts(tmp_path: Path) -> None:
    """Exact medians; the ids and metrics at once, with their sort, took some 600 MB more."""
    values = np.concatenate([write_part(tmp_path, p, CELLS // PARTS) for p in range(PARTS)])
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(tmp_path), str(PARTS)], capture_output=True, text=True, check=True
    )
    few, all_ = json.loads(done.stdout)
    bound = read_thresholds(tmp_path / f"{PARTS}.json")["dataset"]["log1p_total_counts"]
    assert bound["median"] == np.median(values)
    assert bound["mad"] == np.median(np.abs(values - np.median(values)))
    assert all_ - few < 150e6, (few, all_)
