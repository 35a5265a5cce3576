"""Names of genes from outside, looked up in the gene space of a dataset."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cellmill.errors import CellmillError, nearest
from cellmill.genes.identifiers import without_version

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger("cellmill")
SHOWN = 5


@dataclass(frozen=True)
class FoundGenes:
    """Where the genes of a list are."""

    columns: np.ndarray
    """int64 (names,): the column of the gene space of each, -1 where it is absent."""
    facts: dict[str, Any]
    """How many were ``asked`` for and ``found``, and the names that are ``absent``."""


def repeated(names: Sequence[str]) -> str | None:
    """The first name that stands there twice, if any does; versions of Ensembl ids do not count."""
    seen: set[str] = set()
    for name in map(without_version, names):
        if name in seen:
            return name
        seen.add(name)
    return None


def find_genes(names: Sequence[str], genes: pd.DataFrame, *, min_found: float, where: object) -> FoundGenes:
    """Look names up: an id of the gene space, whatever its version, or else the symbol of one gene.

    Raises:
        CellmillError: an empty name, a gene that is named twice, a symbol of several genes,
            or a share of the names below ``min_found``, none at all included.
    """
    if "" in (stripped := [name.strip() for name in names]):
        raise CellmillError(where, f"name {stripped.index('') + 1} of {len(names):,} is empty.", "Correct the list.")
    if (twice := repeated(stripped)) is not None:
        raise CellmillError(where, f"'{twice}' stands there twice.", "Give every gene one place.")
    by_id = {gene: column for column, gene in enumerate(genes["gene_id"])}
    by_symbol: dict[str, list[int]] = {}
    for column, symbol in enumerate(genes["gene_symbol"]):
        if isinstance(symbol, str):
            by_symbol.setdefault(symbol, []).append(column)
    columns = np.full(len(names), -1, np.int64)
    name_of: dict[int, str] = {}
    for place, name in enumerate(stripped):
        gene = name if name in by_id else without_version(name)
        found = [by_id[gene]] if gene in by_id else by_symbol.get(name, [])
        if len(found) > 1:
            ids = ", ".join(genes["gene_id"].iloc[np.array(found)])
            raise CellmillError(where, f"'{name}' is the symbol of several genes: {ids}.", "Name one of them.")
        for column in found:
            if column in name_of:
                said = f"'{name_of[column]}' and '{name}' are one gene"
                raise CellmillError(where, f"{said}.", "Give every gene one place.")
            name_of[column] = name
            columns[place] = column
    absent = [name for name, column in zip(stripped, columns, strict=True) if column < 0]
    n_found = len(names) - len(absent)
    shown = ", ".join(absent[:SHOWN]) + (", …" if len(absent) > SHOWN else "")
    if n_found < max(min_found * len(names), 1):
        known = [*by_id, *by_symbol]
        raise CellmillError(
            where,
            f"the dataset has {n_found:,} of {len(names):,} genes, fewer than {min_found:.0%}; not there: {shown}.",
            f"Name them as the dataset does (genes.table gives ids to symbols), or lower min_found. "
            f"{nearest(absent[0], known)}",
        )
    if absent:
        log.warning("%s: %d of %d genes are not in the dataset: %s", where, len(absent), len(names), shown)
    return FoundGenes(columns, {"asked": len(names), "found": n_found, "absent": absent})
