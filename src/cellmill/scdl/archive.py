"""SCDL archives on disk: the binary header, the three arrays, the neighbours.

Read here is what BioNeMo-SCDL 0.0.1 to 0.1.3 and its later sources write; ``docs/formats.md`` says what is in a folder.
Nothing is unpickled.
"""

from __future__ import annotations

import json
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from cellmill.errors import CellmillError
from cellmill.scdl.util.scdl_constants import FileNames

SCDL_VERSION = "0.1.3"
"""The release of BioNeMo-SCDL whose layout is written."""
HEADER_VERSION = (0, 1, 0)
MEMMAP, CHUNKED = 1, 2
"""Backends: whole arrays, and folders of chunks, which no release has."""
ARRAYS = {"DATA": FileNames.DATA.value, "ROWPTR": FileNames.ROWPTR.value, "COLPTR": FileNames.COLPTR.value}
NEIGHBORS: dict[str, np.dtype[Any]] = {
    FileNames.NEIGHBOR_INDICES.value: np.dtype("<u4"),
    FileNames.NEIGHBOR_INDICES_PTR.value: np.dtype("<u8"),
    FileNames.NEIGHBOR_VALUES.value: np.dtype("<f4"),
}
"""The neighbours of each cell as CSR, in types that never vary."""
DTYPE_CODES = {"uint8": 1, "uint16": 2, "uint32": 3, "uint64": 4, "float16": 5, "float32": 6, "float64": 7}
STRING_CODE = 8
OLD_DTYPES = {FileNames.DATA.value: "float32", FileNames.ROWPTR.value: "uint64", FileNames.COLPTR.value: "uint32"}
"""What archives without a header have, unless ``dtypes.json`` says otherwise."""

Access = Literal["r", "r+"]


class ScdlError(CellmillError, ValueError):
    """An archive or a request that is not as it should be; also a ``ValueError``, as BioNeMo-SCDL raises."""


@dataclass(frozen=True)
class Header:
    """``header.sch``: lengths and types of the arrays, and the files of the feature tables."""

    arrays: dict[str, tuple[int, np.dtype[Any]]]
    """By name, ``DATA``, ``ROWPTR`` and ``COLPTR``."""
    features: dict[str, tuple[int, tuple[str, ...]]]
    """Rows and files, by folder."""

    def to_bytes(self) -> bytes:
        """Big-endian: layout version, backend, the arrays, the feature tables."""

        def text(value: str) -> bytes:
            return struct.pack(">I", len(value.encode())) + value.encode()

        parts = [b"SCDL", struct.pack(">4BII", *HEADER_VERSION, 1, MEMMAP, len(self.arrays))]
        for name, (length, dtype) in self.arrays.items():
            parts += [text(name), struct.pack(">QIB", length, DTYPE_CODES[dtype.name], 0)]
        parts.append(struct.pack(">I", len(self.features)))
        for folder, (rows, files) in self.features.items():
            parts += [text(folder), struct.pack(">QII", rows, STRING_CODE, len(files)), *map(text, files)]
            parts.append(struct.pack(">B", 0))
        return b"".join(parts)

    @classmethod
    def read(cls, path: Path) -> Header:
        """The header of a file; what is damaged, of another layout, or in chunks is refused."""
        reader = _HeaderReader(path)
        if reader.take(4) != b"SCDL":
            raise reader.error("it does not begin with 'SCDL'")
        major, minor, point, endianness = reader.unpack("4B")
        if (major, minor) != HEADER_VERSION[:2] or endianness != 1:
            raise reader.error(f"it is of layout {major}.{minor}.{point}, this cellmill reads 0.1")
        (backend,) = reader.unpack("I")
        if backend != MEMMAP:
            kind = "chunks" if backend == CHUNKED else f"the unknown backend {backend}"
            raise reader.error(f"the arrays lie in {kind}; no release of BioNeMo-SCDL writes that")
        names = {code: name for name, code in DTYPE_CODES.items()}
        arrays = {}
        for _ in range(reader.unpack("I")[0]):
            name = reader.text()
            length, code = reader.unpack("QI")
            reader.shape()
            if name not in ARRAYS or code not in names:
                raise reader.error(f"it names an array '{name}' of type {code}")
            arrays[name] = (length, np.dtype(names[code]))
        features = {}
        for _ in range(reader.unpack("I")[0]):
            folder = reader.text()
            rows, _, n_files = reader.unpack("QII")
            features[folder] = (rows, tuple(reader.text() for _ in range(n_files)))
            reader.shape()
        return cls(arrays, features)


class _HeaderReader:
    def __init__(self, path: Path) -> None:
        self._path, self._bytes, self._at = path, path.read_bytes(), 0

    def error(self, found: str) -> ScdlError:
        return ScdlError(self._path, f"not a header that can be read: {found}.", "Convert the h5ad file again.")

    def take(self, n: int) -> bytes:
        found = self._bytes[self._at : self._at + n]
        if len(found) < n:
            raise self.error("it ends too early")
        self._at += n
        return found

    def unpack(self, layout: str) -> tuple[int, ...]:
        return struct.unpack(f">{layout}", self.take(struct.calcsize(f">{layout}")))

    def text(self) -> str:
        return self.take(self.unpack("I")[0]).decode()

    def shape(self) -> None:
        """Skip a shape, which is in no archive that is read here."""
        if self.unpack("B")[0]:
            self.take(4 * self.unpack("I")[0])


@dataclass(frozen=True)
class Arrays:
    """The memory maps of an archive, not yet read."""

    data: np.ndarray
    row_ptr: np.ndarray
    col_ptr: np.ndarray

    @property
    def cells(self) -> int:
        return len(self.row_ptr) - 1


def open_arrays(folder: str | os.PathLike[str], *, access: Access = "r") -> Arrays:
    """Map the arrays of an archive, in the types of its header; costs the same for any size.

    Raises:
        FileNotFoundError: one of the files is not there.
        ScdlError: the files do not fit each other or the header.
    """
    folder = Path(folder)
    dtypes = _dtypes(folder)
    data, row_ptr, col_ptr = (
        map_array(folder / name, dtypes[name], access=access)
        for name in (FileNames.DATA.value, FileNames.ROWPTR.value, FileNames.COLPTR.value)
    )
    if len(row_ptr) == 0 or row_ptr[0] != 0 or len(data) != len(col_ptr) or int(row_ptr[-1]) > len(data):
        last = int(row_ptr[-1]) if len(row_ptr) else 0
        raise ScdlError(
            folder,
            f"read as header.sch says ({', '.join(f'{n}: {t}' for n, t in dtypes.items())}), there are {len(data):,} "
            f"values, {len(col_ptr):,} columns and rows up to {last:,}.",
            "The header is of other data, as BioNeMo-SCDL leaves it after cast or concat, or a file is cut off: "
            "convert the h5ad file again.",
        )
    return Arrays(data, row_ptr, col_ptr)


def _dtypes(folder: Path) -> dict[str, str]:
    """The types of the arrays by file name."""
    dtypes = dict(OLD_DTYPES)
    if (folder / FileNames.HEADER.value).is_file():
        header = Header.read(folder / FileNames.HEADER.value)
        return dtypes | {ARRAYS[name]: dtype.name for name, (_, dtype) in header.arrays.items()}
    if (folder / "dtypes.json").is_file():
        said = json.loads((folder / "dtypes.json").read_text())
        unknown = {n: t for n, t in said.items() if n in dtypes and t not in DTYPE_CODES}
        if unknown:
            raise ScdlError(folder / "dtypes.json", f"unknown types: {unknown}.", "Convert the h5ad file again.")
        dtypes |= {name: dtype for name, dtype in said.items() if name in dtypes}
    return dtypes


def map_array(path: Path, dtype: str | np.dtype[Any], *, access: Access = "r") -> np.ndarray:
    """A file of plain little-endian numbers; an empty one, which cannot be mapped, is an empty array."""
    dtype = np.dtype(dtype).newbyteorder("<")
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: it is missing. It belongs to every SCDL archive; convert again.") from None
    if size % dtype.itemsize:
        found = f"{size:,} bytes are no whole number of {dtype.name}"
        raise ScdlError(path, f"{found}, which header.sch says they are.", "It is cut off: convert again.")
    return np.memmap(path, dtype, access) if size else np.empty(0, dtype)


@dataclass(frozen=True)
class Neighbors:
    """Neighbours of each cell as CSR, numbered over the archive, with a weight each."""

    indptr: np.ndarray
    indices: np.ndarray
    weights: np.ndarray


def open_neighbors(folder: Path, cells: int, *, access: Access = "r") -> Neighbors:
    """Map the neighbours of an archive that has some.

    Raises:
        ScdlError: the files do not fit each other or the number of cells.
    """
    indices, indptr, weights = (map_array(folder / name, dtype, access=access) for name, dtype in NEIGHBORS.items())
    if len(indptr) != cells + 1 or int(indptr[-1]) != len(indices) or len(weights) != len(indices):
        found = f"neighbours of {len(indptr) - 1:,} cells, {len(indices):,} of them with {len(weights):,} weights"
        raise ScdlError(folder, f"it has {found}, and {cells:,} cells.", "Convert the h5ad file again.")
    return Neighbors(indptr, indices, weights)
