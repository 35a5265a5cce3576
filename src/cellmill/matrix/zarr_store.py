"""AnnData in zarr, version 2 or 3: a folder, or one packed as ``.zarr.zip``.

Only what is asked for is opened: consolidated metadata is passed over,
because one array of a type that this zarr does not know makes all of it unreadable
(zarr 3.1.6: arrays of records by newer writers, such as scanpy's ``uns/rank_genes_groups``).
"""

from __future__ import annotations

import contextlib
import json
import os
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellmill.errors import CellmillError

if TYPE_CHECKING:
    import h5py
    import numpy as np
    import pandas as pd

SUFFIXES = (".zarr", ".zarr.zip")
_ROOTS = (".zgroup", "zarr.json")
SLAB = 1 << 21


def is_zarr(path: str | os.PathLike[str]) -> bool:
    """Whether this is a zarr store, by its name or by what lies in the folder."""
    path = Path(path)
    return path.name.lower().endswith(SUFFIXES) or any((path / name).is_file() for name in _ROOTS)


class ZarrFile:
    """A store, used as an ``h5py.File`` is: names of elements in, groups and arrays out.

    Raises:
        CellmillError: no zarr group, or one that cannot be read; also for an element that cannot be read.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        import zarr

        self.path = Path(path)
        with self.reading():
            if self.path.is_dir():
                self._store: Any = zarr.storage.LocalStore(self.path, read_only=True)
                root = ""
            else:
                with zipfile.ZipFile(self.path) as archive:
                    root = _root_in(self.path, archive.namelist())
                self._store = zarr.storage.ZipStore(self.path, mode="r")
            self._group = zarr.open_group(self._store, path=root, mode="r", use_consolidated=False)

    def __enter__(self) -> ZarrFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._store.close()

    def __contains__(self, name: str) -> bool:
        with self.reading():
            return name in self._group

    def __getitem__(self, name: str) -> ZarrArray | ZarrGroup:
        with self.reading():
            node = self._group[name]
        return ZarrArray(self, node) if hasattr(node, "ndim") else ZarrGroup(self, name, dict(node.attrs))

    def names(self, group: str) -> list[str]:
        """Names of the elements of a group, sorted; none where there is no such group."""
        with self.reading():
            node: Any = self._group[group] if group in self._group else {}
            return sorted(node.keys())

    def table(self, name: str) -> pd.DataFrame:
        """``obs``, ``var`` or ``raw/var``."""
        import anndata

        with self.reading():
            table: pd.DataFrame = anndata.io.read_elem(self._group[name])
            return table

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """What fails here is the store's fault: each codec has errors of its own."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter(
                    "ignore"
                )  # zarr's on parts of version 3 that are not final, anndata's on old files
                yield
        except (CellmillError, MemoryError):
            raise
        except Exception as error:
            what = f"{type(error).__name__}: {error}".splitlines()[0][:300]
            found = f"not a readable zarr store ({what})."
            raise CellmillError(self.path, found, "It may be incomplete or something else; get it again.") from error


class ZarrArray:
    """An array of a store, read by ranges of its first dimension."""

    def __init__(self, store: ZarrFile, array: Any) -> None:
        self._store, self._array = store, array
        self.shape: tuple[int, ...] = array.shape
        self.ndim: int = array.ndim
        self.dtype: np.dtype = array.dtype
        self.chunk_rows = int((array.shards or array.chunks)[0]) if array.ndim else 1

    def __len__(self) -> int:
        return self.shape[0]

    def prefetch(self, start: int, stop: int) -> None:
        """Nothing: zarr decodes the chunks of a range in threads of its own."""

    def read(self, start: int, stop: int) -> np.ndarray:
        """Rows ``start`` to ``stop``; what lies beyond the end is left out."""
        with self._store.reading():
            values: np.ndarray = self._array[start : min(stop, len(self))]
            return values

    def missing_chunks(self) -> tuple[int, int]:
        """How many chunks are not there, and how many there should be; a shard counts as all of its chunks."""
        with self._store.reading():
            expected = int(self._array.nchunks)
            return max(0, expected - int(self._array.nchunks_initialized)), expected


class ZarrGroup:
    """A group of a store, such as a sparse matrix."""

    def __init__(self, store: ZarrFile, name: str, attrs: dict[str, Any]) -> None:
        self._store, self.name, self.attrs = store, name, attrs

    def __getitem__(self, name: str) -> Any:
        """An array of it.

        Raises:
            CellmillError: chunks of it are missing. zarr reads them as zeros without a word;
                of values, or of more than one chunk of indices, that is never what was written.
        """
        array = self._store[f"{self.name}/{name}"]
        if isinstance(array, ZarrArray) and name in ("data", "indices"):
            missing, expected = array.missing_chunks()
            if missing and (name == "data" or expected > 1):
                found = f"{missing} of the {expected} chunks of {self.name}/{name} are missing."
                raise CellmillError(self._store.path, found, "The copy is not complete; get it again.")
        return array


def _root_in(path: Path, names: list[str]) -> str:
    """The folder of the archive that is the store: the archive itself, or the one folder in it."""
    roots = {n.rpartition("/")[0] for n in names if n.rpartition("/")[2] in _ROOTS}
    top = [r for r in roots if not any(r != other and (not other or r.startswith(other + "/")) for other in roots)]
    if len(top) != 1:
        found = f"{len(top)} zarr stores in it" + (f": {', '.join(sorted(top)[:5])}." if top else ".")
        raise CellmillError(path, found, "Pack one store: the folder .zarr, or what lies in it.")
    return top[0]


def convert_zarr(path: Path, out: Path) -> str:
    """Write a store as h5ad: X, raw and layers as they are there, and the tables.

    Which matrix holds counts is not asked here. Memory depends on the chunks of the store.

    Returns:
        A sentence on what was copied.

    Raises:
        CellmillError: no store, none of AnnData, damaged, or no matrix in it.
    """
    import anndata
    import h5py

    from cellmill.files import replacing

    with ZarrFile(path) as store, replacing(out) as aside:
        matrices = [n for n in ("X", "raw/X") if n in store] + [f"layers/{n}" for n in store.names("layers")]
        readable = [n for n in matrices if _layout(store[n]) is not None]
        missing = [n for n in ("obs", "var") if n not in store] + ([] if readable else ["X"])
        if missing:
            raise CellmillError(
                path, f"zarr, but not AnnData: no {', '.join(missing)} in it.", "Write it with anndata."
            )
        tables = {n: store.table(n) for n in ("obs", "var", *(["raw/var"] if "raw/X" in readable else []))}
        file = h5py.File(aside, "w")
        try:
            file.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
            for name in ("layers", "obsm", "varm", "obsp", "varp", "uns"):
                anndata.io.write_elem(file, name, {})
            if "raw/X" in readable:
                file.create_group("raw").attrs.update({"encoding-type": "raw", "encoding-version": "0.1.0"})
            for name in readable:
                _copy_matrix(store[name], name, file)
            with anndata.settings.override(allow_write_nullable_strings=True):
                for name, table in tables.items():
                    anndata.io.write_elem(file, name, table, dataset_kwargs={"compression": "gzip"})
            file.flush()
        finally:
            with contextlib.suppress(OSError, RuntimeError):
                file.close()
    left = [n for n in matrices if n not in readable]
    said = f"Copied from zarr: {', '.join([*readable, *tables])}."
    return said + (f" Left out, as no readable matrix: {', '.join(left)}." if left else "")


def obs_columns(path: Path) -> list[str] | None:
    """Names of the obs columns of a store in a folder, without opening it by zarr; None where they cannot be had so."""
    try:
        if (path / "obs" / "zarr.json").is_file():
            attributes = json.loads((path / "obs" / "zarr.json").read_text())["attributes"]
        else:
            attributes = json.loads((path / "obs" / ".zattrs").read_text())
        return [str(c) for c in attributes["column-order"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _layout(node: ZarrArray | ZarrGroup) -> str | None:
    """``csr``, ``csc`` or ``dense``; None for what is no matrix of numbers."""
    if isinstance(node, ZarrArray):
        return "dense" if node.ndim == 2 and node.dtype.kind in "iufb" else None
    kind = str(node.attrs.get("encoding-type", "")).removesuffix("_matrix")
    return kind if kind in ("csr", "csc") else None


def _copy_matrix(node: ZarrArray | ZarrGroup, name: str, file: h5py.File) -> None:
    import numpy as np

    if isinstance(node, ZarrArray):
        _copy_array(node, file, name)
        file[name].attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
        return
    group = file.create_group(name)
    group.attrs.update({"encoding-type": f"{_layout(node)}_matrix", "encoding-version": "0.1.0"})
    group.attrs["shape"] = np.array(node.attrs["shape"], np.int64)
    for part in ("data", "indices", "indptr"):
        _copy_array(node[part], group, part)


def _copy_array(array: ZarrArray, home: h5py.Group, name: str) -> None:
    """Whole chunks at a time, so that each is read once."""
    step = max(1, SLAB // max(1, array.shape[1] if array.ndim == 2 else 1))
    step = max(step // array.chunk_rows, 1) * array.chunk_rows
    options: dict[str, Any] = {"compression": "gzip", "shuffle": True} if all(array.shape) else {}
    made = home.create_dataset(name, array.shape, array.dtype, **options)
    for start in range(0, len(array), step):
        made[start : start + step] = array.read(start, start + step)
