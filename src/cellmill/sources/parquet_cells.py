"""Parquet with a row per cell, to h5ad: list columns of genes and values, or a column per gene."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, model_validator

from cellmill.errors import CellmillError, nearest
from cellmill.spec import Column, Spec

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq
    import scipy.sparse as sp

BLOCK_ROWS = 1_024
BLOCK_VALUES = 1 << 21


class ParquetCells(Spec):
    """How Parquet files hold cells, a row each: by two list columns, `genes` and `values`, or by `dense` columns.

    Other columns become obs; lists and the like among them are left out, which the provenance says.
    """

    genes: Column | None = None
    """The column with the list of a cell's genes: their numbers in `gene_table`, or their names."""
    values: Column | None = None
    """The column with the list of their counts."""
    skip: Annotated[int, Field(ge=0)] = 0
    """So many entries at the start of each list are of no gene, as the `<cls>` of Tahoe-100M is (1)."""
    gene_table: Annotated[str, Field(pattern=r"(?i)\.(parquet|csv|tsv|txt)$")] | None = None
    """Where genes are numbers, the table of genes: a path in the repository, `.parquet`, `.csv` or `.tsv`."""
    gene_name: Column | None = None
    """Its column that names genes, best by Ensembl id; the others stay with the genes."""
    gene_number: Column | None = None
    """Its column with the numbers; `null`: the first row is gene number `offset`, the next one more."""
    offset: Annotated[int, Field(ge=0)] = 0
    """The number of the first row of the table, where it has no column of numbers."""
    dense: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)] | None = None
    """Patterns of the columns that are genes, as in `["ENSG*"]`, each with the counts of all cells."""
    id: Column | None = None
    """The column of cell ids; `null`: cells are numbered in each file."""

    @model_validator(mode="after")
    def _one_way(self) -> ParquetCells:
        if (self.genes is None) != (self.values is None) or (self.genes is None) == (self.dense is None):
            raise ValueError("give either the list columns 'genes' and 'values', or the patterns of 'dense' columns")
        if self.dense is not None and (self.gene_table is not None or self.skip):
            raise ValueError("'gene_table' and 'skip' are of list columns; dense ones are named by their genes")
        if (self.gene_table is None) != (self.gene_name is None):
            raise ValueError("a 'gene_table' needs 'gene_name', the column that names genes, and the other way round")
        if self.gene_table is None and (self.gene_number is not None or self.offset):
            raise ValueError("'gene_number' and 'offset' are of a 'gene_table'")
        if self.gene_number is not None and self.offset:
            raise ValueError("'offset' is for a 'gene_table' without a column of numbers ('gene_number')")
        return self


@dataclass(frozen=True)
class GeneTable:
    """The genes that numbers stand for."""

    var: pd.DataFrame
    """A row per gene, indexed by name."""
    column: np.ndarray
    """The row of each number (numbers,) int64, -1 where it is none."""


def read_gene_table(path: Path, spec: ParquetCells) -> GeneTable:
    """Read the table of genes of a spec that has one.

    Raises:
        CellmillError: not readable, no such column, a gene without a name, or a number that stands there twice.
    """
    import numpy as np
    import pandas as pd
    import pyarrow as pa

    try:
        if path.suffix.lower() == ".parquet":
            table = pd.read_parquet(path)
        else:
            table = pd.read_csv(path, sep="," if path.suffix.lower() == ".csv" else "\t")
    except (OSError, ValueError, pa.ArrowInvalid) as error:
        raise CellmillError(path, f"not readable as a table of genes ({error}).", "Check source.parquet.") from error
    for key, named in (("gene_name", spec.gene_name), ("gene_number", spec.gene_number)):
        if named is not None and named not in table:
            raise CellmillError(
                f"source.parquet.{key}", f"no column '{named}' in {path.name}.", nearest(named, table.columns)
            )
    names = table[spec.gene_name]
    if names.isna().any():
        raise CellmillError(path, f"{int(names.isna().sum())} genes have no {spec.gene_name}.", "Take another column.")
    if spec.gene_number is None:
        numbers = np.arange(len(table), dtype=np.int64) + spec.offset
    else:
        said = pd.to_numeric(table[spec.gene_number], errors="coerce")
        if said.isna().any() or (said < 0).any() or (said % 1 != 0).any() or said.max() > 1 << 30:
            raise CellmillError(
                "source.parquet.gene_number", f"'{spec.gene_number}' holds no numbers of genes.", "Name another."
            )
        numbers = said.to_numpy(np.int64)
    column = np.full(int(numbers.max(initial=-1)) + 1, -1, np.int64)
    column[numbers] = np.arange(len(table))
    if (column >= 0).sum() < len(table):
        raise CellmillError(path, f"a number stands twice in '{spec.gene_number}'.", "Name another column.")
    others = [c for c in table.columns if c not in (spec.gene_name, spec.gene_number)]
    return GeneTable(table[others].set_axis(pd.Index(names.astype(str), name=spec.gene_name)), column)


def convert_parquet(path: Path, out: Path, spec: ParquetCells, genes: GeneTable | None) -> str:
    """Write the cells of a Parquet file as h5ad: X (cells, genes) CSR uint32, obs and var.

    A gene that a cell names twice has the sum of both.

    Args:
        genes: what numbers stand for; None where genes are named.

    Memory: a block of rows, and the obs table.

    Returns:
        A sentence on what was left out, or ``""``.

    Raises:
        CellmillError: not Parquet, not the columns of the spec, numbers of no gene, or values that are no counts.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    from cellmill.files import replacing
    from cellmill.matrix.tables import storable
    from cellmill.matrix.writer import H5adWriter
    from cellmill.progress import progress

    try:
        file = pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False)
    except (OSError, pa.ArrowInvalid) as error:
        raise CellmillError(path, f"not readable as Parquet ({error}).", "It may be truncated; get it again.") from None
    with file:
        try:
            columns = _Columns.of(path, file, spec)
            cells = _Dense(path, file, columns) if spec.dense is not None else _Lists(path, file, spec, genes)
            obs = _obs(file, columns)
            with replacing(out) as aside:
                writer = H5adWriter(aside, n_genes=len(cells.var), dtype=np.dtype(np.uint32))
                try:
                    with progress(len(obs), "cells", "decoding") as counter:
                        for counts in cells.blocks():
                            writer.append(counts)
                            counter.update(counts.shape[0])
                    writer.close(obs=storable(obs), var=storable(cells.var), uns={})
                except BaseException:
                    writer.abandon()
                    raise
        except pa.ArrowException as error:
            raise CellmillError(path, f"not readable as Parquet ({error}).", "Get it again.") from error
    left = f"Left out, as they hold no single values: {', '.join(columns.left_out)}." if columns.left_out else ""
    return f"Decoded from Parquet. {left}".strip()


@dataclass(frozen=True)
class _Columns:
    """Which columns of a file are genes, obs, the id, and neither."""

    genes: list[str]
    obs: list[str]
    left_out: list[str]
    id: str | None

    @staticmethod
    def of(path: Path, file: pq.ParquetFile, spec: ParquetCells) -> _Columns:
        import pyarrow as pa

        schema: pa.Schema = file.schema_arrow
        for key, column in (("genes", spec.genes), ("values", spec.values), ("id", spec.id)):
            if column is not None and column not in schema.names:
                raise CellmillError(
                    f"source.parquet.{key}", f"no column '{column}' in {path.name}.", nearest(column, schema.names)
                )
        dense = {c for pattern in spec.dense or [] for c in fnmatch.filter(schema.names, pattern)} - {spec.id}
        if spec.dense is not None and not dense:
            raise CellmillError(
                "source.parquet.dense", f"no column of {path.name} fits.", f"It has {', '.join(schema.names[:5])}, …"
            )
        for name in sorted(dense):
            kind = schema.field(name).type
            if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
                raise CellmillError(
                    "source.parquet.dense", f"column '{name}' of {path.name} is {kind}.", "Name numbers alone."
                )
        others = [f for f in schema if f.name not in {*dense, spec.genes, spec.values, spec.id, "__index_level_0__"}]
        nested = {f.name for f in others if pa.types.is_nested(f.type) or pa.types.is_binary(f.type)}
        return _Columns(
            genes=[name for name in schema.names if name in dense],
            obs=[f.name for f in others if f.name not in nested],
            left_out=[f.name for f in others if f.name in nested],
            id=spec.id,
        )


def _obs(file: pq.ParquetFile, columns: _Columns) -> pd.DataFrame:
    """The obs table: numbers and truth as they are, all else as text."""
    import pandas as pd
    import pyarrow as pa

    wanted = [*columns.obs, *([columns.id] if columns.id is not None else [])]
    table = file.read(columns=wanted)
    for i, field in enumerate(table.schema):
        kind = field.type
        if pa.types.is_decimal(kind):
            table = table.set_column(i, field.name, table.column(i).cast(pa.float64()))
        elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
            table = table.set_column(i, field.name, table.column(i).cast(pa.string()))
    found = table.to_pandas(ignore_metadata=True)
    if columns.id is None:
        index = pd.Index([str(i) for i in range(file.metadata.num_rows)])
        return found.set_axis(index) if len(columns.obs) else pd.DataFrame(index=index)
    if found[columns.id].isna().any():
        raise CellmillError("source.parquet.id", f"a cell has no '{columns.id}'.", "Name another column, or none.")
    return found.drop(columns=columns.id).set_axis(pd.Index(found[columns.id].astype(str)))


class _Dense:
    """A column per gene."""

    def __init__(self, path: Path, file: pq.ParquetFile, columns: _Columns) -> None:
        import pandas as pd

        self._path, self._file, self._genes = path, file, columns.genes
        self.var = pd.DataFrame(index=pd.Index(columns.genes))

    def blocks(self) -> Iterator[sp.csr_matrix]:
        import numpy as np
        import scipy.sparse as sp

        rows, start = max(1, min(BLOCK_ROWS, BLOCK_VALUES // len(self._genes))), 0
        for batch in self._file.iter_batches(rows, columns=self._genes):
            for name, column in zip(batch.schema.names, batch.columns, strict=True):
                if column.null_count:
                    raise CellmillError(self._path, f"a count of '{name}' is missing.", "Cells need all their counts.")
            values = np.column_stack([batch.column(name).to_numpy(zero_copy_only=False) for name in self._genes])
            yield _counts(self._path, start, sp.csr_matrix(values), self.var)
            start += batch.num_rows


class _Lists:
    """A list of genes and one of values."""

    def __init__(self, path: Path, file: pq.ParquetFile, spec: ParquetCells, genes: GeneTable | None) -> None:
        import pandas as pd
        import pyarrow as pa

        self._path, self._file, self._spec = path, file, spec
        types = [_item_type(path, file, column) for column in (spec.genes, spec.values)]
        self._named = not pa.types.is_integer(types[0])
        if not (pa.types.is_integer(types[1]) or pa.types.is_floating(types[1])):
            raise CellmillError("source.parquet.values", f"'{spec.values}' holds lists of {types[1]}.", "Name counts.")
        if self._named and genes is not None:
            said = f"its genes have numbers, and '{spec.genes}' holds {types[0]}."
            raise CellmillError("source.parquet.gene_table", said, "Leave it out.")
        if not self._named and genes is None:
            raise CellmillError(
                "source.parquet.gene_table", f"'{spec.genes}' holds numbers, and nothing names them.", "Name a table."
            )
        self._table = genes
        self.var = genes.var if genes is not None else pd.DataFrame(index=pd.Index(self._names(), dtype=object))

    def _names(self) -> list[str]:
        """The genes of any cell, sorted: a pass over the names alone."""
        import pyarrow as pa
        import pyarrow.compute as pc

        found: set[str] = set()
        for batch in self._file.iter_batches(BLOCK_ROWS, columns=[self._spec.genes]):
            kept, _ = self._kept(batch.column(0), 0)
            found.update(pc.unique(kept.cast(pa.string())).to_pylist())
        return sorted(found)

    def _kept(self, column: pa.Array, start: int) -> tuple[pa.Array, np.ndarray]:
        """The entries of all lists but the first ``skip`` of each, and how many of each list (rows,) they are."""
        import numpy as np
        import pyarrow.compute as pc

        skip = self._spec.skip
        lengths = pc.list_value_length(column).fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
        if (lengths < skip).any():
            row = start + int(np.argmax(lengths < skip))
            raise CellmillError(self._path, f"row {row} has no list, or one of fewer than {skip}.", "Correct 'skip'.")
        flat = column.flatten()
        if flat.null_count:
            raise CellmillError(self._path, f"a list after row {start} has an entry without a value.", "Get it again.")
        if skip:
            starts = np.cumsum(lengths) - lengths
            flat = flat.filter(np.arange(len(flat)) - np.repeat(starts, lengths) >= skip)
        return flat, lengths - skip

    def blocks(self) -> Iterator[sp.csr_matrix]:
        import numpy as np
        import scipy.sparse as sp

        start = 0
        for batch in self._file.iter_batches(BLOCK_ROWS, columns=[self._spec.genes, self._spec.values]):
            genes, lengths = self._kept(batch.column(self._spec.genes), start)
            values, of_values = self._kept(batch.column(self._spec.values), start)
            if not np.array_equal(lengths, of_values):
                row = int(np.argmax(lengths != of_values))
                raise CellmillError(
                    self._path,
                    f"row {start + row} has {lengths[row]} genes and {of_values[row]} values.",
                    "Check source.parquet.",
                )
            indptr = np.concatenate([[0], np.cumsum(lengths)])
            columns = self._columns(genes, indptr, start)
            arrays = values.to_numpy(zero_copy_only=False), columns, indptr
            yield _counts(self._path, start, sp.csr_matrix(arrays, shape=(len(lengths), len(self.var))), self.var)
            start += batch.num_rows

    def _columns(self, genes: pa.Array, indptr: np.ndarray, start: int) -> np.ndarray:
        """The column of each entry (entries,) int64."""
        import numpy as np
        import pyarrow as pa

        if self._table is None:
            coded = genes.cast(pa.string()).dictionary_encode()
            of = self.var.index.get_indexer(coded.dictionary.to_numpy(zero_copy_only=False))
            named: np.ndarray = of[coded.indices.to_numpy()]
            return named
        numbers = genes.to_numpy(zero_copy_only=False).astype(np.int64)
        known = self._table.column
        inside = (numbers >= 0) & (numbers < len(known))
        columns: np.ndarray = np.where(inside, known[np.where(inside, numbers, 0)], -1)
        if (columns < 0).any():
            entry = int(np.argmax(columns < 0))
            row = start + int(np.searchsorted(indptr, entry, "right")) - 1
            raise CellmillError(
                self._path,
                f"row {row} has the gene {numbers[entry]}, which is none of the {len(self.var):,} of the gene table.",
                "Check gene_number, offset and skip of source.parquet.",
            )
        return columns


def _item_type(path: Path, file: pq.ParquetFile, column: str | None) -> Any:
    import pyarrow as pa

    kind = file.schema_arrow.field(column).type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)):
        raise CellmillError(path, f"column '{column}' is {kind}, not a list per cell.", "Correct source.parquet.")
    item = kind.value_type
    return item.value_type if pa.types.is_dictionary(item) else item


def _counts(path: Path, start: int, block: sp.csr_matrix, var: pd.DataFrame) -> sp.csr_matrix:
    """The block as counts: sorted, without zeros, a gene that stands twice in a cell summed."""
    import numpy as np
    import scipy.sparse as sp

    from cellmill.matrix.reader import as_counts

    whole = as_counts(block.data, block.indices, block.indptr, block.shape[1])
    if whole is not None:
        return whole
    data = block.data
    bad = ~((data >= 0) & (data <= np.iinfo(np.uint32).max) & (data == np.floor(data)))
    if not bad.any():
        block = sp.csr_matrix((data.astype(np.uint64), block.indices, block.indptr), shape=block.shape)
        block.sum_duplicates()
        block.eliminate_zeros()
        bad = block.data > np.iinfo(np.uint32).max
    if bad.any():
        at = int(np.argmax(bad))
        row = start + int(np.searchsorted(block.indptr, at, "right")) - 1
        raise CellmillError(
            path,
            f"it does not hold counts: row {row}, gene '{var.index[block.indices[at]]}' has {block.data[at]}.",
            "Counts are whole numbers from 0 to 4,294,967,295; name the columns of raw counts, and check 'skip'.",
        )
    return sp.csr_matrix((block.data.astype(np.uint32), block.indices, block.indptr), shape=block.shape)
