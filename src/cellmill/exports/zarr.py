"""``zarr``: shuffled collections of sharded AnnData, as annbatch, anndata and zarr read them."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellmill.exports.categories import categories, waiting
from cellmill.exports.columns import checked_counts
from cellmill.exports.given import Given, obs_schema
from cellmill.exports.spec import AnnDataCounts
from cellmill.matrix.obs_table import ObsTable
from cellmill.spec import PositiveInt

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import pyarrow as pa

    from cellmill.exports.rows import Header

COLLECTION = {"encoding-type": "annbatch-preshuffled", "encoding-version": "0.1.0"}
"""By this annbatch knows a collection of shuffled rows; checked with its 0.3.1, on zarr 3.4.2 and anndata 0.13.4."""
THREADS = 2
CHUNKS_PER_SHARD = 64
"""Of embeddings, at most."""


class ZarrCounts(AnnDataCounts):
    """Counts as sharded CSR in AnnData stores of zarr version 3, one shuffled collection per split."""

    container = "zarr"
    cells_per_dataset: PositiveInt = 1 << 20
    """Cells in each `dataset_<i>`; the obs table of one is in memory at once."""
    values_per_chunk: PositiveInt = 1 << 16
    """Stored values that are decoded together: 44 cells of 1,500 values by default."""
    chunks_per_shard: PositiveInt = 1 << 11
    """Chunks in one file: a few hundred megabytes by default."""


def write(given: Given, spec: ZarrCounts) -> dict[str, Any]:
    """Write one collection per split and return what the manifest says of them.

    Raises:
        CellmillError: where a count does not fit, a column is not there, or cells are missing.

    Obs columns wait in a Parquet file, because text is categorical, with the same categories in every dataset.
    Memory: some batches, and the obs columns of one dataset.
    """
    import zarr

    out, header = given.out, given.header
    kinds = given.obs_columns(spec.columns, reserved=("cell_id", "_index"), export="zarr")
    splits: dict[str, list[dict[str, int]]] = {}
    with ThreadPoolExecutor(THREADS, thread_name_prefix="blosc") as pool, _quiet():
        for split, batches in given.by_split():
            zarr.open_group(out / split, mode="w-", zarr_format=3, attributes=dict(COLLECTION))
            obs = ObsTable(waiting(out, split), obs_schema(kinds))
            matrices = _Matrices(out / split, header, spec, pool)
            try:
                for batch in batches:
                    obs.add(batch)
                    vectors = {
                        name: batch[f"embedding:{name}"].flatten().to_numpy().reshape(-1, header.widths[name])
                        for name in spec.embeddings
                    }
                    matrices.append(*checked_counts(batch, header), vectors)
                splits[split] = matrices.close()
            except BaseException:
                matrices.abandon()
                raise
            obs.close()
        known = {column: categories(out, splits, column) for column, kind in kinds.items() if kind == "string"}
        for split, datasets in splits.items():
            _write_tables(out, split, datasets, header, known)
            waiting(out, split).unlink()
    return given.facts_of_counts(kinds, splits)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what anndata and zarr say of versions to come, which is nothing that a user of ours can do about."""
    import warnings

    import anndata

    with warnings.catch_warnings(), anndata.settings.override(zarr_write_format=3):
        warnings.filterwarnings("ignore", message=".*autosharding", category=UserWarning)
        warnings.filterwarnings("ignore", message="Consolidated metadata is currently not part", category=UserWarning)
        yield


class _Matrices:
    """``X`` and ``obsm`` of the datasets of a split, one after another."""

    def __init__(self, folder: Path, header: Header, spec: ZarrCounts, pool: ThreadPoolExecutor) -> None:
        self.folder, self.header, self.spec, self.pool = folder, header, spec, pool
        self._done: list[dict[str, int]] = []
        self._open: _Matrix | None = None

    def append(
        self, offsets: np.ndarray, genes: np.ndarray, counts: np.ndarray, vectors: dict[str, np.ndarray]
    ) -> None:
        """Add rows: offsets (n + 1, from 0), genes and counts, and the vectors (n, width) of each embedding."""
        start, n = 0, len(offsets) - 1
        while start < n:
            if self._open is None:
                place = self.folder / f"dataset_{len(self._done)}"
                left = self.header.cells[self.folder.name] - len(self._done) * self.spec.cells_per_dataset
                n_rows = min(left, self.spec.cells_per_dataset)
                self._open = _Matrix(place, self.header, self.spec, self.pool, n_rows=n_rows)
            stop = min(n, start + self.spec.cells_per_dataset - self._open.n_rows)
            lo, hi = offsets[start], offsets[stop]
            self._open.append(
                offsets[start : stop + 1] - lo,
                genes[lo:hi],
                counts[lo:hi],
                {name: rows[start:stop] for name, rows in vectors.items()},
            )
            start = stop
            if self._open.n_rows == self.spec.cells_per_dataset:
                self.close()

    def close(self) -> list[dict[str, int]]:
        """Finish the open dataset; what all of them hold."""
        if self._open is not None:
            self._done.append(self._open.close())
            self._open = None
        return self._done

    def abandon(self) -> None:
        """Close files without finishing, after an error."""
        if self._open is not None:
            self._open.abandon()


class _Matrix:
    """``X`` and ``obsm`` of one dataset."""

    def __init__(
        self, folder: Path, header: Header, spec: ZarrCounts, pool: ThreadPoolExecutor, *, n_rows: int
    ) -> None:
        import numpy as np

        from cellmill.matrix.zarr_writer import ShardedVector

        self.folder, self.n_genes, self.n_rows = folder, len(header.genes), 0
        sizes = {"chunk": spec.values_per_chunk, "shard": spec.values_per_chunk * spec.chunks_per_shard}
        self._data = ShardedVector(folder / "X" / "data", header.counts_dtype, pool=pool, **sizes)
        # int32, which scipy computes with; narrower ones compress no better.
        self._indices = ShardedVector(folder / "X" / "indices", np.dtype(np.int32), pool=pool, **sizes)
        self._indptr = [np.zeros(1, np.int64)]
        self._vectors = {
            name: _Vectors(folder / "obsm" / f"X_{name}", (n_rows, header.widths[name]), spec)
            for name in spec.embeddings
        }

    def append(
        self, offsets: np.ndarray, genes: np.ndarray, counts: np.ndarray, vectors: dict[str, np.ndarray]
    ) -> None:
        """Add rows: offsets (n + 1, from 0), genes and counts, and the vectors (n, width) of each embedding."""
        for name, rows in vectors.items():
            self._vectors[name].append(rows)
        self._indptr.append(self._indptr[-1][-1] + offsets[1:])
        self._data.append(counts)
        self._indices.append(genes.astype("int32"))
        self.n_rows += len(offsets) - 1

    def abandon(self) -> None:
        """Close without finishing, after an error."""
        self._data.abandon()
        self._indices.abandon()

    def close(self) -> dict[str, int]:
        """Write what is left and all metadata of the matrix; its cells and stored values."""
        import numpy as np
        import zarr
        from zarr.codecs import BloscCodec

        root = zarr.open_group(
            self.folder, mode="a", zarr_format=3, attributes={"encoding-type": "anndata", "encoding-version": "0.1.0"}
        )
        shape = [self.n_rows, self.n_genes]
        encoding = {"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": shape}
        group = root.create_group("X", attributes=encoding)
        if self._vectors:
            root.create_group("obsm", attributes={"encoding-type": "dict", "encoding-version": "0.1.0"})
        for vectors in self._vectors.values():
            vectors.close()
        self._data.close(group, "data")
        self._indices.close(group, "indices")
        indptr = np.concatenate(self._indptr)
        codec = BloscCodec(cname="zstd", clevel=1, shuffle="shuffle", typesize=8)
        group.create_array("indptr", data=indptr, chunks=(min(len(indptr), 1 << 20),), compressors=codec)
        return {"cells": self.n_rows, "values": self._data.n_values}


class _Vectors:
    """A matrix of ``obsm``, written in whole shards: 16 MB of it wait in memory with chunks of the default size."""

    def __init__(self, folder: Path, shape: tuple[int, int], spec: ZarrCounts) -> None:
        import zarr
        from zarr.codecs import BloscCodec

        n_rows, width = shape
        rows = max(1, spec.values_per_chunk // width)
        self._rows = rows * min(-(-n_rows // rows), spec.chunks_per_shard, CHUNKS_PER_SHARD)
        self._array = zarr.create_array(
            str(folder),
            shape=shape,
            dtype="float32",
            chunks=(rows, width),
            shards=(self._rows, width),
            compressors=BloscCodec(cname="zstd", clevel=1, shuffle="shuffle", typesize=4),
            fill_value=0,
            attributes={"encoding-type": "array", "encoding-version": "0.2.0"},
            zarr_format=3,
        )
        self._pending: list[np.ndarray] = []
        self._n_pending = self._n_rows = 0

    def append(self, rows: np.ndarray) -> None:
        """Add rows (n, width)."""
        self._pending.append(rows)
        self._n_pending += len(rows)
        while self._n_pending >= self._rows:
            self._write(self._rows)

    def _write(self, n: int) -> None:
        import numpy as np

        waiting = np.concatenate(self._pending)
        self._array[self._n_rows : self._n_rows + n] = waiting[:n]
        self._n_rows += n
        self._pending, self._n_pending = [waiting[n:].copy()], len(waiting) - n

    def close(self) -> None:
        """Write what is left."""
        if self._n_pending:
            self._write(self._n_pending)


def _write_tables(
    out: Path, split: str, datasets: list[dict[str, int]], header: Header, categories: dict[str, pd.Index]
) -> None:
    """``obs``, ``var`` and the empty groups of every dataset, then the consolidated metadata."""
    import anndata
    import pyarrow as pa
    import pyarrow.parquet as pq
    import zarr

    var = header.genes[["gene_id", "gene_symbol"]].set_index("gene_id").fillna({"gene_symbol": ""})
    with pq.ParquetFile(waiting(out, split)) as file:
        batches, left = file.iter_batches(), pa.Table.from_batches([], file.schema_arrow)
        for i, dataset in enumerate(datasets):
            while left.num_rows < dataset["cells"]:
                left = pa.concat_tables([left, pa.Table.from_batches([next(batches)])])
            table, left = left.slice(0, dataset["cells"]), left.slice(dataset["cells"])
            root = zarr.open_group(out / split / f"dataset_{i}", mode="r+")
            anndata.io.write_elem(root, "obs", _frame(table, categories))
            anndata.io.write_elem(root, "var", var)
            for name in ("layers", "obsm", "obsp", "uns", "varm", "varp"):
                if name not in root:
                    anndata.io.write_elem(root, name, {})
            zarr.consolidate_metadata(str(out / split / f"dataset_{i}"))
    zarr.consolidate_metadata(str(out / split))


def _frame(table: pa.Table, categories: dict[str, pd.Index]) -> pd.DataFrame:
    """An obs table in pandas: text categorical, numbers with missing values nullable, fractions with NaN."""
    import pandas as pd
    import pyarrow as pa

    columns: dict[str, Any] = {}
    nullable = {pa.int64(): pd.Int64Dtype(), pa.bool_(): pd.BooleanDtype()}
    for name in table.column_names[1:]:
        values = table[name]
        if name in categories:
            columns[name] = pd.Categorical(values.to_pandas(), categories=categories[name])
        elif values.null_count and values.type in nullable:
            columns[name] = values.to_pandas(types_mapper=nullable.get).array
        else:
            columns[name] = values.to_numpy()
    index = pd.Index(table["cell_id"].to_pylist(), dtype=object)
    return pd.DataFrame(columns, index=index)
