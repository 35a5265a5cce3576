"""Rows as every export receives them: ordered, split by split, in Arrow batches."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pyarrow as pa

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from cellmill.config import Dataset


@dataclass(frozen=True)
class Header:
    """What is known of an export before its first row."""

    dataset: str
    """Name of the dataset."""
    cells: dict[str, int]
    """Cells per split, in the order of the config; a split may have none."""
    genes: pd.DataFrame
    """The gene space: ``gene_id``, ``gene_symbol`` (may be missing), one row per column of the counts."""
    counts_dtype: np.dtype
    """Smallest unsigned type that holds every count of the dataset."""
    obs: pa.Schema
    """The obs columns that stay with the cells: string, bool, int64 or float64."""
    widths: dict[str, int] = field(default_factory=dict)
    """Dimensions of each embedding, by embedder."""


def needs(*, counts: bool = False, tokens: tuple[str, ...] = (), embeddings: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Names of the columns an export asks for besides ``cell_id`` and the obs columns.

    A batch has: ``cell_id`` large_string; ``genes`` large_list<uint16|uint32> (columns of the gene space, rising)
    and ``counts`` large_list<unsigned>; ``tokens:<tokenizer>`` large_list<int32>;
    ``embedding:<embedder>`` fixed_size_list<float32>; and the obs columns under their own names.
    """
    return (
        *(("genes", "counts") if counts else ()),
        *(f"tokens:{t}" for t in tokens),
        *(f"embedding:{e}" for e in embeddings),
    )


class ExportSpec:
    """What every export's spec answers; a mix-in of the specs in this folder."""

    @property
    def tokenizers(self) -> tuple[str, ...]:
        """Tokenizers this export reads, by name."""
        return ()

    @property
    def embedders(self) -> tuple[str, ...]:
        """Embedders this export reads, by name."""
        return ()

    @property
    def with_counts(self) -> bool:
        """Whether this export reads the counts."""
        return False

    def problems(self, dataset: Dataset) -> list[str]:
        """What this export needs of a dataset and does not find there, as sentences."""
        return []
