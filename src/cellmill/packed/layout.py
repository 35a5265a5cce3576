"""What a packed archive consists of, and the head of its files."""

from __future__ import annotations

import struct
from dataclasses import astuple, dataclass
from pathlib import Path

from cellmill.errors import CellmillError

ABOUT, GENES, OBS = "archive.json", "genes.parquet", "obs.parquet"
SUFFIX = ".cells"
HEAD_WORDS = 8
MOST_WORDS = (1 << 32) - 1
"""Records of a file end before this word, because the index has 32 bits for each."""
_MAGIC, _VERSION = b"CELLPACK", 1
_HEAD = struct.Struct("<8s2I2Q2I3Q")


def file_name(number: int) -> str:
    """The name of the ``number``th file of a split, such as ``00000.cells``."""
    return f"{number:05d}{SUFFIX}"


@dataclass(frozen=True)
class Head:
    """The first 64 bytes of a file, little-endian, after the magic and the version of the layout."""

    n_rows: int
    first_row: int
    """Number of its first row within the split."""
    index_at: int
    """Byte at which the index begins, and the records end."""
    n_genes: int
    n_frequent: int
    frequent_hash: int
    """XXH64 of a byte per gene of the gene space: 1 for a frequent one, else 0."""
    index_hash: int
    """XXH64 of the bytes of the index."""

    def pack(self) -> bytes:
        import xxhash

        head = _HEAD.pack(_MAGIC, _VERSION, *astuple(self), 0)[:-8]
        return head + struct.pack("<Q", xxhash.xxh64_intdigest(head))

    @classmethod
    def unpack(cls, path: Path, data: bytes) -> Head:
        """Read and check the head of a file.

        Raises:
            CellmillError: another kind of file, a newer layout, or damage.
        """
        import xxhash

        again = "Get the file again, or delete manifest.json of the export and run snakemake again."
        if len(data) < _HEAD.size or not data.startswith(_MAGIC):
            raise CellmillError(path, f"begins with {data[:8]!r}, not with {_MAGIC!r}: no packed cells.", again)
        _, version, *fields, found = _HEAD.unpack(data[: _HEAD.size])
        if version != _VERSION:
            raise CellmillError(path, f"has layout {version}, this cellmill reads {_VERSION}.", "Update cellmill.")
        if found != xxhash.xxh64_intdigest(data[: _HEAD.size - 8]):
            raise CellmillError(path, "its head is damaged.", again)
        return cls(*fields)
