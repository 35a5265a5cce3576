"""What a loader reads from: rows of counts, or rows of a table; and which store a path opens.

``RowStore`` is what ``scdl``, ``packed`` and ``hdf5`` exports offer, ``TableStore`` what ``hf`` and ``mds`` exports and
token files offer.
A store opens read-only folders, decodes nothing before it is asked, and pickles as its path.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import numpy as np

from cellmill.errors import CellmillError

if TYPE_CHECKING:
    import pyarrow as pa

Rows = tuple[np.ndarray, np.ndarray, np.ndarray]
"""CSR rows: ``offsets`` int64 (n + 1), ``columns`` and ``values`` end to end in the types of the store."""


Empty = Callable[..., list[np.ndarray]]
"""Makes arrays of ``(length, dtype)`` each, not cleared."""


class Store(Protocol):
    """What every store has."""

    n_rows: int

    def obs(self, column: str) -> Any:
        """One obs column of all rows: Arrow, or an ``ObsColumn``."""


class RowStore(Store, Protocol):
    """Counts by row."""

    @property
    def n_genes(self) -> int:
        """Genes, which are the columns."""

    @property
    def genes(self) -> Any:
        """A table of one row per gene, with ``gene_id``."""

    def take(self, rows: np.ndarray) -> Rows:
        """The rows of these numbers (int64, 0 to n_rows - 1, in any order, also several times)."""

    # A store may have ``counts(rows, empty)``, too: ``take`` as int32 and float32, in arrays that ``empty`` makes.


class TableStore(Store, Protocol):
    """Columns by row."""

    columns: dict[str, Any]
    """Name and Arrow type of each."""

    def take(self, rows: np.ndarray, columns: Sequence[str]) -> pa.Table:
        """The rows of these numbers (int64, 0 to n_rows - 1, in any order, also several times)."""


def block_rows(store: Store) -> int:
    """Rows that a store decodes at once: the run in which reading costs least; 64 where rows lie open."""
    return int(getattr(store, "block_rows", 64))


def open_store(path: str | PathLike[str]) -> RowStore | TableStore:
    """The store of a split folder of an export, such as ``results/pbmc68k/scdl/counts/train``, or of token files.

    Raises:
        CellmillError: there is nothing, or nothing that a loader reads.
    """
    folder = Path(path)
    if not folder.exists():
        raise CellmillError(folder, "there is no such folder.", "Name a split of an export: results/<dataset>/…/train.")
    if (folder / "data.npy").is_file():
        from cellmill.torch.scdl_rows import ScdlRows

        return ScdlRows(folder)
    if (folder / "archive.json").is_file():
        from cellmill.packed.reader import PackedRows  # type: ignore[import-not-found, unused-ignore]

        return PackedRows(folder)  # type: ignore[no-any-return, unused-ignore]
    if any(folder.glob("batch_*.h5")):
        from cellmill.torch.hdf5_rows import Hdf5Rows

        return Hdf5Rows(folder)
    if (folder / "index.json").is_file():
        from cellmill.torch.mds_table import MdsTable

        return MdsTable(folder)
    if folder.suffix == ".parquet" or any(folder.glob("*.parquet")):
        from cellmill.torch.parquet_table import open_parquet

        return open_parquet(folder)
    splits = sorted(p.name for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []
    fix = f"Name one of its splits: {', '.join(splits)}." if splits else "Name a split folder of an export."
    raise CellmillError(folder, "there is nothing that a loader reads.", fix)


Block = TypeVar("Block")


class Blocks(Generic[Block]):
    """The last few decoded blocks of a store: what is asked for again soon is not decoded again."""

    def __init__(self, read: Callable[[int], Block], *, kept: int) -> None:
        self._read, self._kept = read, kept
        self._blocks: OrderedDict[int, Block] = OrderedDict()

    def __getitem__(self, number: int) -> Block:
        block = self._blocks.pop(number, None)
        if block is None:
            while len(self._blocks) >= self._kept:
                self._blocks.popitem(last=False)
            block = self._read(number)
        self._blocks[number] = block
        return block


BUFFER_ROWS = 16_384
"""Rows among which a shuffled stream mixes; a store keeps as many decoded."""


def blocks_kept(rows_of_a_block: int) -> int:
    """How many blocks a store keeps: those of a buffer, and the two that its ends cut."""
    return -(-BUFFER_ROWS // max(1, rows_of_a_block)) + 2


def by_block(rows: np.ndarray, starts: np.ndarray) -> list[tuple[int, np.ndarray, np.ndarray]]:
    """``(block, where in rows, rows within the block)`` for blocks that begin at ``starts`` (n_blocks + 1,)."""
    if len(rows) and not 0 <= rows.min() <= rows.max() < starts[-1]:
        raise IndexError(f"rows {rows.min()} to {rows.max()} were asked for, there are {starts[-1]:,}.")
    block = np.searchsorted(starts, rows, side="right") - 1
    return [(int(b), at, rows[at] - starts[b]) for b in np.unique(block) for at in (np.flatnonzero(block == b),)]
