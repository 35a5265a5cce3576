"""Row groups of Parquet, encoded in any thread and then put behind one another.

pyarrow encodes in one thread, and writes the levels of a list value by value: more time than all the rest of a
tokenizer takes.
Here the levels of a list are two runs, and every thread encodes its own row group.
Schema and metadata are pyarrow's, and so is everything that reads these files.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cellmill.matrix.writer import shuffle

LEVEL = 1
"""Of zstd."""
_MAGIC = b"PAR1"
_I32, _I64, _TEXT, _LIST, _STRUCT = 5, 6, 8, 9, 12
_BOOLEAN, _INT32, _FLOAT, _BYTE_ARRAY = 0, 1, 4, 6
_PLAIN, _RLE, _BYTE_STREAM_SPLIT = 0, 3, 9
_ZSTD = 6
_NO_ROW_GROUPS = bytes([0x16, 0, 0x19, _STRUCT])
"""Of a footer: no rows (field 3), an empty list of row groups (field 4)."""


@dataclass(frozen=True)
class Chunk:
    """A column of a row group: one page with its header."""

    page: bytes
    n_values: int
    n_bytes: int
    """Header and page before compression."""
    kind: int
    encoding: int
    nested: bool


@dataclass(frozen=True)
class RowGroup:
    """Rows whose columns are encoded, in the order of the schema."""

    n_rows: int
    chunks: list[Chunk]


def encode_rows(columns: Sequence[pa.Array]) -> RowGroup:
    """A row group of columns of the same length."""
    return RowGroup(len(columns[0]), [encode(column) for column in columns])


def encode(column: pa.Array) -> Chunk:
    """A column as Parquet; it may be run in any thread.

    Args:
        column: large_list of integers of up to 32 bits or of float32, large_string or bool; nothing is missing.

    Numbers are split by bytes, whatever their type: smaller than by a dictionary.
    """
    if pa.types.is_large_list(column.type):
        return _encode_lists(column)
    if pa.types.is_boolean(column.type):
        bits = np.packbits(column.to_numpy(zero_copy_only=False), bitorder="little")
        return _chunk(bits, len(column), _BOOLEAN, _PLAIN)
    offsets, data = _offsets(column), np.frombuffer(column.buffers()[2] or b"", np.uint8)
    body = np.empty(int(offsets[-1] - offsets[0]) + 4 * len(column), np.uint8)
    _with_lengths(offsets, data, body)
    return _chunk(body, len(column), _BYTE_ARRAY, _PLAIN)


def _offsets(column: pa.Array) -> np.ndarray:
    return np.frombuffer(column.buffers()[1], np.int64, len(column) + 1, column.offset * 8)


def _encode_lists(column: pa.Array) -> Chunk:
    offsets = _offsets(column)
    values = column.values.to_numpy(zero_copy_only=False)[offsets[0] : offsets[-1]]
    kind = _FLOAT if values.dtype.kind == "f" else _INT32
    if values.dtype.kind == "i":
        values = values.astype(np.int32, copy=False)  # with its sign
    repeated, defined = np.empty(8 * len(column) + 8, np.uint8), np.empty(6 * len(column) + 6, np.uint8)
    n_repeated, n_defined, n_levels = _levels(offsets, repeated, defined)
    head = 8 + n_repeated + n_defined
    body = np.empty(head + 4 * len(values), np.uint8)
    body[:4].view("<u4")[0] = n_repeated
    body[4 : 4 + n_repeated] = repeated[:n_repeated]
    body[4 + n_repeated : 8 + n_repeated] = np.frombuffer(struct.pack("<I", n_defined), np.uint8)
    body[8 + n_repeated : head] = defined[:n_defined]
    width = values.dtype.itemsize
    split = body[head : head + width * len(values)]
    shuffle(np.ascontiguousarray(values).view(f"u{width}"), width, split)
    body[head + width * len(values) :] = 0
    return _chunk(body, n_levels, kind, _BYTE_STREAM_SPLIT, nested=True)


@numba.njit(cache=True, nogil=True)
def _run(out: np.ndarray, end: int, length: int, level: int) -> int:
    """Put ``length`` times ``level`` behind ``end``; the new end."""
    head = length << 1
    while head >= 128:
        out[end] = head & 127 | 128
        head >>= 7
        end += 1
    out[end], out[end + 1] = head, level
    return end + 2


@numba.njit(cache=True, nogil=True)
def _levels(offsets: np.ndarray, repeated: np.ndarray, defined: np.ndarray) -> tuple[int, int, int]:
    """Where lists begin (level 0) and go on (1), and whether they have values: bytes of both, and levels.

    An empty list has one level and no value.
    """
    a, b, levels, run, there = 0, 0, 0, 0, 1
    for i in range(len(offsets) - 1):
        n = offsets[i + 1] - offsets[i]
        a = _run(repeated, a, 1, 0)
        if n > 1:
            a = _run(repeated, a, n - 1, 1)
        if (n > 0) != there and run:
            b = _run(defined, b, run, there)
            run = 0
        there = 1 if n > 0 else 0
        run += max(n, 1)
        levels += max(n, 1)
    if run:
        b = _run(defined, b, run, there)
    return a, b, levels


@numba.njit(cache=True, nogil=True)
def _with_lengths(offsets: np.ndarray, data: np.ndarray, out: np.ndarray) -> None:
    """Strings one behind the other, each with its length (uint32) before it."""
    end = 0
    for i in range(len(offsets) - 1):
        n = offsets[i + 1] - offsets[i]
        for b in range(4):
            out[end + b] = n >> (8 * b) & 255
        end += 4
        for k in range(offsets[i], offsets[i + 1]):
            out[end] = data[k]
            end += 1


def _chunk(body: np.ndarray, n_values: int, kind: int, encoding: int, *, nested: bool = False) -> Chunk:
    packed = pa.Codec("zstd", compression_level=LEVEL).compress(body, asbytes=True)
    about = _struct((1, _I32, n_values), (2, _I32, encoding), (3, _I32, _RLE), (4, _I32, _RLE))
    head = _struct((1, _I32, 0), (2, _I32, len(body)), (3, _I32, len(packed)), (5, _STRUCT, about))
    return Chunk(head + packed, n_values, len(head) + len(body), kind, encoding, nested)


class RowGroupWriter:
    """A Parquet file of row groups whose columns are encoded already.

    Args:
        path: the file to make; the caller writes aside and renames.
        schema: columns that ``encode`` knows, none with missing values.
    """

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._schema, self._file = schema, open(path, "wb")
        self._end = self._file.write(_MAGIC)
        self._groups: list[bytes] = []
        self._n_rows = 0

    def __enter__(self) -> RowGroupWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def append(self, group: RowGroup) -> None:
        """Put a row group behind the others."""
        columns = []
        for name, chunk in zip(self._schema.names, group.chunks, strict=True):
            path = [name, "list", "element"] if chunk.nested else [name]
            encodings = [_RLE, chunk.encoding]
            about = _struct(
                (1, _I32, chunk.kind),
                (2, _LIST, _list(_I32, [_whole(e) for e in encodings])),
                (3, _LIST, _list(_TEXT, [_varint(len(p.encode())) + p.encode() for p in path])),
                (4, _I32, _ZSTD),
                (5, _I64, chunk.n_values),
                (6, _I64, chunk.n_bytes),
                (7, _I64, len(chunk.page)),
                (9, _I64, self._end),
            )
            columns.append(_struct((2, _I64, 0), (3, _STRUCT, about)))
            self._end += self._file.write(chunk.page)
        n_bytes = sum(chunk.n_bytes for chunk in group.chunks)
        self._groups.append(_struct((1, _LIST, _list(_STRUCT, columns)), (2, _I64, n_bytes), (3, _I64, group.n_rows)))
        self._n_rows += group.n_rows

    def close(self, metadata: Mapping[bytes, bytes]) -> None:
        """Write the footer: that of an empty file of pyarrow's, with our row groups."""
        sink = pa.BufferOutputStream()
        with pq.ParquetWriter(sink, self._schema) as empty:
            empty.add_key_value_metadata(metadata)
        file = sink.getvalue().to_pybytes()
        (size,) = struct.unpack("<I", file[-8:-4])
        before, found, after = file[-8 - size : -8].partition(_NO_ROW_GROUPS)
        if not found:
            raise ValueError("pyarrow writes the footer of an empty file in another way")
        rows = bytes([0x16]) + _whole(self._n_rows) + bytes([0x19]) + _list(_STRUCT, self._groups)
        footer = before + rows + after
        self._file.write(footer + struct.pack("<I", len(footer)) + _MAGIC)


# Thrift's compact protocol: https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md


def _varint(number: int) -> bytes:
    out = bytearray()
    while number >= 128:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def _whole(number: int) -> bytes:
    return _varint(number << 1 if number >= 0 else ~(number << 1))


def _list(kind: int, items: Sequence[bytes]) -> bytes:
    head = bytes([len(items) << 4 | kind]) if len(items) < 15 else bytes([0xF0 | kind]) + _varint(len(items))
    return head + b"".join(items)


def _struct(*fields: tuple[int, int, Any]) -> bytes:
    """Fields as ``(number, type, value)``, by rising number; what is no whole number comes encoded."""
    out, last = [], 0
    for number, kind, value in fields:
        out += [bytes([(number - last) << 4 | kind]), _whole(value) if kind in (_I32, _I64) else value]
        last = number
    return b"".join([*out, b"\0"])
