"""Random rows as exports receive them, and `streaming` without what it does not need."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from cellmill.exports.rows import Header

OBS = pa.schema(
    [("donor", pa.large_string()), ("age", pa.float64()), ("umis", pa.int64()), ("control", pa.bool_())],
)


@dataclass
class Rows:
    """A header, the whole table of each split, and the way to cut it into batches."""

    header: Header
    tables: dict[str, pa.Table]

    def batches(self, *cuts: int) -> Any:
        """Yield ``(split, batch)``, with batches as long as ``cuts`` says, over and over."""
        for split, table in self.tables.items():
            start, turn = 0, 0
            while start < table.num_rows:
                size = cuts[turn % len(cuts)]
                yield split, table.slice(start, size).combine_chunks().to_batches()[0]
                start, turn = start + size, turn + 1

    def sliced(self, size: int) -> Any:
        """As ``batches``, but slices of one batch, whose buffers begin elsewhere."""
        for split, table in self.tables.items():
            for whole in table.to_batches():
                for start in range(0, whole.num_rows, size):
                    yield split, whole.slice(start, size)


def make_rows(
    cells: dict[str, int] | None = None,
    *,
    genes: int = 300,
    tokens: int = 40,
    counts_dtype: str = "uint16",
    seed: int = 0,
    missing: bool = True,
    widths: dict[str, int] | None = None,
) -> Rows:
    """Random rows: the first cell of a split has no gene and no token, some obs values are missing.

    ``widths`` are the dimensions of embeddings by name.
    """
    cells = {"train": 70, "validation": 0, "test": 23} if cells is None else cells
    rng = np.random.default_rng(seed)
    gene_table = pd.DataFrame(
        {
            "gene_id": [f"ENSG{i:05d}" for i in range(genes)],
            "gene_symbol": [None if i == 3 else f"SYM{i}" for i in range(genes)],
            **_statistics(genes, cells.get("train", 0)),
        }
    )
    header = Header(
        "heart",
        cells,
        gene_table,
        np.dtype(counts_dtype),
        OBS,
        widths=widths or {},
        tokens={"rank": {"input_ids": "list<int32>"}},
    )
    tables = {s: _table(s, n, genes, tokens, counts_dtype, rng, missing) for s, n in cells.items() if n}
    for name, width in header.widths.items():
        for split, table in tables.items():
            vectors = pa.array(rng.normal(size=table.num_rows * width).astype(np.float32))
            column = pa.FixedSizeListArray.from_arrays(vectors, width)
            tables[split] = table.append_column(f"embedding:{name}", column)
    return Rows(header, tables)


def _statistics(genes: int, cells: int) -> dict[str, np.ndarray]:
    """What `genes.parquet` says of genes, at random; every third one is variable, the last of them most."""
    rng = np.random.default_rng(7)
    mean = rng.lognormal(0, 2, genes)
    mean[::10] = 0
    rank = np.full(genes, -1, np.int32)
    rank[1::3] = np.arange(len(rank[1::3]))[::-1]
    return {
        "n_cells": np.where(mean > 0, rng.integers(0, cells + 1, genes), 0),
        "mean": mean,
        "variance": mean * rng.lognormal(0, 1, genes),
        "variable_rank": rank,
        "variable": rank >= 0,
    }


def _table(
    split: str, n: int, genes: int, tokens: int, counts_dtype: str, rng: np.random.Generator, missing: bool
) -> pa.Table:
    def lists(lengths: np.ndarray, values: pa.Array) -> pa.Array:
        return pa.LargeListArray.from_arrays(pa.array(np.r_[0, lengths.cumsum()], pa.int64()), values)

    def obs(values: Any, type_: pa.DataType) -> pa.Array:
        return pa.array(values, type_, mask=(rng.random(n) < 0.2) if missing else None)

    expressed = rng.integers(1, genes // 2, n)
    expressed[0] = 0
    columns = np.concatenate([np.sort(rng.choice(genes, k, replace=False)) for k in expressed])
    counts = rng.integers(1, np.iinfo(counts_dtype).max, len(columns), endpoint=True, dtype=counts_dtype)
    lengths = rng.integers(0, tokens, n, endpoint=True)
    lengths[0] = 0
    ids = rng.integers(0, 1 << 20, lengths.sum()).astype(np.int32)
    return pa.table(
        {
            "cell_id": pa.array([f"{split}:zelle-ä{i * 7}" for i in range(n)], pa.large_string()),
            "genes": lists(expressed, pa.array(columns, pa.uint16())),
            "counts": lists(expressed, pa.array(counts)),
            "tokens:rank": lists(lengths, pa.array(ids)),
            "donor": obs([f"spender {'é' * (i % 5)}" for i in range(n)], pa.large_string()),
            "age": obs(rng.random(n), pa.float64()),
            "umis": obs(rng.integers(-5, 1 << 40, n), pa.int64()),
            "control": obs(rng.random(n) < 0.5, pa.bool_()),
        }
    )


def digests(folder: Path) -> dict[str, str]:
    """sha256 of every file below a folder."""
    return {
        p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def new_folder(path: Path) -> Path:
    """An empty folder, as `write` expects it."""
    path.mkdir(parents=True)
    return path
