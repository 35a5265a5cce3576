"""One gene space per dataset, in the order of gene ids, and what became of every name on the way there."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from cellmill.contracts import genes as contract
from cellmill.errors import CellmillError
from cellmill.files import sha256_of
from cellmill.genes.identifiers import AS_FOUND, KEPT, PartGenes, without_version
from cellmill.genes.mapping import by_rule, locate
from cellmill.genes.sets import sets_over_parts
from cellmill.genes.spec import Genes
from cellmill.genes.table import GeneTable, read_gene_list, read_gene_table

log = logging.getLogger("cellmill")

File = str | PathLike[str]


def unify_genes(
    part_genes: Sequence[File],
    *,
    spec: Genes,
    out: File,
    out_mapping: File,
    gene_list: File | None = None,
    gene_table: File | None = None,
    gene_cells: Sequence[File] = (),
) -> None:
    """The genes of the dataset, sorted by id; the same for any number and order of parts.

    A gene that several symbols are known for takes the first by name.
    A list of genes is the gene space as it stands: genes of no part are columns of zeros, for a model that wants them.
    Of any space, genes that fewer kept cells than ``min_cells`` have are left out; ``gene_cells`` is what
    `count_gene_cells` wrote of every part, which nothing else needs.

    Raises:
        CellmillError: no gene is in every part (``space: intersection``), a list that shares no gene with the parts,
            no gene in ``min_cells`` cells, or a gene set of which no gene is in any part.
    """
    parts = _distinct(part_genes)
    sets = sets_over_parts([genes for genes, _ in parts], where=out)
    symbols, in_parts = _union(parts)
    table = None if gene_table is None else read_gene_table(gene_table)
    facts: dict[str, Any] = {}
    if gene_list is not None:
        listed, unknown = _listed(gene_list, spec, table)
        ids = sorted(listed)
        facts = {"space": Path(gene_list).name} | ({"listed_unknown": unknown} if unknown else {})
        symbols = listed | {g: s for g, s in symbols.items() if g in listed and s is not None}
        if not in_parts.keys() & listed.keys():
            names = f"the list begins with {ids[0]}, the parts with {min(in_parts)}"
            fix = "Give a list of the same names, or a genes.table that maps both."
            raise CellmillError(gene_list, f"none of its {len(ids)} genes is in any part: {names}.", fix)
    elif spec.space == "intersection":
        ids = sorted(g for g, n in in_parts.items() if n == len(part_genes))
        facts = {"space": spec.space}
        if not ids:
            fix = "Set genes.space to union, or name the genes alike by a genes.table."
            raise CellmillError(out, f"no gene is in every one of the {len(part_genes)} parts.", fix)
    else:
        ids = sorted(symbols)
    rare = _in_few_cells(ids, gene_cells, spec, out)
    ids = [g for g in ids if g not in rare]
    facts |= {"min_cells": spec.min_cells, "genes_in_few_cells": len(rare)} if spec.min_cells else {}
    facts |= {"genes_in_no_part": sum(g not in in_parts for g in ids)} if gene_list is not None else {}
    mapping = _mapping(parts, set(ids), rare)
    outcomes = dict(sorted(Counter(mapping["outcome"].to_pylist()).items()))
    if set(outcomes) != {AS_FOUND}:
        facts["names"] = {"table": None if gene_table is None else Path(gene_table).name, "outcomes": outcomes}
    space = pa.table(
        {"gene_id": pa.array(ids, pa.string()), "gene_symbol": pa.array([symbols[g] for g in ids], pa.string())}
    )
    everywhere = sum(in_parts.get(g) == len(part_genes) for g in ids)
    contract.write_mapping(out_mapping, mapping, {"names": mapping.num_rows, "outcomes": outcomes})
    contract.write_space(out, space, {"genes": len(ids), "genes_in_every_part": everywhere, "sets": sets, **facts})


_Parts = list[tuple[PartGenes, int]]
"""Different genes of parts, and how many parts have them."""


def _distinct(part_genes: Sequence[File]) -> _Parts:
    """Most parts of a dataset have the same columns: each kind of file is read once."""
    digests = [sha256_of(path) for path in part_genes]
    files, number = dict(zip(digests, part_genes, strict=True)), Counter(digests)
    return [(contract.read_part_genes(path), number[digest]) for digest, path in files.items()]


def _union(parts: _Parts) -> tuple[dict[str, str | None], dict[str, int]]:
    """Symbol and number of parts of every gene that stays in any part."""
    symbols: dict[str, str | None] = {}
    in_parts: dict[str, int] = {}
    for genes, number in parts:
        kept = genes.kept
        for gene in set(genes.gene_ids[kept]):
            in_parts[gene] = in_parts.get(gene, 0) + number
        for gene, symbol in zip(genes.gene_ids[kept], genes.gene_symbols[kept], strict=True):
            known = symbols.setdefault(gene, symbol)
            if symbol is not None and (known is None or symbol < known):
                symbols[gene] = symbol
    return symbols, in_parts


def _listed(path: File, spec: Genes, table: GeneTable | None) -> tuple[dict[str, str | None], int]:
    """Gene ids of a list with their symbols, and how many of its names the table does not resolve."""
    names = [without_version(name) for name in read_gene_list(path)]
    if table is None:
        return dict.fromkeys(names), 0
    genes: dict[str, str | None] = {}
    unknown = 0
    for name in names:
        gene, outcome = locate(name, table)
        if gene is not None:
            genes[gene] = table.symbols[gene]
        elif by_rule(outcome, spec) in KEPT:
            genes[name] = None
        else:
            unknown += 1
    if unknown:
        log.warning(
            "%s: %d of %d names are no gene of the gene table, or several, and left out", path, unknown, len(names)
        )
    if not genes:
        raise CellmillError(
            path, f"none of its {len(names)} names is in the gene table.", "Give another list or table."
        )
    return genes, unknown


def _in_few_cells(ids: Sequence[str], gene_cells: Sequence[File], spec: Genes, where: File) -> set[str]:
    """The genes that fewer kept cells than ``min_cells`` have."""
    if spec.min_cells == 0:
        return set()
    from cellmill.genes.cells import cells_of_genes

    cells = cells_of_genes(gene_cells)
    rare = {gene for gene in ids if cells[gene] < spec.min_cells}
    if len(rare) == len(ids):
        most = max(cells[gene] for gene in ids)
        found = f"none of {len(ids)} genes is in {spec.min_cells} kept cells; the most frequent is in {most}."
        raise CellmillError(where, found, "Lower genes.min_cells, or keep more cells.")
    return rare


def _mapping(parts: _Parts, space: set[str], rare: set[str]) -> pa.Table:
    """A row per name, gene and outcome, with the number of parts that have it; sorted."""
    in_parts: Counter[tuple[str, str, str]] = Counter()
    symbols: dict[tuple[str, str, str], str] = {}
    for genes, number in parts:
        mine = set()
        outcomes = _in_space(genes, space, rare)
        rows = zip(genes.names_as_found, genes.gene_ids, genes.gene_symbols, outcomes, strict=True)
        for name, gene, symbol, outcome in rows:
            has_gene = outcome in KEPT or outcome in ("duplicate", "outside_space", "min_cells")
            row = (name, gene if has_gene else "", outcome)
            mine.add(row)
            if has_gene and symbol is not None:
                symbols[row] = min(symbols.get(row, symbol), symbol)
        in_parts.update(dict.fromkeys(mine, number))
    found = sorted(in_parts)
    return pa.table(
        {
            "name_as_found": pa.array([name for name, _, _ in found], pa.string()),
            "gene_id": pa.array([gene or None for _, gene, _ in found], pa.string()),
            "gene_symbol": pa.array([symbols.get(row) for row in found], pa.string()),
            "outcome": pa.array([outcome for _, _, outcome in found], pa.string()),
            "n_parts": pa.array([in_parts[row] for row in found], pa.int32()),
        }
    )


def _in_space(genes: PartGenes, space: set[str], rare: set[str]) -> np.ndarray:
    """Outcomes (columns,), with what stays by its name but has no place in the gene space."""
    outcome = genes.outcome.copy()
    outside = genes.kept & np.array([gene not in space for gene in genes.gene_ids], bool)
    outcome[outside] = "outside_space"
    outcome[outside & np.array([gene in rare for gene in genes.gene_ids], bool)] = "min_cells"
    return outcome


def columns_in_space(
    genes: PartGenes, space: np.ndarray, *, in_few_cells: set[str] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Where each column of a file stands in the sorted gene space, and why not.

    ``in_few_cells`` are the genes that would have a place there, if more cells had them.

    Returns:
        int32 (columns,): the column of the gene space, -1 for what is dropped; and text (columns,): the outcome of
        what is dropped, ``""`` for what is not.
    """
    outcome = _in_space(genes, set(space), in_few_cells or set())
    kept = np.isin(outcome.astype(str), list(KEPT))
    found = np.searchsorted(space.astype(str), genes.gene_ids.astype(str))
    return np.where(kept, found, -1).astype(np.int32), np.where(kept, "", outcome)
