"""Read packed archives: any rows, in any order, decoded from mapped memory."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cellmill.contracts.versions import PACKED
from cellmill.errors import CellmillError, nearest
from cellmill.files import read_json
from cellmill.packed import codec
from cellmill.packed.layout import ABOUT, GENES, HEAD_WORDS, OBS, Head, file_name

if TYPE_CHECKING:
    import pandas as pd

CHECKED_ROWS = 4_096
"""Rows that ``check`` decodes at once."""
Empty = Callable[..., list[np.ndarray]]
"""Makes arrays of ``(length, dtype)`` each, not cleared."""


def _empty(*wanted: tuple[int, np.dtype[Any]]) -> list[np.ndarray]:
    """In one piece: numpy asks the system for large pages where it makes 4 MB or more."""
    sizes = [-(-length * dtype.itemsize // 64) * 64 for length, dtype in wanted]
    memory, arrays = np.empty(sum(sizes), np.uint8), []
    for (length, dtype), size in zip(wanted, sizes, strict=True):
        arrays.append(memory[:size].view(dtype)[:length])
        memory = memory[size:]
    return arrays


class PackedRows:
    """The cells of one split, such as ``results/<dataset>/packed/<name>/train``; nothing of it is ever written.

    Rows are decoded one by one, each verified by its checksum, without the global interpreter lock.
    Threads may share one; a pickle holds the path alone, so that each process maps the files itself.

    Args:
        path: the folder of a split.

    Raises:
        CellmillError: no packed archive, one of another version, or files that are missing, cut or of another archive.
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        self.path = Path(path)
        if not (self.path / ABOUT).is_file():
            fix = "Name the folder of a split, such as results/<dataset>/packed/<name>/train."
            raise CellmillError(self.path, f"there is no {ABOUT}.", fix)
        about: dict[str, Any] = read_json(self.path / ABOUT)
        PACKED.verify(self.path, about.get("contract"))
        self.n_rows: int = about["cells"]
        self.n_genes: int = about["genes"]
        self.n_values: int = about["values"]
        """Stored values of all rows."""
        self.dtype: np.dtype[Any] = np.dtype(about["counts_dtype"])
        """Type of the counts."""
        self.index_dtype: np.dtype[Any] = np.dtype(np.uint16 if self.n_genes <= 1 << 16 else np.uint32)
        """Type of the numbers of genes."""
        self._rows_per_file: int = about["cells_per_file"]
        self._heads: list[Head] = []
        self._maps: list[mmap.mmap] = []
        n_files = -(-self.n_rows // self._rows_per_file)
        self._files = np.zeros((n_files, 3), np.uint64)
        for number in range(n_files):
            self._map(number)

    def __len__(self) -> int:
        return self.n_rows

    def __reduce__(self) -> tuple[type[PackedRows], tuple[Path]]:
        return PackedRows, (self.path,)

    def _map(self, number: int) -> None:
        path = self.path / file_name(number)
        try:
            with path.open("rb") as stream:
                mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise self._damaged(number, f"cannot be mapped ({error})") from error
        head = Head.unpack(path, mapped[: 8 * HEAD_WORDS])
        first = number * self._rows_per_file
        expected = (first, min(self._rows_per_file, self.n_rows - first), self.n_genes)
        if (head.first_row, head.n_rows, head.n_genes) != expected:
            raise self._damaged(number, f"belongs elsewhere (first row, rows, genes: {head} instead of {expected})")
        size = head.index_at + 4 * (head.n_rows + 1)
        if len(mapped) != size:
            raise self._damaged(number, f"has {len(mapped):,} bytes instead of {size:,}")
        self._heads.append(head)
        self._maps.append(mapped)
        address = np.frombuffer(mapped, np.uint8).ctypes.data
        self._files[number] = (address, head.index_at // 8, head.n_rows)

    def _damaged(self, number: int, what: str) -> CellmillError:
        fix = "Get it again, or delete manifest.json of the export and run snakemake again."
        return CellmillError(self.path / file_name(number), f"{what}.", fix)

    @cached_property
    def genes(self) -> pd.DataFrame:
        """The gene space, a row per gene: ``gene_id``, ``gene_symbol`` (may be missing), ``frequent``."""
        import pandas as pd

        return pd.read_parquet(self.path / GENES)

    @cached_property
    def _kinds(self) -> tuple[np.ndarray, np.ndarray]:
        """What ``codec.tables`` makes of the gene table."""
        import pyarrow.parquet as pq
        import xxhash

        table = pq.read_table(self.path / GENES, columns=["frequent"])
        frequent = table["frequent"].to_numpy()
        found = xxhash.xxh64_intdigest(frequent.astype(np.uint8).tobytes())
        if len(frequent) != self.n_genes or any(head.frequent_hash != found for head in self._heads):
            fix = "Get it again, or delete manifest.json of the export and run snakemake again."
            raise CellmillError(self.path / GENES, "is not the gene table that the cells were packed by.", fix)
        return codec.tables(frequent)

    def take(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The counts of any rows, in the order asked for; a row may be asked for more than once.

        Args:
            rows: (n,) whole numbers from 0 to ``n_rows`` - 1.

        Returns:
            ``indptr`` (n + 1, int64); ``indices``, numbers in the gene space, rising within a row; ``values``.

        Raises:
            IndexError: there is no such row.
            CellmillError: a row is not as it was written.
        """
        return self._decoded(rows, self.index_dtype, self.dtype, _empty)

    def counts(self, rows: np.ndarray, empty: Empty) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """``take`` as int32 and float32, in arrays that ``empty`` makes (of ``(length, dtype)`` each)."""
        return self._decoded(rows, np.dtype(np.int32), np.dtype(np.float32), empty)

    def _decoded(
        self, rows: np.ndarray, index_dtype: np.dtype[Any], dtype: np.dtype[Any], empty: Empty
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rows = np.ascontiguousarray(rows, np.int64)
        if len(rows) and (rows.min() < 0 or rows.max() >= self.n_rows):
            raise IndexError(f"{self.path} has {self.n_rows} rows, not {rows.min()} to {rows.max()}")
        frequent, others = self._kinds
        bitmap = (len(frequent) + 63) // 64
        indptr = np.zeros(len(rows) + 1, np.int64)
        bad = codec.lengths(rows, self._files, self._rows_per_file, bitmap, self.n_genes, indptr)
        n = int(indptr[-1])
        if bad < 0:
            indices, values = empty((n + codec.SLACK, index_dtype), (n + codec.SLACK, dtype))
            small = codec.small_counts(dtype)
            bad = codec.decode(rows, self._files, self._rows_per_file, frequent, others, small, indptr, indices, values)
        if bad >= 0:
            row = int(rows[bad])
            raise self._damaged(row // self._rows_per_file, f"the record of row {row} is damaged")
        return indptr, indices[:n], values[:n]

    def read(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """``take`` of rows ``start`` to ``stop``."""
        return self.take(np.arange(start, stop, dtype=np.int64))

    @cached_property
    def obs_columns(self) -> list[str]:
        """Names of the obs columns; ``cell_id`` is the first."""
        import pyarrow.parquet as pq

        return list(pq.read_schema(self.path / OBS).names)

    def obs(self, column: str) -> pd.Series:
        """One obs column (n_rows,), read when it is asked for; text but ``cell_id`` is categorical.

        Raises:
            CellmillError: there is no such column.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        if column not in self.obs_columns:
            fix = nearest(column, self.obs_columns)
            raise CellmillError(self.path / OBS, f"has no column '{column}'.", fix)
        text = column != "cell_id" and pa.types.is_string(pq.read_schema(self.path / OBS).field(column).type)
        read = {"columns": [column], "read_dictionary": [column] if text else None}
        values = pq.read_table(self.path / OBS, **read)[column]
        found: pd.Series = values.to_pandas()
        return found.rename(column)

    def check(self) -> None:
        """Read every byte of the cells and decode every row.

        Raises:
            CellmillError: with the file and the row, where something is not as it was written.
        """
        import xxhash

        for number, (head, mapped) in enumerate(zip(self._heads, self._maps, strict=True)):
            if xxhash.xxh64_intdigest(memoryview(mapped)[head.index_at :]) != head.index_hash:
                raise self._damaged(number, "its index is damaged")
        n = 0
        for start in range(0, self.n_rows, CHECKED_ROWS):
            n += len(self.read(start, min(start + CHECKED_ROWS, self.n_rows))[2])
        if n != self.n_values:
            raise CellmillError(self.path, f"{n:,} values instead of {self.n_values:,}.", "Get it again.")
