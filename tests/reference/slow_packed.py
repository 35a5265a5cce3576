"""Packed archives read slowly, by what docs/formats.md says and by nothing of cellmill's."""

from __future__ import annotations

import json
import struct
from itertools import pairwise
from pathlib import Path

import pyarrow.parquet as pq
import xxhash


def read_archive(folder: Path) -> list[tuple[list[int], list[int]]]:
    """Genes and counts of every row of a split, in order; every checksum is compared."""
    about = json.loads((folder / "archive.json").read_text())
    assert about["contract"] == "packed 1"
    frequent = pq.read_table(folder / "genes.parquet")["frequent"].to_pylist()
    kinds = (
        [gene for gene, is_frequent in enumerate(frequent) if is_frequent],
        [gene for gene, is_frequent in enumerate(frequent) if not is_frequent],
    )
    rows: list[tuple[list[int], list[int]]] = []
    number = 0
    while len(rows) < about["cells"]:
        data = (folder / f"{number:05d}.cells").read_bytes()
        magic, layout, n, first, index_at, n_genes, n_frequent = struct.unpack_from("<8s2I2Q2I", data)
        frequent_hash, index_hash, head_hash = struct.unpack_from("<3Q", data, 40)
        assert (magic, layout, first) == (b"CELLPACK", 1, len(rows))
        assert n == min(about["cells_per_file"], about["cells"] - first)
        assert (n_genes, n_frequent) == (len(frequent), len(kinds[0]))
        assert head_hash == xxhash.xxh64_intdigest(data[:56])
        assert frequent_hash == xxhash.xxh64_intdigest(bytes(frequent))
        assert index_hash == xxhash.xxh64_intdigest(data[index_at:])
        index = struct.unpack_from(f"<{n + 1}I", data, index_at)
        assert len(data) == index_at + 4 * (n + 1)
        rows += [
            read_record(data[8 * start : 8 * stop], first + i, *kinds)
            for i, (start, stop) in enumerate(pairwise(index))
        ]
        number += 1
    return rows


def read_record(record: bytes, row: int, frequent: list[int], others: list[int]) -> tuple[list[int], list[int]]:
    """Genes and counts of one row."""
    checksum, n = struct.unpack_from("<2I", record)
    assert checksum == xxhash.xxh64_intdigest(record[8:], seed=n * 2**32 + row % 2**32) % 2**32
    at = 8
    n_words = -(-len(frequent) // 64)
    bits = int.from_bytes(record[at : at + 8 * n_words], "little")
    genes = [gene for i, gene in enumerate(frequent) if bits >> i & 1]
    at += 8 * n_words
    n_words = -(-n // 32)
    codes = int.from_bytes(record[at : at + 8 * n_words], "little")
    at += 8 * n_words
    here = 0
    while len(genes) < n:
        here += record[at]
        if record[at] < 255:
            genes.append(others[here])
            here += 1
        at += 1
    counts = []
    for i in range(n):
        count = 1 + (codes >> 2 * i & 3)
        if count == 4:
            shift = 0
            while True:
                count += (record[at] & 127) << shift
                shift += 7
                at += 1
                if record[at - 1] < 128:
                    break
        counts.append(count)
    assert len(record) == -(-at // 8) * 8 and not any(record[at:])
    return sorted(genes), counts
