"""``processed/{part}.h5ad``: the kept cells of a part as raw counts in the dataset's gene space."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellmill.contracts.versions import COUNTS
from cellmill.errors import CellmillError, nearest
from cellmill.quality.names import METRICS

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import pyarrow as pa
    import scipy.sparse as sp

SLAB = 65_536
"""Cell ids that are read at once."""
RESERVED_COLUMNS = frozenset({"cell_id", "split", "genes", "counts", "input_ids", *METRICS})
"""Obs columns that cellmill writes itself."""
DOUBLET_COLUMNS = ("doublet_score", "predicted_doublet")
"""Obs columns that it writes where doublets are looked for; the names are scanpy's."""


class CountsPart:
    """One processed part, read in row blocks; row *i* is row *i* of every later file of the part.

    Raises:
        CellmillError: not a file of this contract, or of another version of it.
    """

    def __init__(self, path: str | PathLike[str], *, threads: int = 1) -> None:
        from cellmill.matrix.chunks import decoding, open_vector
        from cellmill.matrix.reader import open_h5ad

        self.path = Path(path)
        self._file = open_h5ad(self.path)
        said = self._file["uns/cellmill"][()] if "uns/cellmill" in self._file else b"{}"
        self.facts: dict[str, Any] = json.loads(said)
        COUNTS.verify(self.path, self.facts.get("contract"))
        x = self._file["X"]
        self.n_cells, self.n_genes = (int(n) for n in x.attrs["shape"])
        self.dtype: np.dtype = x["data"].dtype
        """Type of the counts: the same in every part of a dataset."""
        self.n_values = int(x["data"].shape[0])
        self._threads = ExitStack()
        pool = self._threads.enter_context(decoding(threads))
        self._data, self._indices = (open_vector(x[name], pool) for name in ("data", "indices"))

    def __enter__(self) -> CountsPart:
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.close()
        self._file.close()

    @cached_property
    def _indptr(self) -> np.ndarray:
        return self._file["X/indptr"][:]

    @property
    def lengths(self) -> np.ndarray:
        """int64 (cells,): stored counts of each cell, none of which is 0."""
        import numpy as np

        return np.diff(self._indptr)

    @cached_property
    def obs(self) -> pd.DataFrame:
        """Obs (cells, columns), indexed by ``cell_id``."""
        from cellmill.matrix.tables import read_table

        return read_table(self._file["obs"])

    def column(self, name: str) -> pd.Series:
        """One obs column, without a look at the others.

        Raises:
            CellmillError: it is not there; names the nearest.
        """
        from cellmill.matrix.tables import column_names, read_column

        names = column_names(self._file["obs"])
        if name not in names:
            raise CellmillError(self.path, f"no obs column '{name}'.", nearest(name, names))
        return read_column(self._file["obs"], name)

    @cached_property
    def cell_ids(self) -> pa.Array:
        """Cell ids as large_string, without a Python object for each."""
        import pyarrow as pa

        ids = self._file["obs"][self._file["obs"].attrs["_index"]]
        slabs = [pa.array(ids.asstr()[i : i + SLAB], pa.large_string()) for i in range(0, self.n_cells, SLAB)]
        return pa.concat_arrays(slabs) if slabs else pa.array([], pa.large_string())

    @cached_property
    def var(self) -> pd.DataFrame:
        """The gene space (genes, columns), indexed by ``gene_id``."""
        from cellmill.matrix.tables import read_table

        return read_table(self._file["var"])

    @property
    def exported_columns(self) -> list[str]:
        """Obs columns that exports write where they are not told which: those that stay, and what says of doublets."""
        names = [str(c) for c in self.obs.columns]
        return [*names[1 : names.index(METRICS[0])], *(c for c in DOUBLET_COLUMNS if c in names)]

    def rows(self, start: int, stop: int) -> sp.csr_matrix:
        """Counts of rows ``start`` to ``stop`` (n, genes), CSR, sorted indices."""
        import numpy as np
        import scipy.sparse as sp

        lo, hi = int(self._indptr[start]), int(self._indptr[stop])
        try:
            data, indices = self._data.read(lo, hi), self._indices.read(lo, hi)
        except OSError as error:
            raise CellmillError(self.path, f"not readable ({error}).", "Delete it and run snakemake again.") from error
        pointers = (self._indptr[start : stop + 1] - lo).astype(np.int32)
        matrix = sp.csr_matrix((data, indices, pointers), shape=(stop - start, self.n_genes), copy=False)
        matrix.has_sorted_indices = matrix.has_canonical_format = True
        return matrix

    def bounds(self, rows: int) -> Iterator[tuple[int, int]]:
        """``(start, stop)`` of ``blocks``."""
        return ((start, min(start + rows, self.n_cells)) for start in range(0, self.n_cells, rows))

    def blocks(self, rows: int = 1_024) -> Iterator[tuple[int, int, sp.csr_matrix]]:
        """``(start, stop, counts)`` over all rows, ``rows`` at once; the next are under way where there are threads."""
        for start, stop in self.bounds(rows):
            counts = self.rows(start, stop)
            lo, hi = int(self._indptr[stop]), int(self._indptr[min(stop + rows, self.n_cells)])
            for vector in (self._data, self._indices):
                vector.prefetch(lo, hi)
            yield start, stop, counts

    def obs_table(self, columns: Sequence[str] | None = None, rows: slice = slice(None)) -> pa.Table:
        """Obs as Arrow, read column by column: text and categories are string, integers int64, floats float64.

        Args:
            columns: ``cell_id`` may be one; None: ``cell_id`` and all others.
        """
        import pyarrow as pa

        from cellmill.matrix.tables import column_names, read_column

        obs = self._file["obs"]
        index = obs.attrs["_index"]
        found = {}
        for name in ["cell_id", *column_names(obs)] if columns is None else columns:
            values = to_arrow(read_column(obs, index if name == "cell_id" else name, rows))
            found[name] = values.cast(pa.large_string()) if name == "cell_id" else values
        return pa.table(found)


def to_arrow(values: pd.Series) -> pa.Array:
    """An obs column as string, bool, int64 or float64; missing values stay missing."""
    import pandas as pd
    import pyarrow as pa

    is_type = pd.api.types
    if isinstance(values.dtype, pd.CategoricalDtype) and values.cat.categories.dtype.kind in "biuf":
        values = pd.Series(values.to_numpy())
    for test, type_ in (
        (is_type.is_bool_dtype, pa.bool_()),
        (is_type.is_integer_dtype, pa.int64()),
        (is_type.is_float_dtype, pa.float64()),
    ):
        if test(values.dtype):
            return pa.array(values, from_pandas=True).cast(type_)
    try:
        array = pa.array(values, from_pandas=True).cast(pa.string())
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):  # mixed objects
        array = pa.array([None if pd.isna(v) else str(v) for v in values], pa.string())
    return array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array
