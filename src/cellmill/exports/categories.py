"""Obs tables that wait beside the matrices until the categories of all splits are known."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


def waiting(out: Path, split: str) -> Path:
    """Where the table of a split waits until the categories of all splits are known."""
    return out / f".{split}.obs.parquet"


def categories(out: Path, splits: Iterable[str], column: str) -> pd.Index:
    """Every value of a text column over the waiting tables of all splits, sorted."""
    import pandas as pd
    import pyarrow.parquet as pq

    found: set[str] = set()
    for split in splits:
        for batch in pq.ParquetFile(waiting(out, split)).iter_batches(columns=[column]):
            found.update(batch[column].unique().drop_null().to_pylist())
    return pd.Index(sorted(found), dtype=object)
