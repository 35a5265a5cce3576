"""Write packed archives, row by row, in bounded memory."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from cellmill.contracts.versions import PACKED
from cellmill.packed import codec
from cellmill.packed.layout import ABOUT, GENES, HEAD_WORDS, MOST_WORDS, Head, file_name

if TYPE_CHECKING:
    import pandas as pd

SAMPLE_ROWS = 8_192
"""Rows by which genes are called frequent: the first ones, a random sample where rows are shuffled."""
FREQUENT = 10
"""A gene is frequent where more than one in so many of them has it: one in 8 is smallest, one in 10 faster to read."""
ENCODED_ROWS = 1_024


class PackedWriter:
    """Append rows, then close; the bytes depend on the rows alone, not on how they were cut.

    Args:
        folder: of one split; it must be there.
        genes: ``gene_id`` and ``gene_symbol``, a row per gene.
        dtype: type of the counts.
        rows_per_file: rows of each file but the last.
    """

    def __init__(self, folder: Path, *, genes: pd.DataFrame, dtype: np.dtype[Any], rows_per_file: int) -> None:
        self.folder, self.genes, self.dtype, self.rows_per_file = folder, genes, dtype, rows_per_file
        self.n_rows = self.n_values = 0
        self._sample: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self._sampled = 0
        self._frequent: np.ndarray | None = None
        self._places = np.zeros(0, np.int32)
        self._file: BinaryIO | None = None
        self._index: list[np.ndarray] = []
        self._words = HEAD_WORDS

    @property
    def frequent(self) -> np.ndarray:
        """bool (genes,): which genes are frequent; known once the first rows are."""
        return np.zeros(len(self.genes), np.bool_) if self._frequent is None else self._frequent

    def append(self, offsets: np.ndarray, genes: np.ndarray, counts: np.ndarray) -> None:
        """Add rows: offsets (n + 1, from 0), genes (rising within a row), and counts from 1 to 2^32 - 1."""
        if self._frequent is not None:
            self._write(offsets, genes, counts)
            return
        self._sample.append((offsets, genes.copy(), counts.copy()))
        self._sampled += len(offsets) - 1
        if self._sampled >= SAMPLE_ROWS:
            self._settle()

    def _settle(self) -> None:
        """Call genes frequent by the first rows, and write what has waited for that."""
        cells, left = np.zeros(len(self.genes), np.int64), SAMPLE_ROWS
        for offsets, genes, _ in self._sample:
            n = min(left, len(offsets) - 1)
            cells += np.bincount(genes[: offsets[n]], minlength=len(self.genes))
            left -= n
        self._frequent = FREQUENT * cells > SAMPLE_ROWS - left
        self._places = codec.numbered(self._frequent)
        waiting, self._sample = self._sample, []
        for rows in waiting:
            self._write(*rows)

    def _write(self, offsets: np.ndarray, genes: np.ndarray, counts: np.ndarray) -> None:
        start, n = 0, len(offsets) - 1
        while start < n:
            room = self.rows_per_file - self.n_rows % self.rows_per_file
            stop = min(n, start + min(room, ENCODED_ROWS))
            lo, hi = offsets[start], offsets[stop]
            self._write_records(offsets[start : stop + 1] - lo, genes[lo:hi], counts[lo:hi])
            start = stop

    def _write_records(self, offsets: np.ndarray, genes: np.ndarray, counts: np.ndarray) -> None:
        if len(counts) and counts.min() == 0:
            raise ValueError("a stored count is 0")
        if self._file is None:
            self._file = (self.folder / file_name(self.n_rows // self.rows_per_file)).open("wb")
            self._file.write(bytes(8 * HEAD_WORDS))
        n_frequent = int(self.frequent.sum())
        words, starts = codec.encode(offsets, genes, counts, self._places, n_frequent, self.n_rows)
        if self._words + len(words) > MOST_WORDS:
            raise OverflowError(f"more than {8 * MOST_WORDS:,} bytes in a file; let it have fewer cells")
        self._file.write(words.astype("<u8", copy=False).tobytes())
        self._index.append((self._words + starts[:-1]).astype("<u4"))
        self._words += len(words)
        self.n_rows += len(offsets) - 1
        self.n_values += len(counts)
        if self.n_rows % self.rows_per_file == 0:
            self._close_file()

    def _close_file(self) -> None:
        """The index behind the records, and the head before them."""
        import xxhash

        if self._file is None:
            return
        index = np.concatenate([*self._index, np.array([self._words], "<u4")]).tobytes()
        number = (self.n_rows - 1) // self.rows_per_file
        head = Head(
            n_rows=self.n_rows - number * self.rows_per_file,
            first_row=number * self.rows_per_file,
            index_at=8 * self._words,
            n_genes=len(self.genes),
            n_frequent=int(self.frequent.sum()),
            frequent_hash=xxhash.xxh64_intdigest(self.frequent.astype(np.uint8).tobytes()),
            index_hash=xxhash.xxh64_intdigest(index),
        )
        self._file.write(index)
        self._file.seek(0)
        self._file.write(head.pack())
        self._file.close()
        self._file, self._index, self._words = None, [], HEAD_WORDS

    def abandon(self) -> None:
        """Close without finishing, after an error; the caller removes the folder."""
        with contextlib.suppress(OSError):  # what is buffered may not fit a full disk
            if self._file is not None:
                self._file.close()

    def close(self) -> dict[str, Any]:
        """Write what is left, the gene table and ``archive.json``; return what that says."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        if self._frequent is None:
            self._settle()
        self._close_file()
        columns = {n: pa.array(self.genes[n], pa.string(), from_pandas=True) for n in ("gene_id", "gene_symbol")}
        table = pa.table({**columns, "frequent": pa.array(self.frequent)})
        pq.write_table(table, self.folder / GENES, compression="zstd")
        about = {
            "contract": str(PACKED),
            "cells": self.n_rows,
            "genes": len(self.genes),
            "values": self.n_values,
            "counts_dtype": self.dtype.name,
            "cells_per_file": self.rows_per_file,
        }
        (self.folder / ABOUT).write_text(json.dumps(about, indent=2, sort_keys=True) + "\n")
        return about
