"""Cells of an MDS export."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.json
import xxhash

from cellmill.checks.compare import Rows
from cellmill.checks.problems import UnreadableError
from cellmill.exports.columns import filled
from cellmill.exports.mds_columns import STORAGES, tensor_frame
from cellmill.exports.rows import Header, token_column

NUMBERS = {"int": "<i8", "int8": "i1", "int16": "<i2", "int32": "<i4", "int64": "<i8", "uint8": "u1", "uint16": "<u2"}
NUMBERS |= {"uint32": "<u4", "uint64": "<u8", "float32": "<f4", "float64": "<f8"}
BLOCK_ROWS = 4_096
HASHES: dict[str, Any] = {"sha1": partial(hashlib.sha1, usedforsecurity=False), "xxh64": xxhash.xxh64}
LENGTHS = (1, 2, 4, 8)
"""Bytes of a length, by the low bits of an array's first byte."""


def read(folder: Path, split: str, said: dict[str, Any]) -> Iterator[Rows]:
    """The shards that ``index.json`` names; columns of encodings that are not known here are left out."""
    index = folder / split / "index.json"
    if not index.is_file():
        return
    try:
        shards = json.loads(index.read_text())["shards"]
    except (ValueError, KeyError) as error:
        raise UnreadableError(f"{split}/index.json", f"not readable ({error})") from error
    for shard in shards:
        info = shard["zip_data"] or shard["raw_data"]
        name = f"{split}/{info['basename']}"
        try:
            raw = (folder / name).read_bytes()
            _verify(name, raw, info["hashes"])
            if shard["zip_data"]:
                raw = pa.Codec("zstd").decompress(raw, shard["raw_data"]["bytes"], asbytes=True)
                _verify(name, raw, shard["raw_data"]["hashes"])
            data = np.frombuffer(raw, np.uint8)
            starts = _starts(data, shard)
            for first in range(0, len(starts), BLOCK_ROWS):
                yield Rows(name, first, pa.table(_columns(data, starts[first : first + BLOCK_ROWS], shard)))
        except (OSError, KeyError, ValueError, IndexError, pa.ArrowException) as error:
            raise UnreadableError(name, f"not readable ({error})") from error


def _verify(name: str, data: bytes, hashes: dict[str, str]) -> None:
    """The checksums of ``index.json``; one of a kind that is not known here is passed over."""
    for kind, wanted in hashes.items():
        if kind in HASHES and HASHES[kind](data).hexdigest() != wanted:
            raise UnreadableError(name, f"its {kind} is not that of index.json")


def _starts(data: np.ndarray, shard: dict[str, Any]) -> np.ndarray:
    """Where each sample begins."""
    n = int(data[:4].view("<u4")[0])
    if n != shard["samples"]:
        raise ValueError(f"{n:,} samples, index.json says {shard['samples']:,}")
    return np.asarray(data[4 : 4 + 4 * n].view("<u4").astype(np.int64))


def _columns(data: np.ndarray, starts: np.ndarray, shard: dict[str, Any]) -> dict[str, pa.Array]:
    """The columns of some samples: each is the sizes of its columns of no fixed width, then all columns."""
    n = len(starts)
    widths = shard["column_sizes"]
    at = starts + 4 * sum(w is None for w in widths)
    size_at, columns = starts, {}
    for name, encoding, width in zip(shard["column_names"], shard["column_encodings"], widths, strict=True):
        if width is None:
            sizes = _gather(data, size_at, np.full(n, 4)).view("<u4").astype(np.int64)
            size_at = size_at + 4
        else:
            sizes = np.full(n, width)
        if encoding == "str":
            offsets = np.r_[0, sizes.cumsum()]
            buffers = [None, pa.py_buffer(offsets), pa.py_buffer(_gather(data, at, sizes))]
            columns[name] = pa.LargeStringArray.from_buffers(n, buffers[1], buffers[2])
            columns[name].validate(full=True)
        elif encoding.startswith("ndarray:"):
            columns[name] = _arrays(data, at, sizes, np.dtype(encoding.split(":")[1]).newbyteorder("<"))
        elif encoding == "pkl":
            columns[name] = _tensors(data, at, sizes)
        elif encoding == "json":
            columns[name] = _json(data, at, sizes)
        elif encoding in NUMBERS:
            columns[name] = pa.array(_gather(data, at, sizes).view(NUMBERS[encoding]))
        at = at + sizes
    return columns


def _gather(data: np.ndarray, starts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """The bytes of pieces, end to end."""
    offsets = np.r_[0, sizes.cumsum()]
    index = np.repeat(starts - offsets[:-1], sizes) + np.arange(offsets[-1])
    return np.ascontiguousarray(data[index])


def _arrays(data: np.ndarray, starts: np.ndarray, sizes: np.ndarray, dtype: np.dtype[Any]) -> pa.Array:
    """Arrays of one dimension: a byte of dimensions and of the width of the length, the length, the values."""
    first = data[starts]
    if len(first) and (first >> 2 != 1).any():
        raise ValueError("an array has not one dimension")
    heads = 1 + np.take(LENGTHS, first & 3)
    values = _gather(data, starts + heads, sizes - heads).view(dtype)
    return pa.LargeListArray.from_arrays(np.r_[0, ((sizes - heads) // dtype.itemsize).cumsum()], values)


def _tensors(data: np.ndarray, starts: np.ndarray, sizes: np.ndarray) -> pa.Array:
    """Pickled tensors of one dimension, by the bytes that stand around their values: nothing is unpickled.

    Tensors of one size have one number of values, hence the same bytes before and after them.
    """
    first = bytes(data[starts[0] : starts[0] + sizes[0]]) if len(starts) else b""
    dtype = next((d for d, storage in STORAGES.items() if b"ctorch\n" + storage + b"\n" in first), None)
    if dtype is None:
        raise ValueError("a pickle is no tensor of whole numbers or float32")
    at, lengths = starts.copy(), np.zeros(len(starts), np.int64)
    for size in np.unique(sizes):
        mine = np.flatnonzero(sizes == size)
        n, before, after = _frame_of(int(size), dtype)
        for wanted, places in ((before, starts[mine]), (after, starts[mine] + size - len(after))):
            found = _gather(data, places, np.full(len(mine), len(wanted))).reshape(len(mine), -1)
            if (found != np.frombuffer(wanted, np.uint8)).any():
                raise ValueError("a pickle is not that of a tensor of one dimension, as it is written here")
        at[mine] += len(before)
        lengths[mine] = n
    type_ = np.dtype(dtype).newbyteorder("<")
    values = _gather(data, at, lengths * type_.itemsize).view(type_)
    return pa.LargeListArray.from_arrays(np.r_[0, lengths.cumsum()], values)


@lru_cache(maxsize=1 << 16)
def _frame_of(size: int, dtype: str) -> tuple[int, bytes, bytes]:
    """The number of values of a pickled tensor of so many bytes, and what stands before and after them."""
    width = np.dtype(dtype).itemsize
    least = sum(map(len, tensor_frame(0, dtype)))
    most = max(0, (size - least) // width)
    for n in range(most, max(-1, most - 16), -1):
        before, after = tensor_frame(n, dtype)
        if len(before) + n * width + len(after) == size:
            return n, before, after
    raise ValueError(f"a pickle of {size:,} bytes is no tensor of {dtype}")


def _json(data: np.ndarray, starts: np.ndarray, sizes: np.ndarray) -> pa.Array:
    """Lists of numbers, read as lines of an object each."""
    before, after = b'{"v":', b"}\n"
    lines = np.empty(int(sizes.sum()) + len(sizes) * (len(before) + len(after)), np.uint8)
    ends = (sizes + len(before) + len(after)).cumsum()
    begins = np.r_[0, ends[:-1]]
    for text, places in ((before, begins), (after, ends - len(after))):
        lines[(places[:, None] + np.arange(len(text))).ravel()] = np.tile(np.frombuffer(text, np.uint8), len(sizes))
    within = np.repeat(begins + len(before) - np.r_[0, sizes.cumsum()[:-1]], sizes) + np.arange(int(sizes.sum()))
    lines[within] = _gather(data, starts, sizes)
    options = pa.json.ReadOptions(use_threads=False, block_size=max(1, len(lines)))
    table = pa.json.read_json(pa.BufferReader(pa.py_buffer(lines)), options)
    if table.column_names != ["v"] or len(table) != len(sizes) or not pa.types.is_list(table["v"].type):
        raise ValueError("a text is no list of JSON")
    return pa.concat_arrays(table["v"].chunks)


def genes(folder: Path, split: str) -> Iterator[tuple[str, list[str]]]:
    """What the numbers of the column ``genes`` stand for."""
    path = folder / "genes.json"
    if path.is_file():
        yield path.name, json.loads(path.read_text())["gene_id"]


def expected(batch: pa.RecordBatch, header: Header, said: dict[str, Any]) -> pa.Table:
    """Ids, tokens or counts, and the obs columns with the values that stand for missing ones."""
    columns = {"cell_id": batch["cell_id"]}
    if said["spec"]["kind"] == "expression":
        columns |= {c: batch[c] for c in ("genes", "counts")}
    for tokenizer, found in header.tokens.items():
        columns |= {c: batch[token_column(tokenizer, c)] for c in found}
    return pa.table(columns | {c: filled(batch[c]) for c in said["facts"]["columns"] if c not in columns})
