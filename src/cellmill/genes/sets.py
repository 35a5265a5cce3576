"""Gene sets, those of cellmill's own and those of the configuration: which columns of a file are their genes."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cellmill.errors import CellmillError, nearest
from cellmill.genes.files import gene_set_files, gene_table
from cellmill.genes.identifiers import ID_COLUMNS, SYMBOL_COLUMNS, PartGenes, names_of, without_version
from cellmill.genes.mapping import locate
from cellmill.genes.spec import wrong_names
from cellmill.genes.table import GeneTable, read_gene_list, read_gene_table
from cellmill.quality.names import GENE_SETS, metric_of

if TYPE_CHECKING:
    from cellmill.config import Dataset

log = logging.getLogger("cellmill")

NAMES_SHOWN = 10


def read_sets(
    sets: Mapping[str, str | Sequence[str]], files: Sequence[str | PathLike[str]] = ()
) -> dict[str, list[str]]:
    """The names of each set of ``genes.sets``, each once; of those that are lists in files, from ``files`` in turn.

    Raises:
        CellmillError: a list that is not readable, or empty, or has what is no name.
    """
    lists = iter(files)
    named: dict[str, list[str]] = {}
    for name, said in sets.items():
        names = read_gene_list(next(lists)) if isinstance(said, str) else said
        if wrong := wrong_names(names):
            raise CellmillError(f"genes.sets.{name}", f"{wrong}.", "Correct the list.")
        named[name] = list(dict.fromkeys(names))
    return named


def with_sets(
    genes: PartGenes, named: Mapping[str, Sequence[str]], *, table: GeneTable | None = None, where: object = "var"
) -> PartGenes:
    """The same with its gene sets: cellmill's own, and ``named``, the names of each set of the configuration.

    A name is an Ensembl id of any version, a symbol, or a name as found in the file, in upper or lower case;
    with a gene table also what the table knows the gene by. ``HIST*`` is every name that begins with ``HIST``.
    What ``genes.leave_out`` leaves out is in no set.
    """
    columns = _columns_by_name(genes) if named else {}
    sets = {name: genes.member(name) & genes.measured for name in GENE_SETS}
    not_found: dict[str, list[str]] = {}
    for name, asked in named.items():
        sets[name], not_found[name] = np.zeros(len(genes.gene_ids), bool), []
        for gene in asked:
            found = _columns_of(gene, columns, table)
            sets[name][found] = True
            if not found:
                not_found[name].append(gene)
    for name in (name for name, mine in sets.items() if not mine.any()):
        log.warning("%s: no column is a gene of the set '%s': %s is 0.", where, name, metric_of(name))
    return replace(genes, sets=sets, not_found=not_found)


def _columns_by_name(genes: PartGenes) -> dict[str, list[int]]:
    """The measured columns of every id, symbol and name as found, in upper case."""
    found: dict[str, list[int]] = {}
    measured = np.flatnonzero(genes.measured)
    for names in (genes.gene_ids, genes.gene_symbols, genes.names_as_found):
        for column in measured.tolist():
            if names[column] is not None:
                found.setdefault(names[column].upper(), []).append(column)
    return found


def _columns_of(gene: str, columns: Mapping[str, list[int]], table: GeneTable | None) -> list[int]:
    if gene.endswith("*"):
        prefix = gene[:-1].upper()
        return [column for name, mine in columns.items() if name.startswith(prefix) for column in mine]
    names = {gene.upper(), without_version(gene.upper())}
    located = None if table is None else locate(gene, table)[0]
    if located is not None:
        names.add(located.upper())
    return [column for name in names for column in columns.get(name, ())]


def sets_over_parts(parts: Sequence[PartGenes], *, where: object) -> dict[str, dict[str, Any]]:
    """Of every set, the number of its ``genes`` in any part and ``in_every_part``, and names of no part, ``not_found``.

    The same for any number and order of parts that have the same columns.

    Raises:
        CellmillError: a set of the configuration of which no gene is in any part.
    """
    found: dict[str, dict[str, Any]] = {}
    for name in parts[0].sets:
        genes = [set(part.gene_ids[part.sets[name]]) for part in parts]
        missing = sorted(set.intersection(*(set(part.not_found.get(name, ())) for part in parts)))
        counted = {"genes": len(set.union(*genes)), "in_every_part": len(set.intersection(*genes))}
        found[name] = counted | {"not_found": missing}
        if name not in GENE_SETS and not counted["genes"]:
            said = f"genes.sets.{name}: none of its {len(missing)} names is in any part: {_shown(missing)}."
            raise CellmillError(where, said, _fix(missing[0], parts))
        if missing:
            log.warning("genes.sets.%s: names that are in no part (%d): %s.", name, len(missing), _shown(missing))
    return found


def absent_sets(dataset: Dataset, base: Path) -> list[str]:
    """What is wrong with gene sets, as far as can be known before anything runs.

    Their lists are read where they are there, and the names of genes in the files, one after another, until each set
    has a gene; where a part or a gene table is yet to be retrieved, only `sets_over_parts` can tell.
    """
    sets, paths = dataset.genes.sets, [base / path for path in gene_set_files(dataset.genes.sets)]
    tables = [base / path for path in gene_table(dataset.genes.table, dataset.organism)]
    if not all(path.is_file() for path in (*paths, *tables)):
        return []
    try:
        absent, tried = read_sets(sets, paths), set[str]()
        table = read_gene_table(tables[0]) if tables else None
    except CellmillError as error:
        return [f"genes.sets: {error}"]
    files = dataset.source.local_files(base)
    if dataset.source.planned or len(files) < len(dataset.source.parts()):
        return []
    for path in files.values():
        names = None if path is None or not absent else _names_in(path, dataset.genes.ids)
        if not names:
            return []
        columns = {name.upper(): [0] for name in names}
        absent = {s: asked for s, asked in absent.items() if not any(_columns_of(g, columns, table) for g in asked)}
        tried |= names
    return [
        f"genes.sets.{name}: none of its {len(asked)} names is in any file: {_shown(asked)}. {nearest(asked[0], tried)}"
        for name, asked in absent.items()
    ]


def _names_in(path: Path, ids: str) -> set[str] | None:
    """All that names a gene in an h5ad file, also in its column ``ids``; None where it cannot be read so early."""
    import h5py

    from cellmill.matrix.tables import read_table

    if path.is_dir():
        return None
    names: set[str] = set()
    try:
        with h5py.File(path, "r") as file:
            for node in (n for n in ("var", "raw/var", "raw.var") if n in file):
                var = read_table(file[node])
                known = [names_of(var[c]) for c in (ids, *ID_COLUMNS, *SYMBOL_COLUMNS) if c in var.columns]
                names.update(n for column in (names_of(var.index), *known) for n in column if n is not None)
    except (OSError, KeyError, ValueError):
        return None  # retrieve_part and measure_quality say what is wrong with it
    return names | {without_version(name) for name in names}


def _shown(names: Sequence[str]) -> str:
    more = f", … ({len(names)} in all)" if len(names) > NAMES_SHOWN else ""
    return ", ".join(names[:NAMES_SHOWN]) + more


def _fix(name: str, parts: Sequence[PartGenes]) -> str:
    columns = [n for part in parts for names in (part.gene_ids, part.gene_symbols) for n in names[part.measured]]
    known = {n for n in columns if n is not None}
    return f"{nearest(name, known)} A genes.table knows genes by symbols, too, where files have ids alone."
