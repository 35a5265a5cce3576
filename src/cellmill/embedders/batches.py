"""Cells into batches whose shape depends on the length of their cells alone.

A matrix product may round a row differently where the matrix has other rows or columns around it.
On the CPU a cell is a batch of its own, in its exact length: its vector cannot depend on other cells.
On a GPU cells are padded to a few widths, and a batch of one width always has the same number of rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from cellmill.embedders.token_spec import Pool

GRAIN = 64
"""Widths of padded batches are multiples of this."""
T = TypeVar("T")


@dataclass(frozen=True)
class Batch:
    """Cells that go through the model together."""

    cells: np.ndarray
    """int64 (m,): which cells."""
    width: int
    rows: int
    """Rows of the batch: those after the m cells hold one token. m where nothing is padded."""


@dataclass(frozen=True)
class Plan:
    """How cells become batches.

    ``batch_tokens`` 0: a cell at a time in its exact length, without a mask.
    Otherwise rows × width stays within it where one cell and a spare row do;
    the spare row is never full, so that there always is a mask, and the same kernel for all.
    """

    batch_tokens: int
    longest: int
    """Tokens that the model takes at most; no width is above."""

    def batches(self, lengths: np.ndarray) -> Iterator[Batch]:
        """All cells by falling width, so that memory is short at once or never; ``lengths`` int64 (n,), above 0."""
        if not self.batch_tokens:
            for cell in np.argsort(-lengths, kind="stable"):
                yield Batch(np.array([cell]), int(lengths[cell]), 1)
            return
        widths = np.minimum(-(-lengths // GRAIN) * GRAIN, self.longest)
        order = np.argsort(-widths, kind="stable")
        for same in np.split(order, np.flatnonzero(np.diff(widths[order])) + 1) if len(order) else ():
            width = int(widths[same[0]])
            rows = max(2, self.batch_tokens // width)
            for start in range(0, len(same), rows - 1):
                yield Batch(same[start : start + rows - 1], width, rows)


def halves(batch: Batch) -> tuple[Batch, ...]:
    """The batch with half as many rows each; as it is where it cannot be halved."""
    rows = batch.rows // 2
    if rows < 2:
        return (batch,)
    return tuple(
        Batch(batch.cells[start : start + rows - 1], batch.width, rows)
        for start in range(0, len(batch.cells), rows - 1)
    )


def halving(run: Callable[[Batch], T], batch: Batch, *, full: type[BaseException]) -> Iterator[tuple[Batch, T]]:
    """Run a batch; where memory is full, its halves, and so on. A batch of one cell raises ``full``."""
    try:
        done = run(batch)
    except full:
        smaller = halves(batch)
        if len(smaller) == 1 and smaller[0].rows == batch.rows:
            raise
    else:
        yield batch, done
        return
    for half in smaller:
        yield from halving(run, half, full=full)


def fill_values(batch: Batch, values: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """float32 (rows, width): what stands beside the ids that `fill` lays out; 0 beside padding."""
    out = np.zeros((batch.rows, batch.width), np.float32)
    for row, cell in enumerate(batch.cells):
        mine = values[offsets[cell] : offsets[cell + 1]]
        out[row, : len(mine)] = mine
    return out


def fill(
    batch: Batch, values: np.ndarray, offsets: np.ndarray, *, pool: Pool, around: tuple[int, int], pad: int
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """Ids int64 (rows, width), their mask (None: all are tokens), and the weights float32 by which tokens are pooled.

    Args:
        values: ids of all cells, end to end; ``offsets`` (n + 1,) where each begins.
        around: how many special tokens stand before and after every cell.
    """
    ids = np.full((batch.rows, batch.width), pad, np.int64)
    lengths = np.ones(batch.rows, np.int64)
    for row, cell in enumerate(batch.cells):
        tokens = values[offsets[cell] : offsets[cell + 1]]
        ids[row, : len(tokens)] = tokens
        lengths[row] = len(tokens)
    place = np.arange(batch.width)
    there = place < lengths[:, None]
    if pool == "mean":
        first, last = around
        inner = (place >= first) & (place < (lengths - last)[:, None])
        weights = inner / np.maximum(inner.sum(axis=1), 1)[:, None]
    else:
        weights = place == (np.zeros_like(lengths) if pool == "first" else lengths - 1)[:, None]
    return ids, None if batch.rows == 1 else there, np.ascontiguousarray(weights, np.float32)
