"""Rows of an ``mds`` export, read without mosaicml-streaming (docs/formats.md, mds)."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from cellmill.errors import CellmillError, nearest
from cellmill.exports.mds_lists import json_lists, tensors
from cellmill.files import read_json
from cellmill.torch.kernels import gather
from cellmill.torch.obs import ObsColumn, obs_column
from cellmill.torch.stores import Blocks, blocks_kept, by_block

SCALARS = {"int": "int64"} | {
    name: name
    for name in ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float32", "float64")
}
"""Encodings of numbers and their types."""
LISTS = {"pkl": tensors, "json": json_lists}
"""Encodings of lists of which each says its type itself."""


class MdsTable:
    """A split of MDS shards whose columns are text, numbers, and lists of numbers in any of the three encodings.

    A shard is inflated whole, and about as many stay as a buffer has rows in: with shards of 64 MB, three of them.
    Of pickles, those of tensors of one dimension are read, by the bytes around their values: nothing is unpickled.
    Other columns are left to ``streaming.StreamingDataset``.
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        self.path = Path(path)
        self._shards = read_json(self.path / "index.json")["shards"]
        first = self._shards[0]
        self._encodings = dict(zip(first["column_names"], first["column_encodings"], strict=True))
        self._widths = dict(zip(first["column_names"], first["column_sizes"], strict=True))
        sizes = [int(shard["samples"]) for shard in self._shards]
        self._starts = np.cumsum([0, *sizes])
        self.n_rows, self.block_rows = int(self._starts[-1]), max(1, *sizes)
        self._blocks: Blocks[np.ndarray] = Blocks(self._read, kept=blocks_kept(self.block_rows))
        found = {name: _type(code) or self._type_there(name) for name, code in self._encodings.items()}
        self.columns: dict[str, pa.DataType] = {name: type_ for name, type_ in found.items() if type_ is not None}

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path,)

    def _type_there(self, name: str) -> pa.DataType | None:
        """The type of a column whose encoding does not say it, by its first samples; ``None``: not read here."""
        if self._encodings[name] not in LISTS:
            return None
        first = self._shards[0]["samples"]
        try:
            found = self._decode(self._blocks[0], np.arange(min(first, 64)), [name])[name].type
        except CellmillError:
            return None
        return pa.large_list(pa.int64() if pa.types.is_null(found.value_type) else found.value_type)

    def _read(self, number: int) -> np.ndarray:
        """A shard as bytes (uint8)."""
        raw, packed = self._shards[number]["raw_data"], self._shards[number]["zip_data"]
        path = self.path / (packed or raw)["basename"]
        data = path.read_bytes()
        if packed is not None:
            data = pa.Codec("zstd").decompress(data, raw["bytes"], asbytes=False)
        found = np.frombuffer(data, np.uint8)
        if len(found) != raw["bytes"]:
            raise CellmillError(path, f"has {len(found):,} bytes, not {raw['bytes']:,}.", "Write the export again.")
        return found

    def take(self, rows: np.ndarray, columns: Sequence[str]) -> pa.Table:
        """Some columns of ``rows``.

        Raises:
            CellmillError: a column is not there, or in an encoding that is not read here.
            IndexError: a row is not there.
        """
        for column in columns:
            if column in self._encodings and column not in self.columns:
                found = f"the column '{column}' is encoded as '{self._encodings[column]}'."
                raise CellmillError(self.path, found, "Read it with streaming.StreamingDataset.")
            if column not in self.columns:
                raise CellmillError(self.path, f"there is no column '{column}'.", nearest(column, self.columns))
        pieces = by_block(rows, self._starts)
        if not pieces:
            return pa.schema([(c, self.columns[c]) for c in columns]).empty_table()
        schema = pa.schema([(name, self.columns[name]) for name in columns])
        tables = [self._decode(self._blocks[block], local, columns).cast(schema) for block, _, local in pieces]
        back = np.argsort(np.concatenate([at for _, at, _ in pieces]))
        return pa.concat_tables(tables).combine_chunks().take(pa.array(back)).combine_chunks()

    def _decode(self, shard: np.ndarray, rows: np.ndarray, columns: Sequence[str]) -> pa.Table:
        """Samples of a shard: a uint32 size for each column of its own width, then the columns."""
        offsets = shard[4 : 8 + 4 * int(shard[:4].view("<u4")[0])].view("<u4")
        begin = offsets[rows].astype(np.int64)
        own = [name for name, width in self._widths.items() if width is None]
        heads = shard[begin[:, None] + np.arange(4 * len(own))]
        sizes = dict(zip(own, heads.copy().view("<u4").astype(np.int64).T, strict=True))
        at, out = begin + 4 * len(own), {}
        for name, width in self._widths.items():
            size = sizes[name] if width is None else np.full(len(rows), width, np.int64)
            if name in columns:
                out[name] = self._column(shard, name, at, size)
            at = at + size
        return pa.table({name: out[name] for name in columns})

    def _column(self, shard: np.ndarray, name: str, at: np.ndarray, size: np.ndarray) -> pa.Array:
        encoding = self._encodings[name]
        if encoding in LISTS:
            try:
                return LISTS[encoding](shard, at, size)
            except (ValueError, pa.ArrowException) as error:
                raise CellmillError(
                    self.path, f"'{name}' is no list of numbers ({error}).", "Export it anew."
                ) from error
        if encoding.startswith("ndarray"):
            head = shard[at]  # the number of dimensions, and how many bytes their lengths take
            if (head >> 2 != 1).any():
                raise CellmillError(self.path, f"'{name}' has arrays of other than one dimension.", "Export it anew.")
            skip = 1 + (1 << (head & 3).astype(np.int64))
            at, size = at + skip, size - skip
        offsets = np.concatenate([[0], np.cumsum(size)])
        data = np.empty(offsets[-1], np.uint8)
        if not gather(shard, at, offsets, data):
            raise CellmillError(self.path, "a sample leads outside of its shard.", "Write the export again.")
        if encoding == "str":
            return pa.LargeStringArray.from_buffers(len(at), pa.py_buffer(offsets), pa.py_buffer(data))
        dtype = np.dtype(encoding.partition(":")[2] or SCALARS[encoding])
        if encoding.startswith("ndarray"):
            return pa.LargeListArray.from_arrays(pa.array(offsets // dtype.itemsize), pa.array(data.view(dtype)))
        return pa.array(data.view(dtype))

    def obs(self, column: str) -> ObsColumn:
        """One column for all rows, decoded now; empty text and the least whole number are missing values again."""
        known = self._known(column)
        return obs_column(column, (self._missing_again(i, known) for i in range(len(self._shards))))

    def _missing_again(self, number: int, column: list[str]) -> pa.Array:
        """A column of a shard with its missing values."""
        import pyarrow.compute as pc

        rows = np.arange(int(self._shards[number]["samples"]))
        values = self._decode(self._read(number), rows, column)[column[0]].combine_chunks()
        if pa.types.is_large_string(values.type):
            return pc.if_else(pc.equal(values, ""), pa.scalar(None, values.type), values)
        if values.type == pa.int64():
            return pc.if_else(pc.equal(values, np.iinfo(np.int64).min), pa.scalar(None, values.type), values)
        return values

    def _known(self, column: str) -> list[str]:
        if column not in self.columns:
            raise CellmillError(self.path, f"there is no column '{column}'.", nearest(column, self.columns))
        return [column]


def _type(encoding: str) -> pa.DataType | None:
    """The Arrow type of an encoding that is read here."""
    kind, _, dtype = encoding.partition(":")
    if encoding == "str":
        return pa.large_string()
    if encoding in SCALARS:
        return pa.from_numpy_dtype(SCALARS[encoding])
    if kind == "ndarray" and dtype in SCALARS:
        return pa.large_list(pa.from_numpy_dtype(dtype))
    return None
