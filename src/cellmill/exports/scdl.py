"""``scdl``: memory-mapped archives that BioNeMo-SCDL's ``SingleCellMemMapDataset`` opens."""

from __future__ import annotations

from typing import Literal

from cellmill.exports.rows import ExportSpec
from cellmill.spec import Column, Spec


class ScdlCounts(Spec, ExportSpec):
    """Counts as CSR memory maps with gene and cell tables, one archive per split."""

    kind: Literal["counts"] = "counts"
    columns: list[Column] | None = None
    """Obs columns to write; `null`: all that the dataset keeps."""

    @property
    def with_counts(self) -> bool:
        return True
