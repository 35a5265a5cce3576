"""``hdf5``: batches of counts as the scBaseCount downloader's readers expect them."""

from __future__ import annotations

from typing import Literal

from cellmill.exports.rows import ExportSpec
from cellmill.spec import Column, PositiveInt, Spec


class Hdf5Counts(Spec, ExportSpec):
    """Counts in files of a fixed number of cells: `expression`, `genes`, `cell_ids`, `experiment_ids`."""

    kind: Literal["counts"] = "counts"
    layout: Literal["csr", "dense"] = "csr"
    """`csr`: a group in anndata's sparse encoding; `dense`: a cells × genes matrix, chunked by rows."""
    experiment: Column | None = None
    """Obs column of `experiment_ids`; `null`: the batch column, else the dataset's name."""
    cells_per_file: PositiveInt = 100_000
    """Cells in each `batch_NNNN.h5`."""

    @property
    def with_counts(self) -> bool:
        return True
