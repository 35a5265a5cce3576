"""Counts of an h5ad to Parquet that ``load_dataset`` opens: ours, and ``datasets`` from a generator of cells."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pyarrow as pa

BLOCK_ROWS = 4_096


def ours(path: Path) -> None:
    """Kind ``expression``, from the blocks of the file."""
    from cellmill.exports import HfExpression
    from cellmill.exports.given import Given
    from cellmill.exports.hf import write
    from cellmill.exports.rows import Header
    from cellmill.matrix.reader import CountsFile

    backed = anndata.read_h5ad(path, backed="r")
    genes = backed.var_names.to_frame(name="gene_id").assign(gene_symbol=None)
    ids = pa.array(backed.obs_names, pa.large_string())
    backed.file.close()

    def rows(file: CountsFile) -> Iterator[tuple[str, pa.RecordBatch]]:
        start = 0
        for block in file.blocks(BLOCK_ROWS):
            counts = block.counts
            offsets = pa.array(counts.indptr.astype(np.int64))
            columns = {
                "cell_id": ids[start : start + counts.shape[0]],
                "genes": pa.LargeListArray.from_arrays(offsets, pa.array(counts.indices.astype(np.uint16))),
                "counts": pa.LargeListArray.from_arrays(offsets, pa.array(counts.data.astype(np.uint16))),
            }
            start += counts.shape[0]
            yield "train", pa.RecordBatch.from_pydict(columns)

    header = Header("atlas", {"train": len(ids)}, genes, np.dtype(np.uint16), pa.schema([]))
    with tempfile.TemporaryDirectory(dir=path.parent) as out, CountsFile(path, "X") as file:
        write(Given(Path(out), header, rows(file)), HfExpression())


def peer(path: Path) -> None:
    """A row at a time, as its documentation does, then ``to_parquet``."""
    import datasets

    backed = anndata.read_h5ad(path, backed="r")

    def cells() -> Iterator[dict[str, Any]]:
        for start in range(0, backed.n_obs, BLOCK_ROWS):
            counts = backed.X[start : start + BLOCK_ROWS]
            for i in range(counts.shape[0]):
                mine = slice(counts.indptr[i], counts.indptr[i + 1])
                genes, values = counts.indices[mine].astype(np.uint16), counts.data[mine].astype(np.uint16)
                yield {"cell_id": backed.obs_names[start + i], "genes": genes, "counts": values}

    numbers = datasets.List(datasets.Value("uint16"))
    features = datasets.Features({"cell_id": datasets.Value("string"), "genes": numbers, "counts": numbers})
    with tempfile.TemporaryDirectory(dir=path.parent) as out:
        made = datasets.Dataset.from_generator(cells, features=features, cache_dir=out, fingerprint="bench")
        made.to_parquet(Path(out) / "cells.parquet")
