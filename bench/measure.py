"""One measurement in one process; its last line is JSON: seconds and peak memory in MB."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import anndata
import numpy as np

BLOCK_ROWS = 1_024


def read(who: str, path: Path) -> Callable[[], object]:
    if who.startswith("anndata"):

        def peer() -> int:
            backed = anndata.read_h5ad(path, backed="r")
            return sum(backed.X[i : i + BLOCK_ROWS].nnz for i in range(0, backed.n_obs, BLOCK_ROWS))

        return peer
    from cellmill.matrix.reader import CountsFile

    def ours(threads: int = int(who.split(", ")[1].split()[0])) -> int:
        with CountsFile(path, "X", threads=threads) as file:
            return sum(block.counts.nnz for block in file.blocks(BLOCK_ROWS))

    return ours


def write(who: str, path: Path) -> Callable[[], object]:
    loaded = anndata.read_h5ad(path)
    out = Path(tempfile.mkdtemp(dir=path.parent)) / "out.h5ad"

    def peer() -> None:
        loaded.write_h5ad(out, compression="gzip")

    def ours() -> None:
        from cellmill.matrix.writer import H5adWriter

        writer = H5adWriter(out, n_genes=loaded.n_vars, dtype=np.dtype(np.uint16), threads=int(who.split()[1]))
        for i in range(0, loaded.n_obs, BLOCK_ROWS):
            writer.append(loaded.X[i : i + BLOCK_ROWS])
        writer.close(obs=loaded.obs, var=loaded.var, uns={})

    def run() -> None:
        try:
            peer() if who.startswith("anndata") else ours()
        finally:
            out.unlink(missing_ok=True)
            out.parent.rmdir()

    return run


def quality(who: str, path: Path) -> Callable[[], object]:
    import quality as stages

    if who.startswith("reading alone"):
        return read("ours, 2 threads", path)
    if who == "ours, workflow":
        genes = ["results/atlas/genes/genes.parquet"]
        return lambda: max(job["mb"] for job in stages.workflow([path], targets=genes, exports=["scdl/counts"]))
    return lambda: (stages.peer if who == "scanpy" else stages.ours)(path)


def hf(who: str, path: Path) -> Callable[[], object]:
    import hf as exports

    return lambda: (exports.peer if who == "datasets" else exports.ours)(path)


def main() -> int:
    name, who, path = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    run = {"read": read, "write": write, "quality": quality, "hf": hf}[name](who, path)
    if (name in ("read", "hf") and who.startswith("ours")) or who.startswith("reading alone"):
        _compile()
    before = time.perf_counter()
    largest_job = run()
    seconds = time.perf_counter() - before
    peak = largest_job if isinstance(largest_job, float) else _peak_mb()
    print(json.dumps({"seconds": seconds, "mb": peak}))
    return 0


def _peak_mb() -> float:
    """Of this program alone: ``getrusage`` would begin with what the parent had."""
    status = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) / 1e3


def _compile() -> None:
    """Load what is compiled once and kept, as a second run of anything finds it."""
    import scipy.sparse as sp

    from cellmill.matrix.reader import as_counts

    block = sp.random(4, 4, 0.5, "csr", np.float32, random_state=0)
    as_counts(block.data, block.indices, block.indptr, 4)


if __name__ == "__main__":
    sys.exit(main())
