"""Rows sorted by a key in little memory: into buckets by the first bits of the key, then bucket by bucket."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from cellmill.exports.gather import joined, take_rows
from cellmill.exports.rows import BLOCK_ROWS, KEY, in_groups

FAN_OUT_BITS = 6
"""Of one split, 64 files are open at once."""


class Spill:
    """Rows by split and bucket: in memory where one bucket holds all, else in Arrow files.

    Where 64 buckets are not enough, each is cut into smaller ones when its turn comes.

    Args:
        folder: where the files lie; they go as they are read.
        splits: names of the splits.
        bits: of the key, which make a bucket: there are ``2**bits``.
        done: bits before these, which are the same in all rows.
    """

    def __init__(self, folder: Path, splits: Sequence[str], *, bits: int, done: int = 0) -> None:
        self._folder, self._splits, self._bits, self._done = folder, list(splits), bits, done
        self._here = min(bits, FAN_OUT_BITS)
        self._memory: dict[str, list[pa.RecordBatch]] = {}
        self._writers: dict[tuple[str, int], pa.RecordBatchFileWriter] = {}

    def add(self, batch: pa.RecordBatch, splits: np.ndarray) -> None:
        """Add rows with a ``KEY``, and the position of each in the list of splits, (n,)."""
        place = splits.astype(np.int64) << self._here
        if self._here:
            keys = batch[KEY].to_numpy() << np.uint64(self._done)
            place |= (keys >> np.uint64(64 - self._here)).astype(np.int64)
        batch = take_rows(batch, np.argsort(place, kind="stable"))
        found, sizes = np.unique(place, return_counts=True)
        for code, size, stop in zip(found.tolist(), sizes.tolist(), sizes.cumsum().tolist(), strict=True):
            rows = batch.slice(stop - size, size)
            split, bucket = self._splits[code >> self._here], code & ((1 << self._here) - 1)
            if not self._bits:
                self._memory.setdefault(split, []).append(rows)
                continue
            if (split, bucket) not in self._writers:
                self._writers[split, bucket] = pa.ipc.new_file(self._path(split, bucket), batch.schema)
            self._writers[split, bucket].write(rows)

    def buckets(self, split: str) -> Iterator[pa.RecordBatch]:
        """The rows of a split, in buckets that follow each other as the keys do; they are kept no longer."""
        if split in self._memory:
            yield joined(pa.Table.from_batches(self._memory.pop(split)))
        for bucket in range(1 << self._here):
            writer = self._writers.pop((split, bucket), None)
            if writer is None:
                continue
            writer.close()
            path = self._path(split, bucket)
            if self._bits == self._here:
                found = [_read(path)]
                path.unlink()
                yield found.pop()
                continue
            smaller = Spill(self._folder, [split], bits=self._bits - self._here, done=self._done + self._here)
            with pa.OSFile(str(path)) as file, pa.ipc.open_file(file) as reader:
                batches = map(reader.get_batch, range(reader.num_record_batches))
                for _, rows in in_groups(batches, group_rows=BLOCK_ROWS, file_rows=1 << 62):
                    smaller.add(rows, np.zeros(rows.num_rows, np.int64))
            path.unlink()
            yield from smaller.buckets(split)

    def _path(self, split: str, bucket: int) -> Path:
        return self._folder / f"{split}.{self._done}.{bucket}.arrow"


def _read(path: Path) -> pa.RecordBatch:
    """A file as one batch.

    The file is mapped, and column after column copied: for each list anew, so that no more of it stays in memory.
    """
    with pa.memory_map(str(path)) as file, pa.ipc.open_file(file) as reader:
        schema = reader.schema
    nested = [field.name for field in schema if pa.types.is_nested(field.type)]
    found: dict[str, pa.Array] = {}
    for names in ([name for name in schema.names if name not in nested], *([name] for name in nested)):
        with pa.memory_map(str(path)) as file, pa.ipc.open_file(file) as reader:
            found |= zip(names, joined(reader.read_all().select(names)).columns, strict=True)
    return pa.RecordBatch.from_arrays([found[name] for name in schema.names], schema=schema)
