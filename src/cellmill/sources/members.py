"""A part of several members: all fetched side by side, then their cells in one raw file, gene by gene in its place."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from cellmill.contracts.plan import Member
from cellmill.errors import CellmillError
from cellmill.files import read_json, replacing
from cellmill.matrix.find import find_counts
from cellmill.matrix.reader import CountsFile
from cellmill.matrix.tables import storable
from cellmill.matrix.writer import H5adWriter
from cellmill.progress import progress
from cellmill.sources.checksums import differing
from cellmill.sources.download import Download
from cellmill.sources.fetch import redacted
from cellmill.sources.parallel import Wanted, fetch_all, refuse_full_disk
from cellmill.sources.stores import is_address

log = logging.getLogger("cellmill")
Describe = Callable[[pd.DataFrame, pd.DataFrame], tuple[pd.DataFrame, pd.DataFrame, dict[str, Any]]]
MEMBER = "member"
"""The obs column of the member that a cell is of."""


@dataclass(frozen=True)
class Fetched:
    """A member on this disk, and what was found of it."""

    member: Member
    path: Path
    facts: dict[str, Any] = field(default_factory=dict)


# --- fetch


def fetch_members(
    members: Sequence[Member],
    to: Path,
    *,
    mirror: Path | None,
    download: Download,
    project: str | None,
    shared: Sequence[Path] = (),
) -> list[Fetched]:
    """Bring the members of a part to the folder ``to``; those on this disk stay where they are, and are verified.

    What is whole is kept, so that another call goes on after it. The first failure stops all.
    Files that other parts share (``shared``, ``<member>.h5`` with its ``.json``) were fetched and verified already.

    Raises:
        CellmillError: a full disk, another checksum than the plan has, or what ``fetch`` raises.
    """
    remote = {m.address: Wanted(m.address, to / _file_name(m), m.checksum, m.bytes, project) for m in members}
    whole = {path.stem: path for path in shared}
    there = {m.address for m in members if m.name in whole}
    remote = {address: wanted for address, wanted in remote.items() if is_address(address) and address not in there}
    needed = 2 * sum(w.bytes or 0 for w in remote.values()) - sum(w.there for w in remote.values())
    if remote:
        refuse_full_disk(to, needed=needed, what=f"{len(remote)} files and the part that is made of them")
    said = fetch_all(list(remote.values()), mirror=mirror, download=download)
    found = {f.address: {"sha256": f.sha256, "bytes": f.bytes, "origin": f.origin} for f in said}
    return [
        Fetched(m, remote[m.address].path, {"address": redacted(m.address), **found[m.address]})
        if m.address in remote
        else Fetched(m, whole[m.name], read_json(whole[m.name].with_suffix(".json"))["file"])
        if m.address in there
        else Fetched(m, Path(m.address), _verified(m))
        for m in members
    ]


def _file_name(member: Member) -> str:
    """The file of a member: its name, and the ending of its address."""
    from cellmill.sources.retrieve import suffix_of

    if not is_address(member.address):
        return member.name
    return f"{member.name}{suffix_of(redacted(member.address), member.address.partition('?')[0])}"


def _verified(member: Member) -> dict[str, Any]:
    """What is known of a file on this disk; its checksum is compared once, with its first slice."""
    path, checksum = Path(member.address), member.checksum
    if checksum is not None and path.is_dir():
        raise CellmillError(path, "a checksum of a folder.", "Give a file, or leave the checksum out.")
    if checksum is not None and (member.rows is None or member.rows[0] == 0):
        wrong = differing(path, [checksum])
        if wrong is not None:
            raise CellmillError(
                path,
                f"it has the checksum {wrong[1]}, expected {wrong[0]}.",
                "Get the file again; if it was replaced on purpose, correct the checksum.",
            )
    sha256 = checksum.partition(":")[2] if checksum is not None and checksum.startswith("sha256:") else None
    size = path.stat().st_size if path.is_file() else None
    return {"path": member.address, "sha256": sha256, "bytes": size, "origin": "here"}


# --- combine


def combine(
    fetched: Sequence[Fetched],
    out: str | PathLike[str],
    *,
    counts: str,
    rounded: bool,
    describe: Describe | None = None,
    threads: int = 1,
) -> dict[str, Any]:
    """Write the cells of all members, in their order, as one h5ad file: X (cells, genes) CSR uint32.

    A gene is known by its name in ``var``; the genes are those of any member, in the order in which they first stand,
    and a member without one has no counts there, which is counted. The index of obs becomes ``<member>:<barcode>``; obs
    has the columns of any member, what the plan says of the member, and ``member``.

    Args:
        counts: where the counts of each member are, or ``auto``.
        rounded: take fractions, rounded to whole numbers.
        describe: gives the tables of cells and genes with more columns, and what is to be said of that.

    Memory: a block of one member, and the obs tables of all.

    Returns:
        What was found: per member its cells, where its counts are and how many genes it lacks; and the genes.

    Raises:
        CellmillError: no counts, genes that cannot be told apart, a part without cells, or not the rows of the plan.
    """
    chosen = [(f, _choose(f, counts, rounded)) for f in fetched]
    space = _Genes()
    for f, where in chosen:
        with CountsFile(f.path, where, rounded=rounded) as file:
            space.add(f, file)
    var = space.table()
    said: list[dict[str, Any]] = []
    tables: list[pd.DataFrame] = []
    with replacing(out) as aside:
        writer = H5adWriter(aside, n_genes=len(var), dtype=np.dtype(np.uint32), threads=threads)
        try:
            with progress(None, "cells", "combining") as counter:
                for f, where in chosen:
                    with CountsFile(f.path, where, threads=threads, rounded=rounded) as file:
                        first, last = _rows(f, file)
                        columns = space.columns(file)
                        for counts_ in _blocks(file, (first, last), columns, len(var), _wanted(f, file.shape[0])):
                            writer.append(counts_)
                            counter.update(counts_.shape[0])
                        tables.append(file.obs_rows(first, last))
                        said.append(_facts(f, where, last - first, len(var) - file.shape[1]))
            obs, more = _obs(tables, fetched), dict[str, Any]()
            if describe is not None:
                obs, var, more = describe(obs, var)
            obs = storable(obs)
            if not len(obs):
                raise CellmillError(out, "none of its members has a cell.", "Leave them out of the dataset.")
            writer.close(obs=obs, var=storable(var), uns={})
        except BaseException:
            writer.abandon()
            raise
    lacking = [m["member"] for m in said if m["genes_lacking"]]
    if lacking:
        log.warning("%d of %d members lack genes that others have: %s", len(lacking), len(said), ", ".join(lacking[:5]))
    return {"cells": len(obs), "genes": len(var), "rounded": rounded, "members": said, **more}


def _choose(f: Fetched, counts: str, rounded: bool) -> str:
    """Where the counts of a member are; with ``auto``, the first matrix whose every value is one."""
    candidates = CountsFile.candidates(f.path) if counts == "auto" else [counts]
    if counts != "auto" or len(candidates) == 1:
        return candidates[0]
    found = ""

    def look(where: str, _: str) -> None:
        nonlocal found
        with CountsFile(f.path, where, rounded=rounded) as file:
            for _block in file.blocks(wanted=_wanted(f, file.shape[0])):
                pass
        found = where

    find_counts(f.path, counts, look)
    return found


def _wanted(f: Fetched, cells: int) -> np.ndarray | None:
    if f.member.rows is None:
        return None
    wanted = np.zeros(cells, bool)
    wanted[slice(*f.member.rows)] = True
    return wanted


def _rows(f: Fetched, file: CountsFile) -> tuple[int, int]:
    first, last = f.member.rows or (0, file.shape[0])
    if last > file.shape[0]:
        raise CellmillError(
            f.path,
            f"it has {file.shape[0]:,} cells, and the plan takes rows up to {last:,}.",
            "It has changed: delete plan.tsv, and it is planned anew.",
        )
    return first, last


def _blocks(
    file: CountsFile, rows: tuple[int, int], columns: np.ndarray | None, width: int, wanted: np.ndarray | None
) -> Iterator[sp.csr_matrix]:
    """The counts of the rows from the first up to the last, each gene in its column of the part."""
    first, last = rows
    for block in file.blocks(wanted=wanted):
        lo, hi = max(first - block.start, 0), min(last - block.start, block.counts.shape[0])
        if hi <= lo:
            continue
        counts = block.counts if (lo, hi) == (0, block.counts.shape[0]) else block.counts[lo:hi]
        if columns is not None:
            counts = sp.csr_matrix((counts.data, columns[counts.indices], counts.indptr), shape=(hi - lo, width))
            counts.sort_indices()
        yield counts


class _Genes:
    """The genes of a part, by name: those of any member, in the order in which they first stand."""

    def __init__(self) -> None:
        self._names: pd.Index | None = None
        self._tables: list[pd.DataFrame] = []

    def add(self, f: Fetched, file: CountsFile) -> None:
        var = file.var.set_axis(file.var.index.astype(str))
        if self._names is None:
            self._names, self._tables, self._first = var.index, [var], f.member.name
            return
        if self._names.equals(var.index):
            return
        for index, name in ((self._names, self._first), (var.index, f.member.name)):
            if not index.is_unique:
                raise CellmillError(
                    f"member '{name}'",
                    f"the gene '{index[index.duplicated()][0]}' stands there twice, and '{self._first}' and "
                    f"'{f.member.name}' have other genes, so that it cannot be said which is which.",
                    "Give these files parts of their own (source.table, column 'part').",
                )
        new = var[~var.index.isin(self._names)]
        if len(new) == len(var):
            raise CellmillError(
                f"members '{self._first}' and '{f.member.name}'",
                f"they have no gene in common ('{self._names[0]}', '{var.index[0]}').",
                "They are named in different ways, or of different organisms: make them different datasets.",
            )
        self._tables.append(new)
        self._names = self._names.append(new.index)

    def table(self) -> pd.DataFrame:
        """The var table of the part: a gene has the columns of the member that it was first in."""
        return pd.concat(self._tables, axis=0, join="outer") if len(self._tables) > 1 else self._tables[0]

    def columns(self, file: CountsFile) -> np.ndarray | None:
        """The column of the part (genes,) int32 of each of a member's; None where they are the same."""
        names = file.var.index.astype(str)
        assert self._names is not None
        if self._names.equals(names):
            return None
        return self._names.get_indexer(names).astype(np.int32)


def _obs(tables: Sequence[pd.DataFrame], fetched: Sequence[Fetched]) -> pd.DataFrame:
    """The obs table of the part: those of its members, what the plan says of each, and ``member``."""
    whole = _joined(tables) if len(tables) > 1 else tables[0].copy()
    of = np.repeat(np.arange(len(tables)), [len(table) for table in tables])
    names = np.array([f.member.name for f in fetched], object)
    whole.index = pd.Index(names[of] + ":" + whole.index.astype(str).to_numpy(object))
    known = {str(column).lower() for column in whole.columns}
    if MEMBER in known:
        raise CellmillError(
            fetched[0].path, f"it has an obs column '{MEMBER}' already.", "Rename it: cellmill writes it itself."
        )
    columns = {MEMBER: dict(enumerate(names))}
    for i, f in enumerate(fetched):
        for column, text in f.member.about.items():
            columns.setdefault(f"sample_{column}" if column.lower() in known else column, {})[i] = text
    added = {}
    for column, texts in columns.items():
        values = pd.Categorical([texts.get(i) for i in range(len(tables))])
        added[column] = values.take(of)
    return pd.concat([whole, pd.DataFrame(added, index=whole.index)], axis=1)


def _joined(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Rows of all tables: numbers stay numbers, missing ones as NaN; what else differs or is missing is text.

    ``pandas.concat`` makes of a column what happens to be in it: truth with numbers becomes 0 and 1.
    """
    columns: dict[str, Any] = {}
    for name in dict.fromkeys(column for table in tables for column in table.columns):
        pieces = [table[name] if name in table else pd.Series(None, table.index, object) for table in tables]
        kinds = {_kind(table[name].dtype) for table in tables if name in table}
        whole = all(name in table for table in tables)
        if kinds == {"number"} or (kinds == {"truth"} and whole):
            if whole and all(isinstance(p.dtype, np.dtype) for p in pieces):
                columns[name] = np.concatenate([p.to_numpy() for p in pieces])
            else:
                columns[name] = np.concatenate([p.to_numpy(np.float64, na_value=np.nan) for p in pieces])
        else:
            columns[name] = pd.Categorical(np.concatenate([_texts(piece) for piece in pieces]))
    index = pd.Index(np.concatenate([table.index.to_numpy(object) for table in tables]))
    return pd.DataFrame(columns, index=index)


def _texts(values: pd.Series) -> np.ndarray:
    """As text (cells,), None where one is missing."""
    codes, found = pd.factorize(values)
    return np.array([*map(str, found), None], object)[codes]


def _kind(dtype: Any) -> str:
    if pd.api.types.is_bool_dtype(dtype):
        return "truth" if isinstance(dtype, np.dtype) else "text"
    return "number" if pd.api.types.is_numeric_dtype(dtype) else "text"


def _facts(f: Fetched, where: str, cells: int, lacking: int) -> dict[str, Any]:
    expected = f.member.cells
    if expected is not None and cells != expected:
        log.warning("%s has %d cells; the catalogue says %d", f.member.name, cells, expected)
    return {
        **f.facts,
        "member": f.member.name,
        "rows": list(f.member.rows) if f.member.rows else None,
        "cells": cells,
        "cells_expected": expected,
        "counts_from": where,
        "genes_lacking": lacking,
    }
