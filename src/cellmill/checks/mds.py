"""Cells of an MDS export."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash

from cellmill.checks.compare import Rows
from cellmill.checks.problems import UnreadableError
from cellmill.exports.columns import filled
from cellmill.exports.mds_lists import gather, json_lists, tensors
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
            sizes = gather(data, size_at, np.full(n, 4)).view("<u4").astype(np.int64)
            size_at = size_at + 4
        else:
            sizes = np.full(n, width)
        if encoding == "str":
            offsets = np.r_[0, sizes.cumsum()]
            buffers = [None, pa.py_buffer(offsets), pa.py_buffer(gather(data, at, sizes))]
            columns[name] = pa.LargeStringArray.from_buffers(n, buffers[1], buffers[2])
            columns[name].validate(full=True)
        elif encoding.startswith("ndarray:"):
            columns[name] = _arrays(data, at, sizes, np.dtype(encoding.split(":")[1]).newbyteorder("<"))
        elif encoding == "pkl":
            columns[name] = tensors(data, at, sizes)
        elif encoding == "json":
            columns[name] = json_lists(data, at, sizes)
        elif encoding in NUMBERS:
            columns[name] = pa.array(gather(data, at, sizes).view(NUMBERS[encoding]))
        at = at + sizes
    return columns


def _arrays(data: np.ndarray, starts: np.ndarray, sizes: np.ndarray, dtype: np.dtype[Any]) -> pa.Array:
    """Arrays of one dimension: a byte of dimensions and of the width of the length, the length, the values."""
    first = data[starts]
    if len(first) and (first >> 2 != 1).any():
        raise ValueError("an array has not one dimension")
    heads = 1 + np.take(LENGTHS, first & 3)
    values = gather(data, starts + heads, sizes - heads).view(dtype)
    return pa.LargeListArray.from_arrays(np.r_[0, ((sizes - heads) // dtype.itemsize).cumsum()], values)


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
