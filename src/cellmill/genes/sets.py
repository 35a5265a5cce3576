"""Gene sets, those of cellmill's own and those of the configuration: which columns of a file are their genes."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from os import PathLike

import numpy as np

from cellmill.errors import CellmillError, nearest
from cellmill.genes.identifiers import PartGenes, without_version
from cellmill.genes.mapping import locate
from cellmill.genes.table import GeneTable, read_gene_list
from cellmill.quality.names import GENE_SETS, metric_of

log = logging.getLogger("cellmill")

NAMES_SHOWN = 10


def read_sets(
    sets: Mapping[str, str | Sequence[str]], files: Sequence[str | PathLike[str]] = ()
) -> dict[str, list[str]]:
    """The names of each set of ``genes.sets``, each once; of those that are lists in files, from ``files`` in turn.

    Raises:
        CellmillError: a list that is not readable, or empty.
    """
    lists = iter(files)
    named = {name: read_gene_list(next(lists)) if isinstance(said, str) else said for name, said in sets.items()}
    return {name: list(dict.fromkeys(names)) for name, names in named.items()}


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
    names = {gene.upper(), without_version(gene).upper()}
    located = None if table is None else locate(gene, table)[0]
    if located is not None:
        names.add(located.upper())
    return [column for name in names for column in columns.get(name, ())]


def sets_over_parts(parts: Iterable[PartGenes], *, where: object) -> dict[str, dict[str, object]]:
    """Of every set, the number of its ``genes`` in any part, and the names that are in no part (``not_found``).

    The same for any number and order of parts that have the same columns.

    Raises:
        CellmillError: a set of the configuration of which no gene is in any part.
    """
    genes: dict[str, set[str]] = {}
    not_found: dict[str, set[str]] = {}
    known: set[str] = set()
    for part in parts:
        known.update(part.gene_ids[part.measured], (s for s in part.gene_symbols[part.measured] if s is not None))
        for name, mine in part.sets.items():
            genes.setdefault(name, set()).update(part.gene_ids[mine])
        for name, missing in part.not_found.items():
            not_found[name] = not_found[name].intersection(missing) if name in not_found else set(missing)
    for name, missing_names in not_found.items():
        missing = sorted(missing_names)
        if not genes[name]:
            found = f"genes.sets.{name}: none of its {len(missing)} names is in any part: {_shown(missing)}."
            raise CellmillError(where, found, _fix(missing[0], known))
        if missing:
            log.warning("genes.sets.%s: %d names are in no part: %s.", name, len(missing), _shown(missing))
    return {name: {"genes": len(ids), "not_found": sorted(not_found.get(name, ()))} for name, ids in genes.items()}


def _shown(names: Sequence[str]) -> str:
    more = f", … ({len(names)} in all)" if len(names) > NAMES_SHOWN else ""
    return ", ".join(names[:NAMES_SHOWN]) + more


def _fix(name: str, known: set[str]) -> str:
    return f"{nearest(name, known)} A genes.table knows genes by symbols, too, where files have ids alone."
