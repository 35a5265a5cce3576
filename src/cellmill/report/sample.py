"""Some of a dataset's cells with their vectors: those that come first in the order of a hash of their ids."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING

import numpy as np

from cellmill.contracts import embedding as embedding_files
from cellmill.contracts.counts import CountsPart
from cellmill.errors import CellmillError
from cellmill.keys import hash_strings

if TYPE_CHECKING:
    import pandas as pd

File = str | PathLike[str]


@dataclass(frozen=True)
class Sample:
    """Cells in the order of their hash: a smaller sample is the beginning of a larger one."""

    vectors: np.ndarray
    """float32 (n, dimensions)."""
    columns: dict[str, np.ndarray]
    """Of each column the values as strings, object (n,); None where a cell has none."""


@dataclass(frozen=True)
class Drawn:
    """What was drawn, and of how many."""

    samples: dict[str | None, Sample]
    """By split; None: of all splits together."""
    kept: int
    """Cells of the dataset."""
    names: dict[str, list[str]]
    """Of each column the values of all cells, the most frequent first."""


def draw(
    processed: Sequence[File],
    embedding: Sequence[File],
    *,
    columns: Sequence[str],
    cells: int,
    splits: Sequence[str | None] = (None,),
) -> Drawn:
    """At most ``cells`` cells of each of ``splits``, with some obs columns; one pass over the parts.

    The same cells in the same order, whatever the parts and their order.

    Raises:
        CellmillError: a part with more or fewer vectors than cells.

    Memory: the obs table of one part, and twice as many vectors as are drawn of a split.
    """
    found: dict[str | None, _Some] = {}
    frequency: dict[str, Counter[str]] = {column: Counter() for column in columns}
    kept = 0
    for obs, vectors in _parts(processed, embedding):
        kept += len(obs)
        keys = _keys(obs)
        for column in columns:
            frequency[column].update({str(k): int(v) for k, v in obs[column].value_counts().items() if v})
        for split in splits:
            mine = np.arange(len(obs)) if split is None else np.flatnonzero((obs["split"] == split).to_numpy())
            first = np.sort(mine[np.argsort(keys[mine], kind="stable")[:cells]])  # rising, as a memory map likes it
            some = _Some.of(obs.iloc[first], keys[first], vectors[first], columns)
            found[split] = (found[split].joined(some) if split in found else some).first(cells)
    names = {c: sorted(n, key=lambda name: (-n[name], name)) for c, n in frequency.items()}
    return Drawn({split: Sample(some.vectors, some.columns) for split, some in found.items()}, kept, names)


def _parts(processed: Sequence[File], embedding: Sequence[File]) -> Iterator[tuple[pd.DataFrame, np.ndarray]]:
    for path, vectors_path in zip(processed, embedding, strict=True):
        vectors = embedding_files.read(vectors_path)
        with CountsPart(path) as part:
            if len(vectors) != part.n_cells:
                raise CellmillError(
                    vectors_path, f"{len(vectors)} vectors for {part.n_cells} cells.", "Run snakemake again."
                )
            yield part.obs, vectors


def _keys(obs: pd.DataFrame) -> np.ndarray:
    import pyarrow as pa

    return hash_strings(pa.array(obs.index.astype(str), pa.large_string()), seed=0, purpose="report")


@dataclass(frozen=True)
class _Some:
    """Cells with what they are put in order by."""

    keys: np.ndarray
    ids: np.ndarray
    vectors: np.ndarray
    columns: dict[str, np.ndarray]

    @classmethod
    def of(cls, obs: pd.DataFrame, keys: np.ndarray, vectors: np.ndarray, columns: Sequence[str]) -> _Some:
        named = {}
        for column in columns:
            pairs = zip(obs[column], obs[column].isna(), strict=True)
            named[column] = np.array([None if missing else str(name) for name, missing in pairs], object)
        return cls(keys, obs.index.to_numpy(object), np.asarray(vectors, np.float32), named)

    def joined(self, other: _Some) -> _Some:
        return _Some(
            np.concatenate([self.keys, other.keys]),
            np.concatenate([self.ids, other.ids]),
            np.concatenate([self.vectors, other.vectors]),
            {name: np.concatenate([mine, other.columns[name]]) for name, mine in self.columns.items()},
        )

    def first(self, cells: int) -> _Some:
        order = np.lexsort((self.ids.astype(str), self.keys))[:cells]
        columns = {name: values[order] for name, values in self.columns.items()}
        return _Some(self.keys[order], self.ids[order], self.vectors[order], columns)
