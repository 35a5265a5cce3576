"""The datasets of the scBaseCount downloader, over ``hdf5`` exports.

Names, arguments and what an item holds are those of github.com/pythonlearner1025/vcc at f92ebf2.
What it gets wrong is right here: files stay open; genes keep their identity whether or not the table was read before;
a slot of a variable gene holds that gene's count, 0 where the cell has none; ``n_hvgs`` is heeded; counts do not wrap.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from cellmill.errors import CellmillError
from cellmill.files import read_json
from cellmill.torch.contents import Counts, CountsReader
from cellmill.torch.hdf5_rows import Hdf5Rows
from cellmill.torch.obs import ObsColumn
from cellmill.torch.stores import Rows

Item = tuple[torch.Tensor, dict[str, Any]]
HVG_INFO = "hvg_info.json"


class _Hdf5Dataset(Dataset[Item]):
    """Cells of a split, read many at once."""

    def __init__(self, data_dir: str | PathLike[str], split: str) -> None:
        self.data_dir, self.split = Path(data_dir), split
        folder = self.data_dir / split
        if not folder.is_dir() and any(self.data_dir.glob("batch_*.h5")):
            folder = self.data_dir
        if not any(folder.glob("batch_*.h5")):
            fix = "Name an hdf5 export, such as results/<dataset>/hdf5/counts, and one of its splits."
            raise CellmillError(folder, "there is no batch_0000.h5.", fix)
        self.store = Hdf5Rows(folder)
        self._obs: dict[str, ObsColumn] = {}

    def __len__(self) -> int:
        return self.store.n_rows

    def __getitem__(self, index: int) -> Item:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Item]:
        rows = np.asarray(indices, np.int64)
        n = len(self)
        if rows.size and not -n <= rows.min() <= rows.max() < n:
            raise IndexError(f"cell {rows[(rows < -n) | (rows >= n)][0]} of {n:,} in {self.store.path}")
        return self._items(np.where(rows < 0, rows + n, rows))

    def _items(self, rows: np.ndarray) -> list[Item]:
        raise NotImplementedError

    def _text(self, column: str, rows: np.ndarray) -> list[str]:
        if column not in self._obs:
            self._obs[column] = self.store.obs(column)
        return ["" if v is None else str(v) for v in self._obs[column].decoded(rows)]


class ScRNADataset(_Hdf5Dataset):
    """``(counts, about)`` of each cell: float32 (genes,), and ``gene_count``, ``umi_count`` and ``srx_accession``.

    Args:
        data_dir: an ``hdf5`` export, such as ``results/pbmc68k/hdf5/counts``, or one of its splits.
        transform: what is done to the counts of a cell, a tensor.
        max_genes: only so many genes, the first of the gene space; the two counts in ``about`` are of all genes.
        split: which cells.
    """

    def __init__(
        self,
        data_dir: str | PathLike[str],
        transform: Callable[[torch.Tensor], torch.Tensor] | None = None,
        max_genes: int | None = None,
        *,
        split: str = "train",
    ) -> None:
        super().__init__(data_dir, split)
        self.transform, self.max_genes = transform, max_genes
        n = self.store.n_genes if max_genes is None else min(max_genes, self.store.n_genes)
        self.genes = list(self.store.genes["gene_id"][:n])
        self._dense = Counts(layout="dense", genes=None if max_genes is None else self.genes).reader(self.store)

    def _items(self, rows: np.ndarray) -> list[Item]:
        offsets, columns, values = self.store.take(rows)
        counts = _dense(self._dense, (offsets, columns, values))
        genes, umis = np.diff(offsets), np.add.reduceat(np.append(values, 0).astype(np.float64), offsets[:-1])
        umis[genes == 0] = 0
        accessions = self._text("experiment_id", rows)
        return [
            (
                counts[i] if self.transform is None else self.transform(counts[i]),
                {"gene_count": int(genes[i]), "umi_count": float(umis[i]), "srx_accession": accessions[i]},
            )
            for i in range(len(rows))
        ]


class HVGDataset(_Hdf5Dataset):
    """``(counts, about)`` of each cell: float32 (n_hvgs,), and ``cell_id``, ``experiment_id``, ``batch_idx``,
    ``local_idx`` (the number of the file, and of the cell within it).

    Column ``i`` is the ``i``-th gene of ``hvg_info.json``, the most variable first, in every cell.

    Args:
        data_dir: an ``hdf5`` export, such as ``results/pbmc68k/hdf5/counts``, or one of its splits.
        n_hvgs: how many variable genes.
        split: which cells.

    Raises:
        CellmillError: the export knows fewer variable genes, or none.
    """

    def __init__(self, data_dir: str | PathLike[str], n_hvgs: int = 2000, *, split: str = "train") -> None:
        super().__init__(data_dir, split)
        self.n_hvgs = n_hvgs
        info = next((f / HVG_INFO for f in (self.data_dir, self.data_dir.parent) if (f / HVG_INFO).is_file()), None)
        if info is None:
            fix = "Write the export again: cellmill writes the file since hdf5 2."
            raise CellmillError(self.data_dir / HVG_INFO, "there is no such file.", fix)
        said = read_json(info)
        names, columns = [str(name) for name in said["hvg_names"]], said["hvg_indices"]
        if n_hvgs > len(names):
            fix = f"Ask for at most {len(names)}, or raise variable_genes.n_top of the dataset."
            raise CellmillError(info, f"{n_hvgs} variable genes were asked for, there are {len(names)}.", fix)
        self.hvg_names = names[:n_hvgs]
        genes = self.store.genes["gene_id"].to_numpy()[np.asarray(columns[:n_hvgs], np.int64)]
        self._dense = Counts(layout="dense", genes=[str(gene) for gene in genes]).reader(self.store)

    def _items(self, rows: np.ndarray) -> list[Item]:
        counts = _dense(self._dense, self.store.take(rows))
        ids, experiments = self._text("cell_id", rows), self._text("experiment_id", rows)
        files, local = self.store.place(rows)
        keys = ("cell_id", "experiment_id", "batch_idx", "local_idx")
        abouts = zip(ids, experiments, files.tolist(), local.tolist(), strict=True)
        return [(counts[i], dict(zip(keys, about, strict=True))) for i, about in enumerate(abouts)]


def create_dataloader(
    data_dir: str | PathLike[str],
    batch_size: int = 32,
    shuffle: bool = True,
    num_workers: int = 4,
    max_genes: int | None = None,
    transform: Callable[[torch.Tensor], torch.Tensor] | None = None,
    *,
    split: str = "train",
    pin_memory: bool | None = None,
) -> DataLoader[Item]:
    """A ``DataLoader`` over ``ScRNADataset``; memory is pinned where there is a GPU."""
    dataset = ScRNADataset(data_dir, transform, max_genes, split=split)
    pin = torch.cuda.is_available() if pin_memory is None else pin_memory
    return DataLoader(dataset, batch_size=batch_size, shuffle=shuffle, num_workers=num_workers, pin_memory=pin)


def create_hvg_dataloader(
    data_dir: str | PathLike[str],
    n_hvgs: int = 2000,
    batch_size: int = 32,
    shuffle: bool = True,
    num_workers: int = 0,
    *,
    split: str = "train",
    pin_memory: bool | None = None,
) -> DataLoader[Item]:
    """A ``DataLoader`` over ``HVGDataset``; memory is pinned where there is a GPU."""
    dataset = HVGDataset(data_dir, n_hvgs, split=split)
    pin = torch.cuda.is_available() if pin_memory is None else pin_memory
    return DataLoader(dataset, batch_size=batch_size, shuffle=shuffle, num_workers=num_workers, pin_memory=pin)


def _dense(reader: CountsReader, rows: Rows) -> torch.Tensor:
    return reader.batch(rows)["counts"]
