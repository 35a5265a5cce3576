"""``CellDataset``: cells by number, for ``torch.utils.data.DataLoader`` with any sampler."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from torch.utils.data import Dataset
from torch.utils.data._utils.collate import default_collate_fn_map

from cellmill.torch.batches import Batch
from cellmill.torch.contents import Counts, csr_tensor
from cellmill.torch.obs import ObsColumn, obs_column
from cellmill.torch.samplers import Permuted, Sampler, checked_ranks, level
from cellmill.torch.stores import RowStore, block_rows, open_store


@dataclass(frozen=True)
class Cell:
    """One cell: the genes that have a value, rising, and the values."""

    row: int
    """Its number in the split."""
    columns: np.ndarray
    """int32: columns of the gene space, or of the chosen genes."""
    values: np.ndarray
    """float32: counts, or what they were normalised to."""
    n_genes: int
    obs: dict[str, Any]
    """Obs columns by name: codes of text, or numbers."""
    layout: str = "csr"
    """What its batches are: ``csr`` or ``dense``."""

    def dense(self) -> np.ndarray:
        """float32 (n_genes,)."""
        out = np.zeros(self.n_genes, np.float32)
        out[self.columns] = self.values
        return out


class Cells(Sequence[Cell]):
    """Several cells, read at once: a sequence of ``Cell`` that makes one batch without looking at each."""

    def __init__(
        self,
        rows: np.ndarray,
        csr: tuple[np.ndarray, np.ndarray, np.ndarray],
        n_genes: int,
        obs: dict[str, np.ndarray],
        layout: str,
    ) -> None:
        self.rows, self.csr, self.n_genes, self.obs, self.layout = rows, csr, n_genes, obs, layout

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, at: int) -> Cell: ...
    @overload
    def __getitem__(self, at: slice) -> list[Cell]: ...
    def __getitem__(self, at: int | slice) -> Cell | list[Cell]:
        if isinstance(at, slice):
            return [self[i] for i in range(*at.indices(len(self)))]
        at = range(len(self))[at]
        offsets, columns, values = self.csr
        mine = slice(offsets[at], offsets[at + 1])
        obs = {name: found[at] for name, found in self.obs.items()}
        return Cell(int(self.rows[at]), columns[mine], values[mine], self.n_genes, obs, self.layout)

    def batch(self) -> Batch:
        """``counts``, ``row`` (int64) and the obs columns as tensors."""
        offsets, columns, values = self.csr
        shape = (len(self), self.n_genes)
        counts = csr_tensor(offsets, columns, values, shape)
        return Batch(
            counts=counts.to_dense() if self.layout == "dense" else counts,
            row=torch.from_numpy(self.rows),
            **{name: tensor_of(found) for name, found in self.obs.items()},
        )


def collate_cells(cells: Cells | Sequence[Cell], *, collate_fn_map: Any = None) -> Batch:
    """One batch of cells: what ``torch.utils.data.default_collate`` calls, so that no ``collate_fn`` is needed."""
    if isinstance(cells, Cells):
        return cells.batch()
    offsets = np.concatenate([[0], np.cumsum([len(cell.columns) for cell in cells])])
    csr = (
        offsets.astype(np.int64),
        np.concatenate([cell.columns for cell in cells]),
        np.concatenate([cell.values for cell in cells]),
    )
    obs = {name: np.array([cell.obs[name] for cell in cells]) for name in cells[0].obs}
    rows = np.array([cell.row for cell in cells], np.int64)
    return Cells(rows, csr, cells[0].n_genes, obs, cells[0].layout).batch()


default_collate_fn_map[Cell] = collate_cells


class CellDataset(Dataset[Cell]):
    """A split of an export of counts (``scdl``, ``packed``, ``hdf5``) as cells by number.

    A ``DataLoader`` with its own collate function gives batches of ``counts`` (``torch.sparse_csr``, or dense), ``row``
    and the obs columns that were asked for, with any sampler, or with ``Batches``, which holds nothing for a cell.
    Opening decodes nothing; a batch is gathered at once, without Python per cell.
    It pickles as its path, so that workers may be forked or spawned, and opens folders that cannot be written.

    Args:
        path: a split folder, such as ``results/pbmc68k/scdl/counts/train``.
        counts: layout, genes and normalisation.
        obs: obs columns of a batch; a map gives the categories that the codes of a column stand for, such as
            ``{"cell_type": train.categories("cell_type")}`` for the test split.

    Raises:
        CellmillError: there is no such export, or no such column.
    """

    def __init__(
        self,
        path: str | PathLike[str],
        *,
        counts: Counts | None = None,
        obs: Sequence[str] | dict[str, Sequence[str] | None] = (),
    ) -> None:
        self.path = Path(path)
        self._counts = counts or Counts()
        self._asked = dict(obs) if isinstance(obs, dict) else dict.fromkeys(obs)
        self.store: RowStore = open_store(self.path)  # type: ignore[assignment]
        self._reader = self._counts.reader(self.store)
        self.n_cells, self.block_rows = self.store.n_rows, block_rows(self.store)
        self._obs: dict[str, ObsColumn] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return _open, (self.path, self._counts, self._asked)

    def __len__(self) -> int:
        return self.store.n_rows

    @property
    def shape(self) -> tuple[int, int]:
        """Cells and genes, as chosen."""
        return len(self), self._reader.n_genes

    @property
    def genes(self) -> Any:
        """The gene table of the store, a row per column of the counts (of all genes)."""
        return self.store.genes

    def obs(self, column: str) -> ObsColumn:
        """An obs column of all cells, decoded at the first call."""
        if column not in self._obs:
            found = obs_column(column, self.store.obs(column))
            categories = self._asked.get(column)
            self._obs[column] = found if categories is None else found.recoded(categories)
        return self._obs[column]

    def categories(self, column: str) -> list[str]:
        """What the codes of a text column stand for."""
        found = self.obs(column).categories
        return [] if found is None else [str(name) for name in found]

    @overload
    def __getitem__(self, index: int) -> Cell: ...
    @overload
    def __getitem__(self, index: slice) -> Cells: ...
    def __getitem__(self, index: int | slice) -> Cell | Cells:
        """One cell; negative numbers count from the end, others raise IndexError. A slice gives ``Cells``."""
        if isinstance(index, slice):
            return self._read(np.arange(*index.indices(len(self)), dtype=np.int64))
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int] | np.ndarray | torch.Tensor) -> Cells:
        """Several cells at once, in the order asked for: what a ``DataLoader`` calls.

        Raises:
            IndexError: a number is none of a cell's.
        """
        rows = np.asarray(indices)
        if rows.dtype.kind not in "iu" and rows.size:
            raise TypeError(f"cells are numbered by whole numbers, not {rows.dtype}")
        rows = rows.astype(np.int64)
        n = len(self)
        if rows.size and not -n <= rows.min() <= rows.max() < n:
            wrong = rows[(rows < -n) | (rows >= n)][0]
            raise IndexError(f"cell {wrong} of {n:,} in {self.path}")
        return self._read(np.where(rows < 0, rows + n, rows))

    def __iter__(self) -> Iterator[Cell]:
        for start in range(0, len(self), 256):
            yield from self[start : start + 256]

    def _read(self, rows: np.ndarray) -> Cells:
        obs = {name: self.obs(name).values[rows] for name in self._asked}
        return Cells(rows, self._reader.csr(rows), self._reader.n_genes, obs, self._counts.layout)


class Batches(torch.utils.data.Sampler[np.ndarray]):
    """The cells of every batch of an epoch: ``DataLoader(dataset, batch_sampler=Batches(dataset))``.

    Batches are those of a ``CellStream`` with the same sampler, also over ranks: batch ``i`` goes to rank
    ``i % ranks``, every rank has as many, and no cell is lost or doubled.
    Nothing is held for a cell, where ``shuffle=True`` makes torch hold a Python number (40 bytes) of each.
    Each iteration is the next epoch; ``set_epoch`` names one, as with ``torch.utils.data.DistributedSampler``.

    Args:
        dataset: whose cells.
        batch_size: cells of a batch (of one rank).
        sampler: ``None``: ``Permuted()``, all cells in random order; or another of the samplers.
        drop_last: leave out what makes no full batch for every rank.
        ranks: ``(rank, number of ranks)``; ``None``: those of ``torch.distributed``, where it is initialised.

    Raises:
        CellmillError: there are no such batches.
    """

    def __init__(
        self,
        dataset: CellDataset,
        *,
        batch_size: int = 64,
        sampler: Sampler | None = None,
        drop_last: bool = False,
        ranks: tuple[int, int] | None = None,
    ) -> None:
        self.dataset, self.batch_size, self.drop_last = dataset, batch_size, drop_last
        self.sampler: Sampler = Permuted() if sampler is None else sampler
        self.rank, self.ranks = checked_ranks("Batches", batch_size, ranks)
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Let the next iteration be that of ``epoch``."""
        self.epoch = epoch
        plan = self.sampler.plan(self.dataset, epoch=epoch, batch_size=self.batch_size, ranks=self.ranks)
        self._plan = level(plan, ranks=self.ranks, batch_size=self.batch_size, drop_last=self.drop_last)

    @property
    def left_out(self) -> dict[str, int]:
        """Cells that the next epoch leaves out, over all ranks, by reason."""
        return dict(self._plan.left_out)

    def __len__(self) -> int:
        """Batches of this rank in the next epoch."""
        return self._plan.n_batches // self.ranks

    def __iter__(self) -> Iterator[np.ndarray]:
        plan = self._plan
        self.set_epoch(self.epoch + 1)
        for batch in range(self.rank, plan.n_batches, self.ranks):
            yield plan.rows(batch)


def _open(path: Path, counts: Counts, obs: dict[str, Sequence[str] | None]) -> CellDataset:
    return CellDataset(path, counts=counts, obs=obs)


def tensor_of(values: np.ndarray) -> torch.Tensor:
    """Codes and whole numbers as int64, fractions as float32."""
    return torch.from_numpy(values.astype(np.float32 if values.dtype.kind == "f" else np.int64))
