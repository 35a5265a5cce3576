"""``mds``: shards that mosaicml-streaming's ``StreamingDataset`` reads."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from cellmill.exports.columns import MISSING, by_split, count_missing, lists, obs_columns, plain, string_bytes
from cellmill.exports.spec import ExportSpec
from cellmill.spec import Column, Name, Spec

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from cellmill.config import Dataset
    from cellmill.exports.rows import Header

ZSTD_LEVEL = 3
HASHES = ("sha1", "xxh64")
ENCODINGS = {"string": "str", "bool": "int8", "int64": "int", "float64": "float64"}
"""MDS encoding of an obs column, by its type."""
WIDTHS: dict[str, int | None] = {"str": None, "ndarray:int32": None, "int8": 1, "int": 8, "float64": 8}
"""Bytes of a value, by MDS encoding; `None`: each its own."""


class MdsTokens(Spec, ExportSpec):
    """Tokens per cell: `cell_id`, `input_ids` and the obs columns asked for."""

    kind: Literal["tokens"] = "tokens"
    tokenizer: Name = "rank"
    """Which tokens."""
    columns: list[Column] | None = None
    """Obs columns to write; `null`: all that the dataset keeps."""
    compression: Literal["zstd"] | None = "zstd"
    """`zstd`, or `null`: not compressed."""
    shard_mb: Annotated[int, Field(ge=1, le=4000)] = 64
    """Largest shard in MB before compression; the format counts bytes in 32 bits, hence at most 4000."""

    @property
    def tokenizers(self) -> tuple[str, ...]:
        return (self.tokenizer,)

    def problems(self, dataset: Dataset) -> list[str]:
        names = dataset.kept_columns if self.columns is None else self.columns
        return [f"it writes '{c}' itself; rename your column." for c in names if c in ("cell_id", "input_ids")]


def write(
    out: Path,
    header: Header,
    rows: Iterable[tuple[str, pa.RecordBatch]],
    spec: MdsTokens,
    *,
    vocabulary: dict[str, int] | None = None,
) -> dict[str, Any]:
    """Write ``<split>/index.json`` with its shards, and ``vocabulary.json``; return what the manifest says of them.

    Args:
        out: an empty folder.
        header: what is known before the first row.
        rows: ``(split, batch)`` with ``cell_id``, ``tokens:<tokenizer>`` and the obs columns, split by split.
        spec: columns, compression and size of the shards.
        vocabulary: token ids by token, copied to ``vocabulary.json`` by rising id.

    Raises:
        CellmillError: where a column is not there or cells are missing.

    The bytes depend on the rows alone, not on how they are cut into batches.
    Shards are cut where ``streaming.MDSWriter`` cuts them, and equal its own before compression.
    Memory: one batch, and twice one shard.
    """
    from cellmill.contracts.vocabulary import write_tokens

    kinds = obs_columns(header, spec.columns, reserved=("cell_id", "input_ids"), export="mds")
    encodings = {"cell_id": "str", "input_ids": "ndarray:int32"} | {c: ENCODINGS[kind] for c, kind in kinds.items()}
    encodings = dict(sorted(encodings.items()))
    missing: Counter[str] = Counter()
    splits: dict[str, Any] = {}
    for split, batches in by_split(header, rows):
        (out / split).mkdir()
        shards = _Shards(out / split, encodings=encodings, spec=spec)
        tokens = 0
        for batch in batches:
            count_missing(missing, batch, kinds)
            shards.add(*_samples(batch, encodings=encodings, tokens=f"tokens:{spec.tokenizer}"))
            tokens += len(lists(batch[f"tokens:{spec.tokenizer}"])[1])
        files = [{**file, "file": f"{split}/{file['file']}"} for file in shards.close()]
        splits[split] = {"cells": header.cells[split], "tokens": tokens, "files": files}
    if vocabulary is not None:
        write_tokens(out / "vocabulary.json", vocabulary)
    return {
        "tokenizer": spec.tokenizer,
        "columns": encodings,
        "compression": spec.compression,
        "hashes": list(HASHES),
        "shard_bytes": spec.shard_mb * 1_000_000,
        "missing": dict(missing),
        "missing_as": MISSING,
        "splits": splits,
    }


def _samples(batch: pa.RecordBatch, *, encodings: dict[str, str], tokens: str) -> tuple[np.ndarray, np.ndarray]:
    """Every cell as MDS bytes: offsets (n + 1, int64) and bytes.

    A sample is a uint32 size for each column of its own width, then the columns, both by name.
    Arrow joins the pieces row by row, so that no Python runs per cell.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    cells, sizes, pieces = batch.num_rows, [], []
    for column, encoding in encodings.items():
        if encoding == "ndarray:int32":
            offsets, ids = lists(batch[tokens])
            head_offsets, head = _shape_heads(np.diff(offsets))
            pieces += [_binary(head_offsets, head), _binary(offsets * 4, ids.astype("<i4", copy=False))]
            sizes.append(np.diff(head_offsets) + np.diff(offsets) * 4)
        elif encoding == "str":
            offsets, data = string_bytes(batch[column])
            pieces.append(_binary(offsets, data))
            sizes.append(np.diff(offsets))
        else:
            pieces.append(_binary(np.arange(cells + 1) * (WIDTHS[encoding] or 0), plain(batch[column])))
    prefix = _binary(np.arange(cells + 1) * 4 * len(sizes), np.stack(sizes, axis=1).astype("<u4"))
    joined = pc.binary_join_element_wise(prefix, *pieces, pa.scalar(b"", pa.large_binary()))
    _, offset_buffer, data_buffer = joined.buffers()
    return np.frombuffer(offset_buffer, np.int64, cells + 1), np.frombuffer(data_buffer, np.uint8)


def _binary(offsets: np.ndarray, data: np.ndarray) -> pa.Array:
    import numpy as np
    import pyarrow as pa

    buffers = [None, pa.py_buffer(offsets.astype(np.int64, copy=False)), pa.py_buffer(np.ascontiguousarray(data))]
    return pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(offsets) - 1, buffers)


def _shape_heads(lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What stands before an array of one dimension: its number of dimensions, the width of its length, the length."""
    import numpy as np

    code = (lengths >= 1 << 8).astype(np.uint8) + (lengths >= 1 << 16)
    heads = np.empty((len(lengths), 5), np.uint8)
    heads[:, 0] = (1 << 2) | code
    heads[:, 1:] = lengths.astype("<u4").view(np.uint8).reshape(-1, 4)
    widths = 1 + (1 << code.astype(np.int64))
    return np.concatenate([[0], widths.cumsum()]), heads[np.arange(5) < widths[:, None]]


class _Shards:
    """Shards of one split: cells go in until the next one would pass the limit."""

    def __init__(self, folder: Path, *, encodings: dict[str, str], spec: MdsTokens) -> None:
        self._folder, self._compression, self._limit = folder, spec.compression, spec.shard_mb * 1_000_000
        self._config = {
            "version": 2,
            "format": "mds",
            "compression": spec.compression,
            "hashes": list(HASHES),
            "size_limit": self._limit,
            "column_names": list(encodings),
            "column_encodings": list(encodings.values()),
            "column_sizes": [WIDTHS[e] for e in encodings.values()],
        }
        self._head = json.dumps(self._config, sort_keys=True).encode()
        self._shards: list[dict[str, Any]] = []
        self._start()

    def _start(self) -> None:
        self._data: list[np.ndarray] = []
        self._sizes: list[np.ndarray] = []
        self._cells = 0
        self._bytes = 4 + 4 + len(self._head)  # the number of cells, the first offset, the configuration

    def add(self, offsets: np.ndarray, data: np.ndarray) -> None:
        """Add samples, each at its cost of an offset and its bytes; a sample past the limit has a shard of its own."""
        import numpy as np

        costs = offsets + 4 * np.arange(len(offsets))
        start, cells = 0, len(offsets) - 1
        while start < cells:
            room = costs[start] + self._limit - self._bytes
            stop = int(np.searchsorted(costs, room, side="right")) - 1
            if stop <= start and self._cells:
                self._flush()
                continue
            stop = min(max(stop, start + 1), cells)
            self._data.append(data[offsets[start] : offsets[stop]])
            self._sizes.append(np.diff(offsets[start : stop + 1]))
            self._cells += stop - start
            self._bytes += int(costs[stop] - costs[start])
            start = stop

    def _flush(self) -> None:
        import numpy as np
        import pyarrow as pa

        begin = 4 + 4 * (self._cells + 1) + len(self._head)
        offsets = np.concatenate([[begin], begin + np.concatenate(self._sizes).cumsum()])
        raw = b"".join(
            [
                np.uint32(self._cells).tobytes(),
                offsets.astype("<u4").tobytes(),
                self._head,
                *(d.data for d in self._data),
            ]
        )
        name = f"shard.{len(self._shards):05d}.mds"
        shard = {**self._config, "samples": self._cells, "raw_data": _file_info(name, raw), "zip_data": None}
        if self._compression is not None:
            raw = pa.Codec("zstd", compression_level=ZSTD_LEVEL).compress(raw, asbytes=True)
            name += ".zstd"
            shard["zip_data"] = _file_info(name, raw)
        (self._folder / name).write_bytes(raw)
        self._shards.append(shard)
        self._start()

    def close(self) -> list[dict[str, Any]]:
        """Write the index; return each file with its cells and bytes."""
        if self._cells:
            self._flush()
        index = json.dumps({"version": 2, "shards": self._shards}, sort_keys=True)
        (self._folder / "index.json").write_text(index, encoding="utf-8")
        infos = [(shard["zip_data"] or shard["raw_data"], shard["samples"]) for shard in self._shards]
        return [{"file": info["basename"], "cells": cells, "bytes": info["bytes"]} for info, cells in infos]


def _file_info(name: str, data: bytes) -> dict[str, Any]:
    import xxhash

    hashes = {"sha1": hashlib.sha1(data, usedforsecurity=False).hexdigest(), "xxh64": xxhash.xxh64(data).hexdigest()}
    return {"basename": name, "bytes": len(data), "hashes": hashes}
