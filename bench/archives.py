"""Counts in several containers: bytes per stored value, and cells per second that one thread decodes.

``python bench/archives.py KIND ATLAS`` writes the counts of an atlas in one container, reads them, and prints JSON.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import zarr
from scipy.sparse import csr_matrix

BLOCK_ROWS, BATCH_ROWS, BATCHES = 1_024, 64, 20
Take = Callable[[np.ndarray], Any]


def blocks(path: Path) -> Iterator[csr_matrix]:
    """The counts of the atlas, as whole numbers."""
    from cellmill.matrix.reader import CountsFile

    with CountsFile(path, "X", threads=2) as file:
        for block in file.blocks(BLOCK_ROWS):
            yield block.counts


def export(kind: str, path: Path, out: Path) -> Path:
    """An export of cellmill's without obs columns, written from the atlas as it lies; the folder of its one split."""
    from importlib import import_module

    from cellmill.exports import parse_export
    from cellmill.exports.given import Given
    from cellmill.exports.rows import Header

    with h5py.File(path) as file:
        cells, genes = (int(n) for n in file["X"].attrs["shape"])
    table = pd.DataFrame({"gene_id": [f"g{i}" for i in range(genes)], "gene_symbol": None})
    header = Header("atlas", {"train": cells}, table, np.dtype(np.uint16), pa.schema([]))

    def rows() -> Iterator[tuple[str, pa.RecordBatch]]:
        done = 0
        for counts in blocks(path):
            n = counts.shape[0]
            offsets = pa.array(counts.indptr.astype(np.int64))
            columns = {
                "cell_id": pa.array([f"cell{i}" for i in range(done, done + n)], pa.large_string()),
                "genes": pa.LargeListArray.from_arrays(offsets, pa.array(counts.indices.astype(np.uint16))),
                "counts": pa.LargeListArray.from_arrays(offsets, pa.array(counts.data.astype(np.uint16))),
            }
            yield "train", pa.RecordBatch.from_pydict(columns)
            done += n

    spec = parse_export(f"{kind}/counts", {})
    import_module(f"cellmill.exports.{kind}").write(Given(out, header, rows()), spec)
    return out / "train"


def bytes_below(folder: Path, pattern: str) -> int:
    return sum(p.stat().st_size for p in folder.glob(pattern) if p.is_file())


def packed(path: Path, out: Path) -> tuple[int, Take, Take]:
    from cellmill.packed.reader import PackedRows

    folder = export("packed", path, out)
    archive = PackedRows(folder)
    return bytes_below(folder, "*.cells"), archive.take, archive.take


def zarr_export(path: Path, out: Path) -> tuple[int, Take, Take]:
    folder = export("zarr", path, out)
    return bytes_below(folder, "dataset_*/X/*/c/*"), *_zarr(folder / "dataset_0" / "X")


def zarr_lz4(path: Path, out: Path) -> tuple[int, Take, Take]:
    """With the codec, chunks and shards that annbatch 0.1 writes by default."""
    from zarr.codecs import BloscCodec

    whole = anndata.read_h5ad(path).X
    group = zarr.create_group(out / "X", attributes={"encoding-type": "csr_matrix", "encoding-version": "0.1.0"})
    group.attrs["shape"] = list(whole.shape)
    n = -(-whole.nnz // 32_768) * 32_768
    codec = BloscCodec(cname="lz4", clevel=3, shuffle="shuffle")
    for name, values in (("data", whole.data.astype(np.uint16)), ("indices", whole.indices.astype(np.int32))):
        group.create_array(name, data=values, chunks=(32_768,), shards=(min(n, 1 << 27),), compressors=codec)
    group.create_array("indptr", data=whole.indptr.astype(np.int64))
    return bytes_below(out, "X/*/c/*"), *_zarr(out / "X")


def _zarr(folder: Path) -> tuple[Take, Take]:
    rows = anndata.io.sparse_dataset(zarr.open_group(folder, mode="r"))
    return (lambda r: rows[int(r[0]) : int(r[-1]) + 1]), (lambda r: rows[np.sort(r)])


def h5ad(path: Path, out: Path) -> tuple[int, Take, Take]:
    x = h5py.File(path)["X"]
    rows = anndata.io.sparse_dataset(x)
    size = sum(x[name].id.get_storage_size() for name in ("data", "indices", "indptr"))
    return size, (lambda r: rows[int(r[0]) : int(r[-1]) + 1]), (lambda r: rows[np.sort(r)])


def scdl(path: Path, out: Path) -> tuple[int, Take, Take]:
    """Its three files, gathered as fast as numpy can, which BioNeMo-SCDL itself does not."""
    folder = export("scdl", path, out)
    offsets = np.fromfile(folder / "row_ptr.npy", np.min_scalar_type((folder / "data.npy").stat().st_size // 2))
    data = np.memmap(folder / "data.npy", np.uint16, "r")
    columns = np.memmap(folder / "col_ptr.npy", np.uint16, "r")

    def in_order(rows: np.ndarray) -> Any:
        lo, hi = int(offsets[rows[0]]), int(offsets[rows[-1] + 1])
        return np.array(columns[lo:hi]), np.array(data[lo:hi])

    def at_random(rows: np.ndarray) -> Any:
        spans = [slice(int(offsets[r]), int(offsets[r + 1])) for r in rows]
        return np.concatenate([columns[s] for s in spans]), np.concatenate([data[s] for s in spans])

    return bytes_below(folder, "*_ptr.npy") + bytes_below(folder, "data.npy"), in_order, at_random


def parquet(path: Path, out: Path) -> tuple[int, Take, Take]:
    """Lists of differences and counts in 32 bits, DELTA_BINARY_PACKED, then zstd; a row group per 1,024 cells."""
    lists = pa.list_(pa.int32())
    schema = pa.schema([("genes", lists), ("counts", lists)])
    names = [f"{name}.list.element" for name in schema.names]
    encodings = dict.fromkeys(names, "DELTA_BINARY_PACKED")
    file = out / "cells.parquet"
    with pq.ParquetWriter(file, schema, compression="zstd", use_dictionary=False, column_encoding=encodings) as writer:
        for counts in blocks(path):
            offsets = pa.array(counts.indptr.astype(np.int32))
            columns = [
                pa.ListArray.from_arrays(offsets, pa.array(v.astype(np.int32))) for v in (counts.indices, counts.data)
            ]
            writer.write_table(pa.table(columns, schema=schema), BLOCK_ROWS)
    reader = pq.ParquetFile(file)

    def in_order(rows: np.ndarray) -> Any:
        return reader.read_row_group(int(rows[0]) // BLOCK_ROWS, use_threads=False)

    def at_random(rows: np.ndarray) -> Any:
        groups, within = rows // BLOCK_ROWS, rows % BLOCK_ROWS
        return [in_order(rows[groups == g]).take(within[groups == g]) for g in np.unique(groups)]

    return file.stat().st_size, in_order, at_random


KINDS = {
    "packed": packed,
    "zarr export (zstd)": zarr_export,
    "zarr as annbatch (LZ4)": zarr_lz4,
    "h5ad (gzip)": h5ad,
    "scdl export": scdl,
    "parquet (delta, zstd)": parquet,
}
"""Name of a container, and what writes it: its bytes without obs, and what takes rows in order and at random."""


def main() -> int:
    kind, path = sys.argv[1], Path(sys.argv[2])
    zarr.config.set({"threading.max_workers": 1})
    with h5py.File(path) as file:
        cells, values = int(file["X"].attrs["shape"][0]), int(file["X/data"].shape[0])
    out = Path(tempfile.mkdtemp(dir=path.parent))
    try:
        size, in_order, at_random = KINDS[kind](path, out)
        starts = [np.arange(s, min(s + BLOCK_ROWS, cells)) for s in range(0, cells, BLOCK_ROWS)]
        rng = np.random.default_rng(0)
        batches = [rng.choice(cells, BATCH_ROWS, replace=False) for _ in range(BATCHES)]
        in_order(starts[0]), at_random(batches[0])
        said = {"bytes_per_value": size / values}
        for name, take, work in (("in order", in_order, starts), ("random", at_random, batches)):
            before = time.perf_counter()
            for rows in work:
                take(rows)
            said[name] = sum(len(rows) for rows in work) / (time.perf_counter() - before)
        print(json.dumps(said))
    finally:
        shutil.rmtree(out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
