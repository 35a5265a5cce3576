"""Loading for training: ours and the peers, over one archive of the same cells, each in a process of its own."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

BATCH = 64
SECONDS, LIMIT = 10.0, 240.0
"""What a measurement takes, about; and when a contender is ended that has not come to it."""
ROUND = 256
"""Batches between two looks at the clock: as many as scdataset makes of what it reads at once."""
RANDOM, EPOCH, EPOCH_2 = "random batches", "shuffled epoch", "shuffled epoch, 2 workers"
COLD, OPEN, MEMORY = "shuffled epoch, cold", "time to open", "memory"
OURS, STREAM, SCDL, SCDATASET, ANNLOADER = "CellDataset", "CellStream", "bionemo-scdl", "scdataset", "AnnLoader"
MEASURED = {
    RANDOM: (OURS, SCDL),
    EPOCH: (STREAM, OURS, SCDL, SCDATASET, ANNLOADER),
    EPOCH_2: (STREAM, OURS, SCDL, SCDATASET),  # AnnLoader's batches of a file do not leave a worker
    COLD: (STREAM, OURS, SCDL, SCDATASET, ANNLOADER),
    OPEN: (OURS, SCDL),
}
TABLES = (*MEASURED, MEMORY)


def archive(paths: list[Path], folder: Path, *, cells: int) -> Path:
    """An ``scdl`` export of the first cells of an atlas, as our exporter writes it, kept for the next run."""
    import anndata
    import pandas as pd
    import pyarrow as pa

    from cellmill.exports import scdl
    from cellmill.exports.given import Given
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
    scdl.write(Given(folder, header, rows()), scdl.ScdlCounts())
    return folder / "train"


def repeated(path: Path, folder: Path, *, times: int) -> Path:
    """An archive of the same cells several times over, kept for the next run: memory does not look at values."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from cellmill.scdl.archive import ARRAYS, Header

    archive = folder / "train"
    if (archive / "header.sch").is_file():
        return archive
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(path, archive, ignore=shutil.ignore_patterns("*_ptr.npy", "data.npy", "header.sch"))
    before = Header.read(path / "header.sch")
    values, cells = before.arrays["DATA"][0], before.arrays["ROWPTR"][0] - 1
    for name in ("DATA", "COLPTR"):
        with (archive / ARRAYS[name]).open("wb") as sink:
            for _ in range(times):
                with (path / ARRAYS[name]).open("rb") as source:
                    shutil.copyfileobj(source, sink, 1 << 24)
    offsets = np.fromfile(path / ARRAYS["ROWPTR"], before.arrays["ROWPTR"][1]).astype(np.uint64)
    row_dtype = np.min_scalar_type(values * times)
    with (archive / ARRAYS["ROWPTR"]).open("wb") as sink:
        np.zeros(1, row_dtype).tofile(sink)
        for i in range(times):
            (offsets[1:] + np.uint64(i * values)).astype(row_dtype).tofile(sink)
    obs = pq.read_table(path / "obs_features" / "dataframe_0.parquet")
    pq.write_table(pa.concat_tables([obs] * times), archive / "obs_features" / "dataframe_0.parquet")
    arrays = {name: (values * times, before.arrays[name][1]) for name in ("DATA", "COLPTR")}
    arrays["ROWPTR"] = (cells * times + 1, row_dtype)
    rows, files = before.features["obs_features"]
    features = before.features | {"obs_features": (rows * times, files)}
    (archive / "header.sch").write_bytes(Header(arrays, features).to_bytes())
    return archive


Said = dict[str, float] | None
"""What a contender says of itself; ``None``: it came to no end in ``LIMIT`` seconds."""


def table(
    paths: list[Path], *, cells: int, runs: int, tables: Sequence[str], measure: Callable[..., Said]
) -> Iterable[str]:
    """What each took, and how many times better the first of them is; the middle of several runs, in turn."""
    path = archive(paths, paths[0].parent.parent / f"scdl_{cells}", cells=cells)
    seconds = SECONDS * min(1.0, cells / 100_000)
    for what, who in MEASURED.items():
        if what not in tables:
            continue
        found: dict[str, list[Said]] = {w: [] for w in who}
        for w in who * runs:
            # The peers that read h5ad get the file; all others the archive.
            there = paths[0] if w in (SCDATASET, ANNLOADER) else path
            if what != COLD:
                _warm(there)
            found[w].append(measure(what, w, there, 2 if what == EPOCH_2 else 0, seconds))
        unit = "ms" if what == OPEN else "cells/s"
        yield f"\n{what:<28}{unit:>12}{'own MB':>10}{'files MB':>10}{f'{who[0]} is better':>24}"
        ours = _middle(found[who[0]])
        for w in who:
            one = _middle(found[w])
            if one is None or ours is None:
                yield f"{w:<28}{f'nothing in {LIMIT:.0f} s':>24}"
                continue
            ratio = one["value"] / ours["value"] if what == OPEN else ours["value"] / one["value"]
            yield _line(w, one, "" if w == who[0] else f"{ratio:.1f} x")
    if MEMORY not in tables:
        return
    ten = repeated(path, path.parent.parent / f"scdl_{cells}_x10", times=10)
    for who_ in (OURS, STREAM):
        yield f"\n{f'memory of {who_}':<28}{'cells/s':>12}{'own MB':>10}{'files MB':>10}{'own, beside a tenth':>24}"
        of_tenth: dict[int, float] = {}
        for there, n in ((path, cells), (ten, 10 * cells)):
            for workers in (0, 2):
                _warm(there)
                one = _middle([measure(MEMORY, who_, there, workers, seconds) for _ in range(runs)])
                if one is None:
                    yield f"{n:,} cells, {workers or 'no'} workers: nothing in {LIMIT:.0f} s"
                    continue
                more = f"{one['own'] / of_tenth[workers] - 1:+.1%}" if workers in of_tenth else ""
                of_tenth[workers] = one["own"]
                yield _line(f"{n:,} cells, {workers or 'no'} workers", one, more)


def _warm(path: Path) -> None:
    """Read a file, or those of a folder, so that they stand in the page cache where they fit."""
    for file in _files(path):
        with file.open("rb") as source:
            shutil.copyfileobj(source, Nowhere(), 1 << 24)


def _middle(said: list[Said]) -> Said:
    known = [one for one in said if one is not None]
    return {k: statistics.median(one[k] for one in known) for k in known[0]} if len(known) == len(said) else None


def _line(name: str, said: dict[str, float], ratio: str = "") -> str:
    return f"{name:<28}{said['value']:>12,.1f}{said['own']:>10,.0f}{said['files']:>10,.0f}{ratio:>24}"


def main() -> int:
    what, who, path = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    warnings.simplefilter("ignore")
    if what == OPEN:
        said = {"value": opened(who, path)} | memory()
    else:
        said = rate(what, who, path, workers=int(sys.argv[4]), seconds=float(sys.argv[5]))
    print(json.dumps(said))
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


def rate(what: str, who: str, path: Path, *, workers: int, seconds: float) -> dict[str, float]:
    """Cells per second over epoch after epoch, and the most memory that a process was seen to have.

    Warm, the first ``ROUND`` batches do not count, and files are in the page cache where they fit; cold, all batches
    count, of one epoch at most.
    """
    if what == COLD:
        drop(path)
    loader = _loader(what, who, path, workers)
    before, cells, peak = time.perf_counter(), 0, memory()
    for number, batch in enumerate(loader if what == COLD else itertools.chain.from_iterable(itertools.repeat(loader))):
        if number == ROUND and what != COLD:
            before, cells = time.perf_counter(), 0
        cells += _size(batch)
        if number % ROUND == ROUND - 1:
            peak = {name: max(peak[name], now) for name, now in memory().items()}
            if number >= ROUND and time.perf_counter() - before > seconds:
                break
    return {"value": cells / (time.perf_counter() - before)} | peak


def drop(path: Path) -> None:
    """Drop a file, or those of a folder, from the page cache; refuses where they stay.

    Pages that another process maps stay, and those that are not on the disk yet.
    """
    page, cached, size = bytearray(4096), 0.0, 0
    for file in _files(path):
        handle = os.open(file, os.O_RDONLY)
        os.fsync(handle)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_RANDOM)  # what is asked for is read, and nothing around it
        pages = file.stat().st_size // len(page)
        asked = np.random.default_rng(0).choice(pages, min(pages, 256), replace=False)
        for number in asked:
            with contextlib.suppress(BlockingIOError):  # it has to be read
                there = bool(os.preadv(handle, [page], int(number) * len(page), os.RWF_NOWAIT))
                cached += there * file.stat().st_size / len(asked)
        size += file.stat().st_size
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)
    if cached > size / 20:
        found = f"some {cached / 1e6:,.0f} of {size / 1e6:,.0f} MB stay in the page cache"
        raise SystemExit(f"{path}: {found}. Does another process map them?")


def _size(batch: Any) -> int:
    """The cells of a batch."""
    return int((batch["counts"] if isinstance(batch, dict) else batch).shape[0])


def _loader(what: str, who: str, path: Path, workers: int) -> Iterable[Any]:
    """Batches of 64 random cells as CSR: one by one at random, or an epoch as the library shuffles it."""
    from torch.utils.data import DataLoader

    options: dict[str, Any] = {"num_workers": workers, "persistent_workers": workers > 0}
    obs = ["cell_type", "donor"] if what == MEMORY else []
    if who == STREAM:
        from cellmill.torch import CellStream

        return CellStream(path, batch_size=BATCH, obs=obs).loader(**options)
    if who == OURS:
        from cellmill.torch import Batches, CellDataset

        cells = CellDataset(path, obs=obs)
        return DataLoader(cells, batch_sampler=Batches(cells, batch_size=BATCH), **options)
    if who == SCDL:
        from bionemo.scdl.io.single_cell_memmap_dataset import SingleCellMemMapDataset
        from bionemo.scdl.util.torch_dataloader_utils import collate_sparse_matrix_batch

        data = SingleCellMemMapDataset(str(path))
        return DataLoader(data, batch_size=BATCH, shuffle=True, collate_fn=collate_sparse_matrix_batch, **options)
    import anndata

    file = anndata.read_h5ad(path, backed="r")
    if who == ANNLOADER:
        from anndata.experimental import AnnLoader

        return _Counts(AnnLoader(file, batch_size=BATCH, shuffle=True, num_workers=workers))
    from scdataset import BlockShuffling, scDataset

    # 16 cells in a row and 256 batches at once: the figures that its authors publish for h5ad.
    stream = scDataset(
        file,
        BlockShuffling(block_size=16),
        batch_size=BATCH,
        fetch_factor=256,
        fetch_callback=lambda data, rows: data.X[rows],
    )
    return DataLoader(stream, batch_size=None, **options)


class _Counts:
    """The counts of AnnLoader's batches, which are made when they are asked for."""

    def __init__(self, loader: Iterable[Any]) -> None:
        self.loader = loader

    def __iter__(self) -> Iterator[Any]:
        return (batch.X for batch in self.loader)


class Nowhere:
    """Takes what is written, and forgets it."""

    def write(self, data: bytes) -> int:
        return len(data)


def _files(path: Path) -> list[Path]:
    return [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]


def memory() -> dict[str, float]:
    """MB of this process or the largest of its workers: its own, and pages of files, which the system may take back.

    Its own are those that no file holds, shared memory among them.
    """
    workers = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    largest = {"own": 0.0, "files": 0.0}
    for process in ("self", *workers):
        status = dict(line.split(":", 1) for line in Path(f"/proc/{process}/status").read_text().splitlines())
        kb = {name: int(status[name].split()[0]) for name in ("RssAnon", "RssShmem", "RssFile")}
        own, files = (kb["RssAnon"] + kb["RssShmem"]) / 1e3, kb["RssFile"] / 1e3
        largest = {"own": max(largest["own"], own), "files": max(largest["files"], files)}
    return largest


if __name__ == "__main__":
    sys.exit(main())
