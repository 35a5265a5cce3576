"""``mds``: shards that mosaicml-streaming's ``StreamingDataset`` reads."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from cellmill.exports.columns import MISSING, checked_counts, lists
from cellmill.exports.spec import ExportSpec
from cellmill.spec import Column, Name, Spec

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from cellmill.ahead import Workers
    from cellmill.config import Dataset
    from cellmill.exports.given import Given
    from cellmill.exports.mds_columns import MdsColumn
    from cellmill.exports.rows import Header

DEFAULT_LEVEL = 3
"""Level of zstd that an index need not name."""
BLOCK_ROWS = 512
"""Cells that are encoded at once."""
OBS_ENCODINGS = {"string": "str", "bool": "int8", "int64": "int", "float64": "float64"}
"""MDS encoding of an obs column, by its type."""


class _Mds(Spec, ExportSpec):
    encoding: Literal["ndarray", "json", "tensors"] = "ndarray"
    """What a list is to the reader. `ndarray`: a numpy array, the smallest; `json`: a Python list; `tensors`: a \
pickled torch tensor, as Tahoe-x1's data have it. Its collator takes the last two; pickles need \
`allow_unsafe_types=True`."""
    columns: list[Column] | None = None
    """Obs columns to write; `null`: all that the dataset keeps."""
    compression: Literal["zstd"] | None = "zstd"
    """`zstd`, or `null`: not compressed."""
    level: Annotated[int, Field(ge=1, le=22)] = DEFAULT_LEVEL
    """Level of zstd, from 1, the fastest, to 22, the smallest."""
    hashes: list[Literal["sha1", "xxh64"]] = ["sha1", "xxh64"]
    """Checksums of every shard, for `StreamingDataset(validate_hash=…)`."""
    shard_mb: Annotated[int, Field(ge=1, le=4000)] = 64
    """Largest shard in MB before compression; the format counts bytes in 32 bits, hence at most 4000."""

    def problems(self, dataset: Dataset) -> list[str]:
        names = dataset.kept_columns if self.columns is None else self.columns
        own = ("cell_id", *(("genes", "counts") if self.with_counts else ()))
        return [f"it writes '{c}' itself; rename your column." for c in names if c in own]


class MdsTokens(_Mds):
    """Tokens per cell: `cell_id`, the tokenizer's columns (such as `input_ids`, or `genes` and `expressions`) and the \
obs columns asked for."""

    kind: Literal["tokens"] = "tokens"
    tokenizer: Name = "rank"
    """Which tokens."""

    @property
    def tokenizers(self) -> tuple[str, ...]:
        return (self.tokenizer,)


class MdsExpression(_Mds):
    """Counts per cell: `cell_id`, `genes` (numbers of rows of `genes.json`), `counts`, and the obs columns asked \
for."""

    kind: Literal["expression"] = "expression"

    @property
    def with_counts(self) -> bool:
        return True


def write(given: Given, spec: MdsTokens | MdsExpression) -> dict[str, Any]:
    """Write ``<split>/index.json`` with its shards, and what its numbers mean; return what the manifest says of them.

    Raises:
        CellmillError: where a column is not there or cells are missing.

    Shards are cut where ``streaming.MDSWriter`` cuts them, and equal its own before compression.
    Memory: a few batches, and twice one shard for each thread.
    """
    from cellmill.ahead import workers

    out, header = given.out, given.header
    own = _own_columns(header, spec)
    kinds = given.obs_columns(spec.columns, reserved=tuple(own), export="mds")
    columns = dict(sorted((own | _obs_columns(kinds)).items()))
    splits: dict[str, Any] = {}
    with workers(given.threads) as team:
        for split, batches in given.by_split():
            (out / split).mkdir()
            shards = _Shards(out / split, columns=columns, spec=spec, team=team)
            values = 0
            for batch in batches:
                if spec.with_counts:
                    checked_counts(batch, header)
                values += _n_values(batch, own)
                shards.add(batch)
            files = [{**file, "file": f"{split}/{file['file']}"} for file in shards.close()]
            counted = "values" if spec.with_counts else "tokens"
            splits[split] = {"cells": header.cells[split], counted: values, "files": files}
    _explain(given, spec)
    return {
        **({"tokenizer": spec.tokenizer} if isinstance(spec, MdsTokens) else {"genes": len(header.genes)}),
        "columns": {name: column.encoding for name, column in columns.items()},
        "compression": _algorithm(spec),
        "hashes": list(spec.hashes),
        "shard_bytes": spec.shard_mb * 1_000_000,
        "missing": given.missing(kinds),
        "missing_as": MISSING,
        "splits": splits,
    }


def _own_columns(header: Header, spec: MdsTokens | MdsExpression) -> dict[str, MdsColumn]:
    """The columns that the export writes itself."""
    import numpy as np

    from cellmill.exports.mds_columns import MdsColumn
    from cellmill.exports.rows import token_column

    def of_list(source: str, dtype: Any) -> MdsColumn:
        encoding = {"ndarray": f"ndarray:{dtype}", "json": "json", "tensors": "pkl"}[spec.encoding]
        return MdsColumn(source, encoding, dtype)

    own = {"cell_id": MdsColumn("cell_id", "str")}
    if isinstance(spec, MdsExpression):
        types = {"genes": "uint16" if len(header.genes) <= 1 << 16 else "uint32", "counts": header.counts_dtype.name}
        if spec.encoding == "tensors":  # of unsigned types, torch knows little more than their names
            types = {name: "int32" if np.dtype(t).itemsize < 4 else "int64" for name, t in types.items()}
        return own | {name: of_list(name, dtype) for name, dtype in types.items()}
    for name, exported in header.tokens[spec.tokenizer].items():
        source = token_column(spec.tokenizer, name)
        if exported == "string":
            own[name] = MdsColumn(source, "str")
        elif exported == "list<float>":
            own[name] = of_list(source, "float32")
        else:
            whole = exported.removeprefix("list<").removesuffix(">")
            own[name] = of_list(source, whole if spec.encoding == "tensors" else "int32")
    return own


def _obs_columns(kinds: dict[str, str]) -> dict[str, MdsColumn]:
    from cellmill.exports.mds_columns import MdsColumn

    return {name: MdsColumn(name, OBS_ENCODINGS[kind]) for name, kind in kinds.items()}


def _n_values(batch: pa.RecordBatch, own: dict[str, MdsColumn]) -> int:
    """Tokens or counts of a batch; texts have none."""
    first = next((column.source for column in own.values() if column.dtype is not None), None)
    return 0 if first is None else len(lists(batch[first])[1])


def _explain(given: Given, spec: MdsTokens | MdsExpression) -> None:
    """Write what the numbers stand for: tokens by rising id, or genes."""
    import pyarrow as pa

    from cellmill.contracts.vocabulary import write_tokens
    from cellmill.files import write_json

    if given.vocabulary is not None:
        write_tokens(given.out / "vocabulary.json", given.vocabulary)
    if spec.with_counts:
        names = pa.Table.from_pandas(given.header.genes[["gene_id", "gene_symbol"]], preserve_index=False)
        write_json(given.out / "genes.json", names.to_pydict())


def _algorithm(spec: MdsTokens | MdsExpression) -> str | None:
    """The compression as ``streaming`` calls it."""
    if spec.compression is None or spec.level == DEFAULT_LEVEL:
        return spec.compression
    return f"{spec.compression}:{spec.level}"


class _Shards:
    """Shards of one split: cells go in until the next one would pass the limit."""

    def __init__(
        self,
        folder: Path,
        *,
        columns: dict[str, MdsColumn],
        spec: MdsTokens | MdsExpression,
        team: Workers,
    ) -> None:
        from cellmill.ahead import InOrder

        self._folder, self._columns, self._limit = folder, columns, spec.shard_mb * 1_000_000
        self._level = None if spec.compression is None else spec.level
        self._config = {
            "version": 2,
            "format": "mds",
            "compression": _algorithm(spec),
            "hashes": list(spec.hashes),
            "size_limit": self._limit,
            "column_names": list(columns),
            "column_encodings": [c.encoding for c in columns.values()],
            "column_sizes": [c.size for c in columns.values()],
        }
        self._head = json.dumps(self._config, sort_keys=True).encode()
        self._shards: list[dict[str, Any]] = []
        self._encoding = InOrder(team, take=self._cut)
        self._writing = InOrder(team, take=self._shards.append, calls_per_worker=1)
        self._number = 0
        self._start()

    def _start(self) -> None:
        self._pieces: list[tuple[np.ndarray, np.ndarray]] = []
        self._cells = 0
        self._bytes = 4 + 4 + len(self._head)  # the number of cells, the first offset, the configuration

    def add(self, batch: pa.RecordBatch) -> None:
        """Add cells."""
        from cellmill.exports.mds_columns import samples

        for start in range(0, batch.num_rows, BLOCK_ROWS):
            self._encoding.put(samples, batch.slice(start, BLOCK_ROWS), self._columns)

    def _cut(self, encoded: tuple[np.ndarray, np.ndarray]) -> None:
        """Take samples, each at its cost of an offset and its bytes; one past the limit has a shard of its own."""
        import numpy as np

        offsets, data = encoded
        costs = offsets + 4 * np.arange(len(offsets))
        start, cells = 0, len(offsets) - 1
        while start < cells:
            room = costs[start] + self._limit - self._bytes
            stop = int(np.searchsorted(costs, room, side="right")) - 1
            if stop <= start and self._cells:
                self._flush()
                continue
            stop = min(max(stop, start + 1), cells)
            self._pieces.append((np.diff(offsets[start : stop + 1]), data[offsets[start] : offsets[stop]]))
            self._cells += stop - start
            self._bytes += int(costs[stop] - costs[start])
            start = stop

    def _flush(self) -> None:
        self._writing.put(
            _write_shard, self._folder / f"shard.{self._number:05d}.mds", self._config, self._pieces, self._level
        )
        self._number += 1
        self._start()

    def close(self) -> list[dict[str, Any]]:
        """Write the index; return each file with its cells and bytes."""
        self._encoding.finish()
        if self._cells:
            self._flush()
        self._writing.finish()
        index = json.dumps({"version": 2, "shards": self._shards}, sort_keys=True)
        (self._folder / "index.json").write_text(index, encoding="utf-8")
        infos = [(shard["zip_data"] or shard["raw_data"], shard["samples"]) for shard in self._shards]
        return [{"file": info["basename"], "cells": cells, "bytes": info["bytes"]} for info, cells in infos]


def _write_shard(
    path: Path, config: dict[str, Any], pieces: list[tuple[np.ndarray, np.ndarray]], level: int | None
) -> dict[str, Any]:
    """Write a shard of samples, given as sizes and bytes; its entry in the index."""
    import numpy as np
    import pyarrow as pa

    sizes = np.concatenate([sizes for sizes, _ in pieces])
    head = json.dumps(config, sort_keys=True).encode()
    begin = 4 + 4 * (len(sizes) + 1) + len(head)
    offsets = np.concatenate([[begin], begin + sizes.cumsum()]).astype("<u4")
    start = (np.uint32(len(sizes)).astype("<u4").tobytes(), offsets.tobytes(), head)
    raw: Any = b"".join([*start, *(data.data for _, data in pieces)])
    shard = {
        **config,
        "samples": len(sizes),
        "raw_data": _file_info(path.name, raw, config["hashes"]),
        "zip_data": None,
    }
    if level is not None:
        raw = pa.Codec("zstd", compression_level=level).compress(raw)
        path = path.with_name(path.name + ".zstd")
        shard["zip_data"] = _file_info(path.name, raw, config["hashes"])
    path.write_bytes(raw)
    return shard


def _file_info(name: str, data: Any, hashes: list[str]) -> dict[str, Any]:
    import xxhash

    found = {
        h: hashlib.sha1(data, usedforsecurity=False).hexdigest() if h == "sha1" else xxhash.xxh64(data).hexdigest()
        for h in hashes
    }
    return {"basename": name, "bytes": len(data), "hashes": found}
