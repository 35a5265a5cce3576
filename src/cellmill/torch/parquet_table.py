"""Rows of an ``hf`` export, or of token files, by row groups of Parquet."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from itertools import chain
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cellmill.contracts.versions import TOKENS
from cellmill.errors import CellmillError, nearest
from cellmill.exports.features import decode
from cellmill.torch.obs import ObsColumn, obs_column
from cellmill.torch.stores import Blocks, blocks_kept, by_block


def open_parquet(path: Path) -> ParquetTable:
    """A split of an ``hf`` export; or a token file, or a folder of them (all parts of a tokenizer)."""
    return (TokenFiles if any(map(_has_tokens, _files(path))) else ParquetTable)(path)


def _files(path: Path) -> list[Path]:
    return [path] if path.suffix == ".parquet" else sorted(path.glob("*.parquet"))


def _has_tokens(file: Path) -> bool:
    """Whether this is a token file: the vocabulary of a tokenizer stands beside them."""
    said = json.loads((pq.read_metadata(file).metadata or {}).get(b"cellmill", b"{}"))
    return str(said.get("contract")).startswith(f"{TOKENS.name} ")


class ParquetTable:
    """Parquet files of one schema as one table; row groups are decoded when they are asked for.

    Memory: the row groups of a buffer, of the columns that are asked for.
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        self.path = Path(path)
        self._files = self._list()
        self._groups: list[tuple[int, int]] = []
        sizes = [0]
        for number, name in enumerate(self._files):
            said = pq.read_metadata(name)
            self._groups += [(number, group) for group in range(said.num_row_groups)]
            sizes += [said.row_group(group).num_rows for group in range(said.num_row_groups)]
        schema = decode(pq.read_schema(self._files[0]).empty_table()).schema
        self.columns: dict[str, pa.DataType] = {f.name: f.type for f in schema}
        self._starts = np.cumsum(sizes)
        self.n_rows = int(self._starts[-1])
        self.block_rows = max(sizes[1:], default=1) or 1
        self._blocks: dict[tuple[str, ...], Blocks[pa.Table]] = {}

    def _list(self) -> list[Path]:
        return _files(self.path)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path,)

    def take(self, rows: np.ndarray, columns: Sequence[str]) -> pa.Table:
        """Some columns of ``rows``, in one chunk.

        Raises:
            CellmillError: a column is not there.
            IndexError: a row is not there.
        """
        for column in columns:
            if column not in self.columns:
                raise CellmillError(self.path, f"there is no column '{column}'.", nearest(column, self.columns))
        key = tuple(columns)
        if key not in self._blocks:
            kept = blocks_kept(self.block_rows)
            self._blocks[key] = Blocks(lambda block: self._read(block, key), kept=kept)
        pieces = by_block(rows, self._starts)
        if not pieces:
            return pa.schema([(c, self.columns[c]) for c in columns]).empty_table()
        tables = [self._blocks[key][block].take(pa.array(local)) for block, _, local in pieces]
        back = np.argsort(np.concatenate([at for _, at, _ in pieces]))
        return pa.concat_tables(tables).combine_chunks().take(pa.array(back)).combine_chunks()

    def _read(self, block: int, columns: tuple[str, ...]) -> pa.Table:
        number, group = self._groups[block]
        # Opened anew: an open file does not survive a fork, and a row group costs far more than the footer.
        with pq.ParquetFile(self._files[number], memory_map=False) as file:
            return decode(file.read_row_group(group, columns=list(columns), use_threads=False)).combine_chunks()

    def obs(self, column: str) -> ObsColumn:
        """One column for all rows, decoded now."""
        if column not in self.columns:
            raise CellmillError(self.path, f"there is no column '{column}'.", nearest(column, self.columns))
        none = pa.table({column: pa.array([], self.columns[column])})
        blocks = (self._read(block, (column,)) for block in range(len(self._groups)))
        return obs_column(column, (piece for block in chain([none], blocks) for piece in block[column].chunks))


class TokenFiles(ParquetTable):
    """Token files of one tokenizer, all splits together; rows that it leaves out are not there.

    The obs columns, ``split`` among them, are those of the processed parts, which must lie where the workflow puts
    them: ``../../processed``.
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        from cellmill.contracts import parquet

        super().__init__(path)
        facts = []
        for name in self._files:
            file, said = parquet.open_file(name, TOKENS)
            file.close()
            facts.append(said)
        self.columns.pop("left_out")
        self._present: np.ndarray | None = None
        if any(said["cells_left_out"] for said in facts):
            left_out = [pq.read_table(f, columns=["left_out"])["left_out"].to_numpy() for f in self._files]
            self._present = np.flatnonzero(~np.concatenate(left_out))
            self.n_rows = len(self._present)

    def _list(self) -> list[Path]:
        return [file for file in super()._list() if _has_tokens(file)]

    def take(self, rows: np.ndarray, columns: Sequence[str]) -> pa.Table:
        if self._present is not None and len(rows):
            if not 0 <= rows.min() <= rows.max() < self.n_rows:
                raise IndexError(f"rows {rows.min()} to {rows.max()} were asked for, there are {self.n_rows:,}.")
            rows = self._present[rows]
        return super().take(rows, columns)

    @cached_property
    def _parts(self) -> list[Path]:
        processed = self._files[0].parent.parent.parent / "processed"
        parts = [processed / f"{file.stem}.h5ad" for file in self._files]
        for part in parts:
            if not part.is_file():
                raise CellmillError(part, "the obs columns of token files stand there.", "Keep it where it was made.")
        return parts

    def obs(self, column: str) -> ObsColumn:
        """One obs column of the processed parts, which are row-aligned with the tokens."""
        from cellmill.contracts.counts import CountsPart

        found = []
        for path in self._parts:
            with CountsPart(path) as part:
                table = part.obs_table()
            if column not in table.column_names:
                raise CellmillError(path, f"there is no obs column '{column}'.", nearest(column, table.column_names))
            found.append(table[column])
        types = {piece.type for piece in found if piece.null_count < len(piece)}
        whole = [piece.cast(types.copy().pop()) if len(types) == 1 else piece.cast(pa.float64()) for piece in found]
        values = obs_column(column, pa.chunked_array([chunk for piece in whole for chunk in piece.chunks]))
        if self._present is None:
            return values
        return ObsColumn(column, values.values[self._present], values.categories)
