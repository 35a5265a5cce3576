"""``h5ad``: whole splits as AnnData, with embeddings in ``obsm``, for people and every tool that reads h5ad."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cellmill.exports.columns import by_split, checked_counts, count_missing, obs_columns
from cellmill.exports.obs_table import ObsTable, categories, waiting
from cellmill.exports.spec import AnnDataCounts

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from cellmill.exports.rows import Header

FILE = "cells.h5ad"
GROUP_ROWS = 4_096
"""Rows that are appended at once."""


class H5adCounts(AnnDataCounts):
    """Counts as CSR, the gene and cell tables and embeddings in one AnnData file per split."""

    container = "HDF5"


def write(
    out: Path,
    header: Header,
    rows: Iterable[tuple[str, pa.RecordBatch]],
    spec: H5adCounts,
    *,
    vocabulary: dict[str, int] | None = None,
    threads: int = 1,
) -> dict[str, Any]:
    """Write one file per split and return what the manifest says of them.

    Args:
        out: an empty folder.
        header: what is known before the first row; its counts type is the type of ``X/data``.
        rows: ``(split, batch)`` with ``cell_id``, ``genes``, ``counts``, embeddings and obs columns, split by split.
        spec: the obs columns and embeddings.
        vocabulary: not used, counts have none.
        threads: how many compress chunks.

    Raises:
        CellmillError: where a count does not fit, a column is not there, or cells are missing.

    The bytes depend on the rows alone, not on how they are cut into batches.
    Text is categorical with the same categories in every split, so that obs waits in Parquet files beside the matrices.
    Memory: some thousand rows, and 8 bytes per cell for ``X/indptr``.
    """
    import pyarrow.parquet as pq
    import scipy.sparse as sp

    from cellmill.exports.rows import in_groups
    from cellmill.matrix.tables import ParquetTable
    from cellmill.matrix.writer import H5adWriter

    kinds = obs_columns(header, spec.columns, reserved=("cell_id",), export="h5ad")
    missing: Counter[str] = Counter()
    files: dict[str, H5adWriter] = {}
    obsm = {f"X_{name}": header.widths[name] for name in spec.embeddings}
    n_genes, dtype = len(header.genes), header.counts_dtype
    try:
        for split, batches in by_split(header, rows):
            (out / split).mkdir()
            file = files[split] = H5adWriter(
                out / split / FILE, n_genes=n_genes, dtype=dtype, threads=threads, obsm=obsm
            )
            obs = ObsTable(waiting(out, split), columns=kinds)
            one_file = header.cells[split]
            for _, _, table in in_groups(((split, b) for b in batches), group_rows=GROUP_ROWS, file_rows=one_file):
                (batch,) = table.to_batches()
                count_missing(missing, batch, kinds)
                obs.add(batch)
                offsets, genes, counts = checked_counts(batch, header)
                file.append(sp.csr_matrix((counts, genes, offsets), shape=(len(offsets) - 1, n_genes)))
                for name in spec.embeddings:
                    vectors = batch[f"embedding:{name}"].flatten().to_numpy()
                    file.obsm[f"X_{name}"].append(vectors.reshape(-1, header.widths[name]))
            obs.close()
        known = {column: categories(out, files, column) for column, kind in kinds.items() if kind == "string"}
        var = _var(header)
        for split, file in files.items():
            with pq.ParquetFile(waiting(out, split)) as table:
                file.close(obs=ParquetTable(table, known), var=var, uns={})
            waiting(out, split).unlink()
    except BaseException:
        for file in files.values():
            file.abandon()
        raise
    return {
        "genes": len(header.genes),
        "counts_dtype": header.counts_dtype.name,
        "columns": {"cell_id": "string"} | kinds,
        "missing": dict(missing),
        "missing_as": "null",
        "splits": {split: f"{split}/{FILE}" for split in files},
    }


def _var(header: Header) -> pd.DataFrame:
    """The gene space by id: symbols, and whether a gene is variable, under scanpy's name."""
    var = header.genes[["gene_id", "gene_symbol"]].set_index("gene_id").fillna({"gene_symbol": ""})
    return var.assign(highly_variable=header.genes["variable"].to_numpy(bool))
