"""``h5ad``: whole splits as AnnData, with embeddings in ``obsm``, for people and every tool that reads h5ad."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cellmill.exports.categories import categories, waiting
from cellmill.exports.columns import checked_counts
from cellmill.exports.given import Given, obs_schema
from cellmill.exports.spec import AnnDataCounts
from cellmill.matrix.obs_table import ObsTable

if TYPE_CHECKING:
    import pandas as pd

    from cellmill.exports.rows import Header

FILE = "cells.h5ad"
GROUP_ROWS = 4_096
"""Rows that are appended at once."""


class H5adCounts(AnnDataCounts):
    """Counts as CSR, the gene and cell tables and embeddings in one AnnData file per split."""

    container = "HDF5"


def write(given: Given, spec: H5adCounts) -> dict[str, Any]:
    """Write one file per split and return what the manifest says of them.

    Raises:
        CellmillError: where a count does not fit, a column is not there, or cells are missing.

    Text is categorical with the same categories in every split, so that obs waits in Parquet files beside the matrices.
    Memory: some thousand rows, and 8 bytes per cell for ``X/indptr``.
    """
    import pyarrow.parquet as pq
    import scipy.sparse as sp

    from cellmill.exports.rows import in_groups
    from cellmill.matrix.tables import ParquetTable
    from cellmill.matrix.writer import H5adWriter

    out, header = given.out, given.header
    kinds = given.obs_columns(spec.columns, export="h5ad")
    files: dict[str, H5adWriter] = {}
    obsm = {f"X_{name}": header.widths[name] for name in spec.embeddings}
    n_genes, dtype = len(header.genes), header.counts_dtype
    try:
        for split, batches in given.by_split():
            (out / split).mkdir()
            file = files[split] = H5adWriter(
                out / split / FILE, n_genes=n_genes, dtype=dtype, threads=given.threads, obsm=obsm
            )
            obs = ObsTable(waiting(out, split), obs_schema(kinds))
            for _, batch in in_groups(batches, group_rows=GROUP_ROWS, file_rows=header.cells[split]):
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
    return given.facts_of_counts(kinds, {split: f"{split}/{FILE}" for split in files})


def _var(header: Header) -> pd.DataFrame:
    """The gene space by id: symbols, and whether a gene is variable, under scanpy's name."""
    var = header.genes[["gene_id", "gene_symbol"]].set_index("gene_id").fillna({"gene_symbol": ""})
    return var.assign(highly_variable=header.genes["variable"].to_numpy(bool))
