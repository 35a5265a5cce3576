"""Loading for training: ours and the peers, over one archive of the same cells, each in a process of its own."""

from __future__ import annotations

import json
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

BATCH = 64
SECONDS = 15.0
"""What a measurement takes, at most about."""
RANDOM, EPOCH, EPOCH_2 = "random batches", "shuffled epoch", "shuffled epoch, 2 workers"
OPEN, MEMORY = "time to open", "memory"
OURS, STREAM, SCDL, SCDATASET, ANNLOADER = "CellDataset", "CellStream", "bionemo-scdl", "scdataset", "AnnLoader"
MEASURED = {
    RANDOM: (OURS, SCDL),
    EPOCH: (STREAM, OURS, SCDL, SCDATASET, ANNLOADER),
    EPOCH_2: (STREAM, OURS, SCDL, SCDATASET),  # AnnLoader's batches of a file do not leave a worker
    OPEN: (OURS, SCDL),
}


def archive(paths: list[Path], folder: Path, *, cells: int) -> Path:
    """An ``scdl`` export of the first cells of an atlas, as our exporter writes it, kept for the next run."""
    import anndata
    import pandas as pd
    import pyarrow as pa

    from cellmill.exports import scdl
    from cellmill.exports.rows import Header
    from cellmill.matrix.reader import CountsFile

    if (folder / "train" / "header.sch").is_file():
        return folder / "train"
    first = anndata.read_h5ad(paths[0], backed="r")
    genes = pd.DataFrame({"gene_id": first.var_names, "gene_symbol": first.var["feature_name"].to_numpy()})
    obs = pa.schema([(name, pa.large_string()) for name in ("cell_type", "donor")])
    header = Header("atlas", {"train": cells}, genes, np.dtype(np.uint16), obs)

    def rows() -> Iterable[tuple[str, pa.RecordBatch]]:
        done = 0
        for path in paths:
            table = anndata.read_h5ad(path, backed="r").obs
            with CountsFile(path, "X", threads=2) as file:
                for block in file.blocks(4_096):
                    counts = block.counts[: cells - done]
                    n, offsets = counts.shape[0], pa.array(counts.indptr.astype(np.int64))
                    if n == 0:
                        return
                    mine = table.iloc[block.start : block.start + n]
                    columns = {
                        "cell_id": pa.array(mine.index.astype(str), pa.large_string()),
                        "genes": pa.LargeListArray.from_arrays(offsets, pa.array(counts.indices.astype(np.uint16))),
                        "counts": pa.LargeListArray.from_arrays(offsets, pa.array(counts.data.astype(np.uint16))),
                    }
                    for name in obs.names:
                        columns[name] = pa.array(mine[name].astype(str), pa.large_string())
                    yield "train", pa.RecordBatch.from_pydict(columns)
                    done += n

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    scdl.write(folder, header, rows(), scdl.ScdlCounts())
    return folder / "train"


def repeated(path: Path, folder: Path, *, times: int) -> Path:
    """An archive of the same cells several times over, kept for the next run: memory does not look at values."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from cellmill.exports import scdl
    from cellmill.torch.scdl_rows import FILES, _header

    archive = folder / "train"
    if (archive / "header.sch").is_file():
        return archive
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(path, archive, ignore=shutil.ignore_patterns("*_ptr.npy", "data.npy", "header.sch"))
    said = {name: (length, np.dtype(code)) for name, (length, code) in _header(path / "header.sch").items()}
    values, cells = said["DATA"][0], said["ROWPTR"][0] - 1
    for name in ("DATA", "COLPTR"):
        with (archive / FILES[name]).open("wb") as sink:
            for _ in range(times):
                with (path / FILES[name]).open("rb") as source:
                    shutil.copyfileobj(source, sink, 1 << 24)
    offsets = np.fromfile(path / FILES["ROWPTR"], said["ROWPTR"][1]).astype(np.uint64)
    row_dtype = np.min_scalar_type(values * times)
    with (archive / FILES["ROWPTR"]).open("wb") as sink:
        np.zeros(1, row_dtype).tofile(sink)
        for i in range(times):
            (offsets[1:] + np.uint64(i * values)).astype(row_dtype).tofile(sink)
    obs = pq.read_table(path / "obs_features" / "dataframe_0.parquet")
    pq.write_table(pa.concat_tables([obs] * times), archive / "obs_features" / "dataframe_0.parquet")
    arrays = {"DATA": (values * times, said["DATA"][1]), "ROWPTR": (cells * times + 1, row_dtype)}
    arrays["COLPTR"] = (values * times, said["COLPTR"][1])
    header = scdl._header_bytes({n: (k, np.dtype(t.name)) for n, (k, t) in arrays.items()}, cells=cells * times)
    (archive / "header.sch").write_bytes(header)
    return archive


def table(paths: list[Path], *, cells: int, runs: int, measure: Callable[[str, str, Path], dict[str, Any]]) -> str:
    """What each took, and how many times better the first of them is; the middle of several runs, in turn."""
    import statistics

    path = archive(paths, paths[0].parent.parent / f"scdl_{cells}", cells=cells)
    lines = []
    for what, who in MEASURED.items():
        found: dict[str, list[dict[str, Any]]] = {w: [] for w in who}
        for _ in range(runs):
            for w in who:
                # The peers that read h5ad get the file; all others the archive.
                found[w].append(measure(what, w, paths[0] if w in (SCDATASET, ANNLOADER) else path))
        unit = "ms" if what == OPEN else "cells/s"
        lines.append(f"\n{what:<28}{unit:>12}{'own MB':>10}{'files MB':>10}{f'{who[0]} is better':>24}")
        middle = {w: {k: statistics.median(f[k] for f in r) for k in r[0]} for w, r in found.items()}
        ours = middle[who[0]]["value"]
        for w in who:
            value = middle[w]["value"]
            ratio = "" if w == who[0] else f"{(value / ours if what == OPEN else ours / value):.1f} x"
            lines.append(f"{w:<28}{value:>12,.1f}{middle[w]['own']:>10,.0f}{middle[w]['files']:>10,.0f}{ratio:>24}")
    lines.append(f"\n{'memory of CellDataset':<28}{'cells/s':>12}{'own MB':>10}{'files MB':>10}")
    ten = repeated(path, path.parent.parent / f"scdl_{cells}_x10", times=10)
    for there, n in ((path, cells), (ten, 10 * cells)):
        one = measure(MEMORY, OURS, there)
        lines.append(f"{f'{n:,} cells':<28}{one['value']:>12,.1f}{one['own']:>10,.0f}{one['files']:>10,.0f}")
    return "\n".join(lines)


def main() -> int:
    what, who, path = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    warnings.simplefilter("ignore")
    value = opened(who, path) if what == OPEN else rate(what, who, path)
    print(json.dumps({"value": value} | memory()))
    return 0


def opened(who: str, path: Path) -> float:
    """Milliseconds to open, modules loaded; the first of this process."""
    if who == SCDL:
        from bionemo.scdl.io.single_cell_memmap_dataset import SingleCellMemMapDataset

        before = time.perf_counter()
        SingleCellMemMapDataset(str(path))
    else:
        import pyarrow.parquet  # noqa: F401

        import cellmill.torch.scdl_rows  # noqa: F401
        from cellmill.torch import CellDataset

        before = time.perf_counter()
        CellDataset(path)
    return (time.perf_counter() - before) * 1e3


def rate(what: str, who: str, path: Path) -> float:
    """Cells per second, after the first batches; files are in the page cache where they fit."""
    batches = iter(_loader(what, who, path))
    for _ in range(4):
        _size(next(batches))
    before, cells = time.perf_counter(), 0
    for batch in batches:
        cells += _size(batch)
        if time.perf_counter() - before > SECONDS:
            break
    return cells / (time.perf_counter() - before)


def _size(batch: Any) -> int:
    """The cells of a batch."""
    return int((batch["counts"] if isinstance(batch, dict) else batch).shape[0])


def _loader(what: str, who: str, path: Path) -> Iterable[Any]:
    """Batches of 64 random cells as CSR: one by one at random, or an epoch as the library shuffles it."""
    from torch.utils.data import DataLoader

    workers = 2 if what == EPOCH_2 else 0
    if who == STREAM:
        from cellmill.torch import CellStream

        return CellStream(path, batch_size=BATCH).loader(num_workers=workers)
    if who == OURS:
        from cellmill.torch import CellDataset

        obs = ["cell_type", "donor"] if what == MEMORY else []
        return DataLoader(CellDataset(path, obs=obs), batch_size=BATCH, shuffle=True, num_workers=workers)
    if who == SCDL:
        from bionemo.scdl.io.single_cell_memmap_dataset import SingleCellMemMapDataset
        from bionemo.scdl.util.torch_dataloader_utils import collate_sparse_matrix_batch

        data = SingleCellMemMapDataset(str(path))
        return DataLoader(
            data, batch_size=BATCH, shuffle=True, num_workers=workers, collate_fn=collate_sparse_matrix_batch
        )
    import anndata

    cells = anndata.read_h5ad(path, backed="r")
    if who == ANNLOADER:
        from anndata.experimental import AnnLoader

        return (batch.X for batch in AnnLoader(cells, batch_size=BATCH, shuffle=True, num_workers=workers))
    from scdataset import BlockShuffling, scDataset

    # 16 cells in a row and 256 batches at once: the figures that its authors publish for h5ad.
    stream = scDataset(
        cells,
        BlockShuffling(block_size=16),
        batch_size=BATCH,
        fetch_factor=256,
        fetch_callback=lambda data, rows: data.X[rows],
    )
    return DataLoader(stream, batch_size=None, num_workers=workers)


def memory() -> dict[str, float]:
    """MB of this process, without its workers: its own, and pages of mapped files, which the system may take back."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    kb = {name: int(status[name].split()[0]) for name in ("RssAnon", "RssShmem", "RssFile")}
    return {"own": (kb["RssAnon"] + kb["RssShmem"]) / 1e3, "files": kb["RssFile"] / 1e3}


if __name__ == "__main__":
    sys.exit(main())
