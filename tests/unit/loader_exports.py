"""One small export of every format over the same rows, for the tests of the loaders."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from cellmill.exports import hdf5, hf, mds, packed, scdl
from cellmill.exports.given import Given

from .export_rows import Rows, make_rows, new_folder

COUNTS = ("scdl", "packed", "hdf5", "dense")
TABLES = ("mds", "hf")
FORMATS = (*COUNTS, *TABLES)


@dataclass
class Made:
    """The folders of all exports, and what is in them."""

    folder: Path
    rows: Rows

    def path(self, format_: str, split: str = "train") -> Path:
        return self.folder / format_ / split

    def table(self, split: str = "train") -> pa.Table:
        return self.rows.tables[split]

    def dense(self, split: str = "train") -> np.ndarray:
        """Counts (cells, genes) as they went in."""
        table = self.table(split)
        out = np.zeros((table.num_rows, len(self.rows.header.genes)), np.float32)
        for i, row in enumerate(table.select(["genes", "counts"]).to_pylist()):
            out[i, row["genes"]] = row["counts"]
        return out


def make_exports(folder: Path, *, cells: int = 700, genes: int = 120, seed: int = 0) -> Made:
    """All exports of ``cells`` training cells and 23 others; files are smaller than the split."""
    rows = make_rows({"train": cells, "test": 23}, genes=genes, seed=seed)
    header = rows.header
    scdl.write(Given(new_folder(folder / "scdl"), header, rows.batches(256)), scdl.ScdlCounts())
    packed.write(
        Given(new_folder(folder / "packed"), header, rows.batches(256)), packed.PackedCounts(cells_per_file=300)
    )
    for name, layout in (("hdf5", "csr"), ("dense", "dense")):
        spec = hdf5.Hdf5Counts(layout=layout, cells_per_file=300, experiment="donor")
        hdf5.write(Given(new_folder(folder / name), header, rows.batches(256)), spec)
    mds.write(Given(new_folder(folder / "mds"), header, rows.batches(256)), mds.MdsTokens())
    spec = hf.HfTokens(cells_per_file=300)
    hf.write(Given(new_folder(folder / "hf"), header, rows.batches(256)), spec)
    return Made(folder, rows)
