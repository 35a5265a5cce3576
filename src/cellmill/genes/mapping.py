"""What each column of a file is: no gene at all, or which gene, by name and by gene table."""

from __future__ import annotations

import logging
import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pandas as pd

from cellmill.errors import CellmillError
from cellmill.genes.identifiers import (
    AS_FOUND,
    ENSEMBL,
    ID_COLUMNS,
    KEPT,
    MOSTLY,
    SYMBOL_COLUMNS,
    PartGenes,
    ensembl_share,
    names_of,
    resolve_genes,
    without_version,
)
from cellmill.genes.spec import GeneNames, GeneRules
from cellmill.genes.table import GeneTable

log = logging.getLogger("cellmill")

GENE_EXPRESSION = "Gene Expression"
_OTHER_TYPES = frozenset(
    {"Antibody Capture", "Antigen Capture", "CRISPR Guide Capture", "Multiplexing Capture", "Custom", "Peaks"}
)
"""Feature types of 10x Genomics that are no gene expression, for files that have nothing else."""
_SPIKE_IN = re.compile(r"^(gSpikein_)?ERCC[-_]\d{5}\b")
_HUMAN, _MOUSE = "GRCh|hg", "GRCm|mm"
_PREFIX = re.compile(rf"^(?:({_HUMAN})|({_MOUSE})|(?:rn|GRCz|danRer|dm|ce|BDGP|Mmul_|Sscrofa))\d+(?:\.p\d+)?_+(?=.)")
"""A genome before the name, as Cell Ranger writes it for several references: ``GRCh38_``, ``mm10___``."""
_GENOME = {"homo_sapiens": re.compile(rf"^({_HUMAN})\d"), "mus_musculus": re.compile(rf"^({_MOUSE})\d")}
_ENSEMBL_SPECIES = re.compile(r"(?:^|[_|])ENS([A-Z]{0,5})G\d{11}(?!\d)")
_SPECIES = {"": "homo_sapiens", "MUS": "mus_musculus"}
_ID_IN_NAME = re.compile(r"(?:^|[_|])(ENS[A-Z]{0,5}G\d{11})(?:\.\d+)?(?=$|[_|])")
_MADE_UNIQUE = re.compile(r"^(.+)[-.]\d+$")
OWN_SHARE = 0.1
"""Fewer genes than this share of the organism's own, and the file is of another organism than the dataset says."""


def name_genes(
    var: pd.DataFrame, *, rules: GeneRules, table: GeneTable | None = None, where: object = "var"
) -> PartGenes:
    """What every column of a file is, by the dataset's rules.

    The columns that ``leave_out`` names go first; the others are named by ``resolve_genes``,
    and where there is a gene table, mapped to its ids.
    What becomes of a column depends on this file's var table alone.

    Raises:
        CellmillError: no such column, a gene without a name, or no gene that stays.
    """
    left_out, clean = _leave_out(var, rules, where)
    stays = left_out == None  # noqa: E711  elementwise
    if not stays.any():
        raise _nothing_left(where, left_out, "Set genes.leave_out to what this dataset has none of, or to [].")
    mine = clean[stays]
    found = resolve_genes(mine, ids=_id_column(mine, rules, table), where=where)
    found = replace(found, names=_column_of(var[stays], found.taken_from))
    if table is not None:
        found = _mapped(found, rules, table)
    if rules.duplicates == "drop":
        found = _without_duplicates(found)
    if not found.kept.any():
        raise _nothing_left(
            where, found.outcome, "Give another genes.table, or keep what is not in it (genes.unmapped)."
        )
    return found if stays.all() else _with_left_out(found, var, left_out, stays)


def _nothing_left(where: object, outcomes: np.ndarray, fix: str) -> CellmillError:
    counted = ", ".join(f"{n:,} {o}" for o, n in sorted(Counter(outcomes).items()))
    return CellmillError(where, f"none of {len(outcomes):,} columns is a gene that stays: {counted}.", fix)


def _column_of(var: pd.DataFrame, column: str) -> np.ndarray:
    return names_of(var[column] if column in var.columns else var.index)


def _with_left_out(found: PartGenes, var: pd.DataFrame, left_out: np.ndarray, stays: np.ndarray) -> PartGenes:
    """The same with a row for every column of the file."""

    def whole(values: np.ndarray, others: np.ndarray) -> np.ndarray:
        array = np.empty(len(stays), values.dtype)
        array[stays], array[~stays] = values, others
        return array

    names = np.array([str(n) for n in var.index[~stays]], object)
    mitochondrial = found.mitochondrial
    return PartGenes(
        whole(found.gene_ids, names),
        whole(found.gene_symbols, np.full(len(names), None, object)),
        found.taken_from,
        whole(found.names_as_found, names),
        whole(found.outcome, left_out[~stays]),
        None if mitochondrial is None else whole(mitochondrial, np.zeros(len(names), bool)),
    )


# --- what is left out


def _candidates(var: pd.DataFrame, *more: str) -> list[str]:
    """The columns that may name genes, the index first."""
    known = [*more, *ID_COLUMNS, *SYMBOL_COLUMNS]
    return list(dict.fromkeys(["index", *(c for c in known if c in var.columns)]))


def _leave_out(var: pd.DataFrame, rules: GeneRules, where: object) -> tuple[np.ndarray, pd.DataFrame]:
    """Outcome (columns,) of what is left out, None elsewhere, and var with the genome's prefix off its names."""
    left_out = np.full(len(var), None, object)
    columns = {c: _column_of(var, c) for c in _candidates(var, rules.ids)}
    if "other_genomes" in rules.leave_out and rules.organism != "other":
        own, other = _organisms(var, columns, rules.organism)
        if own.sum() >= OWN_SHARE * (own.sum() + other.sum()):
            left_out[other] = "other_genomes"
            var = _without_prefixes(var, columns, own)
        else:
            log.warning(
                "%s: %d genes are of another genome, %d of %s: it is taken as it is. Is 'organism' right?",
                where,
                other.sum(),
                own.sum(),
                rules.organism,
            )
    if "spike_ins" in rules.leave_out:
        for names in columns.values():
            left_out[[n is not None and _SPIKE_IN.match(n) is not None for n in names]] = "spike_ins"
        if "feature_biotype" in var.columns:
            left_out[_column_of(var, "feature_biotype") == "spike-in"] = "spike_ins"
    if "other_feature_types" in rules.leave_out:
        left_out[_is_other_feature(var)] = "other_feature_types"
    return left_out, var


def _is_other_feature(var: pd.DataFrame) -> np.ndarray:
    """By the column of 10x; where it has gene expression, everything else that says what it is."""
    column = next((c for c in ("feature_types", "feature_type") if c in var.columns), None)
    if column is None:
        return np.zeros(len(var), bool)
    types = _column_of(var, column)
    if GENE_EXPRESSION in set(types):
        return np.array([t is not None and t != GENE_EXPRESSION for t in types], bool)
    return np.array([t in _OTHER_TYPES for t in types], bool)


def _organisms(var: pd.DataFrame, columns: dict[str, np.ndarray], organism: str) -> tuple[np.ndarray, np.ndarray]:
    """Booleans (columns,): genes that say that they are of the organism, and those that say another."""
    own, other = np.zeros(len(var), bool), np.zeros(len(var), bool)
    for names in columns.values():
        said = np.array([None if n is None else _organism_of(n) for n in names], object)
        own |= said == organism
        other |= np.array([s is not None and s != organism for s in said], bool)
    if "genome" in var.columns:
        genomes = _column_of(var, "genome")
        mine = np.array([g is not None and _GENOME[organism].match(g) is not None for g in genomes], bool)
        another = np.array([g is not None for g in genomes], bool) & ~mine
        own |= mine
        known = [any(p.match(g) for p in _GENOME.values()) if g is not None else False for g in genomes]
        other |= another & (mine.any() | np.array(known, bool))
    return own & ~other, other


def _organism_of(name: str) -> str | None:
    """The organism that a name says, or None."""
    if prefix := _PREFIX.match(name):
        return "homo_sapiens" if prefix[1] else "mus_musculus" if prefix[2] else "other"
    if species := _ENSEMBL_SPECIES.search(name):
        return _SPECIES.get(species[1], "other")
    return None


def _without_prefixes(var: pd.DataFrame, columns: dict[str, np.ndarray], own: np.ndarray) -> pd.DataFrame:
    for column, names in columns.items():
        clean = [n if n is None or not mine else _PREFIX.sub("", n) for n, mine in zip(names, own, strict=True)]
        if not any(a != b for a, b in zip(clean, names, strict=True)):
            continue
        if column == "index":
            var = var.set_axis(pd.Index(clean, name=var.index.name), axis=0)
        else:
            var = var.assign(**{column: clean})
    return var


# --- names to ids


def _id_column(var: pd.DataFrame, rules: GeneRules, table: GeneTable | None) -> str:
    """With a table, ``auto`` takes Ensembl ids where a column has them, else the column that maps best."""
    if rules.ids != "auto" or table is None:
        return rules.ids
    columns = {c: _column_of(var, c) for c in _candidates(var)}
    complete = {c: names for c, names in columns.items() if all(n is not None for n in names)}
    if any(ensembl_share(names) >= MOSTLY for names in complete.values()):
        return "auto"
    mapped = {c: sum(locate(n, table)[0] is not None for n in names) for c, names in complete.items()}
    return max(mapped, key=lambda c: mapped[c]) if mapped else "auto"


def locate(name: str, table: GeneTable) -> tuple[str | None, str]:
    """The gene of a name and how it was found; ``(None, "ambiguous")`` or ``(None, "unmapped")`` where there is none.

    An id, its version off, is looked up before anything else, also within a name (``TSPAN6_ENSG00000000003.14``).
    Then come symbols as they stand, symbols in another case, and aliases.
    A number behind a symbol that several genes share (``MATR3-1``) was put there to make names unique.
    """
    gene = without_version(name)
    if gene in table.symbols:
        return gene, "id"
    if ENSEMBL.match(name):
        return None, "unmapped"
    if within := _ID_IN_NAME.search(name):
        return (within[1], "id_in_name") if within[1] in table.symbols else (None, "unmapped")
    for names, key, outcome in (
        (table.by_symbol, name, "symbol"),
        (table.by_upper, name.upper(), "symbol_in_other_case"),
        (table.by_alias, name, "alias"),
    ):
        if found := names.get(key):
            return (found[0], outcome) if len(found) == 1 else (None, "ambiguous")
    made_unique = _MADE_UNIQUE.match(name)
    several = made_unique is not None and len(table.by_symbol.get(made_unique[1], ())) > 1
    return None, "ambiguous" if several else "unmapped"


def by_rule(outcome: str, rules: GeneNames) -> str:
    """The outcome of a name, with what the dataset wants of those that no single gene was found for."""
    keep = {"ambiguous": rules.ambiguous, "unmapped": rules.unmapped}.get(outcome) == "keep"
    return f"{outcome}_kept" if keep else outcome


def _mapped(found: PartGenes, rules: GeneRules, table: GeneTable) -> PartGenes:
    located = [locate(name, table) for name in found.gene_ids]
    ids = [gene if gene is not None else name for (gene, _), name in zip(located, found.gene_ids, strict=True)]
    symbols = [
        table.symbols[gene] if gene is not None else symbol
        for (gene, _), symbol in zip(located, found.gene_symbols, strict=True)
    ]
    return replace(
        found,
        gene_ids=np.array(ids, object),
        gene_symbols=np.array(symbols, object),
        outcomes=np.array([by_rule(outcome, rules) for _, outcome in located], object),
        mitochondrial=np.isin(np.array(ids, object).astype(str), list(table.mitochondrial)),
    )


def _without_duplicates(found: PartGenes) -> PartGenes:
    outcome = found.outcome.copy()
    kept = np.flatnonzero(found.kept)
    outcome[kept[pd.Index(found.gene_ids[kept]).duplicated()]] = "duplicate"
    return replace(found, outcomes=outcome)


__all__ = ["AS_FOUND", "KEPT", "by_rule", "locate", "name_genes"]
