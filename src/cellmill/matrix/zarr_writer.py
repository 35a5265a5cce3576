"""Counts into zarr version 3, chunk by chunk: sharded CSR in anndata's format.

Shards are written as their specification says (chunks, then an index of offset and size of each, then its CRC-32C);
all metadata is written by zarr itself.
"""

from __future__ import annotations

import contextlib
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

if TYPE_CHECKING:
    import zarr

LEVEL = 1
"""Of zstd in blosc, which shuffles bytes: a quarter smaller than LZ4, at about half its speed of writing."""


class ShardedVector:
    """Append values to a one-dimensional array, in shards of a fixed number of chunks.

    The bytes depend on the values alone. Memory: a few chunks, and 16 bytes for each chunk of the open shard.

    Args:
        folder: the array's; it is made.
        chunk, shard: values of each; a shard is a multiple of a chunk.
        pool: compresses chunks while the caller works, or nothing.
    """

    def __init__(
        self, folder: Path, dtype: np.dtype[Any], *, chunk: int, shard: int, pool: ThreadPoolExecutor | None
    ) -> None:
        self.folder, self.dtype, self.chunk, self.shard = folder, np.dtype(dtype), chunk, shard
        self.n_values = 0
        self._pool = pool
        self._pending: list[np.ndarray] = []
        self._n_pending = 0
        self._under_way: deque[Future[bytes] | bytes] = deque()
        self._file: BinaryIO | None = None
        self._sizes: list[int] = []
        self._n_shards = 0
        (folder / "c").mkdir(parents=True)

    def append(self, values: np.ndarray) -> None:
        """Add values of the array's type."""
        self._pending.append(values)
        self._n_pending += len(values)
        self.n_values += len(values)
        if self._n_pending >= self.chunk:
            self._flush(self._n_pending // self.chunk * self.chunk)

    def _flush(self, n: int) -> None:
        waiting = np.concatenate(self._pending)
        self._pending, self._n_pending = [waiting[n:].copy()], len(waiting) - n
        for start in range(0, n, self.chunk):
            values = waiting[start : start + self.chunk]
            self._under_way.append(
                _compressed(values) if self._pool is None else self._pool.submit(_compressed, values)
            )
            while len(self._under_way) > 16:
                self._write_oldest()

    def _write_oldest(self) -> None:
        oldest = self._under_way.popleft()
        data = oldest if isinstance(oldest, bytes) else oldest.result()
        if self._file is None:
            self._file = (self.folder / "c" / str(self._n_shards)).open("wb")
        self._file.write(data)
        self._sizes.append(len(data))
        if len(self._sizes) == self.shard // self.chunk:
            self._close_shard(len(self._sizes))

    def _close_shard(self, n_chunks: int) -> None:
        """The index of ``n_chunks`` at the end of a shard; what has no values is marked as missing."""
        import google_crc32c

        if self._file is None:
            return
        index = np.full((n_chunks, 2), np.iinfo(np.uint64).max, "<u8")
        sizes = np.array(self._sizes, np.uint64)
        index[: len(sizes), 1] = sizes
        index[: len(sizes), 0] = np.cumsum(sizes) - sizes
        self._file.write(index.tobytes())
        self._file.write(np.uint32(google_crc32c.value(index.tobytes())).tobytes())
        self._file.close()
        self._file, self._sizes = None, []
        self._n_shards += 1

    def close(self, group: zarr.Group, name: str) -> None:
        """Write what is left and the metadata; an array of less than a shard has one that is as long as needed."""
        from zarr.codecs import BloscCodec

        if self._n_pending:
            short = np.concatenate(self._pending)
            whole = np.zeros(self.chunk, self.dtype)
            whole[: len(short)] = short
            self._pending, self._n_pending = [whole], self.chunk
            self._flush(self.chunk)
        while self._under_way:
            self._write_oldest()
        n_chunks = max(1, -(-self.n_values // self.chunk))
        in_a_shard = min(n_chunks, self.shard // self.chunk)
        self._close_shard(in_a_shard)
        group.create_array(
            name,
            shape=(self.n_values,),
            dtype=self.dtype,
            chunks=(self.chunk,),
            shards=(in_a_shard * self.chunk,),
            compressors=BloscCodec(cname="zstd", clevel=LEVEL, shuffle="shuffle", typesize=self.dtype.itemsize),
            fill_value=0,
        )

    def abandon(self) -> None:
        """Close without finishing, after an error; the caller removes the folder."""
        with contextlib.suppress(OSError):  # what is buffered may not fit a full disk
            if self._file is not None:
                self._file.close()


def _compressed(values: np.ndarray) -> bytes:
    """A chunk as zarr's blosc codec gives it."""
    from numcodecs import blosc

    data: bytes = blosc.compress(np.ascontiguousarray(values), b"zstd", LEVEL, blosc.SHUFFLE, 0)
    return data
