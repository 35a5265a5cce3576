"""Columns of MDS as bytes: the values of all cells of a batch at once, without a Python call per cell.

Source of the encodings: ``streaming.base.format.mds.encodings`` of mosaicml-streaming 0.13.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numba
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cellmill.errors import CellmillError
from cellmill.exports.columns import lists, plain, string_bytes

WIDTHS: dict[str, int | None] = {"int8": 1, "int": 8, "float64": 8}
"""Bytes of a value, by MDS encoding; those not named here have each their own."""
STORAGES = {"int32": b"IntStorage", "int64": b"LongStorage", "float32": b"FloatStorage"}
"""What torch calls memory of a type."""
STORAGE_KEY = b"0"
"""The name of a pickled tensor's memory; torch takes its address, which differs from run to run."""
FRAME_BYTES = 64 << 10
"""From so many bytes on, pickle ends a frame."""
EXACT = float(1 << 53)
"""Whole numbers up to here are exact in float64."""


@dataclass(frozen=True)
class MdsColumn:
    """One column of the samples.

    ``source``: the column of the batches it is made of.
    ``encoding``: its MDS encoding; ``dtype``: the type of the values of a list, else ``None``.
    """

    source: str
    encoding: str
    dtype: Literal["uint8", "uint16", "uint32", "uint64", "int32", "int64", "float32"] | None = None

    @property
    def size(self) -> int | None:
        """Bytes of every value, or None where each has its own."""
        return WIDTHS.get(self.encoding)

    def pieces(self, column: pa.Array) -> list[pa.Array]:
        """Binary arrays that make the column's bytes where they are joined cell by cell."""
        if self.size is not None:
            return [_binary(np.arange(len(column) + 1) * self.size, plain(column))]
        if self.dtype is None:
            return [_binary(*string_bytes(column))]
        offsets, values = lists(column)
        if self.encoding == "pkl":
            return _tensors(offsets, values, self.dtype)
        if self.encoding == "json":
            return [_json(offsets, values, self.dtype)]
        head_offsets, head = _shape_heads(np.diff(offsets))
        return [_binary(head_offsets, head), _values(offsets, values, self.dtype)]


def samples(batch: pa.RecordBatch, columns: dict[str, MdsColumn]) -> tuple[np.ndarray, np.ndarray]:
    """Every cell as an MDS sample: offsets (n + 1, int64) and bytes.

    A sample is a uint32 size for each column of its own width, then the columns, both in the order of ``columns``.
    """
    sizes, pieces = [], []
    for column in columns.values():
        mine = column.pieces(batch[column.source])
        pieces += mine
        if column.size is None:
            sizes.append(sum(np.diff(_offsets(piece)) for piece in mine))
    head = np.stack(sizes, axis=1).astype("<u4")
    prefix = _binary(np.arange(batch.num_rows + 1) * head.shape[1] * 4, head)
    joined = pc.binary_join_element_wise(prefix, *pieces, pa.scalar(b"", pa.large_binary()))
    return _offsets(joined), np.frombuffer(joined.buffers()[2], np.uint8)


def _offsets(piece: pa.Array) -> np.ndarray:
    return np.frombuffer(piece.buffers()[1], np.int64, len(piece) + 1, piece.offset * 8)


def _binary(offsets: np.ndarray, data: np.ndarray) -> pa.Array:
    buffers = [None, pa.py_buffer(offsets.astype(np.int64, copy=False)), pa.py_buffer(np.ascontiguousarray(data))]
    return pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(offsets) - 1, buffers)


def _values(offsets: np.ndarray, values: np.ndarray, dtype: str) -> pa.Array:
    """The values as they lie in memory, little-endian."""
    type_ = np.dtype(dtype).newbyteorder("<")
    return _binary(offsets * type_.itemsize, values.astype(type_, copy=False))


# --- ndarray:<dtype>


def _shape_heads(lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What stands before an array of one dimension: its number of dimensions, the width of its length, the length."""
    code = (lengths >= 1 << 8).astype(np.uint8) + (lengths >= 1 << 16)
    heads = np.empty((len(lengths), 5), np.uint8)
    heads[:, 0] = (1 << 2) | code
    heads[:, 1:] = lengths.astype("<u4").view(np.uint8).reshape(-1, 4)
    widths = 1 + (1 << code.astype(np.int64))
    return np.concatenate([[0], widths.cumsum()]), heads[np.arange(5) < widths[:, None]]


# --- pkl: torch tensors


def _tensors(offsets: np.ndarray, values: np.ndarray, dtype: str) -> list[pa.Array]:
    """Pickled tensors of one dimension: what stands before and after the values depends on their number alone."""
    lengths, cells = np.unique(np.diff(offsets), return_inverse=True)
    frames = [tensor_frame(int(n), dtype) for n in lengths]
    before, after = (pa.array(side, pa.large_binary()).take(pa.array(cells)) for side in zip(*frames, strict=True))
    return [before, _values(offsets, values, dtype), after]


@lru_cache(maxsize=1 << 16)
def tensor_frame(n: int, dtype: str, *, key: bytes = STORAGE_KEY) -> tuple[bytes, bytes]:
    """What ``pickle.dumps`` writes before and after the ``n`` values of a torch tensor of one dimension on the CPU.

    The outer pickle (protocol 4) calls ``torch._utils._rebuild_tensor_v2`` on bytes of ``torch.save``, which are
    five small pickles (protocol 2), the number of values, and the values.
    Byte for byte what torch writes (2.13 was looked at), but for ``key``.
    """
    code, width = (b"K", "<B") if n < 1 << 8 else (b"M", "<H") if n < 1 << 16 else (b"J", "<i")
    number = code + struct.pack(width, n)
    named = b"X" + struct.pack("<I", len(key)) + key
    saved = (
        b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # the magic number
        b"\x80\x02M\xe9\x03."  # the version of the protocol
        b"\x80\x02}q\x00(X\x10\x00\x00\x00protocol_versionq\x01M\xe9\x03X\x0d\x00\x00\x00little_endianq\x02\x88"
        b"X\x0a\x00\x00\x00type_sizesq\x03}q\x04(X\x05\x00\x00\x00shortq\x05K\x02X\x03\x00\x00\x00intq\x06K\x04"
        b"X\x04\x00\x00\x00longq\x07K\x04uu."
        b"\x80\x02(X\x07\x00\x00\x00storageq\x00ctorch\n" + STORAGES[dtype] + b"\nq\x01" + named + b"q\x02"
        b"X\x03\x00\x00\x00cpuq\x03" + number + b"Ntq\x04Q."
        b"\x80\x02]q\x00" + named + b"q\x01a." + struct.pack("<Q", n)
    )
    size = len(saved) + n * np.dtype(dtype).itemsize
    call = (
        b"\x8c\x0ctorch._utils\x94\x8c\x12_rebuild_tensor_v2\x94\x93\x94("
        b"\x8c\x0dtorch.storage\x94\x8c\x10_load_from_bytes\x94\x93\x94"
    )
    blob = (struct.pack("<BB", 0x43, size) if size < 1 << 8 else struct.pack("<BI", 0x42, size)) + saved
    # Offset, size, stride, no gradient, no hooks; pickle looks before each piece whether its frame is full.
    rest = [b"\x94\x85\x94R\x94", b"K\x00", number + b"\x85\x94", b"K\x01\x85\x94", b"\x89"]
    rest += [b"\x8c\x0bcollections\x94", b"\x8c\x0bOrderedDict\x94\x93\x94", b")R\x94t\x94R\x94."]
    if size >= FRAME_BYTES:  # the bytes stand outside all frames
        return b"\x80\x04" + _frame(call) + blob, _frame(b"".join(rest))
    used, first = len(call) + len(blob) - len(saved) + size, 0
    while first < len(rest) and (first == 0 or used < FRAME_BYTES):
        used += len(rest[first])
        first += 1
    head = b"\x80\x04\x95" + struct.pack("<Q", used) + call + blob
    return head, b"".join(rest[:first]) + _frame(b"".join(rest[first:]))


def _frame(content: bytes) -> bytes:
    """A frame of pickle, which has no head where it is tiny."""
    return content if len(content) < 4 else b"\x95" + struct.pack("<Q", len(content)) + content


# --- json


def _json(offsets: np.ndarray, values: np.ndarray, dtype: str) -> pa.Array:
    """Lists as ``json.dumps`` writes them: ``[1, 2]``, or of floats ``[1.0, 2.5]``."""
    fractions = dtype.startswith("float")
    if values.dtype.kind == "f":
        values = values.astype(np.float64)
        if not np.isfinite(values).all():
            fix = "Write it with encoding: ndarray, or tensors."
            raise CellmillError("mds, encoding json", "a value of a list is not finite, which JSON cannot say.", fix)
        if (values != np.floor(values)).any() or np.abs(values).max(initial=0) > EXACT:
            return _json_of_fractions(offsets, values)
    ends, out = _json_of_whole(offsets, values.astype(np.int64), b".0" if fractions else b"")
    return _binary(ends, out)


def _json_of_fractions(offsets: np.ndarray, values: np.ndarray) -> pa.Array:
    """The shortest text that gives the same float64; a whole number keeps its ``.0``, by which it stays a float."""
    dot, opening, closing, comma, nothing = (pa.scalar(s, pa.large_string()) for s in (".0", "[", "]", ", ", ""))
    text = pc.cast(pa.array(values), pa.large_string())
    bare = pc.invert(pc.match_substring_regex(text, "[.eE]"))
    text = pc.if_else(bare, pc.binary_join_element_wise(text, dot, nothing), text)
    inner = pc.binary_join(pa.LargeListArray.from_arrays(pa.array(offsets), text), comma)
    return pc.binary_join_element_wise(opening, inner, closing, nothing).cast(pa.large_binary())


def _json_of_whole(offsets: np.ndarray, values: np.ndarray, ending: bytes) -> tuple[np.ndarray, np.ndarray]:
    ends = np.zeros(len(offsets), np.int64)
    _measure(offsets, values, len(ending), ends)
    np.cumsum(ends, out=ends)
    out = np.empty(int(ends[-1]), np.uint8)
    _spell(offsets, values, np.frombuffer(ending, np.uint8), ends, out)
    return ends, out


@numba.njit(cache=True, nogil=True)
def _digits(value: int) -> int:
    n, rest = 1, value
    while rest >= 10:
        rest //= 10
        n += 1
    return n


@numba.njit(cache=True, nogil=True)
def _measure(offsets: np.ndarray, values: np.ndarray, n_ending: int, sizes: np.ndarray) -> None:
    """Bytes of each list, from place 1 on."""
    for i in range(len(offsets) - 1):
        total = 2
        for j in range(offsets[i], offsets[i + 1]):
            v = values[j]
            total += _digits(-v) + 1 if v < 0 else _digits(v)
            total += n_ending + (2 if j > offsets[i] else 0)
        sizes[i + 1] = total


@numba.njit(cache=True, nogil=True)
def _spell(offsets: np.ndarray, values: np.ndarray, ending: np.ndarray, ends: np.ndarray, out: np.ndarray) -> None:
    for i in range(len(offsets) - 1):
        at = ends[i]
        out[at] = 91  # [
        at += 1
        for j in range(offsets[i], offsets[i + 1]):
            if j > offsets[i]:
                out[at], out[at + 1] = 44, 32  # comma, space
                at += 2
            v = values[j]
            if v < 0:
                out[at] = 45  # -
                at += 1
                v = -v
            n = _digits(v)
            for d in range(at + n - 1, at - 1, -1):
                out[d] = 48 + v % 10
                v //= 10
            at += n
            for b in ending:
                out[at] = b
                at += 1
        out[at] = 93  # ]
