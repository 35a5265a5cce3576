"""What a batch holds: counts, tokens, or columns as they are."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import numpy as np
import pyarrow as pa
import torch

from cellmill.errors import CellmillError, nearest
from cellmill.torch import kernels
from cellmill.torch.batches import Batch
from cellmill.torch.pool import empty
from cellmill.torch.stores import Rows, RowStore, Store, TableStore

# torch warns of the first CSR tensor, and of the first that comes from a worker unless its checks are switched off by
# name, which changes nothing; ours are checked where they are read.
warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta state")
if not torch.sparse.check_sparse_tensor_invariants.is_enabled():  # type: ignore[no-untyped-call]
    torch.sparse.check_sparse_tensor_invariants.disable()  # type: ignore[no-untyped-call]


class Contents(Protocol):
    """Turns rows of a store into what a model takes."""

    def reader(self, store: Store) -> Reader:
        """What reads such batches from this store; refuses a store of another kind."""


class Reader(Protocol):
    """Reads rows of one store into a batch."""

    def __call__(self, rows: np.ndarray) -> Batch:
        """Tensors (and lists of strings) by name; their first dimension is that of ``rows``."""


@dataclass(frozen=True)
class Counts:
    """``counts``: float32 (cells, genes), as CSR or dense."""

    layout: Literal["csr", "dense"] = "csr"
    """``csr``: ``torch.sparse_csr`` with int32 indices, which ``to_device`` makes dense on the device."""
    genes: Sequence[str] | None = None
    """Ids of the genes to take, in this order, such as ``variable_genes(…)`` gives; ``None``: all."""
    normalize: Literal["log1p_cp10k"] | None = None
    """``log1p_cp10k``: log(1 + counts per 10,000), of the library size over all genes of the cell."""

    def reader(self, store: Store) -> CountsReader:
        if not hasattr(store, "n_genes"):
            where = getattr(store, "path", type(store).__name__)
            raise CellmillError(where, "has no counts.", "Open an export of counts, or take Tokens or Columns.")
        return CountsReader(self, cast(RowStore, store))


class CountsReader:
    """Reads ``counts`` of a row store."""

    def __init__(self, spec: Counts, store: RowStore) -> None:
        self.spec, self._store, self._all_genes = spec, store, store.n_genes
        self._place: np.ndarray | None = None
        self.n_genes = store.n_genes
        as_they_are = spec.genes is None and spec.normalize is None
        self._at_once: Callable[..., Rows] | None = getattr(store, "counts", None) if as_they_are else None
        if spec.genes is not None:
            ids = np.asarray(_column(store.genes, "gene_id"), object)
            place_of = {gene: i for i, gene in enumerate(spec.genes)}
            missing = sorted(set(place_of) - set(ids))
            if missing or len(place_of) != len(spec.genes):
                what = (
                    f"{len(missing)} of {len(spec.genes)} genes are not there, such as '{missing[0]}'."
                    if missing
                    else ""
                )
                raise CellmillError(
                    getattr(store, "path", "the store"),
                    what or "a gene is named twice.",
                    "Name genes by the ids of the gene space, each once.",
                )
            self._place = np.array([place_of.get(gene, -1) for gene in ids], np.int32)
            self.n_genes = len(place_of)

    def csr(self, rows: np.ndarray) -> Rows:
        """CSR with int64 offsets, int32 columns and float32 values, genes chosen and counts normalised."""
        if self._at_once is not None:
            return self._at_once(rows, empty)
        return self._as_asked(self._store.take(rows))

    def _as_asked(self, found: Rows) -> Rows:
        offsets, columns, values = found
        narrow = np.empty(len(columns), np.int32)
        if not kernels.narrow(columns, self._all_genes, narrow):
            where = getattr(self._store, "path", "the store")
            raise CellmillError(where, f"a column is none of {self._all_genes:,} genes.", "Write the export again.")
        floats = values.astype(np.float32)
        sizes = kernels.library_sizes(offsets, values) if self.spec.normalize else None
        if self._place is not None:
            offsets, narrow, floats = kernels.choose_genes(offsets, narrow, floats, self._place)
        if sizes is not None:
            kernels.log1p_cp10k(offsets, floats, sizes)
        return offsets, narrow, floats

    def __call__(self, rows: np.ndarray) -> Batch:
        return self._tensors(self.csr(rows))

    def many(self, rows: Sequence[np.ndarray]) -> list[Batch]:
        """The batches of several ``rows``, read at once."""
        offsets, columns, values = self.csr(np.concatenate(rows))
        batches, start = [], 0
        for mine in rows:
            stop = start + len(mine)
            lo, hi = offsets[start], offsets[stop]
            batches.append(self._tensors((offsets[start : stop + 1] - lo, columns[lo:hi], values[lo:hi])))
            start = stop
        return batches

    def batch(self, found: Rows) -> Batch:
        """The batch of rows that were taken already."""
        return self._tensors(self._as_asked(found))

    def _tensors(self, found: Rows) -> Batch:
        offsets, columns, values = found
        shape = (len(offsets) - 1, self.n_genes)
        if self.spec.layout == "dense":
            dense = np.zeros(shape, np.float32)
            kernels.scatter(offsets, columns, values, dense)
            return Batch(counts=torch.from_numpy(dense))
        return Batch(counts=csr_tensor(offsets, columns, values, shape))


def csr_tensor(offsets: np.ndarray, columns: np.ndarray, values: np.ndarray, shape: tuple[int, int]) -> torch.Tensor:
    """A ``torch.sparse_csr`` tensor over these arrays, int32 indices; trusted, because they were checked."""
    narrow = torch.from_numpy(offsets.astype(np.int32))
    return torch.sparse_csr_tensor(
        narrow, torch.from_numpy(columns), torch.from_numpy(values), size=shape, check_invariants=False
    )


@dataclass(frozen=True)
class Tokens:
    """Lists of a table as int64 or float32 (cells, longest list), padded, with one ``attention_mask`` (bool)."""

    columns: Sequence[str] = ("input_ids",)
    """Columns of lists of the same lengths: ``input_ids``, or ``genes`` and ``expressions``."""
    padding: Sequence[float] = (0,)
    """What stands behind the end, for each of ``columns``."""
    max_len_tokens: int | None = None
    """Longer lists are cut at their end; ``None``: none is."""
    multiple_of: int = 1
    """Pad to a multiple of it, which some kernels ask for."""

    def reader(self, store: Store) -> Reader:
        if len(self.columns) != len(self.padding):
            found = f"{len(self.columns)} columns, {len(self.padding)} values for padding."
            raise CellmillError("Tokens", found, "Give one for each column.")
        table = _table(store, self.columns)
        for name in self.columns:
            type_ = table.columns[name]
            if not (pa.types.is_list(type_) or pa.types.is_large_list(type_)):
                fix = "Read it with Columns."
                raise CellmillError(getattr(table, "path", "the store"), f"'{name}' holds {type_}, no lists.", fix)

        def read(rows: np.ndarray) -> Batch:
            found, batch, first = table.take(rows, self.columns), Batch(), np.empty(0, np.int64)
            for number, (name, padding) in enumerate(zip(self.columns, self.padding, strict=True)):
                offsets, values = _list_values(found[name])
                if number and not np.array_equal(offsets, first):
                    fix = "Read them one by one."
                    raise CellmillError(name, f"has other lengths than {self.columns[0]}.", fix)
                first = offsets
                longest = int(np.diff(offsets).max(initial=0))
                width = longest if self.max_len_tokens is None else min(longest, self.max_len_tokens)
                width = -(-width // self.multiple_of) * self.multiple_of
                type_ = np.float32 if values.dtype.kind == "f" else np.int64
                padded = np.full((len(rows), width), padding, type_)
                kept = padded if self.max_len_tokens is None else padded[:, : self.max_len_tokens]
                kernels.pad(offsets, values, kept)
                batch[name] = torch.from_numpy(padded)
                lengths = np.minimum(np.diff(offsets), kept.shape[1])
            batch["attention_mask"] = torch.from_numpy(np.arange(width) < lengths[:, None])
            return batch

        return read


@dataclass(frozen=True)
class Columns:
    """Columns of a table as they are: numbers and vectors as tensors, text as lists of strings."""

    columns: Sequence[str]

    def reader(self, store: Store) -> Reader:
        table = _table(store, self.columns)

        def read(rows: np.ndarray) -> Batch:
            found = table.take(rows, self.columns)
            return Batch({name: _as_is(name, found[name]) for name in self.columns})

        return read


def default_contents(store: Store) -> Contents:
    """``Counts`` where a store has them; else ``Tokens`` of ``input_ids`` or ``genes`` and ``expressions``."""
    if hasattr(store, "n_genes"):
        return Counts()
    columns = getattr(store, "columns", {})
    if "input_ids" in columns:
        return Tokens()
    if {"genes", "expressions"} <= set(columns):
        return Tokens(("genes", "expressions"), padding=(0, -2))
    return Columns(tuple(columns))


def variable_genes(path: str | PathLike[str], n: int | None = None) -> list[str]:
    """Ids of the variable genes in the order of the gene space, all or the ``n`` most variable ones.

    Args:
        path: ``results/<dataset>/genes/genes.parquet``.

    Raises:
        CellmillError: there are fewer than ``n``.
    """
    from cellmill.contracts.genes import read_genes, variable_columns

    genes = read_genes(Path(path))[0]
    columns = np.sort(variable_columns(genes, len(genes) if n is None else n))
    if n is not None and len(columns) < n:
        raise CellmillError(path, f"{n} variable genes were asked for, there are {len(columns)}.", "Ask for fewer.")
    return [str(gene) for gene in genes["gene_id"].to_numpy()[columns]]


def _table(store: Store, columns: Sequence[str]) -> TableStore:
    """The store as a table that has these columns."""
    where = getattr(store, "path", type(store).__name__)
    if not hasattr(store, "columns"):
        raise CellmillError(where, "has counts and no such columns.", "Take Counts, and obs columns with 'obs'.")
    table = cast(TableStore, store)
    for name in columns:
        if name not in table.columns:
            raise CellmillError(where, f"there is no column '{name}' to read.", nearest(name, table.columns))
    return table


def _list_values(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """Offsets (int64, from 0) and values of a column of lists."""
    array = column.combine_chunks()
    array = array.chunk(0) if isinstance(array, pa.ChunkedArray) else array
    offsets = array.offsets.to_numpy().astype(np.int64)
    return offsets - offsets[0], array.values.slice(offsets[0], offsets[-1] - offsets[0]).to_numpy()


def _as_is(name: str, column: pa.ChunkedArray) -> Any:
    type_ = column.type
    if pa.types.is_fixed_size_list(type_):
        array = column.combine_chunks()
        flat = array.flatten().to_numpy()
        return torch.from_numpy(flat.reshape(len(column), type_.list_size).copy())
    if pa.types.is_list(type_) or pa.types.is_large_list(type_):
        raise CellmillError(f"column '{name}'", "holds lists of many lengths.", "Read it with Tokens.")
    if pa.types.is_string(type_) or pa.types.is_large_string(type_) or pa.types.is_dictionary(type_):
        return column.to_pylist()
    if pa.types.is_boolean(type_):
        column = column.cast(pa.int8())
    if column.null_count:
        column = column.cast(pa.float64()).fill_null(float("nan"))
    return torch.from_numpy(column.to_numpy().copy())


def _column(table: Any, name: str) -> list[str]:
    """A column of a pandas or Arrow table."""
    found = table[name]
    return list(found.to_pylist() if hasattr(found, "to_pylist") else found)
