"""Which obs columns mean what: `columns:` of a dataset."""

from __future__ import annotations

from cellmill.spec import Column, Spec


class Columns(Spec):
    """Which obs columns mean what, and which stay with the cells."""

    batch: Column | None = None
    """Column of the sequencing batch: thresholds are set and doublets found per batch. `null`: one batch."""
    label: Column | None = None
    """Column of the label (cell type): colours the report, captions the multiplets. `null`: none."""
    keep: list[Column] = []
    """More obs columns to carry into every export. Batch, label and the columns of the split and of pseudo-bulk stay in
    any case."""
