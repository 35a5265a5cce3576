"""The cells of Tahoe-100M: tokens of its Parquet files to counts, and its tables joined to cells and genes."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import scipy.sparse as sp

from cellmill.errors import CellmillError, nearest
from cellmill.files import replacing
from cellmill.matrix.tables import storable
from cellmill.matrix.writer import H5adWriter
from cellmill.progress import progress

log = logging.getLogger("cellmill")
CLS_TOKEN, CLS_VALUE = 1, -2.0
"""The first gene of every cell, and its expression."""
CELL_ID = "BARCODE_SUB_LIB_ID"
_BLOCK_ROWS = 1_024
_SHOWN = 5
"""Values that facts name."""
_DRIVERS = "Driver_Gene_Symbol"


@dataclass(frozen=True)
class Tables:
    """The genes (genes,) indexed by Ensembl id, and the tables of drugs, samples and cell lines, indexed by key."""

    genes: pd.DataFrame
    drugs: pd.DataFrame
    samples: pd.DataFrame
    cell_lines: pd.DataFrame
    left_out: list[str]
    """Columns of the cell lines that have several values for one of them."""

    def decode(self, path: Path, out: Path) -> str:
        """As ``decode_tokens``, with these genes."""
        return decode_tokens(path, out, self.genes)

    def describe(self, obs: pd.DataFrame, var: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, Any]]:
        """As ``join_tables``, with what was counted as ``joined``."""
        cells, genes, said = join_tables(obs, var, self)
        return cells, genes, {"joined": said}


def read_tables(paths: Mapping[str, Path]) -> Tables:
    """Read the tables by the names of ``tahoe.TABLES``.

    Keys are stripped: some drugs of the samples end in a blank. Of cell lines there is a row for each driver mutation;
    the genes of these are joined into one text, and what else differs between the rows of a line is left out.

    Raises:
        CellmillError: not readable, a column is missing, or a key stands there twice.
    """
    genes = _read(paths["gene"], "ensembl_id", "gene_symbol", "token_id")
    for column in ("ensembl_id", "token_id"):
        if genes[column].duplicated().any():
            twice = genes[column][genes[column].duplicated()].iloc[0]
            raise CellmillError(paths["gene"], f"{column} {twice} stands there twice.", "Get it again.")
    lines = _read(paths["cell_line"], "Cell_ID_Cellosaur")
    grouped = lines.groupby("Cell_ID_Cellosaur", sort=True)
    single = grouped.nunique(dropna=False).max() <= 1
    one = grouped.first()[list(single.index[single])]
    if _DRIVERS in lines and _DRIVERS not in one:
        one[_DRIVERS] = grouped[_DRIVERS].agg(_each_once)
    return Tables(
        genes.set_index("ensembl_id"),
        _keyed(paths["drug"], "drug"),
        _keyed(paths["sample"], "sample"),
        one,
        sorted(set(single.index) - set(one.columns)),
    )


def _read(path: Path, *columns: str) -> pd.DataFrame:
    try:
        table = pq.read_table(path).to_pandas()
    except (OSError, pa.ArrowInvalid) as error:
        raise CellmillError(path, f"not readable as Parquet ({error}).", "Get it again.") from error
    for column in columns:
        if column not in table:
            raise CellmillError(path, f"no column '{column}'.", nearest(column, table.columns))
    return table


def _each_once(values: pd.Series) -> str | None:
    return "; ".join(sorted(set(values.dropna().astype(str)))) or None


def _keyed(path: Path, key: str) -> pd.DataFrame:
    table = _read(path, key)
    keys = table[key].astype(str).str.strip()
    if keys.duplicated().any():
        raise CellmillError(path, f"'{keys[keys.duplicated()].iloc[0]}' stands there twice.", "Get it again.")
    return table.set_index(keys).drop(columns=key)


# --- tokens


def decode_tokens(path: Path, out: Path, genes: pd.DataFrame) -> str:
    """Write the cells of a Parquet file as h5ad: X (cells, genes) CSR uint32, obs indexed by ``BARCODE_SUB_LIB_ID``.

    The columns are all genes of the table, in its order. A gene that a cell names twice has the sum of both.

    Args:
        genes: ``Tables.genes``, whose ``token_id`` stands in the lists.

    Memory: 1,024 cells, and the obs table of the file.

    Returns:
        A sentence on what was found.

    Raises:
        CellmillError: not Parquet with these columns; a cell that does not begin with the marker; a token that is no
            gene; or a value that is no count.
    """
    try:
        file = pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False)  # a row group is not in memory whole
    except (OSError, pa.ArrowInvalid) as error:
        raise CellmillError(path, f"not readable as Parquet ({error}).", "Get it again.") from error
    with file:
        names = file.schema_arrow.names
        for column in ("genes", "expressions", CELL_ID):
            if column not in names:
                raise CellmillError(path, f"no column '{column}'.", nearest(column, names))
        others = [name for name in names if name not in ("genes", "expressions")]
        obs = file.read(columns=others).to_pandas(strings_to_categorical=True).set_index(CELL_ID)
        obs.index = obs.index.astype(str)
        twice, cells = 0, file.metadata.num_rows
        with replacing(out) as aside:
            writer = H5adWriter(aside, n_genes=len(genes), dtype=np.dtype(np.uint32))
            try:
                with progress(cells, "cells", "decoding") as counter:
                    for counts, summed in _blocks(path, file, genes):
                        writer.append(counts)
                        twice += summed
                        counter.update(counts.shape[0])
                writer.close(obs=storable(obs), var=storable(genes), uns={})
            except BaseException:
                writer.abandon()
                raise
    return f"Counts of {cells:,} cells from tokens; {twice:,} values were of a gene that the cell had named before."


def _blocks(path: Path, file: pq.ParquetFile, genes: pd.DataFrame) -> Iterator[tuple[sp.csr_matrix, int]]:
    """Counts of up to 1,024 cells, and how many of their values were added to others."""
    tokens = genes["token_id"].to_numpy(np.int64)
    column_of = np.full(int(tokens.max(initial=0)) + 1, -1, np.int64)
    column_of[tokens] = np.arange(len(tokens))
    start = 0
    for batch in file.iter_batches(_BLOCK_ROWS, columns=["genes", "expressions"]):
        offsets, found = _lists(path, batch.column("genes"), start)
        of_values, values = _lists(path, batch.column("expressions"), start)
        if not np.array_equal(offsets, of_values):
            row = start + int(np.argmax(np.diff(offsets) != np.diff(of_values)))
            raise CellmillError(path, f"row {row:,} has not as many expressions as genes.", "Get it again.")
        first = offsets[:-1]
        marked = np.diff(offsets) > 0
        marked[marked] = (found[first[marked]] == CLS_TOKEN) & (values[first[marked]] == CLS_VALUE)
        if not marked.all():
            row = int(np.argmin(marked))
            said = [f"{a[first[row]]:g}" for a in (found, values)] if offsets[row + 1] > first[row] else ["nothing"] * 2
            raise CellmillError(
                path,
                f"row {start + row:,} begins with gene {said[0]} and expression {said[1]}, expected the marker "
                f"{CLS_TOKEN} and {CLS_VALUE:g}.",
                "It is not a file of Tahoe-100M; other Parquet is not read by this source.",
            )
        inner = np.ones(len(found), bool)
        inner[first] = False
        found, values = found[inner], values[inner]
        indptr = offsets - np.arange(len(offsets))
        known = (found >= 0) & (found < len(column_of))
        columns = np.where(known, column_of[np.where(known, found, 0)], -1)
        _refuse(path, columns < 0, indptr, start, found, "token", "which is no gene of the table of genes")
        with np.errstate(invalid="ignore"):
            wrong = ~((values >= 0) & (values <= np.iinfo(np.uint32).max) & (values == np.floor(values)))
        _refuse(path, wrong, indptr, start, values, "expression", "which is no count")
        data = values.astype(np.uint32)
        counts = sp.csr_matrix((data, columns, indptr), shape=(len(indptr) - 1, len(tokens)))
        counts.sum_duplicates()
        summed = len(data) - counts.nnz
        counts.eliminate_zeros()
        yield counts, summed
        start += counts.shape[0]


def _lists(path: Path, column: pa.Array, start: int) -> tuple[np.ndarray, np.ndarray]:
    """Offsets (rows + 1,) int64 from 0, and the values of all lists."""
    if not (pa.types.is_list(column.type) or pa.types.is_large_list(column.type)):
        raise CellmillError(path, f"genes and expressions are of type {column.type}, not lists.", "Get it again.")
    values = column.flatten()
    if column.null_count or values.null_count:
        raise CellmillError(path, f"a list at row {start:,} or after it has a missing value.", "Get it again.")
    offsets = column.offsets.to_numpy().astype(np.int64)
    return offsets - offsets[0], values.to_numpy()


def _refuse(
    path: Path, wrong: np.ndarray, indptr: np.ndarray, start: int, values: np.ndarray, what: str, said: str
) -> None:
    if wrong.any():
        i = int(np.argmax(wrong))
        row = start + int(np.searchsorted(indptr, i, side="right")) - 1
        raise CellmillError(path, f"row {row:,} has the {what} {values[i]:g}, {said}.", "Get it again.")


# --- tables


def join_tables(
    obs: pd.DataFrame, var: pd.DataFrame, tables: Tables
) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, Any]]:
    """Cells with what the tables say of their drug, sample and line, genes with their Ensembl id; and what was counted.

    Columns that are there already stay as they are. A cell or gene that a table does not have gets missing values.

    Args:
        obs: (cells, columns) with ``drug``, ``sample`` and ``cell_line`` or ``cell_line_id``.
        var: (genes, columns), indexed by Ensembl id or by symbol.
    """
    line = "cell_line_id" if "cell_line_id" in obs else "cell_line"
    said: dict[str, Any] = {}
    added: dict[str, Any] = {}
    for key, table in (("drug", tables.drugs), ("sample", tables.samples), (line, tables.cell_lines)):
        if key not in obs:
            raise CellmillError("obs", f"no column '{key}'.", nearest(key, obs.columns))
        codes, found = pd.factorize(obs[key])
        rows = table.index.get_indexer(pd.Index([str(value).strip() for value in found], dtype=object))
        of = np.append(rows, -1)[codes]  # a missing key has the code -1
        new = [c for c in table.columns if c not in obs and c not in added]
        added |= {column: _taken(table[column], of) for column in new}
        lacking = np.array([*map(str, found), "missing"], object)[codes[of < 0]]
        names = {str(name): int(n) for name, n in pd.Series(lacking).value_counts().head(_SHOWN).items()}
        said[key] = {"columns": new, "cells_unmatched": int((of < 0).sum()), "unmatched": names}
    whole = pd.concat([obs, pd.DataFrame(added, index=obs.index)], axis=1)
    genes = tables.genes
    if "ensembl_id" not in var and not var.index.isin(genes.index).any():
        by_symbol = pd.Index(genes["gene_symbol"].astype(str))
        rows = by_symbol.get_indexer(var.index.astype(str)) if by_symbol.is_unique else np.full(len(var), -1)
        var = var.assign(ensembl_id=np.array([*genes.index, None], object)[rows])
        said["genes_unmatched"] = int((rows < 0).sum())
    said["left_out"] = tables.left_out
    for key in ("drug", "sample", line):
        if said[key]["cells_unmatched"]:
            log.warning("%d cells have a %s that the table does not have", said[key]["cells_unmatched"], key)
    return whole, var, said


def _taken(values: pd.Series, rows: np.ndarray) -> Any:
    """The values of these rows (rows,); missing where a row is -1."""
    if pd.api.types.is_numeric_dtype(values.dtype):
        numbers = np.append(values.to_numpy(np.float64), np.nan)
        return numbers[rows]
    return pd.Categorical(values).take(rows, allow_fill=True)
