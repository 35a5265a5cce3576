"""One measurement in one process; its last line is JSON: seconds and peak memory in MB."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

BLOCK_ROWS = 1_024


def read(who: str, path: Path) -> Callable[[], object]:
    if who.startswith("anndata"):
        import anndata

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
    import anndata

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


def tokenize(who: str, path: Path) -> Callable[[], object]:
    import tokens

    return tokens.contender(who, path)


def embed(who: str, path: Path) -> Callable[[], object]:
    import embeddings

    return embeddings.contender(who, path)


def convert(who: str, path: Path) -> Callable[[], object]:
    folder = Path(tempfile.mkdtemp(dir=path.parent))
    tempfile.tempdir = str(folder)  # theirs works there, on the same disk
    (folder / "in").mkdir()
    (folder / "in/atlas.h5ad").symlink_to(path.resolve())

    def peer(main: Callable[[], None]) -> None:
        sys.argv[1:] = ["--data-path", f"{folder}/in", "--save-path", f"{folder}/out", "--use-X-not-raw"]
        main()

    def ours(threads: int) -> None:
        options = Options(threads=threads)
        make(look([path], options), folder / "out", options)

    def run() -> None:
        try:
            peer(script.main) if who.startswith("convert_") else ours(int(who.split()[1]))
        finally:
            shutil.rmtree(folder)

    if who.startswith("convert_"):
        from bionemo.scdl.scripts import convert_h5ad_to_scdl as script
    else:
        from cellmill.scdl.convert import Options, look
        from cellmill.scdl.convert import convert as make

        _compile()
    return run


def open_archive(who: str, path: Path) -> Callable[[], object]:
    archive = path.with_suffix(".scdl")
    if not archive.exists():
        from cellmill.scdl.convert import Options, look
        from cellmill.scdl.convert import convert as make

        make(look([path], Options(threads=2)), archive, Options(threads=2))
    if who == "ours":
        from cellmill.scdl import SingleCellMemMapDataset as Ours

        return lambda: Ours(archive)
    from bionemo.scdl.io.single_cell_memmap_dataset import SingleCellMemMapDataset as Theirs

    return lambda: Theirs(str(archive))


def mds(who: str, path: Path) -> Callable[[], object]:
    import mds as exports

    return exports.mds(who, path)


def hf(who: str, path: Path) -> Callable[[], object]:
    import hf as exports

    return lambda: (exports.peer if who == "datasets" else exports.ours)(path)


MEASUREMENTS = {
    "hf": hf,
    "mds": mds,
    "read": read,
    "write": write,
    "quality": quality,
    "tokenize": tokenize,
    "embed": embed,
    "convert": convert,
    "open": open_archive,
}


def main() -> int:
    name, who, path = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    run = MEASUREMENTS[name](who, path)
    if (name in ("read", "hf") and who.startswith("ours")) or who.startswith("reading alone"):
        _compile()
    before = time.perf_counter()
    said = run()
    seconds = time.perf_counter() - before
    peak = said if isinstance(said, float) else _peak_mb()  # a float is that of the largest job
    print(json.dumps({"seconds": seconds, "mb": peak, **(said if isinstance(said, dict) else {})}))
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
