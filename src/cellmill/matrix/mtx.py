"""Matrix Market files, entry by entry: text, gzipped or not, a few MB at a time."""

from __future__ import annotations

import gzip
import io
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

import numba
import numpy as np
import pandas as pd

CHUNK = 1 << 22
"""Bytes of text at once."""

Entry = tuple[np.ndarray, np.ndarray, np.ndarray]


@numba.njit(cache=True, nogil=True)
def _parse(text: np.ndarray, fields: int, out: np.ndarray) -> int:
    """Fill ``out`` (fields, room) with whole numbers, a line each; their number, or -1 at anything else."""
    n, i, size = 0, 0, len(text)
    while i < size:
        c = text[i]
        if c == 10 or c == 13 or c == 32 or c == 9:
            i += 1
            continue
        for field in range(fields):
            while i < size and (text[i] == 32 or text[i] == 9):
                i += 1
            value, first = 0, i
            while i < size and 48 <= text[i] <= 57:
                value = value * 10 + (text[i] - 48)
                i += 1
            if i == first or i - first > 18:
                return -1
            out[field, n] = value
        while i < size and (text[i] == 32 or text[i] == 9 or text[i] == 13):
            i += 1
        if i < size and text[i] != 10:
            return -1
        n += 1
    return n


class MatrixMarket:
    """A coordinate matrix of whole or real numbers, or of places alone (each a 1).

    Raises:
        ValueError: no such file, or damaged; also while reading.
        OSError, EOFError, zlib.error: damaged gzip.
    """

    def __init__(self, path: Path) -> None:
        zipped = path.suffix == ".gz"
        self._stream = cast(BinaryIO, gzip.open(path, "rb")) if zipped else open(path, "rb")
        try:
            self._read_head()
        except BaseException:
            self._stream.close()
            raise

    def _read_head(self) -> None:
        head = self._stream.readline(1000).decode("latin-1").lower().split()
        if head[:3] != ["%%matrixmarket", "matrix", "coordinate"] or len(head) != 5:
            raise ValueError("it does not begin with '%%MatrixMarket matrix coordinate'")
        if head[3] not in ("integer", "unsigned-integer", "real", "pattern") or head[4] != "general":
            raise ValueError(f"a matrix of kind '{head[3]} {head[4]}' instead of 'integer general'")
        self._fields = 2 if head[3] == "pattern" else 3
        line = self._stream.readline(1 << 20)
        while line.startswith(b"%") or (line and not line.strip()):
            line = self._stream.readline(1 << 20)
        size = line.split()
        if len(size) != 3 or not all(word.isdigit() for word in size):
            raise ValueError("there is no line with its rows, columns and entries")
        self.shape = int(size[0]), int(size[1])
        self.n_entries = int(size[2])

    def __enter__(self) -> MatrixMarket:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def slabs(self) -> Iterator[Entry]:
        """Rows (n,) int32, columns (n,) int32, both from 0, and values (n,) int64 or float64, in the file's order."""
        n, rest = 0, b""
        while True:
            text = self._stream.read(CHUNK)
            cut = text.rfind(b"\n") + 1 if text else 0
            if text and not cut:
                rest += text
                continue
            entries = self._entries(rest + text[:cut])
            rest = text[cut:]
            n += len(entries[0])
            if n > self.n_entries:
                raise ValueError(f"more than its {self.n_entries:,} entries")
            if len(entries[0]):
                yield entries
            if not text:
                break
        if n < self.n_entries:
            raise ValueError(f"{n:,} of its {self.n_entries:,} entries")

    def _entries(self, text: bytes) -> Entry:
        found = np.empty((self._fields, len(text) // (2 * self._fields) + 1), np.int64)
        n = _parse(np.frombuffer(text, np.uint8), self._fields, found)
        if n >= 0:
            rows, columns = found[0, :n], found[1, :n]
            values = found[2, :n] if self._fields == 3 else np.ones(n, np.int64)
        else:
            rows, columns, values = self._by_pandas(text)
        for name, places, limit in (("row", rows, self.shape[0]), ("column", columns, self.shape[1])):
            if len(places) and (places.min() < 1 or places.max() > limit):
                raise ValueError(f"a {name} outside 1 to {limit:,}")
        return (rows - 1).astype(np.int32), (columns - 1).astype(np.int32), values

    def _by_pandas(self, text: bytes) -> Entry:
        """Numbers in any notation, and comments between them."""
        table = pd.read_csv(
            io.BytesIO(text), sep=r"\s+", header=None, comment="%", names=list(range(self._fields)), dtype=np.float64
        )
        places = table[[0, 1]].to_numpy()
        if not (np.isfinite(places) & (places == np.floor(places))).all():
            raise ValueError("an entry without row and column")
        values = table[2].to_numpy() if self._fields == 3 else np.ones(len(table))
        return places[:, 0], places[:, 1], values
